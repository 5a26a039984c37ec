package house

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floor is the oldest systemd that our units must be whole on. An older one ignores
// a line that it does not know, and a sandbox without a wall looks like one with it.
const floor = 247

// ancient are directives that every systemd has which anybody runs.
var ancient = []string{
	"After", "Also", "ConditionPathExists", "Description", "Documentation", "Environment", "ExecReload", "ExecStart", "NotifyAccess", "PartOf",
	"PathChanged", "RemainAfterExit", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "Type", "UMask", "Unit", "WantedBy", "Wants",
	"Before", "Conflicts", "DefaultDependencies", "Requires", "BindsTo", "StopWhenUnneeded", "JobTimeoutSec", "AllowIsolate", "RefuseManualStart", "SuccessExitStatus",
}

func TestEveryDirectiveOfTheUnitsIsKnownToTheOldestSystemd(t *testing.T) {
	since := sinceWhen(t)
	var files []string
	for _, pattern := range []string{"*.service", "*.path", "*.target", "*.conf"} {
		found, err := filepath.Glob(filepath.Join(top(t), "packaging", pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 3 {
		t.Fatalf("only %d unit files found", len(files))
	}
	for _, file := range files {
		name := filepath.Base(file)
		for line := range directives(t, "packaging/"+name) {
			directive, _, ok := strings.Cut(line, "=")
			if !ok || slices.Contains(ancient, directive) {
				continue
			}
			switch version, known := since[directive]; {
			case !known:
				t.Errorf("%s: docs/platforms.md does not say since when systemd has %s=", name, directive)
			case version > floor && name != "10-encrypted-credential.conf":
				t.Errorf("%s: %s= is new in systemd %d, the floor is %d: put it into a drop-in that may be ignored", name, directive, version, floor)
			}
		}
	}
}

// sinceWhen reads the table of docs/platforms.md.
func sinceWhen(t *testing.T) map[string]int {
	t.Helper()
	row := regexp.MustCompile(`(?m)^\| (.*) \| (\d+)( or earlier)? \|$`)
	directive := regexp.MustCompile("`([A-Za-z]+)=[^`]*`")
	since := map[string]int{}
	for _, cells := range row.FindAllStringSubmatch(text(t, "docs/platforms.md"), -1) {
		version, err := strconv.Atoi(cells[2])
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range directive.FindAllStringSubmatch(cells[1], -1) {
			since[d[1]] = version
		}
	}
	if since["LoadCredential"] != 247 || since["LoadCredentialEncrypted"] != 250 || len(since) < 30 {
		t.Fatalf("the table of docs/platforms.md cannot be read: %v", slices.Sorted(maps.Keys(since)))
	}
	return since
}

package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryOpenedPathHasItsReason: what the sandbox leaves writable, or hands in, is
// named with its reason in the unit itself.
func TestEveryOpenedPathHasItsReason(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(top(t), "packaging/bootstrap-agent.service"))
	if err != nil {
		t.Fatal(err)
	}
	text, opened := string(data), 0
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		switch name {
		case "ReadWritePaths", "BindPaths", "BindReadOnlyPaths", "ReadOnlyPaths":
			for path := range strings.FieldsSeq(value) {
				path, opened = strings.TrimLeft(path, "-+"), opened+1
				if !regexp.MustCompile(`(?m)^#\s+` + regexp.QuoteMeta(path) + `\s+\S+ `).MatchString(text) {
					t.Errorf("%s=%s: no comment says why", name, path)
				}
			}
		case "StateDirectory", "RuntimeDirectory":
			root := map[string]string{"StateDirectory": "/var/lib/", "RuntimeDirectory": "/run/"}[name]
			if opened++; !strings.Contains(text, "# ") || !regexp.MustCompile(`(?m)^#.*`+regexp.QuoteMeta(root+value)).MatchString(text) {
				t.Errorf("%s=%s: no comment says why", name, value)
			}
		case "CacheDirectory", "LogsDirectory", "ConfigurationDirectory", "TemporaryFileSystem":
			t.Errorf("%s=: another opened path", name)
		}
	}
	if opened != 5 {
		t.Errorf("%d opened paths, 5 are known", opened)
	}
}

// loosening are the lines of the unit's sandbox: no scenario on a machine may write
// one, or it would show what a machine in the field does not do.
var loosening = regexp.MustCompile(`\b(Protect[A-Z]\w+|Private[A-Z]\w+|Restrict[A-Z]\w+|ReadWritePaths|BindPaths|CapabilityBoundingSet|AmbientCapabilities|` +
	`NoNewPrivileges|MemoryDenyWriteExecute|SystemCall[A-Z]\w+|DevicePolicy|DeviceAllow|KeyringMode|LockPersonality|RemoveIPC|LimitCORE|UMask|ProcSubset|User|DynamicUser)=`)

// mayStand are strings of scenarios that hold such a line, with the reason.
var mayStand = map[string]string{
	"--property=ProtectSystem=strict": "reset, a command of a root shell, is run in a folder tree that is closed, and says so",
	"\nLimitCORE=0\n":                 "the place in the shipped unit where a newer package has a line more",
	"\nLimitCORE=0\nEnvironment=":     "the same, with that line",
	"--property=User=nobody":          "somebody else's exporter reads the metrics without rights",
}

func TestNoScenarioLoosensTheSandbox(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top(t), "test/e2e/*.go"))
	if err != nil || len(files) < 40 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	used := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if line := loosening.FindString(text); line != "" {
				if mayStand[text] == "" {
					t.Errorf("%s: %q sets %s", filepath.Base(path), text, line)
				}
				used[text] = true
			}
			return true
		})
	}
	for text, reason := range mayStand {
		if !used[text] {
			t.Errorf("%q (%s) is in no scenario any more", text, reason)
		}
	}
}

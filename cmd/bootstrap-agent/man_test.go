package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// pages writes the man pages and reads them back without escapes.
func pages(t *testing.T) map[string]string {
	t.Helper()
	d := newDoor(t)
	d.app.environ = append(d.app.environ, "SOURCE_DATE_EPOCH=1700000000")
	if err := os.Mkdir(d.path("man"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.generate(0, "man", "--to", d.path("man"), "--release", "1.2.3~rc.1")
	found := map[string]string{}
	entries, err := os.ReadDir(d.path("man"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(d.path("man"), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name()] = strings.NewReplacer(`\-`, "-", `\(ti`, "~", `\(ga`, "`", `\(ha`, "^", `\e`, `\`, `\:`, "").Replace(string(data))
	}
	return found
}

func TestEveryCommandAndTheConfigFileHaveAManPage(t *testing.T) {
	found := pages(t)
	want := []string{"bootstrap-agent.8", "bootstrap-agent-config.5"}
	for _, c := range leaves((&app{}).rootCommand()) {
		want = append(want, pageName(c)+".8")
	}
	if !slices.Contains(want, "bootstrap-agent-token-set.8") || len(found) != len(want) {
		t.Errorf("%d pages, want %d: %v", len(found), len(want), want)
	}
	for _, name := range want {
		text := found[name]
		title := strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(name, ".8"), ".5"))
		if !strings.Contains(text, ".TH "+title+" ") || !strings.Contains(text, `2023-11-14 "bootstrap-agent 1.2.3~rc.1"`) {
			t.Errorf("%s has no title with date and version:\n%.300s", name, text)
		}
		// Every page that one refers to is there, or is of systemd.
		_, refs, _ := strings.Cut(text, ".SH SEE ALSO\n")
		for line := range strings.Lines(refs) {
			words := strings.Fields(line)
			ref := words[1] + "." + strings.Trim(words[2], "(),")
			if _, ok := found[ref]; !ok && ref != "systemctl.1" && ref != "journalctl.1" {
				t.Errorf("%s refers to %s, which is not there", name, ref)
			}
		}
	}
}

func TestManPagesSayWhatTheTablesSay(t *testing.T) {
	found := pages(t)
	// In flowing text lines are broken elsewhere; words follow each other all the same.
	flat := func(name string) string { return strings.Join(strings.Fields(found[name]), " ") }
	config := flat("bootstrap-agent-config.5")
	for _, k := range keys() {
		if !strings.Contains(config, ".B "+k.name+" "+strings.Join(strings.Fields(k.doc), " ")) {
			t.Errorf("bootstrap-agent-config(5) lacks %s", k.name)
		}
		if k.env() != "" && !strings.Contains(config, k.env()) {
			t.Errorf("bootstrap-agent-config(5) lacks %s", k.env())
		}
	}
	program := flat("bootstrap-agent.8")
	for _, e := range fault.All() {
		if !strings.Contains(program, ".B "+string(e.Reason)+" ") || !strings.Contains(program, strings.Join(strings.Fields(e.Remedy), " ")) {
			t.Errorf("bootstrap-agent(8) lacks %s", e.Reason)
		}
	}
	for page, want := range map[string]string{
		"bootstrap-agent-join.8":      ".B --timeout DURATION Give up after this time (default 5m0s).",
		"bootstrap-agent-run.8":       ".SH OPTIONS IN PLACE OF KEYS",
		"bootstrap-agent-status.8":    ".B -o, --output STRING Text, json or yaml (default text).",
		"bootstrap-agent-token-set.8": ".B bootstrap-agent token set",
		"bootstrap-agent-explain.8":   ".B bootstrap-agent explain REASON | --list [flags]",
	} {
		if !strings.Contains(flat(page), want) {
			t.Errorf("%s lacks %q:\n%s", page, want, found[page])
		}
	}
}

// What a person types must come out as it is typed, and no line may be taken for
// a command of the formatter. The formatters themselves are asked by make
// lint-packages.
func TestManPagesAreSafeForEveryFormatter(t *testing.T) {
	for name, text := range pages(t) {
		for i, line := range strings.Split(text, "\n") {
			for _, c := range line {
				if c < ' ' || c > '~' {
					t.Errorf("%s:%d has %q: not every locale shows it", name, i+1, c)
				}
			}
		}
	}
	for text, want := range map[string]string{
		".SH in text":         `\&.SH in text`,
		"'quoted' at a start": `\&'quoted' at a start`,
		`back\slash`:          `back\eslash`,
		"--flag ~ ^ `x`":      `\-\-flag \(ti \(ha \(gax\(ga`,
	} {
		if got := roff(text); got != want {
			t.Errorf("roff(%q) = %q, want %q", text, got, want)
		}
	}
	p := &page{}
	p.text("One\ntwo:\n  code -x\nthree.\n\n  more code")
	if want := "One two:\n.nf\n.RS 4\ncode \\-x\n.RE\n.fi\nthree.\n.PP\n.nf\n.RS 4\nmore code\n.RE\n.fi\n"; p.String() != want {
		t.Errorf("text is\n%s\nwant\n%s", p.String(), want)
	}
}

func TestCompletionsAreWrittenForEveryShell(t *testing.T) {
	d := newDoor(t)
	d.generate(fault.ExitUsage, "completions")
	d.wantText("--to names the folder")
	d.generate(0, "completions", "--to", d.dir)
	for _, shell := range shells() {
		data, err := os.ReadFile(d.path(shell))
		if err != nil {
			t.Fatal(err)
		}
		d.wantCode(0, "completion", shell)
		if d.stdout.String() != string(data) || !strings.Contains(string(data), "bootstrap-agent") {
			t.Errorf("the script for %s is not what the program prints", shell)
		}
	}
}

package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// What is generated and checked in is what the program would write now.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if read("../../packaging/config.example.yaml") != exampleConfig() {
		t.Error("packaging/config.example.yaml is not what the table of keys says: make generate")
	}
	const page = "../../docs/operations.md"
	old := read(page)
	renewed, err := spliced((&app{}).rootCommand(), page, old)
	if err != nil {
		t.Fatal(err)
	}
	if renewed != old {
		t.Errorf("%s is not what the tables say: make generate", page)
	}
}

// The journal's own reader of catalogs is tried on a machine; this holds what it
// cannot know: that nothing is missing.
func TestTheCatalogExplainsEveryReasonAndEveryEvent(t *testing.T) {
	entries := map[string]string{}
	for _, e := range strings.Split(catalog(), "\n-- ")[1:] {
		id, text, _ := strings.Cut(e, "\n")
		if entries[id] != "" {
			t.Errorf("%s stands there twice", id)
		}
		entries[id] = text
	}
	flat := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for _, e := range fault.All() {
		text := entries[e.Reason.MessageID()]
		for _, part := range []string{
			"Subject: " + string(e.Reason) + "\n", "Defined-By: bootstrap-agent\n", "Support: https://", "Documentation: man:bootstrap-agent(8)\n",
			flat(e.Meaning), "@BOOTSTRAP_AGENT_CAUSE@", "@BOOTSTRAP_AGENT_HINT@",
		} {
			if !strings.Contains(text, part) && !strings.Contains(flat(text), part) {
				t.Errorf("%s lacks %q:\n%s", e.Reason, part, text)
			}
		}
	}
	for _, e := range fault.Events() {
		if text := entries[e.Event.MessageID()]; !strings.Contains(flat(text), flat(e.Text)) {
			t.Errorf("%s:\n%s", e.Event, text)
		}
	}
	if n := len(fault.All()) + len(fault.Events()); len(entries) != n {
		t.Errorf("%d entries, want %d", len(entries), n)
	}
	// A field is what the log gives; any other @ would be taken for one.
	fields := regexp.MustCompile(`@[^@\n]*@?`).FindAllString(catalog(), -1)
	slices.Sort(fields)
	if got := slices.Compact(fields); !slices.Equal(got, []string{"@BOOTSTRAP_AGENT_CAUSE@", "@BOOTSTRAP_AGENT_HINT@"}) {
		t.Errorf("fields %q", got)
	}
	if long := regexp.MustCompile(`(?m)^[^ \n]+ .{100,}$`).FindString(catalog()); long != "" {
		t.Errorf("too long for a line: %s", long)
	}
}

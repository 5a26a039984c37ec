package discovery

import (
	"strings"
	"testing"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		`with "quotes" kept`:     `with "quotes" kept`,
		"a\nb\x1b[31m":           `a\nb\x1b[31m`,
		"":                       "",
		strings.Repeat("x", 300): strings.Repeat("x", 256) + "...",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestListQuotedIsBounded(t *testing.T) {
	if got := listQuoted([]string{"a", "b\n"}); got != `"a", "b\n"` {
		t.Errorf("got %s", got)
	}
	if got := listQuoted(strings.Split("1234567", "")); got != `"1", "2", "3", "4", "5" and 2 more` {
		t.Errorf("got %s", got)
	}
}

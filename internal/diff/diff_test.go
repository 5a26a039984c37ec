package diff

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestTheDifferenceIsThatOfDiffU(t *testing.T) {
	long := ""
	for i := 1; i <= 20; i++ {
		long += fmt.Sprintf("%d\n", i)
	}
	for name, row := range map[string]struct{ from, to, want string }{
		"equal texts":    {"a\n", "a\n", ""},
		"both are empty": {"", "", ""},
		"a new file":     {"", "a\nb\n", "--- old\n+++ new\n@@ -0,0 +1,2 @@\n+a\n+b\n"},
		"a removed file": {"a\n", "", "--- old\n+++ new\n@@ -1 +0,0 @@\n-a\n"},
		"one line":       {"a\nb\nc\n", "a\nB\nc\n", "--- old\n+++ new\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"},
		"a line at the end": {"a\n", "a\nb\n",
			"--- old\n+++ new\n@@ -1 +1,2 @@\n a\n+b\n"},
		"a line break at the end": {"a", "a\n",
			"--- old\n+++ new\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		"three lines around a change": {long, strings.Replace(long, "10\n", "x\n", 1),
			"--- old\n+++ new\n@@ -7,7 +7,7 @@\n 7\n 8\n 9\n-10\n+x\n 11\n 12\n 13\n"},
		"changes that are near are one hunk": {long, strings.Replace(strings.Replace(long, "\n5\n", "\nx\n", 1), "12\n", "", 1),
			"--- old\n+++ new\n@@ -2,14 +2,13 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n 9\n 10\n 11\n-12\n 13\n 14\n 15\n"},
		"changes that are far are two": {long, strings.Replace(strings.Replace(long, "\n2\n", "\nx\n", 1), "18\n", "y\n", 1),
			"--- old\n+++ new\n@@ -1,5 +1,5 @@\n 1\n-2\n+x\n 3\n 4\n 5\n@@ -15,6 +15,6 @@\n 15\n 16\n 17\n-18\n+y\n 19\n 20\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Unified(Text{"old", row.from}, Text{"new", row.to}, nil); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

func TestAMaskedLineIsSeenToChangeAndNotSeen(t *testing.T) {
	got := Unified(Text{"old", "A=1\nB=secret one\n"}, Text{"new", "A=1\nB=secret two\n"}, func(line string) string {
		name, _, _ := strings.Cut(line, "=")
		return name + "=*"
	})
	if want := "--- old\n+++ new\n@@ -1,2 +1,2 @@\n A=*\n-B=*\n+B=*\n"; got != want {
		t.Errorf("got\n%s", got)
	}
}

// patched applies a difference, strictly: what it does not fit is an error.
func patched(from, difference string) (string, error) {
	var out strings.Builder
	old := lines(from)
	at := 0
	rest := lines(difference)
	for i := 2; i < len(rest); i++ {
		line := rest[i]
		if strings.HasPrefix(line, "@@") {
			var start int
			if _, err := fmt.Sscanf(line, "@@ -%d", &start); err != nil {
				return "", err
			}
			if strings.Contains(line, ",0 +") && strings.HasPrefix(line, fmt.Sprintf("@@ -%d,0 ", start)) {
				start++
			}
			for ; at < start-1; at++ {
				out.WriteString(old[at])
			}
			continue
		}
		text := line[1:]
		if i+1 < len(rest) && strings.HasPrefix(rest[i+1], "\\") {
			text = strings.TrimSuffix(text, "\n")
		}
		switch line[0] {
		case '\\':
		case '+':
			out.WriteString(text)
		default:
			if at >= len(old) || old[at] != text {
				return "", fmt.Errorf("line %d is not %q", at+1, text)
			}
			if line[0] == ' ' {
				out.WriteString(text)
			}
			at++
		}
	}
	for ; at < len(old); at++ {
		out.WriteString(old[at])
	}
	return out.String(), nil
}

func FuzzADifferenceMakesOneTextOfTheOther(f *testing.F) {
	f.Add("a\nb\n", "a\nc\n")
	f.Add("", "x")
	f.Add("a\n\n\n", "\n\na")
	f.Fuzz(func(t *testing.T, from, to string) {
		difference := Unified(Text{"old", from}, Text{"new", to}, nil)
		if (difference == "") != (from == to) {
			t.Fatalf("%q and %q: %q", from, to, difference)
		}
		if got, err := patched(from, difference); difference != "" && (err != nil || got != to) {
			t.Fatalf("%q to %q gives %q, %v\n%s", from, to, got, err, difference)
		}
	})
}

func TestManyRandomTexts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	text := func() string {
		var b strings.Builder
		for range random.IntN(40) {
			b.WriteString(string(rune('a'+random.IntN(4))) + "\n")
		}
		return b.String()
	}
	for range 500 {
		from, to := text(), text()
		difference := Unified(Text{"old", from}, Text{"new", to}, nil)
		if got, err := patched(from, difference); difference != "" && (err != nil || got != to) {
			t.Fatalf("%q to %q gives %q, %v\n%s", from, to, got, err, difference)
		}
	}
}

func TestHugeTextsAreReplacedAsAWhole(t *testing.T) {
	from, to := strings.Repeat("a\n", 5000), strings.Repeat("b\n", 5000)
	if got := Unified(Text{"old", from}, Text{"new", to}, nil); strings.Count(got, "\n-") != 5000 || strings.Count(got, "\n+") != 5001 {
		t.Errorf("%d bytes", len(got))
	}
}

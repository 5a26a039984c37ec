package metrics

import (
	"math"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAPageIsTextAsPrometheusReadsIt(t *testing.T) {
	var p Page
	p.Family("a_seconds", Gauge, "Of what\nwith a \\.")
	p.Sample(1.5)
	p.Sample(1764000000, "phase", "Joined", "reason", "")
	p.Family("b_total", Counter, "Others.")
	p.Flag(true, "x", "a\\b\"c\nd")
	p.Flag(false)
	p.Sample(math.Inf(1))
	p.Sample(math.Inf(-1))
	p.Sample(math.NaN())
	want := "# HELP a_seconds Of what\\nwith a \\\\.\n# TYPE a_seconds gauge\na_seconds 1.5\na_seconds{phase=\"Joined\",reason=\"\"} 1764000000\n" +
		"# HELP b_total Others.\n# TYPE b_total counter\nb_total{x=\"a\\\\b\\\"c\\nd\"} 1\nb_total 0\nb_total +Inf\nb_total -Inf\nb_total NaN\n"
	if got := string(p.Bytes()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// sample is a line of the format with one label; the value is what stands between
// quotes, escaped.
var sample = regexp.MustCompile(`^a_total\{x="((?:[^"\\\n]|\\\\|\\"|\\n)*)",y="z"\} 1\n$`)

// A label can be anything and stays one: nothing of it becomes another label,
// another sample or another line, and it can be read back.
func FuzzALabelStaysALabel(f *testing.F) {
	for _, seed := range []string{"plain", "\"} 1\nevil_total 7", `\`, `\"`, "\xff\xfe", "\u2028", "a\x00b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		var p Page
		p.Family("a_total", Counter, "Help.")
		begin := len(p.Bytes())
		p.Sample(1, "x", value, "y", "z")
		line := string(p.Bytes()[begin:])
		m := sample.FindStringSubmatch(line)
		if m == nil || !utf8.ValidString(line) {
			t.Fatalf("%q became %q", value, line)
		}
		back := strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(m[1])
		if want := strings.ToValidUTF8(value, "\uFFFD"); back != want {
			t.Errorf("%q reads back as %q", want, back)
		}
	})
}

//go:build e2e

package hostile

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The bounds of every run.
const (
	mostResident = 32 << 10         // KiB
	mostTime     = 30 * time.Second // DESIGN: the whole of one endpoint
	mostShown    = 64 << 10         // bytes on stdout and stderr together
)

// Every lie is met with its reason, in bounded memory, time and output, on clean
// lines, and without one byte of the token's secret.
func TestTheProgramKeepsItsBoundsAgainstAServerThatLies(t *testing.T) {
	all := attacks()
	t.Logf("%d attacks", len(all))
	for _, a := range all {
		t.Run(a.threat+" "+a.name, func(t *testing.T) {
			t.Parallel()
			mount(t, a)
		})
	}
}

func mount(t *testing.T, a attack) {
	ca := newAuthority("kubernetes", a.root)
	pair := ca.serving(nil)
	if a.pair != nil {
		pair = a.pair(ca)
	}
	answers := &late{}
	s, shut := open(ca, pair, answers)
	defer shut()
	answers.Handler = a.serve("https://"+s.host, ca)
	for _, output := range []string{"json", "text"} {
		if a.slow && output != "json" {
			continue
		}
		r := check(t, s, "--ca-cert-hash", ca.pin(), "-o", output)
		t.Logf("%s: exit code %d after %s, %d KiB, %d bytes shown", output, r.code, r.took.Round(time.Millisecond), r.resident, len(r.stdout)+len(r.stderr))
		if r.resident > mostResident {
			t.Errorf("%s: %d KiB resident", output, r.resident)
		}
		if r.took > mostTime+5*time.Second { // of a loaded host
			t.Errorf("%s: took %s", output, r.took)
		}
		judgeText(t, output, r)
		if want := codeOf(a.want); r.code != want {
			t.Errorf("%s: exit code %d, want %d: %.300s", output, r.code, want, r.stdout+r.stderr)
		}
		if output != "json" {
			if !strings.Contains(r.stdout+r.stderr, string(a.want)) {
				t.Errorf("%s: does not say %s: %.300s", output, a.want, r.stdout+r.stderr)
			}
			continue
		}
		v := r.verdict(t)
		if v.OK != (a.want == "") || v.Reason != string(a.want) {
			t.Errorf("%s: ok %t, reason %q, want %q: %.300s", output, v.OK, v.Reason, a.want, v.Error)
		}
		if !strings.Contains(v.Error, a.says) {
			t.Errorf("%s: does not say %q: %.300s", output, a.says, v.Error)
		}
		if len(v.Error) > 2048 {
			t.Errorf("%s: an error of %d bytes", output, len(v.Error))
		}
	}
	judgeHeard(t, s)
	connections := s.tap.Connections()
	if connections > 2 {
		t.Errorf("%d connections for two runs", connections)
	}
}

// judgeHeard looks at every byte that the server has received.
func judgeHeard(t *testing.T, s *stage) {
	t.Helper()
	heard := s.tap.Heard()
	for _, bad := range secrets() {
		if strings.Contains(heard, bad) {
			t.Errorf("the server heard the secret: %q", heard)
		}
	}
	if lower := strings.ToLower(heard); strings.Contains(lower, "authorization") || strings.Contains(lower, "cookie") {
		t.Errorf("the server heard a credential: %q", heard)
	}
}

// judgeText looks at what a terminal and a journal would get.
func judgeText(t *testing.T, output string, r ran) {
	t.Helper()
	all := r.stdout + r.stderr
	if len(all) > mostShown {
		t.Errorf("%s: %d bytes shown", output, len(all))
	}
	if !utf8.ValidString(all) {
		t.Errorf("%s: bytes that are no text", output)
	}
	for i, c := range all {
		if c != '\n' && (unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == '\u2028' || c == '\u2029') {
			t.Errorf("%s: %q is shown, at %.60q", output, c, all[max(0, i-30):])
			break
		}
	}
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "<") || strings.HasPrefix(line, "READY=") || strings.HasPrefix(line, "STATUS=") {
			t.Errorf("%s: a line that the server has made: %.100q", output, line)
		}
	}
	for _, bad := range secrets() {
		if strings.Contains(all, bad) {
			t.Errorf("%s: shows the secret", output)
		}
	}
}

// secrets are the forms in which the secret might travel.
func secrets() []string {
	whole := tokenID + "." + secret
	return []string{
		secret, strings.ToUpper(secret),
		base64.StdEncoding.EncodeToString([]byte(secret))[:20], base64.StdEncoding.EncodeToString([]byte(whole))[:28],
	}
}

func codeOf(reason fault.Reason) int {
	if reason == "" {
		return 0
	}
	return fault.ExitCode(fault.New(reason, "x"))
}

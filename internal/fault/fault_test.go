package fault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
)

func TestTableRows(t *testing.T) {
	seen := map[Reason]bool{}
	for _, e := range table {
		if seen[e.Reason] {
			t.Errorf("%s stands twice", e.Reason)
		}
		seen[e.Reason] = true
		if e.Meaning == "" || e.Remedy == "" {
			t.Errorf("%s has no meaning or no remedy", e.Reason)
		}
		if !strings.HasSuffix(e.Meaning, ".") {
			t.Errorf("%s: meaning is no sentence: %q", e.Reason, e.Meaning)
		}
		if !unicode.IsUpper(rune(e.Reason[0])) {
			t.Errorf("%s is not CamelCase", e.Reason)
		}
		if (e.Class == Note) != (e.Exit == ExitDone) {
			t.Errorf("%s: class %s does not go with exit code %d", e.Reason, e.Class, e.Exit)
		}
		if e.Exit == 2 {
			t.Errorf("%s: exit code 2 is a Go panic's", e.Reason)
		}
	}
}

// The classes and codes are a contract with status readers and scripts; this
// copy of it fails when a row moves by accident.
func TestClassesAndCodes(t *testing.T) {
	want := map[Class]map[int]string{
		Retry: {75: "EndpointUnreachable DNSFailure TLSHandshakeFailed Throttled ServerError NodeNotRegistered",
			69: "RuntimeNotReady WriteFailed KubeletUnhealthy KubeletFailed"},
		Slow: {75: "CSRPending CSRNotSigned",
			77: "ClusterInfoMissing ClusterInfoForbidden NoSignatures TokenUnknown TokenRejected CSRForbidden CSRDenied CSRFailed CSRDeleted NodeNameTaken",
			65: "SignatureMismatch ServerCertificateInvalid", 69: "ClockSkew KubeletMissing KubeletTooOld MachineUnfit"},
		Blocked: {65: "ClusterInfoInvalid CAPinMismatch CertificateInvalid", 78: "PinRequired ConfigInvalid TokenMissing",
			69: "UnitMasked UnitOverridden ForeignKubelet MachineChanged NotAdoptable", 73: "Locked"},
		Note: {0: "CAOffered ServerOffered CARefreshUnavailable RenewalNotAutomatic RenewalOverdue ReissuePending ClientCAMissing ServingCertificatePending NodeDeleted NodeNotReady KubeletStopped TokenLeftBehind Drifted VersionSkew MachineWarning MetricsUnavailable"},
	}
	n := 0
	for class, codes := range want {
		for code, names := range codes {
			for _, name := range strings.Fields(names) {
				n++
				e, ok := Lookup(Reason(name))
				if !ok || e.Class != class || e.Exit != code {
					t.Errorf("%s: got %s/%d (known %t), want %s/%d", name, e.Class, e.Exit, ok, class, code)
				}
			}
		}
	}
	if n != len(table) {
		t.Errorf("%d reasons in the contract, %d in the table", n, len(table))
	}
}

func TestErrorChain(t *testing.T) {
	cause := errors.New("boom")
	err := fmt.Errorf("cannot join: %w", New(TokenRejected, "cannot create: %w", cause))
	if !errors.Is(err, cause) {
		t.Error("cause is lost")
	}
	if ReasonOf(err) != TokenRejected || ExitCode(err) != ExitRefused {
		t.Errorf("reason %s, exit %d", ReasonOf(err), ExitCode(err))
	}
	if HintOf(err) == "" {
		t.Error("no remedy")
	}
	if got := HintOf(New(CSRPending, "x").WithHint("do %s", "this")); got != "do this" {
		t.Errorf("hint %q", got)
	}
	if ExitCode(nil) != 0 || ExitCode(cause) != 1 {
		t.Error("exit codes of nil and of a plain error")
	}
}

func TestQuote(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"newlines and escapes":      {"a\nb\x1b[31m", `"a\nb\x1b[31m"`},
		"bidi override is escaped":  {"a\u202eb", `"a\u202eb"`},
		"long text is cut":          {strings.Repeat("x", 300), `"` + strings.Repeat("x", 256) + `"...`},
		"plain text is only quoted": {"ok", `"ok"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Quote(tc.in); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestFromNetwork(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want Reason
	}{
		"unknown host":             {&net.DNSError{Err: "no such host", Name: "x"}, DNSFailure},
		"refused":                  {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, EndpointUnreachable},
		"plain http behind it":     {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, TLSHandshakeFailed},
		"deadline":                 {context.DeadlineExceeded, EndpointUnreachable},
		"cancelled is no fault":    {context.Canceled, ""},
		"a fault keeps its reason": {New(Throttled, "429"), Throttled},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ReasonOf(FromNetwork(tc.err, "cannot reach x")); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestSkewOf(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	nb, na := base, base.Add(time.Hour)
	if SkewOf(nb, na, base.Add(-time.Hour), base.Add(time.Minute)) == nil {
		t.Error("a local clock behind notBefore is skew when the server's is inside")
	}
	if SkewOf(nb, na, base.Add(time.Minute), base.Add(time.Minute)) != nil {
		t.Error("equal clocks are no skew")
	}
	if SkewOf(nb, na, base.Add(2*time.Hour), base.Add(2*time.Hour)) != nil {
		t.Error("an expired certificate is no skew when the server agrees")
	}
}

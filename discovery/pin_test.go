package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestParsePinsAccepts(t *testing.T) {
	hex64 := strings.Repeat("0123456789abcdef", 4)
	for name, in := range map[string][]string{
		"as kubeadm prints it": {"sha256:" + hex64},
		"upper case digits":    {"sha256:" + strings.ToUpper(hex64)},
		"upper case prefix":    {"SHA256:" + hex64},
		"the same twice":       {"sha256:" + hex64, "SHA256:" + strings.ToUpper(hex64)},
	} {
		t.Run(name, func(t *testing.T) {
			pins, err := ParsePins(in)
			if err != nil {
				t.Fatal(err)
			}
			if pins.Len() != 1 || pins.String() != "sha256:"+hex64 || pins.List()[0] != pins.String() {
				t.Errorf("got %s", pins)
			}
		})
	}
	if pins, err := ParsePins(nil); err != nil || pins.Len() != 0 || pins.String() != "" {
		t.Errorf("no pins: %v, %v", pins, err)
	}
	var hundred []string
	for i := range 100 {
		hundred = append(hundred, fmt.Sprintf("sha256:%064x", i))
	}
	if pins, err := ParsePins(hundred); err != nil || pins.Len() != 100 {
		t.Errorf("a hundred pins: %d, %v", pins.Len(), err)
	}
}

func TestParsePinsNamesTheMistake(t *testing.T) {
	hex64 := strings.Repeat("0123456789abcdef", 4)
	for name, tc := range map[string]struct{ in, rule string }{
		"empty":                  {"", "empty"},
		"missing prefix":         {hex64, "lacks the prefix"},
		"SHA-1 with prefix":      {"sha1:" + hex64[:40], "SHA-1"},
		"SHA-1 bare":             {hex64[:40], "SHA-1"},
		"SHA-512":                {"sha512:" + hex64 + hex64, "another prefix"},
		"63 digits":              {"sha256:" + hex64[:63], "63 hex digits, not 64"},
		"65 digits":              {"sha256:" + hex64 + "0", "65 hex digits"},
		"no digits":              {"sha256:", "no hex digit"},
		"no hex":                 {"sha256:" + strings.Repeat("xy", 32), "no hex digit"},
		"leading space":          {" sha256:" + hex64, "white space"},
		"trailing newline":       {"sha256:" + hex64 + "\n", "white space"},
		"space after the colon":  {"sha256: " + hex64, "no hex digit"},
		"openssl fingerprint":    {"AB:" + strings.Repeat("CD:", 30) + "EF", "fingerprint"},
		"prefixed fingerprint":   {"sha256:AB:" + strings.Repeat("CD:", 30) + "EF", "fingerprint"},
		"base64 as in HPKP":      {"sha256/r/mIkG3eEpVdm+u/ko/cwxzOMo1bk4TyHIlByibiA5E=", "base64"},
		"base64 with our prefix": {"sha256:r/mIkG3eEpVdm+u/ko/cwxzOMo1bk4TyHIlByibiA5E=", "base64"},
		"a k3s token":            {"K10" + hex64 + "::server:x", "k3s"},
		"something else":         {"hello", "lacks sha256: and"},
	} {
		t.Run(name, func(t *testing.T) {
			pins, err := ParsePins([]string{tc.in})
			wantReason(t, err, fault.ConfigInvalid, tc.rule)
			if pins.Len() != 0 {
				t.Error("a pin came with the error")
			}
			if !strings.Contains(fault.HintOf(err), "openssl x509") {
				t.Errorf("the hint has no command: %s", fault.HintOf(err))
			}
		})
	}
}

func TestParsePinsReportsEveryFault(t *testing.T) {
	good := "sha256:" + strings.Repeat("0", 64)
	_, err := ParsePins([]string{"sha1:x", good, "y"})
	if err == nil || !strings.Contains(err.Error(), "pin 1 of 3") || !strings.Contains(err.Error(), "pin 3 of 3") || strings.Contains(err.Error(), "pin 2") {
		t.Errorf("got %v", err)
	}
}

func TestPinIsOfThePublicKeyAlone(t *testing.T) {
	ca := newCA(t, "kubernetes")
	reissued := sign(t, ca.cert, ca.cert, ca.key, ca.key)
	if reissued.Equal(ca.cert) {
		t.Skip("the signature came out the same twice")
	}
	pins, err := ParsePins([]string{SPKIPin(ca.cert)})
	if err != nil {
		t.Fatal(err)
	}
	if !pins.Match(ca.cert) || !pins.Match(reissued) {
		t.Error("a re-issue with the same key is not matched")
	}
	if pins.Match(newCA(t, "kubernetes").cert) || (Pins{}).Match(ca.cert) {
		t.Error("another key, or no pin, matched")
	}
}

func TestWrongHashIsExplained(t *testing.T) {
	ca := newCA(t, "kubernetes")
	whole := sha256.Sum256(ca.cert.Raw)
	file := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}))
	for want, sum := range map[string][32]byte{"whole certificate": whole, "CA file": file} {
		pins, err := ParsePins([]string{"sha256:" + hex.EncodeToString(sum[:])})
		if err != nil {
			t.Fatal(err)
		}
		if got := pins.wrongHash(ca.cert); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if pins.Match(ca.cert) {
			t.Errorf("the hash of the %s was accepted", want)
		}
	}
	if got := pinsOf(ca).wrongHash(ca.cert); got != "" {
		t.Errorf("a right pin is explained as %q", got)
	}
}

func FuzzParsePins(f *testing.F) {
	for _, s := range []string{"sha256:" + strings.Repeat("a", 64), "sha1:abc", "", "K10abc", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pins, err := ParsePins([]string{s})
		if err != nil {
			return
		}
		if !strings.EqualFold(pins.String(), s) {
			t.Fatalf("%q became %q", s, pins)
		}
	})
}

package discovery

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const pinPrefix = "sha256:"

// Pin is the SHA-256 of a certificate's public key (DER SubjectPublicKeyInfo).
// It survives a re-issue of the certificate with the same key.
type Pin [sha256.Size]byte

// String returns "sha256:" and 64 lower case hex digits.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// Pins is the set of public keys that may be trusted first. Empty: none were
// configured.
type Pins struct{ list []Pin }

// SPKIPin returns the pin of a certificate, ready to paste into caCertHashes.
func SPKIPin(cert *x509.Certificate) string { return pinOf(cert).String() }

func pinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// ParsePins reads caCertHashes. Upper case is accepted, one pin given twice
// counts once, and all faults come back at once, each with its place in the
// list.
func ParsePins(values []string) (Pins, error) {
	var pins Pins
	var faults []error
	seen := map[Pin]bool{}
	for i, v := range values {
		p, err := parsePin(v)
		if err != nil {
			faults = append(faults, fmt.Errorf("pin %d of %d, %s, %w", i+1, len(values), fault.Quote(v), err))
			continue
		}
		if !seen[p] {
			seen[p] = true
			pins.list = append(pins.list, p)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return Pins{}, fault.New(fault.ConfigInvalid, "%w", err).WithHint("A pin is sha256: and 64 hex digits. On the control plane: " + pinCommand)
	}
	return pins, nil
}

// pinCommand prints the pin of the CA where its file lies.
const pinCommand = "`openssl x509 -in /etc/kubernetes/pki/ca.crt -noout -pubkey | openssl pkey -pubin -outform der | sha256sum`"

func parsePin(s string) (Pin, error) {
	var p Pin
	low := strings.ToLower(s)
	digits, prefixed := strings.CutPrefix(low, pinPrefix)
	switch {
	case s == "":
		return p, errors.New("is empty")
	case strings.TrimSpace(s) != s:
		return p, errors.New("has white space around it")
	case strings.HasPrefix(low, "k10") && len(low) >= 67:
		return p, errors.New("is a k3s token: its hash is that of the CA file, not of the CA's public key")
	case strings.HasPrefix(low, "sha256/"), strings.HasPrefix(low, "sha256-"), prefixed && strings.HasSuffix(digits, "="):
		return p, errors.New("is in base64: after sha256: write the same 32 bytes as 64 hex digits")
	case strings.Count(digits, ":") >= 15:
		return p, errors.New("is a fingerprint (of the whole certificate, not of its public key)")
	case strings.HasPrefix(low, "sha1:"), !prefixed && isHex(low) && len(low) == 40:
		return p, errors.New("is a SHA-1; only sha256 is accepted")
	case !prefixed && strings.Contains(low, ":"):
		return p, errors.New("has another prefix; only sha256: is accepted")
	case !prefixed && isHex(low) && len(low) == hex.EncodedLen(len(p)):
		return p, errors.New("lacks the prefix sha256: (if it is the hash of the public key, put that before it)")
	case !prefixed:
		return p, errors.New("lacks sha256: and 64 hex digits")
	case !isHex(digits):
		return p, errors.New("has a character after sha256: that is no hex digit")
	case len(digits) != hex.EncodedLen(len(p)):
		return p, fmt.Errorf("has %d hex digits, not %d", len(digits), hex.EncodedLen(len(p)))
	}
	if _, err := hex.Decode(p[:], []byte(digits)); err != nil {
		return p, err
	}
	return p, nil
}

func isHex(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// Match reports whether the certificate's public key is pinned. What is
// compared is public, so time tells nothing here.
func (p Pins) Match(cert *x509.Certificate) bool { return p.has(pinOf(cert)) }

func (p Pins) has(want Pin) bool {
	for _, pin := range p.list {
		if pin == want {
			return true
		}
	}
	return false
}

// Len returns how many different pins there are.
func (p Pins) Len() int { return len(p.list) }

// List returns the pins as text, in the order of the configuration.
func (p Pins) List() []string {
	out := make([]string, 0, len(p.list))
	for _, pin := range p.list {
		out = append(out, pin.String())
	}
	return out
}

// String returns the pins with commas between them.
func (p Pins) String() string { return strings.Join(p.List(), ", ") }

// wrongHash says which other hash of cert was pinned by mistake, or "". A match
// found here explains a refusal; it never makes a pin.
func (p Pins) wrongHash(cert *x509.Certificate) string {
	if p.has(sha256.Sum256(cert.Raw)) {
		return "a pin is the hash of the whole certificate, not of its public key"
	}
	file := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if p.has(sha256.Sum256(file)) {
		return "a pin is the hash of the CA file, not of the CA's public key"
	}
	return ""
}

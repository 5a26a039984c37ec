package discovery

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// accept decides which CAs of a signed bundle are trusted. With pins: the
// pinned ones, the others are dropped. A signature alone is not enough for an
// unpinned one beside them: everybody who was ever given the token can sign. by
// is who shows the bundle.
func accept(bundle []*x509.Certificate, pins Pins, unsafeSkip bool, by string) (accepted, dropped []*x509.Certificate, err error) {
	switch {
	case pins.Len() == 0 && unsafeSkip:
		return bundle, nil, nil
	case pins.Len() == 0:
		return nil, bundle, fault.New(fault.PinRequired, "no CA pin is configured; %s shows %s", by, describeAll(bundle)).
			WithHint("Compare with a pin taken on the control plane (%s), then configure caCertHashes: [%s]", pinCommand, pasteable(bundle))
	}
	for _, c := range bundle {
		if pins.Match(c) {
			accepted = append(accepted, c)
		} else {
			dropped = append(dropped, c)
		}
	}
	if len(accepted) > 0 {
		return accepted, dropped, nil
	}
	why := ""
	for _, c := range bundle {
		if w := pins.wrongHash(c); w != "" {
			why = "; " + w
		}
	}
	return nil, bundle, fault.New(fault.CAPinMismatch, "no CA of the cluster has a configured pin; %s shows %s%s", by, describeAll(bundle), why).
		WithHint("If the CA was really replaced, compare with a pin taken on the control plane (%s), then configure caCertHashes: [%s]", pinCommand, pasteable(bundle))
}

func describeAll(certs []*x509.Certificate) string {
	var list []string
	for i, c := range certs {
		if i == maxListed {
			list = append(list, fmt.Sprintf("%d more", len(certs)-i))
			break
		}
		list = append(list, describe(c))
	}
	return strings.Join(list, ", ")
}

// pasteable writes pins as they stand in the config.
func pasteable(certs []*x509.Certificate) string {
	var list []string
	for _, c := range certs[:min(len(certs), maxListed)] {
		list = append(list, `"`+SPKIPin(c)+`"`)
	}
	return strings.Join(list, ", ")
}

// verifyPeer is the late verification: the chain that the server showed, on the
// connection whose answer was believed, must lead to an accepted CA for the
// endpoint's name. TLS has proved already that the server holds the leaf's key.
// date is the server's clock from that same answer, zero if it gave none.
func verifyPeer(peer, accepted []*x509.Certificate, e Endpoint, local, date time.Time) error {
	if len(peer) == 0 {
		return fault.New(fault.ServerCertificateInvalid, "%s showed no certificate", e)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range accepted {
		roots.AddCert(c)
	}
	for _, c := range peer[1:] {
		between.AddCert(c)
	}
	opts := x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: e.certificateName(), CurrentTime: local,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	_, err := peer[0].Verify(opts)
	if err == nil {
		return nil
	}
	if skew := skewOf(err, peer[0], opts, local, date); skew != nil {
		return skew
	}
	msg := fmt.Sprintf("the certificate of %s (subject %s, issuer %s, valid %s to %s) does not verify against the accepted CA",
		e, fault.Quote(peer[0].Subject.String()), fault.Quote(peer[0].Issuer.String()), day(peer[0].NotBefore), day(peer[0].NotAfter))
	if old := outside(accepted, local); len(old) > 0 {
		msg += " (not valid now: " + describeAll(old) + ")"
	}
	return fault.New(fault.ServerCertificateInvalid, "%s: %w", msg, shown{err})
}

// skewOf returns a ClockSkew fault if nothing but the time is wrong with the
// chain and it holds by the server's clock.
func skewOf(err error, leaf *x509.Certificate, opts x509.VerifyOptions, local, date time.Time) error {
	var invalid x509.CertificateInvalidError
	if date.IsZero() || !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		return nil
	}
	opts.CurrentTime = date
	chains, _ := leaf.Verify(opts) // none if more than the time is wrong
	for _, chain := range chains {
		notBefore, notAfter := window(chain)
		if skew := fault.SkewOf(notBefore, notAfter, local, date); skew != nil {
			return skew
		}
	}
	return nil
}

// window is the time in which every certificate of a chain is valid.
func window(chain []*x509.Certificate) (notBefore, notAfter time.Time) {
	notBefore, notAfter = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(notBefore) {
			notBefore = c.NotBefore
		}
		if c.NotAfter.Before(notAfter) {
			notAfter = c.NotAfter
		}
	}
	return notBefore, notAfter
}

// outside returns the certificates that are not valid at that time.
func outside(certs []*x509.Certificate, at time.Time) []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range certs {
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			out = append(out, c)
		}
	}
	return out
}

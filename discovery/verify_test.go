package discovery

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func certs(cas ...*authority) []*x509.Certificate {
	var out []*x509.Certificate
	for _, ca := range cas {
		out = append(out, ca.cert)
	}
	return out
}

func TestAcceptPrunesToThePinned(t *testing.T) {
	a, b, other := newCA(t, "a"), newCA(t, "b"), newCA(t, "other")
	for name, tc := range map[string]struct {
		bundle            []*x509.Certificate
		pins              Pins
		unsafe            bool
		accepted, dropped []*x509.Certificate
	}{
		"pinned":                        {certs(a), pinsOf(a), false, certs(a), nil},
		"pinned and other":              {certs(a, other), pinsOf(a), false, certs(a), certs(other)},
		"both pinned":                   {certs(a, b), pinsOf(b, a), false, certs(a, b), nil},
		"a pin too many":                {certs(a), pinsOf(a, b), false, certs(a), nil},
		"unsafe takes the whole bundle": {certs(a, other), Pins{}, true, certs(a, other), nil},
		"pins decide over unsafe":       {certs(a, other), pinsOf(a), true, certs(a), certs(other)},
	} {
		t.Run(name, func(t *testing.T) {
			accepted, dropped, err := accept(tc.bundle, tc.pins, tc.unsafe, "x")
			if err != nil || !slices.Equal(accepted, tc.accepted) || !slices.Equal(dropped, tc.dropped) {
				t.Errorf("accepted %d, dropped %d, %v", len(accepted), len(dropped), err)
			}
		})
	}
}

func TestAcceptRefusesAndShowsPinsReadyToPaste(t *testing.T) {
	a, other := newCA(t, "a"), newCA(t, "other")
	for name, tc := range map[string]struct {
		pins   Pins
		unsafe bool
		want   fault.Reason
	}{
		"no pins, no unsafe":           {Pins{}, false, fault.PinRequired},
		"another pin":                  {pinsOf(other), false, fault.CAPinMismatch},
		"another pin, unsafe beside":   {pinsOf(other), true, fault.CAPinMismatch},
		"a pin of the whole cert only": {Pins{list: []Pin{sha256.Sum256(a.cert.Raw)}}, false, fault.CAPinMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			accepted, _, err := accept(certs(a), tc.pins, tc.unsafe, "x")
			wantReason(t, err, tc.want, SPKIPin(a.cert), `"CN=a"`)
			if accepted != nil {
				t.Error("something was accepted")
			}
			if want := `caCertHashes: ["` + SPKIPin(a.cert) + `"]`; !strings.Contains(fault.HintOf(err), want) {
				t.Errorf("the hint lacks %s: %s", want, fault.HintOf(err))
			}
		})
	}
	whole := sha256.Sum256(a.cert.Raw)
	pins, err := ParsePins([]string{"sha256:" + hex.EncodeToString(whole[:])})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = accept(certs(a), pins, false, "x")
	wantReason(t, err, fault.CAPinMismatch, "hash of the whole certificate")
}

func TestVerifyPeer(t *testing.T) {
	now := time.Now()
	ca, stranger := newCA(t, "kubernetes"), newCA(t, "kubernetes")
	e := mustEndpoint(t, "10.0.0.1:6443")
	name := mustEndpoint(t, "api.example.org:6443")
	six := mustEndpoint(t, "[fd00::1]:6443")
	zoned := mustEndpoint(t, "[fe80::1%eth0]:6443")
	leaf := ca.serving(t, []string{"10.0.0.1", "api.example.org", "fd00::1", "fe80::1"}).Leaf
	// An intermediate that the server sends along.
	key := newKey(t)
	mid := &authority{key: key, cert: sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: newCA(t, "mid").cert.Subject, NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, ca.cert, key, ca.key)}
	below := mid.serving(t, []string{"10.0.0.1"}).Leaf
	clientOnly := ca.serving(t, []string{"10.0.0.1"}, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }).Leaf
	commonName := ca.serving(t, nil, func(c *x509.Certificate) { c.Subject.CommonName = "10.0.0.1" }).Leaf
	ugly := ca.serving(t, nil, func(c *x509.Certificate) { c.DNSNames = []string{"a\x1b[2J\nb"} }).Leaf
	window := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
	}
	expired := ca.serving(t, []string{"10.0.0.1"}, window(-2*time.Hour, -time.Hour)).Leaf
	future := ca.serving(t, []string{"10.0.0.1"}, window(time.Hour, 2*time.Hour)).Leaf
	oldCA := newCA(t, "old", window(-48*time.Hour, -24*time.Hour))
	underOld := oldCA.serving(t, []string{"10.0.0.1"}, window(-time.Hour, time.Hour)).Leaf
	chain := func(c ...*x509.Certificate) []*x509.Certificate { return c }
	for what, tc := range map[string]struct {
		peer  []*x509.Certificate
		roots []*x509.Certificate
		e     Endpoint
		date  time.Time
		want  fault.Reason
		says  string
	}{
		"right, by IP":                     {chain(leaf), certs(ca), e, now, "", ""},
		"right, by name":                   {chain(leaf), certs(ca), name, now, "", ""},
		"right, by IPv6":                   {chain(leaf), certs(ca), six, now, "", ""},
		"right, by IPv6 with a zone":       {chain(leaf), certs(ca), zoned, now, "", ""},
		"right, among two CAs":             {chain(leaf), certs(stranger, ca), e, now, "", ""},
		"right, without a Date":            {chain(leaf), certs(ca), e, time.Time{}, "", ""},
		"right, with a lying Date":         {chain(leaf), certs(ca), e, now.Add(1000 * time.Hour), "", ""},
		"through an intermediate":          {chain(below, mid.cert), certs(ca), e, now, "", ""},
		"the CA itself sent along":         {chain(leaf, ca.cert), certs(ca), e, now, "", ""},
		"the intermediate is the accepted": {chain(below), certs(mid), e, now, "", ""},
		"intermediate missing":             {chain(below), certs(ca), e, now, fault.ServerCertificateInvalid, "unknown authority"},
		"another CA of the same name":      {chain(leaf), certs(stranger), e, now, fault.ServerCertificateInvalid, "does not verify"},
		"the stranger's CA sent along":     {chain(leaf, ca.cert), certs(stranger), e, now, fault.ServerCertificateInvalid, "does not verify"},
		"another name":                     {chain(leaf), certs(ca), mustEndpoint(t, "10.0.0.2:6443"), now, fault.ServerCertificateInvalid, "10.0.0.2"},
		"the name only as CN":              {chain(commonName), certs(ca), e, now, fault.ServerCertificateInvalid, ""},
		"client certificate":               {chain(clientOnly), certs(ca), e, now, fault.ServerCertificateInvalid, "usage"},
		"names with escapes":               {chain(ugly), certs(ca), name, now, fault.ServerCertificateInvalid, `\x1b[2J\n`},
		"no certificate":                   {nil, certs(ca), e, now, fault.ServerCertificateInvalid, "no certificate"},
		"expired, server agrees":           {chain(expired), certs(ca), e, now, fault.ServerCertificateInvalid, "expired"},
		"expired, no Date":                 {chain(expired), certs(ca), e, time.Time{}, fault.ServerCertificateInvalid, "expired"},
		"expired, valid by server":         {chain(expired), certs(ca), e, now.Add(-90 * time.Minute), fault.ClockSkew, "1h30m0s apart"},
		"not yet valid, valid by server":   {chain(future), certs(ca), e, now.Add(90 * time.Minute), fault.ClockSkew, "clock says"},
		"not yet valid, server agrees":     {chain(future), certs(ca), e, now, fault.ServerCertificateInvalid, "not yet valid"},
		"skewed and of another CA":         {chain(expired), certs(stranger), e, now.Add(-90 * time.Minute), fault.ServerCertificateInvalid, ""},
		"skewed and of another name":       {chain(expired), certs(ca), name, now.Add(-90 * time.Minute), fault.ServerCertificateInvalid, ""},
		"expired CA is named":              {chain(underOld), certs(oldCA), e, now, fault.ServerCertificateInvalid, `"CN=old"`},
	} {
		t.Run(what, func(t *testing.T) {
			err := verifyPeer(tc.peer, tc.roots, tc.e, now, tc.date)
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantReason(t, err, tc.want, tc.says)
		})
	}
}

package csr

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// believing is a waiter with a request, a signed certificate for it (spoiled by
// change) and clocks that are off by so much.
func believing(t *testing.T, q *request, serverKnown bool, server, local time.Duration) *waiter {
	t.Helper()
	api := &fakeAPI{clock: func() (time.Time, time.Time, bool) {
		if !serverKnown {
			return time.Time{}, time.Time{}, false
		}
		// told a while ago: the time since then has to be added
		return time.Now().Add(server - time.Hour), time.Now().Add(local - time.Hour), true
	}}
	return &waiter{r: &Requester{Now: func() time.Time { return time.Now().Add(local) }}, t: Target{API: api}, q: q}
}

func TestOnlyTheCertificateThatWasAskedForIsBelieved(t *testing.T) {
	q, k := newTestRequest(t)
	ca := newAuthority(t)
	o := q.object()
	stranger := newKeyPair(t, elliptic.P256())
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		say    string // "": believed
	}{
		"as asked":             {},
		"no key usage":         {change: func(c *x509.Certificate) { c.KeyUsage = 0 }},
		"key encipherment too": {change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		"another key":          {func(c *x509.Certificate) { c.PublicKey = stranger.Public() }, "another key"},
		"another name":         {func(c *x509.Certificate) { c.Subject.CommonName = "system:node:n2\n" }, `"system:node:n2\n"`},
		"no group":             {func(c *x509.Certificate) { c.Subject.Organization = nil }, "organization"},
		"another group":        {func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} }, "organization"},
		"a group more":         {func(c *x509.Certificate) { c.Subject.Organization = []string{"system:nodes", "system:masters"} }, "organization"},
		"a unit more":          {func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"x"} }, "more than was asked"},
		"server usage":         {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "extended key usage"},
		"server usage too":     {func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }, "extended key usage"},
		"no extended usage":    {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, "extended key usage"},
		"an unknown usage":     {func(c *x509.Certificate) { c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, []int{1, 2, 3}) }, "extended key usage"},
		"may sign":             {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "key usage"},
		"encipherment only":    {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, "key usage"},
		"a CA":                 {func(c *x509.Certificate) { c.IsCA = true }, "CA certificate"},
		"a DNS name":           {func(c *x509.Certificate) { c.DNSNames = []string{"n1"} }, "alternative names"},
		"an address":           {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4zero} }, "alternative names"},
		"a mail address":       {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }, "alternative names"},
		"a URI":                {func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "alternative names"},
		"a strange extension": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, "critical extension"},
	} {
		t.Run(name, func(t *testing.T) {
			w := believing(t, q, true, 0, 0)
			leaf, chain, err := w.believe(t.Context(), ca.sign(t, o, test.change))
			if test.say == "" {
				if err != nil || leaf == nil {
					t.Fatal(err)
				}
				der, _ := x509.MarshalECPrivateKey(k.private)
				if _, err := tls.X509KeyPair(chain, block(keyBlock, der)); err != nil {
					t.Errorf("certificate and key make no pair: %v", err)
				}
				return
			}
			if fault.ReasonOf(err) != fault.CertificateInvalid || !strings.Contains(err.Error(), test.say) || strings.Contains(err.Error(), "\n") || chain != nil {
				t.Errorf("believe() = %v, want %q", err, test.say)
			}
		})
	}
}

func TestWhatIsNoChainOfCertificatesIsNotBelieved(t *testing.T) {
	q, k := newTestRequest(t)
	ca := newAuthority(t)
	leaf := ca.sign(t, q.object(), nil)
	der, _ := x509.MarshalECPrivateKey(k.private)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	headed, _ := pem.Decode(leaf)
	headed.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED"}
	for name, test := range map[string]struct {
		data []byte
		want int // certificates that come back; 0: not believed
	}{
		"a leaf":                 {leaf, 1},
		"leaf and CA":            {join(leaf, ca.pem()), 2},
		"text around it":         {join([]byte("Subject: n1\n"), leaf, []byte("\nend\n")), 1},
		"nothing":                {nil, 0},
		"text":                   {[]byte("hello"), 0},
		"CA first":               {join(ca.pem(), leaf), 0},
		"cut off":                {leaf[:len(leaf)-20], 0},
		"a block begun behind":   {join(leaf, []byte("-----BEGIN CERTIFICATE-----\nabc")), 0},
		"a damaged block before": {join([]byte("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), leaf), 0},
		"a key behind":           {join(leaf, block(keyBlock, der)), 0},
		"no DER":                 {block("CERTIFICATE", []byte("x")), 0},
		"headers":                {pem.EncodeToMemory(headed), 0},
		"too many":               {bytes.Repeat(leaf, maxChain+1), 0},
		"too much":               {join(leaf, bytes.Repeat([]byte(" "), maxCertificates)), 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := believing(t, q, true, 0, 0)
			_, chain, err := w.believe(t.Context(), test.data)
			if test.want == 0 {
				if fault.ReasonOf(err) != fault.CertificateInvalid || strings.Contains(err.Error(), "\n") {
					t.Errorf("believe() = %v", err)
				}
				return
			}
			if err != nil || bytes.Count(chain, []byte("-----BEGIN CERTIFICATE-----\n")) != test.want || !bytes.HasPrefix(chain, []byte("-----BEGIN")) {
				t.Errorf("believe() = %q, %v", chain, err)
			}
		})
	}
}

func TestValidityIsJudgedByBothClocks(t *testing.T) {
	q, _ := newTestRequest(t)
	for name, test := range map[string]struct {
		from, to      time.Duration // of the certificate, from now
		known         bool
		server, local time.Duration
		want          fault.Reason
		wait          time.Duration
	}{
		"both inside":                          {from: -5 * time.Minute, to: time.Hour, known: true},
		"server unknown, inside":               {from: -5 * time.Minute, to: time.Hour},
		"server unknown, expired":              {from: -time.Hour, to: -time.Minute, want: fault.CertificateInvalid},
		"expired":                              {from: -time.Hour, to: -time.Minute, known: true, want: fault.CertificateInvalid},
		"not yet valid":                        {from: time.Hour, to: 2 * time.Hour, known: true, want: fault.CertificateInvalid},
		"our clock is behind":                  {from: -5 * time.Minute, to: time.Hour, known: true, local: -3 * time.Hour, want: fault.ClockSkew},
		"our clock is ahead":                   {from: -5 * time.Minute, to: time.Hour, known: true, local: 3 * time.Hour, want: fault.ClockSkew},
		"our clock is a little behind":         {from: 0, to: time.Hour, known: true, local: -40 * time.Second, wait: 40 * time.Second},
		"the signer is a little ahead":         {from: 20 * time.Second, to: time.Hour, known: true, wait: 20 * time.Second},
		"the signer is ahead":                  {from: 2 * time.Minute, to: time.Hour, known: true, want: fault.CertificateInvalid},
		"skew within the backdating":           {from: -5 * time.Minute, to: time.Hour, known: true, local: -4 * time.Minute},
		"expired for the server, not for us":   {from: -time.Hour, to: time.Minute, known: true, server: time.Hour, want: fault.CertificateInvalid},
		"a little early here, expired there":   {from: 20 * time.Second, to: time.Minute, known: true, server: time.Hour, want: fault.CertificateInvalid},
		"not yet valid there, expired here":    {from: 0, to: time.Minute, known: true, server: -time.Hour, local: time.Hour, want: fault.CertificateInvalid},
		"valid for a minute":                   {from: -5 * time.Minute, to: time.Minute, known: true},
		"server unknown, clock is far behind":  {from: -5 * time.Minute, to: time.Hour, local: -time.Hour, want: fault.CertificateInvalid},
		"server unknown, clock a bit behind":   {from: 0, to: time.Hour, local: -10 * time.Second, wait: 10 * time.Second},
		"server behind us, certificate is new": {from: 0, to: time.Hour, known: true, server: -30 * time.Second, wait: 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := *q
				data := newAuthority(t).sign(t, q.object(), func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(test.from), time.Now().Add(test.to)
				})
				w := believing(t, &q, test.known, test.server, test.local)
				start := time.Now()
				_, _, err := w.believe(t.Context(), data)
				if fault.ReasonOf(err) != test.want || (test.want == "") != (err == nil) {
					t.Errorf("believe() = %v (%s), want %q", err, fault.ReasonOf(err), test.want)
				}
				if took := time.Since(start); took != test.wait {
					t.Errorf("it waited %v, want %v", took, test.wait)
				}
			})
		})
	}
}

func TestTheWaitForAYoungCertificateEndsWithTheContext(t *testing.T) {
	q, _ := newTestRequest(t)
	synctest.Test(t, func(t *testing.T) {
		q := *q
		data := newAuthority(t).sign(t, q.object(), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(50 * time.Second) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := believing(t, &q, true, 0, 0).believe(ctx, data)
		if !errors.Is(err, context.DeadlineExceeded) || fault.ReasonOf(err) != "" {
			t.Errorf("believe() = %v", err)
		}
	})
}

func FuzzCertificates(f *testing.F) {
	q, _ := newTestRequest(f)
	ca := newAuthority(f)
	leaf := ca.sign(f, q.object(), nil)
	for _, seed := range [][]byte{nil, leaf, append(bytes.Clone(leaf), ca.pem()...), leaf[:60], []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN -----BEGIN ")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := parseChain(data)
		if (len(chain) == 0) == (err == nil) {
			t.Fatalf("parseChain() = %d certificates, %v", len(chain), err)
		}
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 2000) {
			t.Fatalf("the text is not safe to show: %q", err)
		}
		for _, cert := range chain {
			_ = q.matches(cert)
		}
	})
}

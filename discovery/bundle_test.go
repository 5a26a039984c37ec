package discovery

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func pemOf(cas ...*authority) []byte {
	var b []byte
	for _, ca := range cas {
		b = append(b, encodeBundle([]*x509.Certificate{ca.cert})...)
	}
	return b
}

func TestParseBundleNormalises(t *testing.T) {
	a, b := newCA(t, "one"), newCA(t, "two")
	headed := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Evil": "yes"}, Bytes: a.cert.Raw})
	want := map[bool][]byte{}
	for _, both := range []bool{true, false} {
		list := []*authority{a}
		if both {
			list = append(list, b)
		}
		certs, err := parseBundle(pemOf(list...), 100)
		if err != nil {
			t.Fatal(err)
		}
		want[both] = encodeBundle(certs)
	}
	for name, tc := range map[string]struct {
		in   []byte
		both bool
	}{
		"one":                 {pemOf(a), false},
		"the same twice":      {pemOf(a, a), false},
		"two":                 {pemOf(a, b), true},
		"two the other way":   {pemOf(b, a), true},
		"two and one again":   {pemOf(b, a, b), true},
		"headers are dropped": {headed, false},
		"text between":        {append([]byte("subject=CN = one\n"), append(pemOf(a), "\nbye\n"...)...), false},
		"DOS newlines":        {bytes.ReplaceAll(pemOf(a), []byte("\n"), []byte("\r\n")), false},
		"no newline at end":   {bytes.TrimSpace(pemOf(a)), false},
	} {
		t.Run(name, func(t *testing.T) {
			certs, err := parseBundle(tc.in, 100)
			if err != nil {
				t.Fatal(err)
			}
			if got := encodeBundle(certs); !bytes.Equal(got, want[tc.both]) {
				t.Errorf("got\n%s\nwant\n%s", got, want[tc.both])
			}
		})
	}
}

func TestParseBundleRefuses(t *testing.T) {
	ca := newCA(t, "kubernetes")
	leaf := ca.serving(t, []string{"10.0.0.1"}).Leaf
	leafPEM := encodeBundle([]*x509.Certificate{leaf})
	named := newCA(t, "x", func(c *x509.Certificate) {
		c.IsCA, c.Subject = false, pkix.Name{CommonName: "a\x1b[2J\nb"}
	})
	noSign := newCA(t, "x", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	noConstraints := newCA(t, "x", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false })
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")})
	many := bytes.Repeat(pemOf(ca), 10000)
	damaged := bytes.Replace(pemOf(ca), []byte("-----END CERTIFICATE-----"), []byte("-----END CERT-----"), 1)
	for name, tc := range map[string]struct {
		in   []byte
		says string
	}{
		"empty":                        {nil, "no PEM"},
		"DER":                          {ca.cert.Raw, "no PEM"},
		"text":                         {[]byte("hello"), "no PEM"},
		"a leaf":                       {leafPEM, "is no CA certificate"},
		"a leaf behind a CA":           {append(pemOf(ca), leafPEM...), "kube-apiserver"},
		"a leaf with an ugly name":     {pemOf(named), `\x1b[2J\n`},
		"a CA that may not sign":       {pemOf(noSign), "key usage"},
		"no basic constraints":         {pemOf(noConstraints), "is no CA certificate"},
		"a private key":                {append(pemOf(ca), key...), "EC PRIVATE KEY"},
		"garbage in a block":           {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "does not parse"},
		"bytes behind the certificate": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append(bytes.Clone(ca.cert.Raw), 0)}), "does not parse"},
		"a damaged block":              {damaged, "damaged"},
		"a damaged block behind one":   {append(pemOf(ca), damaged...), "damaged"},
		"the second block cut off":     {append(pemOf(ca), pemOf(ca)[:100]...), "damaged"},
		"ten thousand certificates":    {many, "more than 100"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseBundle(tc.in, 100)
			wantReason(t, err, fault.ClusterInfoInvalid, tc.says, "certificate-authority-data")
		})
	}
	if _, err := parseBundle(bytes.Repeat(pemOf(ca), 100), 100); err != nil {
		t.Errorf("a hundred are too many: %v", err)
	}
}

// The bundle carries what the cluster has, also what is not valid today: that
// is said by name, and verification decides.
func TestParseBundleKeepsExpiredCAs(t *testing.T) {
	old := newCA(t, "old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	certs, err := parseBundle(pemOf(old, newCA(t, "new")), 100)
	if err != nil || len(certs) != 2 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	if out := outside(certs, time.Now()); len(out) != 1 || !strings.Contains(out[0].Subject.String(), "old") {
		t.Errorf("outside their time: %v", out)
	}
}

func FuzzParseBundle(f *testing.F) {
	ca := newCA(f, "kubernetes")
	f.Add(pemOf(ca))
	f.Add(ca.cert.Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := parseBundle(b, 100)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
				t.Fatalf("unclean error %q", err)
			}
			return
		}
		again, err := parseBundle(encodeBundle(certs), 100)
		if err != nil || !bytes.Equal(encodeBundle(again), encodeBundle(certs)) {
			t.Fatalf("the normal form is not stable: %v", err)
		}
	})
}

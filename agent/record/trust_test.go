package record

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestWhatABundleDropsIsRememberedUntilItIsBack(t *testing.T) {
	a, b, c := newCA(t, "a"), newCA(t, "b"), newCA(t, "c")
	trust := &Trust{CA: a, Server: "https://10.0.0.1:6443"}
	for _, step := range []struct{ bundle, former string }{
		{b + a, ""}, // both, in whatever order
		{b, a},      // a is dropped
		{b, a},      // the same once more
		{"# " + "new\n" + c, b + a},
		{a + c, b}, // a is back
		{c, a + b},
	} {
		trust.TakeCA(step.bundle, []string{"sha256:x"})
		if trust.CA != step.bundle || !slices.Equal(trust.CAPins, []string{"sha256:x"}) {
			t.Fatalf("%+v", trust)
		}
		if trust.FormerCA != step.former {
			t.Errorf("former:\n%swant:\n%s", trust.FormerCA, step.former)
		}
	}
	for range 3 * mostFormer {
		trust.TakeCA(newCA(t, "next"), nil)
	}
	if n := strings.Count(trust.FormerCA, "BEGIN"); n != mostFormer {
		t.Errorf("%d former CAs are kept", n)
	}
	paths := Paths{State: t.TempDir()}
	if err := trust.Write(paths); err != nil {
		t.Fatal(err)
	}
	if read, err := ReadTrust(paths); err != nil || read.FormerCA != trust.FormerCA {
		t.Errorf("%v, %+v", err, read)
	}
}

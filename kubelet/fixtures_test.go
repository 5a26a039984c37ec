package kubelet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time of every test.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// authority signs the certificates of the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

var testCA = sync.OnceValue(func() authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
})

// issue makes a pair for a node called worker-1; change alters the template.
func issue(tb testing.TB, change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xbeef),
		Subject:      pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}},
		NotBefore:    noon.Add(-5 * time.Minute), NotAfter: noon.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	ca := testCA()
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// newFiles works in a folder of the test's own, at noon.
func newFiles(tb testing.TB) Files {
	tb.Helper()
	return Files{Layout: Layout{Dir: filepath.Join(tb.TempDir(), "kubelet")}, Now: func() time.Time { return noon }}
}

// writeSet is WriteSet for what is one file.
func writeSet(f Files, s Set) (changed bool, err error) {
	paths, err := f.WriteSet(s)
	return len(paths) > 0, err
}

// joinedFiles has everything a joined node has.
func joinedFiles(tb testing.TB) Files {
	tb.Helper()
	f := newFiles(tb)
	cert, key := issue(tb, nil)
	for _, step := range []func() (bool, error){
		func() (bool, error) { return f.WritePair(cert, key) },
		func() (bool, error) { return writeSet(f, Set{CA: testCA().pem}) },
		func() (bool, error) { return writeSet(f, Set{Config: []byte("kind: KubeletConfiguration\n")}) },
		func() (bool, error) { return f.WriteKubeconfig("https://10.0.0.1:6443") },
	} {
		if changed, err := step(); err != nil || !changed {
			tb.Fatalf("changed = %t, err = %v", changed, err)
		}
	}
	return f
}

func write(tb testing.TB, path string, data []byte, mode fs.FileMode) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// golden compares with testdata/name; -update writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		write(t, path, got, 0o644)
	}
	if want := read(t, path); !bytes.Equal(got, want) {
		t.Errorf("differs from %s:\n%s\nwant:\n%s", path, got, want)
	}
}

// wantFault checks reason and text of an error.
func wantFault(t *testing.T, err error, reason fault.Reason, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s %q", reason, texts)
	}
	if got := fault.ReasonOf(err); got != reason {
		t.Errorf("reason %q, want %q (%v)", got, reason, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

package kubelet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestJoinedNodeIsSeenWhole(t *testing.T) {
	f := joinedFiles(t)
	o, err := f.Observe("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	p := o.Pair
	if p.Status != PairUsable || p.Link != LinkGood || p.Updating || p.CN != "system:node:worker-1" || p.Serial != "beef" ||
		p.Issuer != "CN=kubernetes" || !p.NotAfter.Equal(noon.AddDate(1, 0, 0)) || p.Leaf == nil {
		t.Errorf("pair: %+v", p)
	}
	if o.CA.Status != FilePresent || o.Config.Status != FilePresent || o.Kubeconfig.Status != FilePresent || !o.Kubeconfig.OK || o.Kubeconfig.Server != "https://10.0.0.1:6443" {
		t.Errorf("CA %s, config %s, kubeconfig %+v", o.CA.Status, o.Config.Status, o.Kubeconfig)
	}
	for _, path := range []string{f.CACert(), f.ConfigFile(), f.Kubeconfig(), p.Path} {
		sum := sha256.Sum256(read(t, path))
		if o.Hashes[path] != hex.EncodeToString(sum[:]) {
			t.Errorf("hash of %s: %s", path, o.Hashes[path])
		}
	}
	if len(o.Hashes) != 4 {
		t.Errorf("hashes: %v", o.Hashes)
	}
}

func TestNothingIsThereOnAFreshMachine(t *testing.T) {
	o, err := newFiles(t).Observe("worker-1")
	if err != nil {
		t.Fatal(err)
	}
	if o.Pair.Status != PairMissing || o.Pair.Link != LinkMissing || o.CA.Status != FileMissing || o.Config.Status != FileMissing || o.Kubeconfig.Status != FileMissing || o.Kubeconfig.OK {
		t.Errorf("%+v", o)
	}
}

func TestPairStates(t *testing.T) {
	good, goodKey := issue(t, nil)
	_, otherKey := issue(t, nil)
	pair := func(change func(*x509.Certificate)) []byte {
		cert, key := issue(t, change)
		return append(cert, key...)
	}
	for name, c := range map[string]struct {
		data   []byte
		want   PairStatus
		detail string
	}{
		"usable":             {pair(nil), PairUsable, ""},
		"key first":          {append(append([]byte{}, goodKey...), good...), PairUsable, ""},
		"with chain":         {append(append(append([]byte{}, good...), testCA().pem...), goodKey...), PairUsable, ""},
		"not valid yet":      {pair(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) }), PairUsable, ""},
		"valid this second":  {pair(func(c *x509.Certificate) { c.NotAfter = noon }), PairUsable, ""},
		"expired":            {pair(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), PairExpired, "expired at 2026-03-04T11:59:59Z"},
		"empty":              {nil, PairDamaged, "is empty"},
		"text":               {[]byte("hello"), PairDamaged, "PEM"},
		"certificate alone":  {good, PairDamaged, "key"},
		"key alone":          {goodKey, PairDamaged, "certificate"},
		"key of another":     {append(append([]byte{}, good...), otherKey...), PairDamaged, "does not match"},
		"cut in the middle":  {pair(nil)[:500], PairDamaged, ""},
		"another node":       {pair(func(c *x509.Certificate) { c.Subject.CommonName = "system:node:worker-10" }), PairWrongName, "worker-10"},
		"not a node":         {pair(func(c *x509.Certificate) { c.Subject.CommonName = "worker-1" }), PairWrongName, ""},
		"upper case":         {pair(func(c *x509.Certificate) { c.Subject.CommonName = "system:node:WORKER-1" }), PairWrongName, ""},
		"no group":           {pair(func(c *x509.Certificate) { c.Subject.Organization = nil }), PairWrongName, "organisations"},
		"one group too many": {pair(func(c *x509.Certificate) { c.Subject.Organization = []string{"system:nodes", "system:masters"} }), PairWrongName, "system:masters"},
		"serving only":       {pair(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), PairDamaged, "no client certificate"},
		"wrong and expired":  {pair(func(c *x509.Certificate) { c.Subject.CommonName = "x"; c.NotAfter = noon.Add(-time.Hour) }), PairWrongName, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			path := filepath.Join(f.PKI(), "kubelet-client-2026-01-01-00-00-00.pem")
			write(t, path, c.data, 0o600)
			symlink(t, path, f.CurrentPair())
			o, err := f.Observe("worker-1")
			if err != nil || o.Pair.Status != c.want || !strings.Contains(o.Pair.Detail, c.detail) || o.Pair.Link != LinkGood || o.Pair.Path != path {
				t.Errorf("%s (%s), link %s, err = %v", o.Pair.Status, o.Pair.Detail, o.Pair.Link, err)
			}
			if c.want == PairUsable != (o.Pair.Detail == "") {
				t.Errorf("detail %q", o.Pair.Detail)
			}
			if strings.Contains(o.Pair.Detail, "-----") {
				t.Error("shows PEM")
			}
		})
	}
}

func TestLinkStates(t *testing.T) {
	cert, key := issue(t, nil)
	data := append(cert, key...)
	for name, c := range map[string]struct {
		plant  func(t *testing.T, f Files)
		status PairStatus
		link   LinkStatus
	}{
		"relative link": {func(t *testing.T, f Files) {
			write(t, filepath.Join(f.PKI(), "pair.pem"), data, 0o600)
			symlink(t, "pair.pem", f.CurrentPair())
		}, PairUsable, LinkGood},
		"dangling":     {func(t *testing.T, f Files) { symlink(t, "gone.pem", f.CurrentPair()) }, PairMissing, LinkDangling},
		"regular file": {func(t *testing.T, f Files) { write(t, f.CurrentPair(), data, 0o600) }, PairUsable, LinkRegular},
		"folder":       {func(t *testing.T, f Files) { mkdir(t, f.CurrentPair()) }, PairDamaged, LinkOther},
		"link to itself": {func(t *testing.T, f Files) {
			symlink(t, f.CurrentPair(), f.CurrentPair())
		}, PairDamaged, LinkGood},
		"link to a folder": {func(t *testing.T, f Files) { symlink(t, f.Root(), f.CurrentPair()) }, PairDamaged, LinkGood},
		"huge": {func(t *testing.T, f Files) {
			write(t, f.CurrentPair(), make([]byte, maxFile+1), 0o600)
		}, PairDamaged, LinkRegular},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			mkdir(t, f.PKI())
			c.plant(t, f)
			for _, updating := range []bool{false, true} {
				if updating {
					symlink(t, "whatever", f.UpdatedPair())
				}
				o, err := f.Observe("worker-1")
				if err != nil || o.Pair.Status != c.status || o.Pair.Link != c.link || o.Pair.Updating != updating {
					t.Errorf("%s, %s, updating %t (%s), err = %v", o.Pair.Status, o.Pair.Link, o.Pair.Updating, o.Pair.Detail, err)
				}
			}
		})
	}
}

func TestRotationUnderWayIsSeenWhileThereIsNoPair(t *testing.T) {
	f := joinedFiles(t)
	target, _ := os.Readlink(f.CurrentPair())
	symlink(t, target, f.UpdatedPair())
	if err := os.Remove(f.CurrentPair()); err != nil {
		t.Fatal(err)
	}
	o, err := f.Observe("worker-1")
	if err != nil || o.Pair.Status != PairMissing || !o.Pair.Updating {
		t.Errorf("%+v, %v", o.Pair, err)
	}
}

func TestDamagedFilesAreTold(t *testing.T) {
	f := joinedFiles(t)
	for _, path := range []string{f.CACert(), f.ConfigFile(), f.Kubeconfig()} {
		for name, data := range map[string]string{"empty": "", "zeros": "\x00\x00\x00\x00", "text": "hello", "half": "a: [b"} {
			write(t, path, []byte(data), 0o600)
			o, err := f.Observe("worker-1")
			if err != nil {
				t.Fatal(err)
			}
			state := map[string]FileState{f.CACert(): o.CA, f.ConfigFile(): o.Config, f.Kubeconfig(): o.Kubeconfig.FileState}[path]
			if state.Status != FileDamaged || state.Detail == "" {
				t.Errorf("%s, %s: %s (%s)", path, name, state.Status, state.Detail)
			}
		}
	}
}

func TestUnreadableIsNotMissing(t *testing.T) {
	f := newFiles(t)
	write(t, f.PKI(), []byte("a file where the folder belongs"), 0o600)
	if _, err := f.Observe("worker-1"); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("err = %v", err)
	}
	if os.Geteuid() == 0 {
		return // root reads everything
	}
	f = joinedFiles(t)
	if err := os.Chmod(f.Kubeconfig(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Observe("worker-1"); err == nil || !strings.Contains(err.Error(), f.Kubeconfig()) {
		t.Errorf("err = %v", err)
	}
}

func TestSpentIsTheShareOfTheLifetime(t *testing.T) {
	p := PairState{Leaf: &x509.Certificate{}, NotBefore: noon, NotAfter: noon.Add(100 * time.Hour)}
	for at, want := range map[time.Duration]float64{0: 0, 50 * time.Hour: 0.5, 200 * time.Hour: 2} {
		if got := p.Spent(noon.Add(at)); got != want {
			t.Errorf("after %s: %v, want %v", at, got, want)
		}
	}
	if got := (PairState{}).Spent(noon); got != 0 {
		t.Errorf("without a certificate: %v", got)
	}
}

// fixedPair is the same in every process: seeds of a fuzz target must be.
func fixedPair(f *testing.F) []byte {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}},
		NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
}

func FuzzJudgePair(f *testing.F) {
	f.Add(fixedPair(f), "worker-1")
	f.Add(fixedPair(f)[:300], "")
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), "x")
	f.Add([]byte(nil), "worker-1")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		state := JudgePair(data, name, noon)
		if state.Status == PairUsable && (state.CN != "system:node:"+name || state.Leaf == nil) {
			t.Errorf("usable: %+v", state)
		}
		if (state.Status == PairUsable) != (state.Detail == "") {
			t.Errorf("%s with detail %q", state.Status, state.Detail)
		}
	})
}

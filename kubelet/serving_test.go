package kubelet

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestTheServingPairIsWhatAKubeletWouldMakeItself(t *testing.T) {
	f := newFiles(t)
	pair, err := f.MakeServingPair("worker-1", Layers{Config: []byte("kind: KubeletConfiguration\n")})
	if err != nil || pair == nil {
		t.Fatalf("%v, %v", pair, err)
	}
	changed, err := f.WriteSet(Set{Serving: pair})
	if err != nil || !slices.Equal(changed, []string{f.ServingKey(), f.ServingCert()}) {
		t.Fatalf("changed %v, err %v", changed, err)
	}
	read, err := tls.LoadX509KeyPair(f.ServingCert(), f.ServingKey())
	if err != nil {
		t.Fatal(err)
	}
	leaf := read.Leaf
	if err := leaf.VerifyHostname("worker-1"); err != nil {
		t.Error(err)
	}
	if !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || leaf.IsCA {
		t.Errorf("usages %v, CA %t", leaf.ExtKeyUsage, leaf.IsCA)
	}
	if !leaf.NotBefore.Equal(noon.Add(-time.Hour)) || !leaf.NotAfter.Equal(noon.Add(-time.Hour).AddDate(1, 0, 0)) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	for path, mode := range map[string]fs.FileMode{f.ServingCert(): 0o644, f.ServingKey(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if again, err := f.MakeServingPair("worker-1", Layers{}); again != nil || err != nil {
		t.Errorf("there is a pair, and another one is made: %v, %v", again, err)
	}
}

func TestNoServingPairIsMadeForAKubeletThatWouldNotUseIt(t *testing.T) {
	for name, c := range map[string]struct {
		in   Layers
		want bool
	}{
		"an empty config":                            {Layers{}, true},
		"the cluster signs it":                       {Layers{Config: []byte("serverTLSBootstrap: true\n")}, false},
		"the cluster does not sign it":               {Layers{Config: []byte("serverTLSBootstrap: false\n")}, true},
		"it has a certificate":                       {Layers{Config: []byte("tlsCertFile: /etc/x.crt\n")}, false},
		"it has a key":                               {Layers{Config: []byte("tlsPrivateKeyFile: /etc/x.key\n")}, false},
		"the names are there and empty":              {Layers{Config: []byte("tlsCertFile: \"\"\ntlsPrivateKeyFile: null\n")}, true},
		"only suites with RSA":                       {Layers{Config: []byte("tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n")}, false},
		"suites with either":                         {Layers{Config: []byte("tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n")}, true},
		"suites that say nothing of the key":         {Layers{Config: []byte("tlsCipherSuites: [TLS_AES_128_GCM_SHA256]\n")}, true},
		"a drop-in says that the cluster signs it":   {Layers{DropIns: [][]byte{[]byte("serverTLSBootstrap: true\n")}}, false},
		"a drop-in that does not parse":              {Layers{DropIns: [][]byte{[]byte("a: b: c\n")}}, false},
		"an argument names a certificate":            {Layers{Args: []string{"--tls-cert-file=/etc/x.crt"}}, false},
		"an argument names suites":                   {Layers{Args: []string{"--tls-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}}, false},
		"another argument":                           {Layers{Args: []string{"--v=2"}}, true},
		"a config that does not parse is left alone": {Layers{Config: []byte("a: b: c\n")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			pair, err := newFiles(t).MakeServingPair("worker-1", c.in)
			if err != nil || (pair != nil) != c.want {
				t.Errorf("made: %t, want %t; %v", pair != nil, c.want, err)
			}
		})
	}
}

func TestHalfAServingPairIsSetAsideBecauseNoKubeletStartsWithIt(t *testing.T) {
	for name, left := range map[string]func(t *testing.T, f Files){
		"the certificate alone": func(t *testing.T, f Files) { write(t, f.ServingCert(), testCA().pem, 0o644) },
		"the key alone":         func(t *testing.T, f Files) { write(t, f.ServingKey(), []byte("x"), 0o600) },
		"both, empty": func(t *testing.T, f Files) {
			write(t, f.ServingCert(), nil, 0o644)
			write(t, f.ServingKey(), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			mkdir(t, f.PKI())
			if err := os.Chmod(f.PKI(), 0o755); err != nil {
				t.Fatal(err)
			}
			left(t, f)
			before, _ := filepath.Glob(filepath.Join(f.PKI(), "*"))
			pair, err := f.MakeServingPair("worker-1", Layers{})
			if err != nil || pair == nil {
				t.Fatalf("%v, %v", pair, err)
			}
			if _, err := f.WriteSet(Set{Serving: pair}); err != nil {
				t.Fatal(err)
			}
			if _, err := tls.LoadX509KeyPair(f.ServingCert(), f.ServingKey()); err != nil {
				t.Error(err)
			}
			if aside, _ := filepath.Glob(filepath.Join(f.PKI(), "*.set-aside-*")); len(aside) != len(before) {
				t.Errorf("kept %v of %v", aside, before)
			}
		})
	}
}

func TestAPairThatSomebodyLinkedThereIsNotTouched(t *testing.T) {
	f := newFiles(t)
	mkdir(t, f.PKI())
	symlink(t, filepath.Join(t.TempDir(), "none"), f.ServingCert())
	if pair, err := f.MakeServingPair("worker-1", Layers{}); pair != nil || err != nil {
		t.Errorf("%v, %v", pair, err)
	}
	if _, err := os.Lstat(f.ServingKey()); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a key was written beside it")
	}
}

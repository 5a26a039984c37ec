package kubelet

import (
	"bytes"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestPathsAreTheKubeletsOwn(t *testing.T) {
	var l Layout
	for got, want := range map[string]string{
		l.Root():            "/var/lib/kubelet",
		l.PKI():             "/var/lib/kubelet/pki",
		l.CurrentPair():     "/var/lib/kubelet/pki/kubelet-client-current.pem",
		l.UpdatedPair():     "/var/lib/kubelet/pki/kubelet-client-updated.pem",
		l.CACert():          "/var/lib/kubelet/pki/ca.crt",
		l.Kubeconfig():      "/var/lib/kubelet/kubeconfig",
		l.ConfigFile():      "/var/lib/kubelet/config.yaml",
		l.EnvironmentFile(): "/var/lib/kubelet/bootstrap-agent.env",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestWrittenFilesHaveTheirModesWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	f := joinedFiles(t)
	if _, err := f.WriteEnvironment([]Variable{{"HTTPS_PROXY", "http://proxy"}}); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(f.CurrentPair())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		f.Root():            0o750,
		f.PKI():             0o755,
		f.CACert():          0o644,
		f.Kubeconfig():      0o600,
		f.ConfigFile():      0o600,
		f.EnvironmentFile(): 0o600,
		target:              0o600,
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}

func TestNothingUnchangedIsRewritten(t *testing.T) {
	f := newFiles(t)
	cert, key := issue(t, nil)
	vars := []Variable{{"NO_PROXY", "10.0.0.0/8"}}
	for name, step := range map[string]func() (bool, error){
		"pair":        func() (bool, error) { return f.WritePair(cert, key) },
		"CA":          func() (bool, error) { return writeSet(f, Set{CA: testCA().pem}) },
		"config":      func() (bool, error) { return writeSet(f, Set{Config: []byte("a: b\n")}) },
		"environment": func() (bool, error) { return f.WriteEnvironment(vars) },
	} {
		for i, want := range []bool{true, false} {
			if changed, err := step(); err != nil || changed != want {
				t.Errorf("%s, call %d: changed = %t, err = %v", name, i+1, changed, err)
			}
		}
	}
	for i, want := range []bool{true, false} {
		if changed, err := f.WriteKubeconfig("https://[fd00::1]:6443"); err != nil || changed != want {
			t.Errorf("kubeconfig, call %d: changed = %t, err = %v", i+1, changed, err)
		}
	}
	for i, want := range []bool{true, false} {
		if changed, err := f.WriteEnvironment(nil); err != nil || changed != want {
			t.Errorf("empty environment, call %d: changed = %t, err = %v", i+1, changed, err)
		}
	}
}

func TestPairIsNamedByTheLocalTimeAndLinkedAbsolutely(t *testing.T) {
	f := newFiles(t)
	cert, key := issue(t, nil)
	if _, err := f.WritePair(append(cert, testCA().pem...), key); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(f.CurrentPair())
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(f.PKI(), "kubelet-client-"+noon.Local().Format("2006-01-02-15-04-05")+".pem")
	if target != want {
		t.Errorf("link leads to %s, want %s", target, want)
	}
	if got := read(t, target); !bytes.Equal(got, bytes.Join([][]byte{cert, testCA().pem, key}, nil)) {
		t.Errorf("leaf, chain, key expected, got:\n%s", got)
	}
}

func TestPairKeepsOnlyCertificatesAndOneKey(t *testing.T) {
	f := newFiles(t)
	cert, key := issue(t, nil)
	withText := append([]byte("subject=/O=system:nodes\n"), cert...)
	withParameters := append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), key...)
	if _, err := f.WritePair(withText, withParameters); err != nil {
		t.Fatal(err)
	}
	if got := read(t, f.CurrentPair()); !bytes.Equal(got, append(cert, key...)) {
		t.Errorf("got:\n%s", got)
	}
}

func TestOlderPairIsNeverOverwritten(t *testing.T) {
	f := newFiles(t)
	oldCert, oldKey := issue(t, nil)
	if _, err := f.WritePair(oldCert, oldKey); err != nil {
		t.Fatal(err)
	}
	first, _ := os.Readlink(f.CurrentPair())
	before := read(t, first)
	cert, key := issue(t, nil)
	if changed, err := f.WritePair(cert, key); err != nil || !changed {
		t.Fatalf("changed = %t, err = %v", changed, err)
	}
	second, _ := os.Readlink(f.CurrentPair())
	if second == first || !bytes.Equal(read(t, first), before) {
		t.Errorf("%s was overwritten", first)
	}
	if !strings.HasSuffix(second, "-01.pem") {
		t.Errorf("second pair is %s, want the next second", second)
	}
}

func TestPairLeftByACrashBeforeItsLinkIsUsed(t *testing.T) {
	f := newFiles(t)
	cert, key := issue(t, nil)
	if _, err := f.WritePair(cert, key); err != nil {
		t.Fatal(err)
	}
	target, _ := os.Readlink(f.CurrentPair())
	if err := os.Remove(f.CurrentPair()); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.WritePair(cert, key); err != nil || !changed {
		t.Fatalf("changed = %t, err = %v", changed, err)
	}
	if again, _ := os.Readlink(f.CurrentPair()); again != target {
		t.Errorf("link leads to %s, want %s", again, target)
	}
	entries, _ := os.ReadDir(f.PKI())
	if len(entries) != 2 {
		t.Errorf("%d files, want the pair and its link", len(entries))
	}
}

func TestPairMendsWhatStandsUnderTheLinksNames(t *testing.T) {
	cert, key := issue(t, nil)
	for name, plant := range map[string]func(t *testing.T, f Files){
		"dangling link": func(t *testing.T, f Files) { symlink(t, "nowhere", f.CurrentPair()) },
		"loop":          func(t *testing.T, f Files) { symlink(t, f.CurrentPair(), f.CurrentPair()) },
		"link to a file of the system": func(t *testing.T, f Files) {
			symlink(t, "/etc/passwd", f.CurrentPair())
		},
		"regular file":             func(t *testing.T, f Files) { write(t, f.CurrentPair(), []byte("old"), 0o600) },
		"rotation that never ends": func(t *testing.T, f Files) { symlink(t, "nowhere", f.UpdatedPair()) },
		"regular updated file":     func(t *testing.T, f Files) { write(t, f.UpdatedPair(), []byte("old"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			mkdir(t, f.PKI())
			plant(t, f)
			if changed, err := f.WritePair(cert, key); err != nil || !changed {
				t.Fatalf("changed = %t, err = %v", changed, err)
			}
			o, err := f.Observe("worker-1")
			if err != nil || o.Pair.Status != PairUsable || o.Pair.Link != LinkGood || o.Pair.Updating {
				t.Errorf("%+v, err = %v", o.Pair, err)
			}
			if passwd := read(t, "/etc/passwd"); bytes.Contains(passwd, []byte("BEGIN")) {
				t.Error("wrote through a link")
			}
			if strings.Contains(name, "regular") {
				aside, _ := filepath.Glob(filepath.Join(f.PKI(), "*.set-aside-*"))
				if len(aside) != 1 || string(read(t, aside[0])) != "old" {
					t.Errorf("set aside: %v", aside)
				}
			}
		})
	}
}

func TestPairIsRefused(t *testing.T) {
	cert, key := issue(t, nil)
	other, otherKey := issue(t, nil)
	for name, c := range map[string]struct{ cert, key []byte }{
		"empty":              {nil, nil},
		"no key":             {cert, nil},
		"no certificate":     {nil, key},
		"key of another":     {cert, otherKey},
		"leaf is not first":  {append(append([]byte{}, other...), cert...), key},
		"garbage":            {[]byte("garbage"), []byte("garbage")},
		"truncated":          {cert[:len(cert)/2], key},
		"truncated key":      {cert, key[:len(key)/2]},
		"key as certificate": {key, key},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			_, err := f.WritePair(c.cert, c.key)
			wantFault(t, err, fault.CertificateInvalid, "cannot install the client certificate")
			if strings.Contains(err.Error(), "PRIVATE KEY---") {
				t.Error("the error shows the key")
			}
			if _, err := os.Lstat(f.Root()); err == nil {
				t.Error("something was written")
			}
		})
	}
}

func TestFoldersThatOthersMayChangeAreRefused(t *testing.T) {
	f := newFiles(t)
	mkdir(t, f.PKI())
	for _, dir := range []string{f.Root(), f.PKI()} {
		for _, mode := range []fs.FileMode{0o775, 0o757, 0o777} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			_, err := writeSet(f, Set{Config: []byte("a: b\n")})
			wantFault(t, err, fault.WriteFailed, dir, "others than its owner")
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("the owner can only be changed by root")
	}
	if err := os.Chown(f.PKI(), 12345, -1); err != nil {
		t.Fatal(err)
	}
	_, err := writeSet(f, Set{CA: testCA().pem})
	wantFault(t, err, fault.WriteFailed, f.PKI(), "uid 12345")
}

func TestPlantedThingsAreNeitherFollowedNorReplaced(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for name, plant := range map[string]func(t *testing.T, path string){
		"link":   func(t *testing.T, path string) { write(t, victim, []byte("old"), 0o600); symlink(t, victim, path) },
		"folder": mkdir,
		"FIFO": func(t *testing.T, path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := joinedFiles(t)
			for _, path := range []string{f.ConfigFile(), f.CACert(), f.Kubeconfig()} {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				plant(t, path)
			}
			_, err := writeSet(f, Set{Config: []byte("new")})
			wantFault(t, err, fault.WriteFailed, f.ConfigFile())
			_, err = writeSet(f, Set{CA: testCA().pem})
			wantFault(t, err, fault.WriteFailed, f.CACert())
			if data, err := os.ReadFile(victim); err == nil && string(data) != "old" {
				t.Error("wrote through a link")
			}
			o, err := f.Observe("worker-1")
			if err != nil || o.Config.Status != FileDamaged || o.CA.Status != FileDamaged || o.Kubeconfig.Status != FileDamaged {
				t.Errorf("%+v, %v", o, err)
			}
		})
	}
	f := newFiles(t)
	cert, key := issue(t, nil)
	mkdir(t, f.CurrentPair())
	_, err := f.WritePair(cert, key)
	wantFault(t, err, fault.WriteFailed, f.CurrentPair())
}

func TestKubeconfigIsNotWrittenBeforeWhatItNames(t *testing.T) {
	f := newFiles(t)
	_, err := f.WriteKubeconfig("https://10.0.0.1:6443")
	wantFault(t, err, fault.WriteFailed, f.CurrentPair())
	cert, key := issue(t, nil)
	if _, err := f.WritePair(cert, key); err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteKubeconfig("https://10.0.0.1:6443")
	wantFault(t, err, fault.WriteFailed, f.CACert())
	if _, err := os.Lstat(f.Kubeconfig()); err == nil {
		t.Error("written all the same")
	}
}

func TestCAMustBeCertificates(t *testing.T) {
	_, key := issue(t, nil)
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "with a key": append(append([]byte{}, testCA().pem...), key...),
		"damaged": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		f := newFiles(t)
		_, err := writeSet(f, Set{CA: data})
		wantFault(t, err, fault.WriteFailed, f.CACert())
		if _, err := os.Lstat(f.Root()); err == nil {
			t.Errorf("%s: something was written", name)
		}
	}
}

func TestCleanRemovesWhatACrashLeft(t *testing.T) {
	f := joinedFiles(t)
	left := filepath.Join(f.PKI(), ".bootstrap-agent-tmp-0011")
	write(t, left, []byte("half"), 0o600)
	if err := f.Clean(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); err == nil {
		t.Error("still there")
	}
	if o, err := f.Observe("worker-1"); err != nil || o.Pair.Status != PairUsable {
		t.Errorf("%+v, %v", o.Pair, err)
	}
	if err := (Files{Layout: Layout{Dir: filepath.Join(t.TempDir(), "none")}}).Clean(); err != nil {
		t.Error(err)
	}
}

func TestLeafWithoutChainAndWithChainAreDifferentPairs(t *testing.T) {
	f := newFiles(t)
	cert, key := issue(t, func(c *x509.Certificate) { c.Subject.CommonName = "system:node:a" })
	if _, err := f.WritePair(cert, key); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.WritePair(append(cert, testCA().pem...), key); err != nil || !changed {
		t.Errorf("changed = %t, err = %v", changed, err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

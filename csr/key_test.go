package csr

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func block(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func goodKeyFile(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(newKeyPair(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	return block(keyBlock, der)
}

func TestANewKeyIsOnDiskBeforeItIsUsedAndIsUsedAgain(t *testing.T) {
	r := &Requester{KeyPath: filepath.Join(t.TempDir(), "k")}
	first, err := r.key()
	if err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(r.KeyPath)
	if err != nil || !bytes.Equal(onDisk, first.pem) {
		t.Fatalf("on disk is something else: %v", err)
	}
	if info, _ := os.Stat(r.KeyPath); info.Mode() != 0o600 {
		t.Errorf("the mode is %v", info.Mode())
	}
	second, err := r.key()
	if err != nil || !second.private.Equal(first.private) {
		t.Errorf("the second use made another key: %v", err)
	}
}

func TestALooseModeIsMended(t *testing.T) {
	r := &Requester{KeyPath: filepath.Join(t.TempDir(), "k")}
	data := goodKeyFile(t)
	if err := os.WriteFile(r.KeyPath, data, 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := r.key()
	if err != nil || !bytes.Equal(k.pem, data) {
		t.Fatal(err)
	}
	if info, _ := os.Stat(r.KeyPath); info.Mode() != 0o600 {
		t.Errorf("the mode is %v", info.Mode())
	}
}

func TestADamagedKeyIsMovedAsideAndReplaced(t *testing.T) {
	good := goodKeyFile(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := x509.MarshalECPrivateKey(newKeyPair(t, elliptic.P384()))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"empty":        {},
		"zeros":        make([]byte, 227),
		"cut off":      good[:len(good)/2],
		"half a block": good[:len(good)-10],
		"text":         []byte("hello\n"),
		"two keys":     append(bytes.Clone(good), good...),
		"text before":  append([]byte("key:\n"), good...),
		"text behind":  append(bytes.Clone(good), "x"...),
		"an RSA key":   block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)),
		"another form": block("PRIVATE KEY", []byte{1, 2, 3}),
		"no key in it": block(keyBlock, []byte{1, 2, 3}),
		"P-384":        block(keyBlock, p384),
		"far too long": bytes.Repeat([]byte("x"), maxKeyFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			r := &Requester{KeyPath: filepath.Join(t.TempDir(), "k")}
			if err := os.WriteFile(r.KeyPath, content, 0o600); err != nil {
				t.Fatal(err)
			}
			k, err := r.key()
			if err != nil {
				t.Fatal(err)
			}
			onDisk, _ := os.ReadFile(r.KeyPath)
			aside, err := os.ReadFile(r.KeyPath + ".corrupt-1")
			if err != nil || !bytes.Equal(aside, content) || !bytes.Equal(onDisk, k.pem) {
				t.Errorf("the damaged file is not kept, or the new key not written: %v", err)
			}
			if _, err := parseKey(onDisk); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDamagedKeysDoNotPileUp(t *testing.T) {
	dir := t.TempDir()
	r := &Requester{KeyPath: filepath.Join(dir, "k")}
	for range maxQuarantine + 3 {
		if err := os.WriteFile(r.KeyPath, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.key(); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := os.ReadDir(dir)
	if len(files) != maxQuarantine+1 {
		t.Errorf("%d files, want the key and %d damaged ones", len(files), maxQuarantine)
	}
}

func TestWhatIsNoFileIsRefusedAndLeftAlone(t *testing.T) {
	good := goodKeyFile(t)
	for name, prepare := range map[string]func(dir, path string) error{
		"a link to a key": func(dir, path string) error {
			_ = os.WriteFile(dir+"/x", good, 0o600)
			return os.Symlink(dir+"/x", path)
		},
		"a dangling link":  func(dir, path string) error { return os.Symlink(dir+"/none", path) },
		"a link to itself": func(_, path string) error { return os.Symlink(path, path) },
		"a FIFO":           func(_, path string) error { return syscall.Mkfifo(path, 0o600) },
		"a folder":         func(_, path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := &Requester{KeyPath: filepath.Join(dir, "k")}
			if err := prepare(dir, r.KeyPath); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(r.KeyPath)
			api := &fakeAPI{}
			_, err := r.Request(t.Context(), Target{API: api, NodeName: node, Requester: requester})
			if fault.ReasonOf(err) != fault.WriteFailed || !strings.Contains(err.Error(), r.KeyPath+": it is no regular file") {
				t.Errorf("got %v", err)
			}
			after, lerr := os.Lstat(r.KeyPath)
			if lerr != nil || after.Mode() != before.Mode() || len(api.creates) != 0 {
				t.Errorf("it was touched (%v), or a request was made: %v", lerr, api.creates)
			}
		})
	}
}

func TestWithoutADurableKeyNothingIsRequested(t *testing.T) {
	api := &fakeAPI{}
	r := &Requester{KeyPath: filepath.Join(t.TempDir(), "missing", "k")}
	_, err := r.Request(t.Context(), Target{API: api, NodeName: node, Requester: requester})
	if fault.ReasonOf(err) != fault.WriteFailed || !strings.Contains(err.Error(), r.KeyPath) || len(api.creates) != 0 {
		t.Errorf("got %v after %d creates", err, len(api.creates))
	}
}

func TestAnErrorOfTheKeyNeverShowsIt(t *testing.T) {
	secret := "c2VjcmV0LWtleS1tYXRlcmlhbA=="
	if _, err := parseKey([]byte("-----BEGIN " + keyBlock + "-----\n" + secret + "\n-----END " + keyBlock + "-----\n")); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

func FuzzKeyFile(f *testing.F) {
	good := goodKeyFile(f)
	for _, seed := range [][]byte{nil, good, good[:40], append(good, good...), []byte("-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := parseKey(data); (key == nil) == (err == nil) {
			t.Fatalf("parseKey() = %v, %v", key, err)
		}
		r := &Requester{KeyPath: filepath.Join(t.TempDir(), "k")}
		if err := os.WriteFile(r.KeyPath, data, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := r.key()
		if err != nil {
			t.Fatalf("a file of %d bytes keeps this machine out: %v", len(data), err)
		}
		if again, err := r.key(); err != nil || !again.private.Equal(k.private) {
			t.Fatalf("the key is not stable: %v", err)
		}
		if _, err := os.Stat(r.KeyPath + ".corrupt-2"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("two files were moved aside")
		}
	})
}

package csr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	keyBlock      = "EC PRIVATE KEY" // as client-go writes it
	maxKeyFile    = 16 << 10
	maxQuarantine = 9
)

// pendingKey is a private key and the bytes of its file.
type pendingKey struct {
	private *ecdsa.PrivateKey
	pem     []byte
}

// key returns the key on disk, or a new one that is on disk when it returns.
// A damaged file is moved aside, because an empty one (a power cut in another
// program's hands) must not keep this machine out for ever; something that is
// no file, or cannot be read, is left alone and said.
func (r *Requester) key() (*pendingKey, error) {
	info, err := os.Lstat(r.KeyPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.newKey()
	case err != nil:
		return nil, r.unreadable(err)
	case !info.Mode().IsRegular():
		return nil, r.unreadable(fmt.Errorf("it is no regular file (%s), left as it is", info.Mode().Type()))
	case info.Size() > maxKeyFile:
		return r.replaceDamaged()
	}
	data, err := atomicfile.Read(r.KeyPath, maxKeyFile)
	if err != nil {
		return nil, r.unreadable(err)
	}
	private, err := parseKey(data)
	if err != nil {
		return r.replaceDamaged()
	}
	if _, err := atomicfile.Write(r.KeyPath, data, 0o600); err != nil { // mends the mode
		return nil, err
	}
	return &pendingKey{private: private, pem: data}, nil
}

// unreadable uses the reason of writing: it is the same disk, and the same
// person who mends it.
func (r *Requester) unreadable(err error) error {
	return fault.New(fault.WriteFailed, "cannot use the pending key %s: %w", r.KeyPath, err).
		WithHint("Look at that path: a failing disk, or something that is no file. Move it away and the agent makes a new key.")
}

// newKey replaces whatever key there is, durably.
func (r *Requester) newKey() (*pendingKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
	if _, err := atomicfile.Write(r.KeyPath, data, 0o600); err != nil {
		return nil, err
	}
	return &pendingKey{private: private, pem: data}, nil
}

// replaceDamaged renames the damaged file to .corrupt-<n>, for whoever wants to
// know what happened, and makes a new key. The write of the new one makes the
// rename durable, too.
func (r *Requester) replaceDamaged() (*pendingKey, error) {
	aside := ""
	for n := 1; n <= maxQuarantine; n++ {
		aside = fmt.Sprintf("%s.corrupt-%d", r.KeyPath, n)
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err := os.Rename(r.KeyPath, aside); err != nil {
		return nil, r.unreadable(err)
	}
	r.log().WithField("movedTo", aside).Warn("pending key was damaged, making a new one")
	return r.newKey()
}

// parseKey takes exactly what newKey writes. Its error never shows the content.
func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != keyBlock || !bytes.HasPrefix(data, []byte("-----BEGIN ")) || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("it is not one PEM block " + keyBlock)
	}
	private, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil || private.Curve != elliptic.P256() {
		return nil, errors.New("it is no P-256 key")
	}
	return private, nil
}

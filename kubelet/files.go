package kubelet

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	pairPrefix = "kubelet-client-"
	pemSuffix  = ".pem"
	// pairTime is client-go's: local time, to the second.
	pairTime = "2006-01-02-15-04-05"

	// The kubelet makes its folder with 0750 and its certificate folder with
	// 0755; so do we, where they are missing.
	rootMode = 0o750
	pkiMode  = 0o755

	secretMode = 0o600
	publicMode = 0o644
)

// Files writes the kubelet's files, each whole and durable or not at all, and
// tells what is there. Every Write method returns whether a byte or a mode had
// to change: nothing unchanged is rewritten.
//
// The order of a join is pair, then CA and config, then the kubeconfig; then a
// crash at any point leaves no kubeconfig that names something missing.
type Files struct {
	Layout
	// Now names new pairs and judges old ones; nil means time.Now.
	Now func() time.Time
}

func (f Files) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

// WritePair installs a client certificate (leaf first, chain after it) with its
// key the way client-go's FileStore does: one file named by the local time, and
// a symbolic link with an absolute target. The kubelet must not run meanwhile:
// it owns this folder while it does.
//
// A pair that a crash left without its link is found by its bytes and used. An
// older pair is never overwritten: if the second is taken, the next one is.
func (f Files) WritePair(certPEM, keyPEM []byte) (changed bool, err error) {
	data, err := encodePair(certPEM, keyPEM)
	if err != nil {
		return false, err
	}
	if err := f.folders(); err != nil {
		return false, err
	}
	path, err := f.pairPath(data)
	if err != nil {
		return false, err
	}
	if changed, err = atomicfile.Write(path, data, secretMode); err != nil {
		return changed, err
	}
	aside, err := f.setAside(f.CurrentPair())
	if err != nil {
		return changed, err
	}
	linked, err := atomicfile.Symlink(path, f.CurrentPair())
	if err != nil {
		return changed, err
	}
	// A stale "updated" link would look like a rotation under way for ever; a
	// regular file of that name would make every rotation fail.
	cleared, err := f.clearUpdated()
	return changed || aside || linked || cleared, err
}

func (f Files) clearUpdated() (bool, error) {
	info, err := os.Lstat(f.UpdatedPair())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fault.New(fault.WriteFailed, "cannot look at %s: %w", f.UpdatedPair(), err)
	case info.Mode()&fs.ModeSymlink != 0:
		return true, atomicfile.Remove(f.UpdatedPair())
	}
	return f.setAside(f.UpdatedPair())
}

// encodePair checks that certificate and key belong together and writes them
// as FileStore.Update does: every certificate, then the key, nothing else.
func encodePair(certPEM, keyPEM []byte) ([]byte, error) {
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fault.New(fault.CertificateInvalid, "cannot install the client certificate: %w", err)
	}
	var out bytes.Buffer
	for rest := certPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes})
		}
	}
	for rest := keyPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fault.New(fault.CertificateInvalid, "cannot install the client certificate: no private key in PEM")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") { // openssl puts EC PARAMETERS before
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes})
			return out.Bytes(), nil
		}
	}
}

// pairPath returns the file that holds these bytes already, else a free name.
func (f Files) pairPath(data []byte) (string, error) {
	dir, err := filepath.Abs(f.PKI())
	if err != nil {
		return "", fault.New(fault.WriteFailed, "cannot find %s: %w", f.PKI(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fault.New(fault.WriteFailed, "cannot look into %s: %w", dir, err)
	}
	taken := map[string]bool{}
	for _, e := range entries {
		taken[e.Name()] = true
		if _, err := time.Parse(pairPrefix+pairTime+pemSuffix, e.Name()); err != nil || !e.Type().IsRegular() {
			continue
		}
		old, err := atomicfile.Read(filepath.Join(dir, e.Name()), maxFile)
		if err == nil && bytes.Equal(old, data) {
			return filepath.Join(dir, e.Name()), nil
		}
	}
	for at := f.now().Local(); ; at = at.Add(time.Second) {
		if name := at.Format(pairPrefix + pairTime + pemSuffix); !taken[name] {
			return filepath.Join(dir, name), nil
		}
	}
}

// setAside moves a regular file that stands where a link belongs to a name of
// its own (a copy of the folder with links followed makes such files; with one
// of them the kubelet can start, but never rotate). Anything else is left.
func (f Files) setAside(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return false, nil
	}
	if err != nil {
		return false, fault.New(fault.WriteFailed, "cannot look at %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return false, fault.New(fault.WriteFailed, "cannot write %s: it is neither a link nor a regular file (%s), left as it is", path, info.Mode().Type())
	}
	for at := f.now(); ; at = at.Add(time.Second) {
		to := path + ".set-aside-" + at.Format(pairTime)
		// Link, then remove: unlike a rename it never replaces what is there.
		if err := os.Link(path, to); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return false, fault.New(fault.WriteFailed, "cannot set %s aside: %w", path, errors.Unwrap(err))
		}
		return true, atomicfile.Remove(path)
	}
}

// Set is what WriteSet writes together; what is nil stays as it is on disk.
type Set struct {
	CA      []byte       // certificates in PEM, which the kubeconfig refers to
	Config  []byte       // see [RenderConfig]
	Serving *ServingPair // see [Files.MakeServingPair]
}

// WriteSet writes what the kubelet needs besides its own pair and the
// kubeconfig, with one wait for the disk for all of it. It returns the paths
// that had to be written.
func (f Files) WriteSet(s Set) (changed []string, err error) {
	var files []atomicfile.File
	if s.CA != nil {
		if err := checkCertificates(s.CA); err != nil {
			return nil, fault.New(fault.WriteFailed, "cannot write %s: %w", f.CACert(), err)
		}
		files = append(files, atomicfile.File{Path: f.CACert(), Data: s.CA, Mode: publicMode})
	}
	if s.Config != nil {
		files = append(files, atomicfile.File{Path: f.ConfigFile(), Data: s.Config, Mode: secretMode})
	}
	if err := f.folders(); err != nil {
		return nil, err
	}
	if s.Serving != nil {
		serving, err := f.servingFiles(s.Serving)
		if err != nil {
			return nil, err
		}
		files = append(files, serving...)
	}
	return atomicfile.WriteAll(files...)
}

// WriteKubeconfig writes the kubeconfig for this server ("https://host:port"),
// last of all: it refuses while the pair or the CA that it names cannot be read.
func (f Files) WriteKubeconfig(server string) (changed bool, err error) {
	data, err := f.RenderKubeconfig(server)
	if err != nil {
		return false, err
	}
	for _, path := range []string{f.CurrentPair(), f.CACert()} {
		if _, err := os.Stat(path); err != nil {
			return false, fault.New(fault.WriteFailed, "cannot write %s: what it names is not there: %w", f.Kubeconfig(), err)
		}
	}
	if err := f.folders(); err != nil {
		return false, err
	}
	return atomicfile.Write(f.Kubeconfig(), data, secretMode)
}

// WriteEnvironment writes the kubelet's environment file, or removes it when
// there is nothing to say.
func (f Files) WriteEnvironment(vars []Variable) (changed bool, err error) {
	data, err := RenderEnvironment(vars)
	if err != nil {
		return false, err
	}
	if len(data) == 0 {
		if _, err := os.Lstat(f.EnvironmentFile()); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, atomicfile.Remove(f.EnvironmentFile())
	}
	if err := f.folders(); err != nil {
		return false, err
	}
	return atomicfile.Write(f.EnvironmentFile(), data, secretMode)
}

// Clean removes temporary files that a crash left behind.
func (f Files) Clean() error {
	if err := atomicfile.CleanTemp(f.Root()); err != nil {
		return err
	}
	return atomicfile.CleanTemp(f.PKI())
}

// folders makes both folders where they are missing and refuses to put a key
// into one that somebody else could change: owner root (or ourselves, for a
// run without root), not writable by group or others. A folder that is a link
// is followed, many keep /var/lib/kubelet on another disk; what counts is where
// it leads.
func (f Files) folders() error {
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{{f.Root(), rootMode}, {f.PKI(), pkiMode}} {
		if err := atomicfile.MkdirAll(dir.path, dir.mode); err != nil {
			return err
		}
		info, err := os.Stat(dir.path)
		if err != nil {
			return fault.New(fault.WriteFailed, "cannot look at %s: %w", dir.path, err)
		}
		if err := atomicfile.Closed(dir.path, info); err != nil {
			return err
		}
	}
	return nil
}

// checkCertificates reads a bundle strictly: PEM blocks of certificates only,
// at least one.
func checkCertificates(data []byte) error {
	n := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block of type %s where only certificates belong", fault.Quote(block.Type))
		}
		n++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d does not parse: %w", n, err)
		}
	}
	if n == 0 {
		return errors.New("no certificate in PEM")
	}
	return nil
}

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The systemd credentials that may hold the bootstrap token. The encrypted one has
// a name of its own: of two that share one, the unit would get only the last.
const (
	CredentialName          = "bootstrap-token"
	EncryptedCredentialName = "bootstrap-token-encrypted"
)

const maxTokenFile = 4096

// TokenSource is one place where a bootstrap token may be found. It is read
// anew for each attempt, so that a fresh token is used as soon as it is there.
type TokenSource interface {
	// Name says where the token comes from, for messages: "token file /etc/...".
	Name() string
	// Read returns the token. fs.ErrNotExist in the chain: there is none here.
	Read() (discovery.Token, error)
}

// TokenFile reads the token from a file that only root (or the user who runs
// this) may read: any permission for group or others is refused.
func TokenFile(path string) TokenSource { return tokenFile{path: path, private: true} }

// TokenCredentials read the systemd credentials of both names, the plain one
// first, from the folder that systemd names in $CREDENTIALS_DIRECTORY. systemd
// decides their modes and has decrypted the second. Both are fixed as long as the
// service runs: a token that comes later comes by the file, which is asked first.
func TokenCredentials(dir string) []TokenSource {
	return []TokenSource{
		tokenFile{path: filepath.Join(dir, CredentialName)},
		tokenFile{path: filepath.Join(dir, EncryptedCredentialName)},
	}
}

// AnyBearer lets a source of this package hold a static token, too: where a
// discovery file names the cluster, the token only has to be a bearer.
func AnyBearer(s TokenSource) TokenSource {
	if f, ok := s.(tokenFile); ok {
		f.bearer = true
		return f
	}
	return s
}

// TokenInline is the token from the config file itself.
func TokenInline(token discovery.Token) TokenSource { return tokenInline{token} }

type tokenFile struct {
	path    string
	private bool
	bearer  bool // a static token is taken, too
}

func (f tokenFile) Name() string {
	if f.private {
		return "token file " + f.path
	}
	return "systemd credential " + filepath.Base(f.path)
}

func (f tokenFile) Read() (discovery.Token, error) {
	if f.private {
		if err := checkPrivate(f.path); err != nil {
			return discovery.Token{}, err
		}
	}
	data, err := atomicfile.Read(f.path, maxTokenFile)
	if err != nil {
		return discovery.Token{}, fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return discovery.Token{}, fmt.Errorf("%s is empty: %w", f.Name(), fs.ErrNotExist)
	}
	parse := discovery.ParseToken
	if f.bearer {
		parse = discovery.ParseBearer
	}
	token, err := parse(string(data))
	if err != nil {
		return discovery.Token{}, fault.New(fault.ConfigInvalid, "%s: %w", f.Name(), err)
	}
	return token, nil
}

// checkPrivate refuses a token file that somebody else can read: who reads it
// can admit machines of his own.
func checkPrivate(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("there is no token file %s: %w", path, fs.ErrNotExist)
		}
		return fmt.Errorf("cannot read token file %s: %w", path, err)
	}
	if atomicfile.Foreign(info) {
		return fault.New(fault.ConfigInvalid, "token file %s belongs to user %d, not to root", path, info.Sys().(*syscall.Stat_t).Uid). //nolint:forcetypeassert // Foreign has looked
																		WithHint("chown root: %s; a token that others may have read is better replaced: kubeadm token create", path)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return fault.New(fault.ConfigInvalid, "token file %s may be read by others (mode %04o)", path, mode.Perm()).
			WithHint("chmod 0600 %s; a token that others may have read is better replaced: kubeadm token create", path)
	}
	return nil
}

type tokenInline struct{ token discovery.Token }

func (t tokenInline) Name() string { return "key token of the config file" }

func (t tokenInline) Read() (discovery.Token, error) { return t.token, nil }

// wallet chooses among the token sources: the first whose token has not been
// refused. When every one has been, the memory of refusals is cleared, so that
// the next attempt begins with the first again (the cluster may have changed).
type wallet struct {
	refused map[string]bool // by id and secret, in memory only
}

// choose returns the token to try now and where it is from, and whether another
// one is left to try at once if this is refused: never when all were refused.
func (w *wallet) choose(sources []TokenSource) (token discovery.Token, from string, more bool, err error) {
	type candidate struct {
		token discovery.Token
		from  string
	}
	var fresh, known []candidate
	var faults []error
	seen := map[string]bool{} // the same token in two places is one token
	for _, source := range sources {
		t, err := source.Read()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			faults = append(faults, err)
			continue
		}
		if seen[t.Bearer()] {
			continue
		}
		seen[t.Bearer()] = true
		known = append(known, candidate{t, source.Name()})
		if !w.refused[t.Bearer()] {
			fresh = append(fresh, candidate{t, source.Name()})
		}
	}
	if len(known) == 0 {
		if len(faults) > 0 {
			return token, "", false, errors.Join(faults...)
		}
		return token, "", false, fault.New(fault.TokenMissing, "there is no bootstrap token in any source")
	}
	if len(fresh) == 0 {
		w.refused = nil
		return known[0].token, known[0].from, false, nil
	}
	return fresh[0].token, fresh[0].from, len(fresh) > 1, nil
}

// refuse remembers that the cluster did not take this token.
func (w *wallet) refuse(token discovery.Token) {
	if w.refused == nil {
		w.refused = map[string]bool{}
	}
	w.refused[token.Bearer()] = true
}

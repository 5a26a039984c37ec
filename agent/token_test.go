package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const goodToken = "abcdef.a8f3k2m9q7w1z5x0"

func TestTokenFile(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(path string) error
		reason  fault.Reason
		missing bool
	}{
		"a private file with a newline": {prepare: write(goodToken+"\n", 0o600)},
		"read only for its owner":       {prepare: write(goodToken, 0o400)},
		"no file":                       {prepare: func(string) error { return nil }, missing: true},
		"an empty file counts as none":  {prepare: write("\n", 0o600), missing: true},
		"readable by others":            {prepare: write(goodToken, 0o644), reason: fault.ConfigInvalid},
		"readable by the group":         {prepare: write(goodToken, 0o640), reason: fault.ConfigInvalid},
		"no token in it":                {prepare: write("secret-canary-value", 0o600), reason: fault.ConfigInvalid},
		"larger than any token":         {prepare: write(strings.Repeat("a", maxTokenFile+1), 0o600), reason: "any"},
		"a FIFO does not hang":          {prepare: func(p string) error { return syscall.Mkfifo(p, 0o600) }, reason: "any"},
		"a symbolic link is not followed": {prepare: func(p string) error {
			if err := write(goodToken, 0o600)(p + ".real"); err != nil {
				return err
			}
			return os.Symlink(p+".real", p)
		}, reason: "any"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			if err := tc.prepare(path); err != nil {
				t.Fatal(err)
			}
			token, err := TokenFile(path).Read()
			switch {
			case tc.missing:
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %v", err)
				}
			case tc.reason == "any":
				if err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %v", err)
				}
			case tc.reason != "":
				if fault.ReasonOf(err) != tc.reason || strings.Contains(err.Error(), "canary") {
					t.Errorf("got %v", err)
				}
			case err != nil || token.ID() != "abcdef":
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
}

func write(data string, mode os.FileMode) func(string) error {
	return func(path string) error {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	}
}

func TestTheCredentialsAreReadUnderBothNames(t *testing.T) {
	for _, name := range []string{CredentialName, EncryptedCredentialName} {
		dir := t.TempDir()
		var w wallet
		if _, _, _, err := w.choose(TokenCredentials(dir)); fault.ReasonOf(err) != fault.TokenMissing {
			t.Errorf("without a credential: %v", err)
		}
		// systemd decides the mode of a credential: 0440 is usual.
		if err := write(goodToken, 0o440)(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		token, from, _, err := w.choose(TokenCredentials(dir))
		if err != nil || token.ID() != "abcdef" || from != "systemd credential "+name {
			t.Errorf("got %v from %q, %v", token, from, err)
		}
	}
}

type brokenSource struct{}

func (brokenSource) Name() string                   { return "broken" }
func (brokenSource) Read() (discovery.Token, error) { return discovery.Token{}, errors.New("broken") }

func TestWallet(t *testing.T) {
	a := TokenInline(must(discovery.ParseToken("aaaaaa.a8f3k2m9q7w1z5x0")))
	b := TokenInline(must(discovery.ParseToken("bbbbbb.a8f3k2m9q7w1z5x0")))
	none := TokenFile(filepath.Join(t.TempDir(), "none"))
	var w wallet
	pick := func(sources []TokenSource, wantID string, wantMore bool) discovery.Token {
		t.Helper()
		token, _, more, err := w.choose(sources)
		if err != nil || token.ID() != wantID || more != wantMore {
			t.Fatalf("got %s, more %t, %v; want %s, %t", token, more, err, wantID, wantMore)
		}
		return token
	}
	both := []TokenSource{none, brokenSource{}, a, b}
	first := pick(both, "aaaaaa", true)
	w.refuse(first)
	second := pick(both, "bbbbbb", false)
	w.refuse(second)
	pick(both, "aaaaaa", false) // all were refused: the cluster may have changed
	if _, _, _, err := w.choose([]TokenSource{none}); fault.ReasonOf(err) != fault.TokenMissing {
		t.Errorf("no token: %v", err)
	}
	if _, _, _, err := w.choose([]TokenSource{none, brokenSource{}}); err == nil || fault.ReasonOf(err) == fault.TokenMissing {
		t.Errorf("a source that cannot be read must be named: %v", err)
	}
}

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// T10: every source of a token in its turn, against a cluster that refuses those
// before it. The joined node's record names the one that served.
func TestTheNextSourceIsTriedWhenATokenIsRefused(t *testing.T) {
	const (
		unknown   = "unknwn.a8f3k2m9q7w1z5x0" // the cluster has never heard of it
		expired   = "expird.a8f3k2m9q7w1z5x0"
		unsigned  = "nosign.a8f3k2m9q7w1z5x0" // may not sign
		loginless = "nologn.a8f3k2m9q7w1z5x0" // signs, and is refused by the API server
		wrong     = "served.zzzzzzzzzzzzzzz1" // the right id, another secret
		good      = "served.a8f3k2m9q7w1z5x0"
		other     = "others.a8f3k2m9q7w1z5x0" // good as well
		none      = ""
	)
	for name, c := range map[string]struct {
		file, plain, encrypted, inline string
		want                           string
	}{
		"a token file alone":                      {file: good, want: good},
		"a plain credential alone":                {plain: good, want: good},
		"an encrypted credential alone":           {encrypted: good, want: good},
		"a key of the config alone":               {inline: good, want: good},
		"a fresh file and a stale credential":     {file: good, plain: unknown, want: good},
		"a fresh file and an older one that goes": {file: good, plain: other, encrypted: other, want: good},
		"an unknown file":                         {file: unknown, plain: good, want: good},
		"an expired file":                         {file: expired, encrypted: good, want: good},
		"a file that does not sign":               {file: unsigned, plain: good, want: good},
		"a file that is refused by the API":       {file: loginless, plain: good, want: good},
		"a file with another secret":              {file: wrong, plain: good, want: good},
		"a plain one before an encrypted one":     {plain: expired, encrypted: good, want: good},
		"all but the last":                        {file: expired, plain: unknown, encrypted: loginless, inline: good, want: good},
		"a file that is empty":                    {file: "\n", plain: good, want: good},
		"none at all":                             {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true, NoToken: true})
			add := func(token testapi.Token, bearer string) {
				token.ID, token.Secret, _ = strings.Cut(bearer, ".")
				r.api.AddToken(token)
			}
			add(testapi.Token{}, good)
			add(testapi.Token{}, other)
			add(testapi.Token{Expires: time.Now().Add(-time.Hour)}, expired)
			add(testapi.Token{NoSigning: true}, unsigned)
			add(testapi.Token{NoAuthentication: true}, loginless)
			dir := t.TempDir()
			put := func(name, token string) {
				if token == none {
					return
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(token+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			put("token", c.file)
			put(CredentialName, c.plain)
			put(EncryptedCredentialName, c.encrypted)
			r.cfg.Tokens = append([]TokenSource{TokenFile(filepath.Join(dir, "token"))}, TokenCredentials(dir)...)
			if c.inline != none {
				r.cfg.Tokens = append(r.cfg.Tokens, TokenInline(must(discovery.ParseToken(c.inline))))
			}
			if c.want == none {
				_, stop := r.start()
				defer func() { _ = stop() }()
				r.await("the word that there is none", reason(fault.TokenMissing))
				if n := len(r.api.Requests()); n != 0 {
					t.Errorf("%d requests without a token", n)
				}
				return
			}
			r.mustJoin()
			id, _, _ := strings.Cut(c.want, ".")
			trust, err := record.ReadTrust(r.cfg.Paths)
			if err != nil || trust == nil || trust.TokenID != id {
				t.Errorf("joined by %+v, %v; want %s", trust, err, id)
			}
			if n := len(r.api.CSRs()); n != 1 {
				t.Errorf("%d requests for a certificate", n)
			}
		})
	}
}

// The file is read anew at each attempt: a fresh token in it ends the wait that a
// stale credential has caused, in the same process.
func TestAFreshTokenFileEndsTheWaitOfAStaleCredential(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, CredentialName), []byte("unknwn.a8f3k2m9q7w1z5x0"), 0o400); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "token")
	r.cfg.Tokens = append([]TokenSource{TokenFile(file)}, TokenCredentials(dir)...)
	_, stop := r.start()
	defer func() { _ = stop() }()
	r.await("the refusal", reason(fault.TokenUnknown))
	if err := os.WriteFile(file, []byte(r.api.Token()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.await("the join", phase(Joined))
}

// T19: a token file of somebody else is his token, not ours.
func TestATokenFileOfSomebodyElseIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("served.a8f3k2m9q7w1z5x0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	_, err := TokenFile(path).Read()
	if fault.ReasonOf(err) != fault.ConfigInvalid || !strings.Contains(err.Error(), "belongs to user 12345") || !strings.HasPrefix(fault.HintOf(err), "chown root: "+path) {
		t.Errorf("%v -> %s", err, fault.HintOf(err))
	}
	if words := strings.Fields(err.Error()); slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "a8f3k2m9") }) {
		t.Error("the error shows the secret")
	}
}

package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

func TestATokenFileIsRemovedOnceTheMachineHasJoinedWithIt(t *testing.T) {
	const other = "zzzzzz.a8f3k2m9q7w1z5x0"
	for name, tc := range map[string]struct {
		remove bool   // is it asked for
		holds  string // what the file holds when the machine has joined; "": what it joined with
		stays  bool
	}{
		"as asked":                     {remove: true},
		"not unless it is asked for":   {stays: true},
		"not with another token in it": {remove: true, holds: other, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			path := filepath.Join(t.TempDir(), "etc", "token")
			mustWrite(t, path, r.api.Token()+"\n")
			r.cfg.Tokens = []TokenSource{TokenFile(path)}
			if tc.remove {
				r.cfg.RemoveToken = path
			}
			if tc.holds != "" {
				// It was another file that the machine joined with: the next one lies there already.
				r.cfg.Tokens = []TokenSource{TokenFile(path + ".first")}
				mustWrite(t, path+".first", r.api.Token()+"\n")
				mustWrite(t, path, tc.holds+"\n")
			}
			r.mustJoin()
			_, err := os.Stat(path)
			if gone := errors.Is(err, fs.ErrNotExist); gone == tc.stays {
				t.Errorf("stat: %v", err)
			}
		})
	}
}

func TestATokenFileStaysUntilTheMachineHasJoined(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	path := filepath.Join(t.TempDir(), "token")
	mustWrite(t, path, r.api.Token()+"\n")
	r.cfg.Tokens, r.cfg.RemoveToken = []TokenSource{TokenFile(path)}, path
	_, stop := r.start()
	r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Name != "" })
	_ = stop()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

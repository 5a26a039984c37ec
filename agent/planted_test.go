package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// planted is something that stands where the agent's own belongs.
type planted struct {
	name  string
	plant func(path, victim string) error
	clear func(path string) error
	root  bool // only root can make it
}

func plantings() []planted {
	parent := func(path string) error { return os.MkdirAll(filepath.Dir(path), 0o755) }
	gone := os.RemoveAll
	chattr := func(flag, path string) error {
		if out, err := exec.Command("chattr", flag, path).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	return []planted{
		{name: "a link to a file", plant: func(p, victim string) error { return errors.Join(parent(p), os.Symlink(victim, p)) }, clear: gone},
		{name: "a link to where nothing is", plant: func(p, victim string) error { return errors.Join(parent(p), os.Symlink(victim+".none", p)) }, clear: gone},
		{name: "a pipe", plant: func(p, _ string) error { return errors.Join(parent(p), syscall.Mkfifo(p, 0o600)) }, clear: gone},
		{name: "a folder", plant: func(p, _ string) error {
			return errors.Join(os.MkdirAll(p, 0o755), os.WriteFile(filepath.Join(p, "x"), []byte("x"), 0o600))
		}, clear: gone},
		{name: "a file of somebody else", root: true, plant: func(p, _ string) error {
			return errors.Join(parent(p), os.WriteFile(p, nil, 0o600), os.Chown(p, 12345, 12345))
		}, clear: gone},
		{name: "an immutable file", root: true, plant: func(p, _ string) error {
			return errors.Join(parent(p), os.WriteFile(p, nil, 0o600), chattr("+i", p))
		}, clear: func(p string) error { return errors.Join(chattr("-i", p), os.RemoveAll(p)) }},
	}
}

// managed are the paths that a first join writes, with the plantings that it
// replaces by its own or, being no harm, uses. All others it refuses.
func managed(r *rig) map[string][]string {
	const link, dangling, pipe, folder, theirs = "a link to a file", "a link to where nothing is", "a pipe", "a folder", "a file of somebody else"
	p, f := r.cfg.Paths, r.files()
	unit := filepath.Join(p.Units, "kubelet.service")
	return map[string][]string{
		p.State:                             {folder},
		p.Kubelet:                           {folder},
		f.PKI():                             {folder},
		unit + ".d":                         {folder},
		p.LockFile():                        {theirs}, // what it holds decides nothing
		p.PendingKey():                      {theirs},
		p.NewPair():                         {theirs},
		p.TrustFile():                       {theirs},
		p.ManifestFile():                    {theirs},
		p.StatusFile():                      {theirs, link, dangling, pipe}, // removed at every start
		f.CACert():                          {theirs},
		f.ConfigFile():                      {theirs},
		f.Kubeconfig():                      {theirs},
		f.CurrentPair():                     {theirs, dangling}, // set aside; swapped, as the kubelet does
		f.UpdatedPair():                     {theirs, dangling, link},
		unit:                                {theirs},
		unit + ".d/90-bootstrap-agent.conf": {theirs},
	}
}

// T19: whatever stands in the place of any file or folder of the agent's own is
// replaced where that is safe, else refused by its name: nothing is written through
// it, nothing by halves, no kubelet is started, and when it is gone the join goes on.
func TestWhateverStandsInItsPlacesTheAgentIsNeitherLedNorStuck(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("without root, files of somebody else and immutable ones are left out")
	}
	r := newRig(t, testapi.Options{Quiet: true})
	root := filepath.Dir(r.cfg.Paths.State)
	for path := range managed(r) {
		name := strings.TrimPrefix(path, root+"/")
		for _, thing := range plantings() {
			if thing.root && os.Geteuid() != 0 {
				continue
			}
			t.Run(name+" is "+thing.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, testapi.Options{Quiet: true})
				r.planted(filepath.Join(filepath.Dir(r.cfg.Paths.State), name), thing)
			})
		}
	}
}

func (r *rig) planted(path string, thing planted) {
	t := r.t
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("victim"), 0o600); err != nil {
		t.Fatal(err)
	}
	planting := sync.OnceValue(func() error { return thing.clear(path) })
	t.Cleanup(func() { _ = planting() }) // an immutable file outlives the folder's removal
	if err := thing.plant(path, victim); err != nil {
		t.Fatal(err)
	}
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	joined, said := r.untilJoinedOrRefused()
	if want := slices.Contains(managed(r)[path], thing.name); joined != want {
		t.Errorf("joined: %t, want %t: %s", joined, want, said)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "victim" {
		t.Errorf("what the link leads to was written: %q, %v", data, err)
	}
	if _, err := os.Lstat(victim + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("what the link leads to was made")
	}
	if joined {
		return
	}
	if !strings.Contains(said, path) {
		t.Errorf("does not name %s: %s", path, said)
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
		t.Errorf("refused, and not left as it was: %v, %v", now, err)
	}
	if slices.ContainsFunc(r.units.Calls(), func(call string) bool { return strings.HasPrefix(call, "start") }) {
		t.Errorf("a kubelet was started: %v", r.units.Calls())
	}
	for _, dir := range []string{r.cfg.Paths.State, r.cfg.Paths.Kubelet, r.files().PKI(), r.cfg.Paths.Units} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".bootstrap-agent-tmp-*")); len(left) > 0 {
			t.Errorf("half written: %v", left)
		}
	}
	if err := planting(); err != nil {
		t.Fatal(err)
	}
	if joined, said := r.untilJoinedOrRefused(); !joined {
		t.Errorf("not joined when it was gone: %s", said)
	}
}

// untilJoinedOrRefused runs an agent until it has joined, has failed twice at the
// same, or has ended, and returns what it said.
func (r *rig) untilJoinedOrRefused() (joined bool, said string) {
	r.t.Helper()
	r.unpublish()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	a := must(New(r.cfg, r.deps))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	for {
		if s, ok := r.last(); ok && (s.Phase == Joined || s.Reason != "" && s.Attempt > 1) {
			cancel()
			return s.Phase == Joined, fmt.Sprintf("%s: %s (%v)", s.Reason, s.Message, <-done)
		}
		select {
		case err := <-done:
			if s, ok := r.last(); ok && s.Phase == Joined {
				return true, ""
			}
			return false, fmt.Sprint(err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// unpublish forgets what was published so far.
func (r *rig) unpublish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statuses = nil
}

// T19: the same on a node that has joined: it is told, nobody waits for the other
// end of a pipe, and the file is back as soon as it can be.
func TestWhateverIsPutInThePlaceOfAJoinedNodesFilesIsToldAndHealed(t *testing.T) {
	for _, thing := range plantings() {
		if thing.root && os.Geteuid() != 0 {
			continue
		}
		t.Run(thing.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			f := r.files()
			r.cfg.AfterJoin = AfterJoinHeal
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("victim"), 0o600); err != nil {
				t.Fatal(err)
			}
			paths := []string{f.CACert(), f.Kubeconfig()}
			for _, path := range paths {
				if err := errors.Join(os.Remove(path), thing.plant(path, victim)); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = thing.clear(path) })
			}
			r.unpublish()
			_, stop := r.start()
			defer func() { _ = stop() }()
			if thing.name != "a file of somebody else" {
				s := r.await("the refusal", func(s Status) bool { return s.Reason == fault.WriteFailed })
				if !strings.Contains(s.Message, paths[0]) && !strings.Contains(s.Message, paths[1]) {
					t.Errorf("names neither file: %s", s.Message)
				}
				for _, path := range paths {
					if err := thing.clear(path); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.await("the healing", func(s Status) bool { return s.Phase == Joined && s.Reason == "" })
			for _, path := range paths {
				if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() == 0 || atomicfile.Foreign(info) {
					t.Errorf("%s: %v, %v", path, info, err)
				}
			}
			if data, err := os.ReadFile(victim); err != nil || string(data) != "victim" {
				t.Errorf("what the link leads to was written: %q, %v", data, err)
			}
		})
	}
}

// T19: a kubeconfig with the right bytes that somebody else owns is made anew: its
// owner decides what the kubelet runs.
func TestAFileThatWasGivenAwayIsTakenBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	f := r.files()
	for _, path := range []string{f.Kubeconfig(), f.CACert(), f.ConfigFile()} {
		if err := os.Chown(path, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	r.mustJoin()
	for _, path := range []string{f.Kubeconfig(), f.CACert(), f.ConfigFile()} {
		if info, err := os.Lstat(path); err != nil || atomicfile.Foreign(info) {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// tree is the content of folders: path -> content, links with their target.
type tree map[string]node

type node struct {
	mode fs.FileMode
	data string
}

// treeOf reads folders whole.
func treeOf(t *testing.T, dirs ...string) tree {
	t.Helper()
	out := tree{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a temporary file of an agent that still runs
			}
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			n := node{mode: info.Mode()}
			switch {
			case n.mode.IsRegular():
				data, err := os.ReadFile(path)
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				} else if err != nil {
					return err
				}
				n.data = string(data)
			case n.mode&fs.ModeSymlink != 0:
				if n.data, err = os.Readlink(path); err != nil {
					return nil //nolint:nilerr // swapped at this moment
				}
			}
			out[path] = n
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// restore makes the folders what they were.
func (tr tree) restore(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range tr.paths(func(node) bool { return true }) { // parents come first
		n := tr[path]
		var err error
		switch {
		case n.mode.IsDir():
			err = os.MkdirAll(path, n.mode.Perm())
		case n.mode&fs.ModeSymlink != 0:
			err = os.Symlink(n.data, path)
		default:
			err = os.WriteFile(path, []byte(n.data), n.mode.Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (tr tree) paths(want func(node) bool) []string {
	var out []string
	for path, n := range tr {
		if want(n) {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// crash ends a run of the agent at one point as a kill does: what is on the disk
// at that instant stays, what the dying process still does is undone or fails.
type crash struct {
	t    *testing.T
	dirs []string
	at   int // which point; 0: none

	mu     sync.Mutex
	seen   []string // names of the points
	kill   context.CancelFunc
	dead   bool
	remain tree
}

var errDead = errors.New("this process is dead")

// point is called wherever the agent touches the world outside its files.
func (c *crash) point(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errDead
	}
	c.seen = append(c.seen, name)
	if len(c.seen) == c.at {
		c.dead, c.remain = true, treeOf(c.t, c.dirs...)
		c.kill()
		return errDead
	}
	return nil
}

// around calls both points; an answer that comes after death is lost.
func around[T any](c *crash, name string, do func() (T, error)) (out T, err error) {
	if err = c.point("before " + name); err != nil {
		return out, err
	}
	if out, err = do(); err != nil {
		return out, err
	}
	return out, c.point("after " + name)
}

type dyingAPI struct {
	API
	c *crash
}

func (d dyingAPI) CreateCSR(ctx context.Context, req *certv1.CertificateSigningRequest) (*certv1.CertificateSigningRequest, error) {
	return around(d.c, "create CSR", func() (*certv1.CertificateSigningRequest, error) { return d.API.CreateCSR(ctx, req) })
}

func (d dyingAPI) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	return around(d.c, "get node", func() (*corev1.Node, error) { return d.API.GetNode(ctx, name) })
}

func (d dyingAPI) KubeletConfig(ctx context.Context) (string, error) {
	return around(d.c, "get kubelet-config", func() (string, error) { return d.API.KubeletConfig(ctx) })
}

type dyingUnits struct {
	Units
	c *crash
}

func (d dyingUnits) Install(ctx context.Context, dir string, e systemd.Existing, r systemd.Rendered, enable bool) (bool, error) {
	return around(d.c, "install", func() (bool, error) { return d.Units.Install(ctx, dir, e, r, enable) })
}

func (d dyingUnits) Start(ctx context.Context, name string) (systemd.Unit, error) {
	return around(d.c, "start", func() (systemd.Unit, error) { return d.Units.Start(ctx, name) })
}

func (d dyingUnits) Stop(ctx context.Context, name string) (systemd.Unit, error) {
	return around(d.c, "stop", func() (systemd.Unit, error) { return d.Units.Stop(ctx, name) })
}

func (d dyingUnits) Restart(ctx context.Context, name string) (systemd.Unit, error) {
	return around(d.c, "restart", func() (systemd.Unit, error) { return d.Units.Restart(ctx, name) })
}

type dyingDiscoverer struct {
	Discoverer
	c *crash
}

func (d dyingDiscoverer) Discover(ctx context.Context, r discovery.Request) (*discovery.Cluster, error) {
	return around(d.c, "discover", func() (*discovery.Cluster, error) { return d.Discoverer.Discover(ctx, r) })
}

// crashAt runs the agent until the point with this number and leaves what a kill
// at that instant leaves. It returns the names of the points that were passed;
// fewer than at: it joined before.
func (r *rig) crashAt(at int) []string {
	r.t.Helper()
	c := &crash{t: r.t, at: at, dirs: r.dirs()}
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	c.kill = cancel
	deps := r.deps
	deps.Units, deps.Discoverer = dyingUnits{r.units, c}, dyingDiscoverer{r.deps.Discoverer, c}
	deps.Connect = func(id Identity) (API, error) {
		api, err := r.deps.Connect(id)
		return dyingAPI{api, c}, err
	}
	deps.OnStatus = func(s Status) {
		if err := c.point("status " + string(s.Phase)); err == nil && s.Phase == Joined {
			cancel() // there was no such point
		}
	}
	_ = must(New(r.cfg, deps)).Run(ctx)
	r.awaitLock()
	if c.dead {
		c.remain.restore(r.t, c.dirs...)
	}
	return c.seen
}

// awaitLock waits until nobody has the lock. A program that another test starts at
// this moment has, between fork and exec, all files of this process open.
func (r *rig) awaitLock() {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		held, err := record.Acquire(r.cfg.Paths)
		if err == nil {
			held.Release()
			return
		}
		if fault.ReasonOf(err) != fault.Locked || time.Now().After(deadline) {
			r.t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
}

func (r *rig) dirs() []string {
	return []string{r.cfg.Paths.State, r.cfg.Paths.Run, r.cfg.Paths.Kubelet, r.cfg.Paths.Units}
}

// damages are what a disk, a power cut or a person does to one file. old is what
// the file was in an earlier join of this machine.
func damages(old tree) map[string]func(path string, n node) (node, bool) {
	file := func(data string) func(string, node) (node, bool) {
		// Also where a link was: what a copy without links makes of it.
		return func(string, node) (node, bool) { return node{mode: 0o600, data: data}, true }
	}
	return map[string]func(string, node) (node, bool){
		"truncated": func(_ string, n node) (node, bool) { n.data = n.data[:(len(n.data)+1)/2]; return n, true },
		"empty":     file(""),
		"garbage":   file("\x00\xff{{[\x7f garbage\n"),
		"missing":   func(string, node) (node, bool) { return node{}, false },
		"stale": func(path string, n node) (node, bool) {
			if before, ok := old[path]; ok {
				return before, true
			}
			return n, true
		},
	}
}

// A first join on a machine without a past.
func firstJoin(*rig) {}

// A node whose pair was lost while the agent was off; its kubelet runs on.
func rejoin(r *rig) {
	r.cfg.AfterJoin = AfterJoinExit
	r.mustJoin()
	r.awaitLock()
	if err := os.Remove(r.files().CurrentPair()); err != nil {
		r.t.Fatal(err)
	}
}

// allCrashes is for `make crash`; else a part of them, another one each time.
var (
	allCrashes = flag.Bool("crash.all", false, "every combination of step, file and damage")
	crashSeed  = flag.Uint64("crash.seed", 0, "which part of the combinations; 0: any")
)

const (
	crashShare = 32 // one of so many combinations
	crashFiles = 24 // more than there are
)

// TestCrashAnywhereThenAnyFileDamaged is the crash property: from any prefix of
// a join, re-join or re-issue, with any one file truncated, empty, garbage, missing or stale,
// a restart ends Joined; with at most one request more, never with a kubeconfig
// whose key is missing, and never with a kubelet that runs on other files than
// those that lie there without a word of it (Drifted). Two hard stops are right: a
// node that lost both its pair and the record of what is ours, and one whose record
// is of a time before the agent stopped its kubelet.
func TestCrashAnywhereThenAnyFileDamaged(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with: go test ./agent -run TestCrashAnywhere -args -crash.seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var cases atomic.Int32
	for _, story := range []struct {
		name  string
		begin func(*rig)
	}{{"first join", firstJoin}, {"re-join", rejoin}, {"re-issue", reissueDue}} {
		begin := story.begin
		r := newRig(t, testapi.Options{Quiet: true})
		begin(r)
		points := r.crashAt(0)
		t.Run(story.name, func(t *testing.T) {
			for at := 1; at <= len(points); at++ {
				type choice struct {
					damage string
					file   int
				}
				var chosen []choice
				for _, damage := range []string{"truncated", "empty", "garbage", "missing", "stale"} {
					for file := range crashFiles {
						if *allCrashes || random.IntN(crashShare) == 0 {
							chosen = append(chosen, choice{damage, file})
						}
					}
				}
				t.Run(fmt.Sprintf("%02d %s", at, points[at-1]), func(t *testing.T) {
					t.Parallel()
					// The first one damages nothing and counts the files that lie there.
					there := crashCase(t, begin, at, "none", 0)
					cases.Add(1)
					for _, one := range chosen {
						if one.file < there && crashCase(t, begin, at, one.damage, one.file) > one.file {
							cases.Add(1)
						}
					}
				})
			}
		})
	}
	t.Logf("%d combinations", cases.Load())
}

// crashCase is one combination; it returns how many files there were to damage,
// and does nothing with them if this one is not among them.
func crashCase(t *testing.T, begin func(*rig), at int, damage string, file int) (there int) {
	r := newRig(t, testapi.Options{Quiet: true})
	loaded := r.watchKubelet()
	old := tree{}
	if damage == "stale" {
		old = r.earlierJoin()
	}
	begin(r)
	r.cfg.AfterJoin = AfterJoinHeal
	before := len(r.api.CSRs())
	r.crashAt(at)
	requests := max(len(r.api.CSRs()), before+1)
	what := "no file"
	left := treeOf(t, r.dirs()...)
	files := left.paths(func(n node) bool { return !n.mode.IsDir() })
	there = len(files)
	if damage != "none" {
		if file >= there {
			return there
		}
		path := files[file]
		what = strings.TrimPrefix(path, filepath.Dir(r.cfg.Paths.State)+"/")
		if n, keep := damages(old)[damage](path, left[path]); keep {
			left[path] = n
		} else {
			delete(left, path)
		}
		left.restore(t, r.dirs()...)
	}
	if at%2 == 0 { // a power cut; else a kill
		r.boot = "22222222-0000-0000-0000-000000000000"
		r.deps.Machine.BootID = r.boot
		r.units.Reboot()
	}
	name := fmt.Sprintf("%s %s after point %d", what, damage, at)
	r.mu.Lock()
	r.statuses = nil // of earlier runs
	r.mu.Unlock()
	_, stop := r.start()
	held := func(s Status) bool {
		return strings.HasSuffix(what, "manifest.json") && slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.KubeletStopped })
	}
	s, ok := r.within(20*time.Second, func(s Status) bool {
		row, _ := fault.Lookup(s.Reason)
		return held(s) || s.Phase == Joined || s.Phase == Blocked || row.Class == fault.Blocked || s.Reason != "" && s.Attempt >= 3
	})
	if err := stop(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if held(s) {
		return there // that the agent stopped the kubelet is on record nowhere else: so a person did
	}
	if !ok {
		t.Errorf("%s: stuck in %s: %s %s", name, s.Phase, s.Reason, s.Message)
		return there
	}
	if n := len(r.api.CSRs()); n > requests+1 {
		t.Errorf("%s: %d requests, %d before", name, n, requests)
	}
	if s.Phase != Joined {
		// Without its record a kubeconfig is not known to be ours: a person decides.
		if !strings.HasSuffix(what, "manifest.json") || s.Reason != fault.ForeignKubelet {
			t.Errorf("%s ends in %s: %s: %s", name, s.Phase, s.Reason, s.Message)
		}
		return there
	}
	if _, err := os.Stat(r.files().Kubeconfig()); err == nil {
		pair, err := os.ReadFile(r.files().CurrentPair())
		if err != nil || kubelet.JudgePair(pair, nodeName, r.deps.Clock.Now()).Status != kubelet.PairUsable {
			t.Errorf("%s: a kubeconfig whose pair cannot be used: %v", name, err)
		}
	}
	// Another usable pair in the store is what a rotation looks like.
	rotated := damage == "stale" && strings.Contains(what, "kubelet-client-")
	// On a joined node a whole file that is not the agent's is a person's, who is told so.
	drifted := slices.ContainsFunc(s.Notes, func(n Note) bool {
		return n.Reason == fault.Drifted && strings.Contains(n.Message, what)
	})
	if now := r.kubeletInputs(); now != *loaded && !rotated && !drifted {
		t.Errorf("%s: the kubelet runs on other files than those that lie there", name)
	}
	return there
}

// watchKubelet notes what the kubelet reads when it starts.
func (r *rig) watchKubelet() (loaded *string) {
	loaded = new(string)
	inner := r.units.OnStart
	r.units.OnStart = func(argv []string) error {
		*loaded = r.kubeletInputs()
		return inner(argv)
	}
	return loaded
}

// kubeletInputs are pair, CA and kubeconfig as they now are.
func (r *rig) kubeletInputs() string {
	var all strings.Builder
	for _, path := range []string{r.files().CurrentPair(), r.files().CACert(), r.files().Kubeconfig()} {
		data, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %q %v\n", path, data, err)
	}
	return all.String()
}

// earlierJoin joins the machine, takes the node away again, and returns what its
// files were.
func (r *rig) earlierJoin() tree {
	r.t.Helper()
	r.cfg.AfterJoin = AfterJoinExit
	r.mustJoin()
	r.awaitLock()
	old := treeOf(r.t, r.dirs()...)
	for _, dir := range r.dirs() {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(r.cfg.Paths.Units, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.api.DeleteNode(nodeName)
	r.units.Change(func(u *systemd.Unit) { *u = systemd.Unit{} })
	return old
}

func (r *rig) files() kubelet.Files {
	return kubelet.Files{Layout: kubelet.Layout{Dir: r.cfg.Paths.Kubelet}, Now: r.deps.Clock.Now}
}

func (r *rig) within(d time.Duration, want func(Status) bool) (Status, bool) {
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		if s, ok := r.last(); ok && want(s) {
			return s, true
		}
		<-time.After(time.Millisecond)
	}
	s, _ := r.last()
	return s, false
}

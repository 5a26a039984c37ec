//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/crash"
)

// `make crash` asks for more seeds; one is asked for again by its number.
var (
	crashSeeds = flag.Int("crash.seeds", 20, "how many seeds of kill -9")
	crashSeed  = flag.Uint64("crash.seed", 0, "only this seed; 0: any")
)

// killsAtOnce is how many machines are played at a time: one waits for the API
// server while the other starts.
const killsAtOnce = 2

// TestAnAgentKilledAtAnyInstantJoinsAfterAll is the crash property on the real
// control plane (F28): an agent in a process of its own is killed with SIGKILL one
// to three times at random instants of a first join, or of a re-join (its pair is
// gone); in half of the seeds one file that lies there then is truncated, empty,
// garbage, missing or of an earlier join, and in some the machine reboots. Then it
// is left alone, and ends Joined or in one of two named stops; its kubelet runs
// on the files that lie there, it made one request, and one more at most where a
// file was damaged; and at no moment did a kubeconfig lie there whose key did not.
func TestAnAgentKilledAtAnyInstantJoinsAfterAll(t *testing.T) {
	ctx := aside(t, time.Minute+time.Duration(*crashSeeds)*10*time.Second)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	seeds := []uint64{*crashSeed}
	if *crashSeed == 0 {
		seeds = nil
		for range *crashSeeds {
			seeds = append(seeds, rand.Uint64N(1e9)+1)
		}
	}
	var mu sync.Mutex
	found := map[string]int{} // what the killed agents had come to
	var last string
	work := make(chan uint64)
	var workers sync.WaitGroup
	for range killsAtOnce {
		workers.Go(func() {
			for seed := range work {
				k := &killed{t: t, ctx: ctx, c: c, seed: seed, random: rand.New(rand.NewPCG(seed, 0))}
				err := k.play()
				mu.Lock()
				for _, where := range k.died {
					found[where]++
				}
				if err != nil {
					last = k.story()
					t.Errorf("%v\n%s\nagain with: make e2e E2E_RUN=%s E2E_PACKAGES=./test/e2e E2E_ARGS=-crash.seed=%d", err, last, t.Name(), seed)
				} else {
					t.Log(k.story())
				}
				mu.Unlock()
			}
		})
	}
	for _, seed := range seeds {
		work <- seed
	}
	close(work)
	workers.Wait()
	var rows []string
	for where, n := range found {
		rows = append(rows, fmt.Sprintf("%4d  %s", n, where))
	}
	slices.Sort(rows)
	slices.Reverse(rows)
	t.Logf("what lay there when an agent was killed:\n%s", strings.Join(rows, "\n"))
	// Instants that all fall before the first file, or after the last, prove nothing.
	if len(seeds) >= 20 && len(found) < 4 {
		t.Errorf("the kills found only %d different states", len(found))
	}
}

// killed is one seed.
type killed struct {
	t      *testing.T
	ctx    context.Context
	c      *cluster.Cluster
	seed   uint64
	random *rand.Rand

	m       *crash.Machine
	token   cluster.Token
	old     map[string]saved // the files of an earlier join
	rejoin  bool
	damage  string
	on      string // the file that is damaged
	reboots bool
	lives   []time.Duration
	died    []string
	ended   agent.Status
	took    time.Duration
}

// saved is a file or, where link is set, a symbolic link.
type saved struct {
	data []byte
	link string
	mode os.FileMode
}

func (k *killed) story() string {
	what := "first join"
	if k.rejoin {
		what = "re-join"
	}
	text := fmt.Sprintf("seed %d: %s, killed after %v (%s)", k.seed, what, k.lives, strings.Join(k.died, "; "))
	if k.damage != "" {
		text += fmt.Sprintf(", %s %s", strings.TrimPrefix(k.on, k.m.Dir), k.damage)
	}
	if k.reboots {
		text += ", rebooted"
	}
	return fmt.Sprintf("%s: %s %s after %s", text, k.ended.Phase, k.ended.Reason, k.took.Round(time.Millisecond))
}

func (k *killed) play() (err error) {
	began := time.Now()
	defer func() { k.took = time.Since(began) }()
	if k.token, err = k.c.NewToken(k.ctx, cluster.TokenOptions{}); err != nil {
		return err
	}
	if err := k.c.AwaitSignature(k.ctx, k.token); err != nil {
		return err
	}
	name := fmt.Sprintf("killed-%d", k.seed)
	if k.m, err = crash.New(name, crash.Cluster{Endpoint: k.c.Endpoint(), Pin: k.c.Pin(), Token: k.token.String()}); err != nil {
		return err
	}
	defer func() {
		for _, cerr := range []error{k.m.Close(), k.c.DeleteNode(k.ctx, name), k.c.DeleteToken(k.ctx, k.token)} {
			if err == nil {
				err = cerr
			}
		}
	}()
	k.rejoin = k.random.IntN(3) == 0
	k.reboots = k.random.IntN(3) == 0
	if k.random.IntN(2) == 0 {
		k.damage = []string{"truncated", "empty", "garbage", "missing", "stale"}[k.random.IntN(5)]
	}
	before := 0
	if k.rejoin || k.damage == "stale" {
		if err := k.earlier(); err != nil {
			return fmt.Errorf("the earlier join: %w", err)
		}
		before = 1
	}
	for range 1 + k.random.IntN(3) {
		if err := k.kill(); err != nil {
			return err
		}
	}
	if err := k.harm(); err != nil {
		return err
	}
	if k.reboots {
		k.m.Reboot()
	}
	return k.judge(before)
}

// earlier joins the machine undisturbed. For a re-join its pair is then taken
// away; else the whole machine is wiped, and what it had is remembered.
func (k *killed) earlier() error {
	life, err := k.m.Start()
	if err != nil {
		return err
	}
	s, ok := life.Await(30*time.Second, inPhase(agent.Joined))
	life.Kill()
	if !ok {
		return fmt.Errorf("%s: %s: %s\n%s", s.Phase, s.Reason, s.Message, life.Log())
	}
	if k.old, err = k.save(); err != nil {
		return err
	}
	if k.rejoin {
		return os.Remove(k.m.Files().CurrentPair())
	}
	for _, dir := range k.m.Folders() {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	k.m.Wipe()
	if err := os.Mkdir(k.m.Spec.Paths.Units, 0o755); err != nil {
		return err
	}
	return k.c.DeleteNode(k.ctx, k.m.Spec.NodeName)
}

func (k *killed) save() (map[string]saved, error) {
	paths, err := k.m.Managed()
	out := map[string]saved{}
	for _, path := range paths {
		info, lerr := os.Lstat(path)
		if lerr != nil {
			return nil, lerr
		}
		s := saved{mode: info.Mode().Perm()}
		if info.Mode()&os.ModeSymlink != 0 {
			s.link, lerr = os.Readlink(path)
		} else {
			s.data, lerr = os.ReadFile(path)
		}
		if lerr != nil {
			return nil, lerr
		}
		out[path] = s
	}
	return out, err
}

// kill starts the agent, lets it live for a random part of the time that a join
// takes here, and kills it.
func (k *killed) kill() error {
	hadPair := k.m.PairUsable()
	life, err := k.m.Start()
	if err != nil {
		return err
	}
	// From its first word on: how long a loaded host takes to start a process says
	// nothing. Every second kill is at a step that it tells of, a moment later.
	life.Await(20*time.Second, func(agent.Status) bool { return true })
	lives := time.Duration(k.random.IntN(120)) * time.Millisecond
	if k.rejoin { // a pair that is gone may be on its way: that is waited for first
		lives += time.Duration(k.random.IntN(200)) * time.Millisecond
	}
	if steps := []agent.Phase{agent.RequestingCertificate, agent.CheckingName, agent.ConfiguringKubelet, agent.StartingKubelet}; k.random.IntN(2) == 0 {
		step := steps[k.random.IntN(len(steps))]
		life.Await(10*time.Second, func(s agent.Status) bool { return s.Phase == step || s.Phase == agent.Joined })
		lives = time.Duration(k.random.IntN(12)) * time.Millisecond
	}
	k.lives = append(k.lives, lives)
	<-time.After(lives)
	life.Kill()
	k.died = append(k.died, k.state())
	// A re-join begins with a kubeconfig and without a pair; nothing may be worse.
	if _, err := os.Stat(k.m.Files().Kubeconfig()); err == nil && !k.m.PairUsable() && (hadPair || !k.rejoin) {
		return fmt.Errorf("killed, and left a kubeconfig whose key is missing\n%s", life.Log())
	}
	return nil
}

// state says what lies there, in the order of a join.
func (k *killed) state() string {
	paths := k.m.Spec.Paths
	last := "nothing"
	for _, row := range []struct{ what, path string }{
		{"trust", paths.TrustFile()}, {"pending key", paths.PendingKey()}, {"unit", paths.Units + "/kubelet.service"}, {"new pair", paths.NewPair()},
		{"manifest", paths.ManifestFile()}, {"pair", k.m.Files().CurrentPair()}, {"CA", k.m.Files().CACert()}, {"kubeconfig", k.m.Files().Kubeconfig()},
	} {
		if _, err := os.Lstat(row.path); err == nil {
			last = row.what
		}
	}
	if unit, err := k.m.Units.Unit(k.ctx, agent.UnitName); err == nil && unit.Running() {
		last += ", kubelet runs"
	}
	return last
}

// harm damages one of the files that lie there.
func (k *killed) harm() error {
	if k.damage == "" {
		return nil
	}
	paths, err := k.m.Managed()
	if err != nil {
		return err
	}
	paths = slices.DeleteFunc(paths, func(path string) bool {
		_, had := k.old[path]
		return filepath.Base(path) == "lock" || k.damage == "stale" && !had
	})
	if len(paths) == 0 {
		k.damage = ""
		return nil
	}
	k.on = paths[k.random.IntN(len(paths))]
	data, err := os.ReadFile(k.on)
	if err != nil {
		return err
	}
	// Also where a link is: what a copy without links would make of it.
	if err := os.Remove(k.on); err != nil {
		return err
	}
	switch k.damage {
	case "truncated":
		return os.WriteFile(k.on, data[:(len(data)+1)/2], 0o600)
	case "empty":
		return os.WriteFile(k.on, nil, 0o600)
	case "garbage":
		return os.WriteFile(k.on, []byte("\x00\xff{{[\x7f garbage\n"), 0o600)
	case "stale":
		if s := k.old[k.on]; s.link == "" {
			return os.WriteFile(k.on, s.data, s.mode)
		}
		return os.Symlink(k.old[k.on].link, k.on)
	}
	return nil
}

// judge lets the agent run to its end.
func (k *killed) judge(before int) error {
	life, err := k.m.Start()
	if err != nil {
		return err
	}
	byManifest := strings.HasSuffix(k.on, "manifest.json")
	held := func(s agent.Status) bool { // that the agent stopped the kubelet is on record nowhere else
		return byManifest && slices.ContainsFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.KubeletStopped })
	}
	s, ok := life.Await(20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined || s.Phase == agent.Blocked || held(s) })
	k.ended = s
	stale := k.m.Stale()
	life.Kill()
	if err := k.ctx.Err(); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("stuck: %s: %s: %s; the kubelet said %q\n%s", s.Phase, s.Reason, s.Message, k.m.Failures(), life.Log())
	}
	names, err := k.c.CSRs(k.ctx)
	if err != nil {
		return err
	}
	requests, most := 0, 1+before
	for i := range names {
		if cluster.ByToken(k.token.ID)(&names[i]) {
			requests++
		}
	}
	if k.damage != "" {
		most++
	}
	if requests > most {
		return fmt.Errorf("%d requests, %d are right\n%s", requests, most, life.Log())
	}
	if s.Phase != agent.Joined {
		// Without its record a kubeconfig is not known to be ours: a person decides.
		if held(s) || byManifest && s.Reason == fault.ForeignKubelet {
			return nil
		}
		return fmt.Errorf("ends in %s: %s: %s\n%s", s.Phase, s.Reason, s.Message, life.Log())
	}
	if _, err := crash.LoadKubeconfig(k.m.Files().Kubeconfig()); err != nil {
		return fmt.Errorf("joined, and the kubelet cannot load its kubeconfig: %w\n%s", err, life.Log())
	}
	rotated := k.damage == "stale" && strings.Contains(k.on, "kubelet-client-") // that is what a rotation looks like
	if stale && !rotated {
		return fmt.Errorf("joined, and the kubelet runs on other files than those that lie there\n%s", life.Log())
	}
	if node, err := k.c.Node(k.ctx, k.m.Spec.NodeName); err != nil || node.Status.NodeInfo.BootID == "" {
		return fmt.Errorf("its Node: %v, %w", node, err)
	}
	return nil
}

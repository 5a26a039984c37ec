package agent

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

const (
	uuidA = "4c4c4544-0042-3510-8052-b4c04f564433"
	uuidB = "4c4c4544-0042-3510-8052-b4c04f564434"
)

// copyDisk makes the rig another machine with the same disk: it has booted, and
// its kubelet, which is enabled, runs with what lies there.
func (r *rig) copyDisk() {
	r.t.Helper()
	r.awaitLock()
	r.boot = "33333333-0000-0000-0000-000000000000"
	r.deps.Machine = Machine{BootID: r.boot, MachineID: "m2", UUID: uuidB}
	r.units.Reboot()
	if !must(record.ReadManifest(r.cfg.Paths)).Started.IsZero() {
		_ = must(r.units.Start(r.t.Context(), UnitName))
	}
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
}

// keysOf are all private keys in the folders in use; those set aside are not.
func (r *rig) keysOf() map[string]bool {
	r.t.Helper()
	keys := map[string]bool{}
	for path, n := range treeOf(r.t, r.dirs()...) {
		if strings.HasPrefix(path, r.cfg.Paths.SetAside()) {
			continue
		}
		for rest := n.data; ; {
			_, after, ok := strings.Cut(rest, "PRIVATE KEY-----\n")
			if !ok {
				break
			}
			key, end, ok := strings.Cut(after, "-----END")
			if !ok {
				break
			}
			keys[key] = true
			_, rest, _ = strings.Cut(end, "\n")
		}
	}
	return keys
}

// notTheSameKey: nothing that the original had is in use on its copy.
func (r *rig) notTheSameKey(what string, original map[string]bool) {
	r.t.Helper()
	if len(original) == 0 {
		r.t.Errorf("%s: the original has no key", what)
	}
	now := r.keysOf()
	if len(now) == 0 {
		r.t.Errorf("%s: the copy has no key", what)
	}
	for key := range now {
		if original[key] {
			r.t.Errorf("%s: the copy uses a key of the original", what)
		}
	}
}

func TestACopyOfANodeSetsItsIdentityAsideAndJoinsWithItsOwnKey(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = uuidA
	r.mustJoin()
	original := r.keysOf()
	pair := must(os.ReadFile(r.files().CurrentPair()))
	r.copyDisk()
	r.units.OnStop = func() {
		if now, err := os.ReadFile(r.files().CurrentPair()); err != nil || !bytes.Equal(now, pair) {
			t.Error("the kubelet's folder was changed while it ran")
		}
		r.units.OnStop = nil
	}
	r.mustJoin()
	r.awaitLock()
	if r.units.OnStop != nil {
		t.Error("the kubelet that ran as another node was not stopped")
	}
	r.notTheSameKey("joined", original)
	if n := len(r.api.CSRs()); n != 2 {
		t.Errorf("%d requests", n)
	}
	if trust := must(record.ReadTrust(r.cfg.Paths)); trust.Machine.UUID != uuidB {
		t.Errorf("the record is of %+v", trust.Machine)
	}
	var kept []string
	for path, n := range treeOf(t, r.cfg.Paths.SetAside()) {
		kept = append(kept, filepath.Base(path))
		if want := os.FileMode(0o600); n.mode.IsRegular() && n.mode.Perm() != want || n.mode.IsDir() && n.mode.Perm() != 0o700 {
			t.Errorf("%s has mode %s", path, n.mode)
		}
		if strings.HasPrefix(filepath.Base(path), "kubelet-client-") && n.data != string(pair) {
			t.Errorf("%s is not the original's pair", path)
		}
	}
	for _, want := range []string{"trust.json", "manifest.json", "kubeconfig"} {
		if !strings.Contains(strings.Join(kept, " "), want) {
			t.Errorf("set aside is %q, without %s", kept, want)
		}
	}
	// Once is enough: the next start sees its own machine.
	r.mustJoin()
	if n := len(r.api.CSRs()); n != 2 {
		t.Errorf("%d requests after another start", n)
	}
}

func TestACopyOfAMachineThatWaitedAsksWithAKeyOfItsOwn(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = uuidA
	r.api.AutoApprove(false)
	r.api.NodeClientAllowed(false)
	_, stop := r.start()
	s := r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	original := r.keysOf()
	r.copyDisk()
	_, stop = r.start()
	next := r.await("a request of its own", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" })
	if next.CSR.Name == s.CSR.Name || next.CSR.Adopted {
		t.Errorf("the copy waits for %s, the original's", next.CSR.Name)
	}
	r.notTheSameKey("waiting", original)
	if !r.api.Approve(next.CSR.Name) {
		t.Fatal("cannot approve")
	}
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
	r.notTheSameKey("joined", original)
}

// At each point of a join the disk is copied, and the copy is killed at some point
// of what it does then: it ends joined, and with no key of the original's.
func TestACopyMadeAtAnyPointAndKilledAnywhereHasItsOwnKey(t *testing.T) {
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("again with: go test ./agent -run TestACopyMade -args -crash.seed=%d", seed)
	first := newRig(t, testapi.Options{Quiet: true})
	first.deps.Machine.UUID = uuidA
	points := first.crashAt(0)
	for made := 1; made <= len(points)+1; made++ {
		t.Run(strings.Join(append(points, "joined")[made-1:made], ""), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(made)))
			from, step := random.IntN(20), 60
			if *allCrashes {
				from, step = 0, 1
			}
			for at := from; at < 60; at += step {
				r := newRig(t, testapi.Options{Quiet: true})
				r.deps.Machine.UUID = uuidA
				r.crashAt(made)
				original := r.keysOf()
				r.copyDisk()
				seen := r.crashAt(at)
				if _, err := os.Stat(r.files().Kubeconfig()); err == nil {
					if _, err := os.Stat(r.files().CurrentPair()); err != nil {
						t.Errorf("killed at %d: a kubeconfig whose key is gone", at)
					}
				}
				r.mustJoin()
				if len(original) > 0 {
					r.notTheSameKey("joined", original)
				}
				if at > len(seen) {
					return
				}
			}
		})
	}
}

func TestWithoutATokenThatServesACopyIsNamedAndNothingIsChanged(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(*rig)
	}{
		{"no token", func(r *rig) { r.cfg.Tokens = nil }},
		{"a token that is used up", func(r *rig) { id, _, _ := strings.Cut(r.api.Token(), "."); r.api.DeleteToken(id) }},
		{"another secret", func(r *rig) {
			id, _, _ := strings.Cut(r.api.Token(), ".")
			r.cfg.Tokens = []TokenSource{TokenInline(must(discovery.ParseToken(id + ".x2m5v8b1n4c6y9ta")))}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.Machine.UUID = uuidA
			r.mustJoin()
			r.copyDisk()
			r.cfg.AfterJoin = AfterJoinHeal
			tt.lose(r)
			before := treeOf(t, r.dirs()...)
			_, stop := r.start()
			s := r.await("the fault", reason(fault.MachineChanged))
			if s.Phase != Blocked || !strings.Contains(s.Message, uuidA) || !strings.Contains(s.Message, uuidB) || !strings.Contains(s.Hint, "apply --same-machine") || !strings.Contains(s.Hint, "token set") {
				t.Errorf("%s: %s -> %s", s.Phase, s.Message, s.Hint)
			}
			after := treeOf(t, r.dirs()...)
			for path, n := range before {
				if after[path] != n && n.mode.IsRegular() && path != r.cfg.Paths.LockFile() && filepath.Dir(path) != r.cfg.Paths.Run {
					t.Errorf("%s was changed", path)
				}
			}
			if u := must(r.units.Unit(t.Context(), UnitName)); !u.Running() {
				t.Error("the kubelet was stopped")
			}
			// A person says that it is the same machine: apply --same-machine.
			answer, err := r.applies(Order{SameMachine: true})
			if err != nil || !strings.Contains(answer.Machine, uuidB) {
				t.Fatal(answer, err)
			}
			if answer, err = r.applies(answer.Agree(Order{SameMachine: true})); err != nil || !answer.Done {
				t.Fatal(answer, err)
			}
			r.await("the same node", phase(Joined))
			if err := stop(); err != nil {
				t.Error(err)
			}
			if n := len(r.api.CSRs()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestATokenThatComesLaterLetsACopyJoin(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = uuidA
	r.mustJoin()
	original := r.keysOf()
	r.copyDisk()
	good := r.cfg
	r.cfg.Tokens, r.cfg.AfterJoin, good.AfterJoin = nil, AfterJoinHeal, AfterJoinHeal
	a, stop := r.start()
	r.await("the fault", reason(fault.MachineChanged))
	a.Reload(good, nil)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
	r.notTheSameKey("joined", original)
}

// The original lives and the copy's config has its name: the copy is refused,
// and works no longer under the original's certificate.
func TestACopyWithTheNameOfItsLivingOriginalIsRefused(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = uuidA
	r.mustJoin()
	r.copyDisk()
	r.live()
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the refusal", reason(fault.NodeNameTaken))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if u := must(r.units.Unit(t.Context(), UnitName)); u.Running() {
		t.Error("the kubelet runs")
	}
	if _, err := os.Lstat(r.files().Kubeconfig()); err == nil {
		t.Error("the kubeconfig is still there")
	}
}

// A copy that was given another name of its own is another node at once.
func TestACopyHasItsOwnName(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = uuidA
	r.mustJoin()
	r.copyDisk()
	r.live()
	r.cfg.NodeName = "worker-2"
	r.units.OnStart = func([]string) error {
		r.api.RegisterNode("worker-2", corev1.NodeSystemInfo{BootID: r.boot})
		return nil
	}
	r.mustJoin()
	s, _ := r.last()
	if s.Node.Name != "worker-2" {
		t.Errorf("joined as %s", s.Node.Name)
	}
}

func TestAMachineThatGetsItsIDAtItsFirstBootIsNoCopy(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.MachineID = "uninitialized"
	r.mustJoin()
	r.awaitLock()
	const id = "0123456789abcdef0123456789abcdef"
	r.deps.Machine.MachineID = id
	r.mustJoin()
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
	r.awaitLock()
	if trust := must(record.ReadTrust(r.cfg.Paths)); trust.Machine.MachineID != id {
		t.Errorf("the record is of %+v: a copy of this disk would not be noticed", trust.Machine)
	}
}

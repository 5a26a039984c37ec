package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// runtimes stands for the container runtimes of a rig: which sockets answer,
// and which were asked.
type runtimes struct {
	mu    sync.Mutex
	up    []string
	asked []string
}

func (r *runtimes) ask(_ context.Context, socket string) (kubelet.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, socket)
	if !slices.Contains(r.up, socket) {
		return kubelet.Answer{}, errors.New("server is not initialized yet")
	}
	return kubelet.Answer{Version: "fake 1.2", CgroupDriver: kubelet.DriverCgroupfs}, nil
}

func (r *runtimes) start(sockets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = sockets
}

func (r *runtimes) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

const containerdSocket = "/run/containerd/containerd.sock"

// withRuntimes gives the rig sockets that are asked; the endpoint of the config
// is not set.
func (r *rig) withRuntimes(up ...string) *runtimes {
	fake := &runtimes{up: up}
	r.cfg.Kubelet.RuntimeEndpoint = ""
	r.deps.Host.Runtimes = []kubelet.Runtime{{Name: "containerd", Endpoint: "unix://" + containerdSocket, Unit: "containerd.service"}}
	r.deps.Host.AskRuntime = fake.ask
	return fake
}

func TestAJoinAsksTheRuntimeOnceAndWritesTheUnitOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, HandMade: true})
	fake := r.withRuntimes(containerdSocket)
	r.mustJoin()
	if asked := fake.all(); !slices.Equal(asked, []string{containerdSocket}) {
		t.Errorf("asked %v", asked)
	}
	if calls := r.units.Calls(); !slices.Equal(calls, []string{"install", "start"}) {
		t.Errorf("calls %v", calls)
	}
	unit := string(must(os.ReadFile(filepath.Join(r.cfg.Paths.Units, UnitName))))
	config := string(must(os.ReadFile(filepath.Join(r.cfg.Paths.Kubelet, "config.yaml"))))
	if !strings.Contains(unit, "containerd.service") || !strings.Contains(config, "containerRuntimeEndpoint: unix://"+containerdSocket) || !strings.Contains(config, "cgroupDriver: cgroupfs") {
		t.Errorf("%s\n%s", unit, config)
	}
	s, _ := r.last()
	if step := stepNamed(s, StepConfigure); !strings.HasSuffix(step.Detail, ", for fake 1.2") {
		t.Errorf("step %+v", step)
	}
}

func stepNamed(s Status, name string) Step {
	i := slices.IndexFunc(s.Timeline, func(step Step) bool { return step.Name == name })
	if i < 0 {
		return Step{}
	}
	return s.Timeline[i]
}

// Pauses of an hour: whoever goes on was woken by the runtime's unit. Nobody but
// the runtime is asked meanwhile.
func TestARuntimeThatComesLateIsWaitedForByItsUnit(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Jitter = func(time.Duration) time.Duration { return 10 * time.Hour }
	fake := r.withRuntimes()
	_, stop := r.start()
	s := r.await("the runtime to be missed", reason(fault.RuntimeNotReady))
	if s.Phase != ConfiguringKubelet || s.Message != `containerd answers on /run/containerd/containerd.sock, but is not ready: server is not initialized yet` ||
		!strings.Contains(s.Hint, "journalctl -u containerd") {
		t.Errorf("%s: %s -> %s", s.Phase, s.Message, s.Hint)
	}
	requests := len(r.api.Requests())
	for range 3 {
		before := len(fake.all())
		r.units.Change(func(*systemd.Unit) {})
		s = r.await("another question", func(s Status) bool {
			return len(fake.all()) > before && stepNamed(s, StepRuntime).Reason == fault.RuntimeNotReady
		})
	}
	if s.Reason != fault.RuntimeNotReady || s.Message == "" {
		t.Errorf("the fault is not on show while it is tried again: %+v", s)
	}
	if n := len(r.api.Requests()) - requests; n != 0 {
		t.Errorf("%d requests to the API while a runtime was waited for: %v", n, r.api.Requests()[requests:])
	}
	fake.start(containerdSocket)
	r.units.Change(func(*systemd.Unit) {})
	s = r.await("the join", phase(Joined))
	if step := stepNamed(s, StepRuntime); step.Reason != "" || step.Detail != "fake 1.2" {
		t.Errorf("step %+v", step)
	}
	if step := stepNamed(s, StepConfigure); step.Reason != "" {
		t.Errorf("the wait has a line of its own: %+v", s.Timeline)
	}
	if calls := r.units.Calls(); !slices.Equal(calls, []string{"install", "start"}) {
		t.Errorf("the unit was written for another runtime than the likely one: %v", calls)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestARuntimeThatIsUpByTheTimeOfTheCertificateIsNoFault(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	fake := r.withRuntimes()
	_, stop := r.start()
	s := r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" && len(fake.all()) == 1 })
	fake.start(containerdSocket)
	r.api.Approve(s.CSR.Name)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := len(fake.all()); n != 2 {
		t.Errorf("asked %d times", n)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.statuses {
		if s.Reason == fault.RuntimeNotReady {
			t.Errorf("it was a fault: %+v", s)
		}
	}
}

// The kubelet will use what its config says, so that is what has to be ready.
func TestTheKubeletConfigDecidesWhichRuntimeIsWaitedFor(t *testing.T) {
	const document = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://"
	r := newRig(t, testapi.Options{Quiet: true})
	theirs := filepath.Join(filepath.Dir(r.cfg.Paths.State), "theirs.sock") // exists here
	mustWrite(t, theirs, "")
	r.api.SetKubeletConfig(document + theirs + "\n")
	fake := r.withRuntimes(containerdSocket)
	_, stop := r.start()
	s := r.await("the runtime to be missed", reason(fault.RuntimeNotReady))
	if !strings.Contains(s.Message, "ConfigMap kube-system/kubelet-config: containerRuntimeEndpoint: ") || !strings.Contains(s.Message, theirs) {
		t.Errorf("%s", s.Message)
	}
	// Somebody mends the ConfigMap instead: within minutes of this clock.
	r.api.SetKubeletConfig(document + containerdSocket + ".other\n")
	fake.start(containerdSocket)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAnotherEndpointInTheConfigEndsTheWait(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Jitter = func(time.Duration) time.Duration { return 10 * time.Hour }
	r.withRuntimes("/run/other.sock")
	a, stop := r.start()
	r.await("the runtime to be missed", reason(fault.RuntimeNotReady))
	next := r.cfg
	next.Kubelet.RuntimeEndpoint = "/run/other.sock"
	a.Reload(next, nil)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A runtime that is down for a moment must not look like a unit that was edited.
func TestAJoinedNodeDoesNotAskTheRuntime(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	fake := r.withRuntimes(containerdSocket)
	r.mustJoin()
	fake.start()
	before := len(fake.all())
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	s := r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
	drifted := slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.Drifted })
	if drifted || len(fake.all()) != before {
		t.Errorf("notes %v, asked %d times", s.Notes, len(fake.all())-before)
	}
}

func TestAStopWhileTheRuntimeIsAskedLeavesNothing(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.withRuntimes()
	asked := make(chan struct{}, 10)
	r.deps.Host.AskRuntime = func(ctx context.Context, _ string) (kubelet.Answer, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return kubelet.Answer{}, ctx.Err()
	}
	_, stop := r.start()
	<-asked
	if err := stop(); err != nil {
		t.Error(err)
	}
}

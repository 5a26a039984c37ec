package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// It once happened: the same refused token in two sources (file and credential) makes
// discover spin for ever without a pause and without a status.
func TestSameTokenInTwoSources(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	stale := TokenInline(must(discovery.ParseToken("zzzzzz.aaaaaaaaaaaaaaa1")))
	r.cfg.Tokens = []TokenSource{stale, stale}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := must(New(r.cfg, r.deps)).Run(ctx)
	if got := fault.ReasonOf(err); got != fault.TokenUnknown {
		t.Errorf("reason %q (%v)", got, err)
	}
	s, _ := r.last()
	if s.Reason == "" {
		t.Errorf("status never told the fault: %s %q", s.Phase, s.Message)
	}
	if n := len(r.api.Requests()); n > 60 {
		t.Errorf("%d requests within a second", n)
	}
}

// It once happened: a re-join under a new server leaves the old server in the kubeconfig.
func TestRejoinUnderANewServer(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, Names: []string{"localhost"}})
	r.mustJoin()
	if err := os.Remove(filepath.Join(r.cfg.Paths.Kubelet, "pki/kubelet-client-current.pem")); err != nil {
		t.Fatal(err)
	}
	r.cfg.Server = strings.Replace(r.api.URL(), "127.0.0.1", "localhost", 1)
	r.mustJoin()
	data, _ := os.ReadFile(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig"))
	s, _ := r.last()
	if s.Cluster.Server != r.cfg.Server || !strings.Contains(string(data), r.cfg.Server) {
		t.Errorf("status says %s, kubeconfig:\n%s", s.Cluster.Server, data)
	}
}

// It once happened: a kubelet that was only disabled (it runs) is stopped for its new
// certificate and never started again.
func TestDisabledButRunning(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.units.Change(func(u *systemd.Unit) { u.UnitFileState = "disabled" })
	r.await("the note", func(s Status) bool { return len(s.Notes) > 0 })
	if err := r.api.RotateClientCA(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(4 * time.Second)
	for time.Now().Before(deadline) && !slices.Contains(r.units.Calls(), "stop") {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	u, _ := r.units.Unit(t.Context(), UnitName)
	s, _ := r.last()
	if !u.Running() {
		t.Errorf("the agent stopped a running kubelet for good: calls %v, phase %s %q", r.units.Calls(), s.Phase, s.Message)
	}
	_ = stop()
}

// It once happened: a start that fails at once ticks the watch: the backoff is skipped.
func TestAFailingStartIsPaced(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.deps.Clock = SystemClock{}
	r.units.OnStart = func([]string) error { return errors.New("no") }
	r.deps.Jitter = func(d time.Duration) time.Duration { return d }
	_, stop := r.start()
	r.await("the fault", reason(fault.KubeletFailed))
	time.Sleep(800 * time.Millisecond)
	_ = stop()
	n := 0
	for _, c := range r.units.Calls() {
		if c == "start" {
			n++
		}
	}
	if n > 2 {
		t.Errorf("%d start jobs in less than a second", n)
	}
}

// It once happened: observe mode with something to heal looks once a second for ever (fsync
// of the status, calls over D-Bus).
func TestObserveModeIsNoHotLoop(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.cfg.AfterJoin = AfterJoinObserve
	if err := os.Remove(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	r.deps.Clock = SystemClock{}
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	_, stop := r.start()
	time.Sleep(3500 * time.Millisecond)
	_ = stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.statuses); n > 2 {
		t.Errorf("%d statuses in 3.5 s", n)
	}
}

// It once happened: the time of the approval counts as time of the request, too.
func TestTimelineOfTheRequest(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	s := r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" })
	time.Sleep(300 * time.Millisecond)
	r.api.Approve(s.CSR.Name)
	s = r.await("the join", phase(Joined))
	for _, step := range s.Timeline {
		if step.Name == StepRequest && step.Seconds != nil && *step.Seconds > 0.25 {
			t.Errorf("request took %.3f s; timeline %+v", *step.Seconds, s.Timeline)
		}
	}
	_ = stop()
}

// It once happened: the deadline reports a fault that was overcome.
func TestTheLastReasonEndsAJoin(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	r.api.NodeClientAllowed(false)
	r.api.RemoveSignatures()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	go func() {
		time.Sleep(200 * time.Millisecond)
		r.api.ResetClusterInfo()
	}()
	err := must(New(r.cfg, r.deps)).Run(ctx)
	s, _ := r.last()
	if s.CSR == nil || s.CSR.Approve == "" {
		t.Fatal("no request waits")
	}
	if got := fault.ReasonOf(err); got != fault.CSRPending {
		t.Errorf("got %s: %v", got, err)
	}
}

type failingUnits struct {
	Units
	fail *atomic.Bool
}

func (f failingUnits) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	if f.fail.Load() {
		return systemd.Unit{}, errors.New("the bus is away")
	}
	return f.Units.Unit(ctx, name)
}

// It once happened: a hiccup of D-Bus shows a joined node in another phase.
func TestABusHiccupKeepsThePhase(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	var fail atomic.Bool
	r.deps.Units = failingUnits{r.units, &fail}
	_, stop := r.start()
	r.await("the join", phase(Joined))
	fail.Store(true)
	s := r.await("the error", func(s Status) bool { return strings.Contains(s.Message, "the bus is away") })
	if s.Phase != Joined && s.Phase != Registering {
		t.Errorf("phase %s reason %q", s.Phase, s.Reason)
	}
	_ = stop()
}

// It once happened: an operator's edit of a file is overwritten when another file is healed.
func TestHealingKeepsEdits(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	path := filepath.Join(r.cfg.Paths.Kubelet, "config.yaml")
	data := must(os.ReadFile(path))
	edited := append(data, []byte("maxPods: 42\n")...)
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	r.mustJoin()
	if got := must(os.ReadFile(path)); string(got) != string(edited) {
		t.Error("the edit of config.yaml is lost")
	}
}

// It once happened: an operator's edit of the unit is overwritten when the kubelet is
// started again.
func TestStartKeepsAnEditedUnit(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	a, stop := r.start()
	r.await("the join", phase(Joined))
	path := a.dropIn()
	edited := append(must(os.ReadFile(path)), []byte("\n[Service]\nLimitNOFILE=1\n")...)
	if err := os.WriteFile(path, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	calls := len(r.units.Calls())
	r.units.Change(func(u *systemd.Unit) { u.ActiveState, u.Result, u.MainPID = "failed", "start-limit-hit", 0 })
	r.await("the start", func(s Status) bool { return len(r.units.Calls()) > calls && s.Phase == Joined })
	if got := must(os.ReadFile(path)); string(got) != string(edited) {
		t.Error("the edit of the drop-in is lost")
	}
	_ = stop()
}

// It once happened: a kubelet that is just starting (boot, start job of minutes) is
// reported as KubeletFailed.
func TestAStartingKubeletHasNotFailed(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.units.Change(func(u *systemd.Unit) {
		u.ActiveState, u.SubState, u.MainPID, u.Job = "activating", "start", 99, 7
	})
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	s := r.await("a look", func(s Status) bool { return s.Phase == Registering && s.Message != "" || s.Reason != "" })
	if s.Reason == fault.KubeletFailed {
		t.Errorf("%s: %s", s.Reason, s.Message)
	}
	_ = stop()
}

// It once happened: the trust record keeps the name of an earlier config: a node whose
// config goes bad is then not known as joined.
func TestTrustRecordHasTheNodesName(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	r.await("a waiting request", func(s Status) bool { return s.CSR != nil })
	_ = stop()
	r.api.AutoApprove(true)
	r.cfg.NodeName = "worker-2"
	r.units.OnStart = func([]string) error {
		r.api.RegisterNode("worker-2", corev1.NodeSystemInfo{BootID: r.boot})
		return nil
	}
	r.mustJoin()
	name, joined, err := IsJoined(r.cfg.Paths, "", func(name string) (bool, error) { return name == "worker-2", nil })
	if !joined || err != nil {
		t.Errorf("%q %t %v", name, joined, err)
	}
}

// It once happened: a nodeName that changed over a restart makes a joined node another one;
// over a reload it does not.
func TestNameOverARestart(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.cfg.NodeName = "worker-2"
	r.units.OnStart = func([]string) error {
		r.api.RegisterNode("worker-2", corev1.NodeSystemInfo{BootID: r.boot})
		return nil
	}
	r.mustJoin()
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests, calls %v", n, r.units.Calls())
	}
}

// It once happened: after a restart of the agent a deleted Node is told as NodeNotRegistered,
// for ever, with a new watch each minute; NodeDeleted is never told. (Watches
// are dropped here instead of waiting for their 60 s.)
func TestDeletedNodeAfterRestart(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.api.DeleteNode(nodeName)
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	deadline := time.Now().Add(3 * time.Second)
	found := false
	for time.Now().Before(deadline) && !found {
		s, _ := r.last()
		found = slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.NodeDeleted })
		r.api.DropWatches()
		time.Sleep(20 * time.Millisecond)
	}
	s, _ := r.last()
	if !found {
		t.Errorf("no NodeDeleted: %s %s %q attempt %d", s.Phase, s.Reason, s.Message, s.Attempt)
	}
	_ = stop()
}

// It once happened: the server of a trust record that cannot be reached any more (the LB
// moved, the endpoint of a provisional choice died) is asked for ever;
// cluster-info is never read anew.
func TestADeadServerIsLookedUpAnew(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	r.await("a waiting request", func(s Status) bool { return s.CSR != nil })
	_ = stop()
	r.api.AutoApprove(true)
	trust := must(record.ReadTrust(r.cfg.Paths))
	trust.Server, trust.InfoServer, trust.Provisional = "https://127.0.0.1:1", "https://127.0.0.1:1", true
	if err := trust.Write(r.cfg.Paths); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.api.CSRs() {
		r.api.Delete(c.Name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := must(New(r.cfg, r.deps)).Run(ctx); err != nil {
		s, _ := r.last()
		t.Errorf("%v (attempt %d)", err, s.Attempt)
	}
}

// It once happened: a machine with a pair whose kubelet was never started counts as joined
// when the config is bad: the agent then writes files and unit and starts the
// kubelet from an empty config (no taints, no labels).
func TestBadConfigBeforeTheFirstStart(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Units = badInstall{r.units}
	_, stop := r.start()
	r.await("the fault", reason(fault.WriteFailed))
	_ = stop()
	r.deps.Units = r.units
	name, joined, err := IsJoined(r.cfg.Paths, "", func(string) (bool, error) { return true, nil })
	if err != nil || !joined {
		return // right: exit 78
	}
	// What cmd/run.go does then.
	r.cfg = Config{NodeName: name, AfterJoin: AfterJoinObserve, Paths: r.cfg.Paths}
	before := len(r.units.Calls())
	a, stop := r.start()
	a.Reload(Config{}, errors.New("line 3: nodeTaints: must be a list"))
	time.Sleep(500 * time.Millisecond)
	if calls := r.units.Calls()[before:]; len(calls) != 0 {
		t.Errorf("with no config at all: %v", calls)
	}
	_ = stop()
}

// It once happened: once the certificate is there, a mended `server:` is ignored.
func TestServerMendedAfterTheCertificate(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.live()
	a, stop := r.start()
	r.await("the namesake", reason(fault.NodeNameTaken))
	other := newRig(t, testapi.Options{Quiet: true})
	cfg := r.cfg
	cfg.Endpoints, cfg.Pins, cfg.Tokens = other.cfg.Endpoints, other.cfg.Pins, other.cfg.Tokens
	a.Reload(cfg, nil)
	deadline := time.Now().Add(2 * time.Second)
	for time.Now().Before(deadline) && len(other.api.Requests()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	if len(other.api.Requests()) == 0 {
		s, _ := r.last()
		t.Errorf("the new cluster was never asked: %s %s, server %s", s.Phase, s.Reason, s.Cluster.Server)
	}
	_ = stop()
}

type badInstall struct{ Units }

func (badInstall) Install(context.Context, string, systemd.Existing, systemd.Rendered, bool) (bool, error) {
	// As systemd.Manager.Install wraps what writeFiles returns.
	return false, fmt.Errorf("cannot install %s: %w", systemd.KubeletUnit, fault.New(fault.WriteFailed, "disk full"))
}

// It once happened: doubled words.
func TestInstallSaysItOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Units = badInstall{r.units}
	_, stop := r.start()
	s := r.await("the fault", reason(fault.WriteFailed))
	if strings.Count(s.Message, "cannot install") != 1 {
		t.Errorf("%q", s.Message)
	}
	_ = stop()
}

// It once happened: a step that a reload interrupted stays open in the timeline for ever.
func TestInterruptedStepsEnd(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	a, stop := r.start()
	r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" })
	a.Reload(r.cfg, nil)
	s := r.await("it waits again", func(s Status) bool { return s.CSR != nil && s.CSR.Adopted })
	r.api.Approve(s.CSR.Name)
	s = r.await("the join", phase(Joined))
	for _, step := range s.Timeline {
		if step.Seconds == nil {
			t.Errorf("open after the join: %s", step.Name)
		}
	}
	_ = stop()
}

// It once happened: join on a node whose kubelet a person stopped ends as EndpointUnreachable.
func TestJoinOfAStoppedKubelet(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.units.StopByHand()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := must(New(r.cfg, r.deps)).Run(ctx)
	if got := fault.ReasonOf(err); got == fault.EndpointUnreachable {
		t.Errorf("%s: %v", got, err)
	}
}

// It once happened: a 401 to a new certificate is believed at once.
func TestOneUnauthorizedIsNotBelieved(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.StopWhenBlocked = true
	r.api.RejectCertificates(true)
	go func() {
		_, _ = r.api.AwaitRequest(t.Context(), testapi.Is("get", "nodes"))
		time.Sleep(20 * time.Millisecond)
		r.api.RejectCertificates(false)
	}()
	if err := r.run(); err != nil {
		t.Errorf("%d requests: %v", len(r.api.CSRs()), err)
	}
}

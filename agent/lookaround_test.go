package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/csr"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// answers makes a kubelet that prints a version.
func answers(version string) kubelet.Run {
	return func(context.Context, string, ...string) ([]byte, error) {
		return []byte("Kubernetes " + version + "\n"), nil
	}
}

func TestAKubeletThatCannotServeCostsNoRequest(t *testing.T) {
	for name, tc := range map[string]struct {
		run  kubelet.Run
		want fault.Reason
		text string
	}{
		"too old": {answers("v1.29.15"), fault.KubeletTooOld, "v1.29.15"},
		"built for another machine": {func(context.Context, string, ...string) ([]byte, error) {
			return nil, &os.PathError{Op: "fork/exec", Path: "/usr/bin/kubelet", Err: syscall.ENOEXEC}
		}, fault.KubeletMissing, "exec format error"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			var mended atomic.Bool
			r.deps.Host.RunKubelet = func(ctx context.Context, path string, args ...string) ([]byte, error) {
				if mended.Load() {
					return answers("v1.36.3")(ctx, path, args...)
				}
				return tc.run(ctx, path, args...)
			}
			_, stop := r.start()
			s := r.await("the fault", func(s Status) bool { return s.Reason == tc.want && s.Attempt >= 2 })
			if !strings.Contains(s.Message, tc.text) || s.Hint == "" || s.Phase != RequestingCertificate {
				t.Errorf("phase %s, message %q, hint %q", s.Phase, s.Message, s.Hint)
			}
			if n := len(r.api.CSRs()); n != 0 {
				t.Errorf("%d requests for a kubelet that cannot serve", n)
			}
			for _, req := range r.api.Requests() {
				if req.Authorization {
					t.Errorf("the token was shown for it: %s %s", req.Method, req.Path)
				}
			}
			mended.Store(true)
			r.await("the join", phase(Joined))
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A wrapper may want more than an empty environment, or less of a sandbox: what
// may work under its unit is not refused.
func TestAKubeletThatDoesNotTellItsVersionIsTried(t *testing.T) {
	for name, run := range map[string]kubelet.Run{
		"it fails":             func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("exit status 1") },
		"it says another word": func(context.Context, string, ...string) ([]byte, error) { return []byte("hello\n"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.Host.RunKubelet = run
			r.mustJoin()
		})
	}
}

func TestTheClusterIsReadWhileTheKubeletIsAsked(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	release := make(chan struct{})
	var asked atomic.Int32
	r.deps.Host.RunKubelet = func(ctx context.Context, path string, args ...string) ([]byte, error) {
		asked.Add(1)
		select {
		case <-release:
			return answers("v1.36.3")(ctx, path, args...)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	_, stop := r.start()
	r.await("trust", func(s Status) bool { return s.Phase == RequestingCertificate && s.Cluster != nil })
	if n := len(r.api.CSRs()); n != 0 {
		t.Errorf("%d requests before the kubelet has answered", n)
	}
	close(release)
	r.await("the join", phase(Joined))
	if n := asked.Load(); n != 1 {
		t.Errorf("the kubelet was asked %d times", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAKubeletThatHangsDelaysNoStop(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Host.RunKubelet = func(ctx context.Context, _ string, _ ...string) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, stop := r.start()
	r.await("the wait for it", phase(RequestingCertificate))
	began := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > shutdownAtMost {
		t.Errorf("stopped after %s", took)
	}
}

// lacking gives a rig a machine with swap on and little room.
func lacking(r *rig) (low *atomic.Bool) {
	low = &atomic.Bool{}
	low.Store(true)
	r.deps.Host.Statfs = func(string) (preflight.Space, error) {
		s := preflight.Space{Free: 1 << 30, Available: 1 << 30, Total: 100 << 30}
		if !low.Load() {
			s.Available = 50 << 30
		}
		return s, nil
	}
	mustWrite(r.t, filepath.Join(r.deps.Host.Root, "proc/swaps"), "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n")
	return low
}

func tells(s Status, text string) bool {
	return slices.ContainsFunc(s.Notes, func(n Note) bool { return strings.Contains(n.Message, text) && n.Hint != "" })
}

// What the machine lacks is told beside a start that fails, refuses nothing, and
// is gone once the kubelet runs all the same.
func TestFindingsAreToldBesideAStartThatFails(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	low := lacking(r)
	var works atomic.Bool
	starts := r.units.OnStart
	r.units.OnStart = func(argv []string) error {
		if !works.Load() {
			return errors.New("exit status 1")
		}
		return starts(argv)
	}
	_, stop := r.start()
	s := r.await("the findings", func(s Status) bool { return tells(s, "swap: on (/dev/sda2)") && tells(s, "disk: kubelet") })
	if n, ok := noteOf(s, fault.MachineUnfit); s.Reason != fault.KubeletFailed || !ok || !strings.Contains(n.Message, "does not start") {
		t.Errorf("reason %s, notes %+v", s.Reason, s.Notes) // its config is written by now, and silent about swap
	}
	works.Store(true)
	r.await("the join, with what still matters", func(s Status) bool {
		return s.Phase == Joined && !tells(s, "swap") && tells(s, "disk: kubelet")
	})
	low.Store(false)
	r.await("the end of that", func(s Status) bool { return s.Phase == Joined && !tells(s, "disk") })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestFindingsAreToldBesideALongWaitForApproval(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	lacking(r)
	a := must(New(r.cfg, r.deps))
	made := csr.Progress{Name: "node-csr-x", Created: r.deps.Clock.Now()}
	a.progress(t.Context(), made, Observation{})
	if s, _ := r.last(); len(s.Notes) != 0 {
		t.Errorf("a join that goes on looks around: %+v", s.Notes)
	}
	made.Backstops = 1
	a.progress(t.Context(), made, Observation{})
	if s, _ := r.last(); !tells(s, "swap: on (/dev/sda2)") || s.Reason != "" {
		t.Errorf("%+v", s)
	}
}

func TestVersionsFurtherApartThanSupportedAreNoted(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, Version: "v1.40.1"})
	r.cfg.AfterJoin = AfterJoinHeal
	r.units.OnStart = func([]string) error {
		r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: r.boot, KubeletVersion: "v1.36.3"})
		return nil
	}
	_, stop := r.start()
	s := r.await("the note", func(s Status) bool { _, ok := noteOf(s, fault.VersionSkew); return s.Phase == Joined && ok })
	if n, _ := noteOf(s, fault.VersionSkew); !strings.Contains(n.Message, "v1.36.3") || !strings.Contains(n.Message, "v1.40.1") {
		t.Errorf("%+v", n)
	}
	first := *s.Node.Asked
	r.await("some more questions", func(s Status) bool { return s.Node.Asked.Sub(first) > 2*time.Minute })
	n := 0
	for _, req := range r.api.Requests() {
		if req.Path == "/version" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the version was asked for %d times", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A node that ceases to be Ready is noticed at the next question, and is asked
// about soon and more often from then on.
func TestANodeThatCeasesToBeReadyIsNoticed(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	ready := func(want bool) func(Status) bool {
		return func(s Status) bool { return s.Phase == Joined && s.Node.Ready != nil && *s.Node.Ready == want }
	}
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.await("Ready", ready(true))
	r.api.SetNodeReady(nodeName, false, "PLEG is not healthy")
	s := r.await("not Ready", ready(false))
	n, ok := noteOf(s, fault.NodeNotReady)
	if !ok || !strings.Contains(n.Message, "PLEG is not healthy") || !strings.Contains(s.Node.Message, "PLEG") || n.Hint == "" {
		t.Errorf("%+v, %+v", s.Node, s.Notes)
	}
	noticed := *s.Node.Asked
	s = r.await("the next question", func(s Status) bool { return s.Node.Asked.After(noticed) })
	if pause := s.Node.Asked.Sub(noticed); pause > 2*DefaultPace.EagerFirst {
		t.Errorf("asked again after %s", pause)
	}
	r.api.SetNodeReady(nodeName, true, "")
	s = r.await("Ready again", ready(true))
	if _, still := noteOf(s, fault.NodeNotReady); still || s.Node.Message != "" {
		t.Errorf("%+v, %+v", s.Node, s.Notes)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// In a container the kubelet sees the container's boot ID, and the agent in its
// sandbox that of the host. A Node that was not there before the kubelet's start
// proves the join all the same; one that was there proves nothing until its
// Lease moves.
func TestARegistrationIsSeenWhateverBootIDTheKubeletSees(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(*rig)
		joined bool
	}{
		"nobody had the name": {func(*rig) {}, true},
		"a dead namesake had it": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other"})
			r.api.DeleteLease(nodeName)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			tc.before(r)
			r.units.OnStart = func([]string) error {
				r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "the container's"})
				r.api.DeleteLease(nodeName) // the first one comes seconds later
				return nil
			}
			_, stop := r.start()
			if !tc.joined {
				r.await("the end of a wait in vain", func(s Status) bool { return s.Phase == Registering && s.Attempt > 0 })
				r.api.SetLease(nodeName, r.deps.Clock.Now().Add(time.Hour), 40)
			}
			r.await("the join", phase(Joined))
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// shortClock has no timer that is longer than a second: whoever waits for one
// waits for ever.
type shortClock struct{ *fastClock }

func (c shortClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d > time.Second {
		return nil, func() {}
	}
	return c.fastClock.After(d)
}

func TestAKubeletThatIsStoppedWhileItsHealthIsAwaitedIsToldOf(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.deps.Clock = shortClock{r.deps.Clock.(*fastClock)}
	asked := 0
	r.deps.Health = func(context.Context, string) error {
		if asked++; asked == 3 {
			r.units.StopByHand()
		}
		return fault.New(fault.KubeletUnhealthy, "it is on its way")
	}
	_, stop := r.start()
	s := r.await("the stop", func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.KubeletStopped })
	})
	if s.Phase != Registering || s.Reason != "" {
		t.Errorf("%s: %s %s", s.Phase, s.Reason, s.Message)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// F38: the kubelet was ready, and died before it had registered its Node. It was
// once told after a minute, when the wait for the Node was over.
func TestAKubeletThatDiesBeforeItsNodeIsThereIsToldOfAtOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.units.OnStart = func([]string) error { return nil } // no Node
	r.units.SetLines("told to die")
	_, stop := r.start()
	r.await("the wait for the Node", func(s Status) bool { return s.Phase == Registering && s.Kubelet.ActiveState == "active" })
	died := time.Now()
	r.units.Change(func(u *systemd.Unit) { u.ActiveState, u.SubState, u.MainPID = "activating", "auto-restart", 0 })
	s := r.await("its death", reason(fault.KubeletFailed))
	if !strings.Contains(s.Message, "told to die") || s.Phase != Registering {
		t.Errorf("%s: %s", s.Phase, s.Message)
	}
	if took := time.Since(died); took > 10*time.Second {
		t.Errorf("told after %s", took)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

package agent

import (
	"slices"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// The kubelet of kubeadm's package is enabled and dies every few seconds until
// somebody configures it, so systemd is always at starting it. That start is not
// ours: without one of our own nothing would be on record, and a person's
// `systemctl stop` would look like a kubelet that was never started.
func TestAVendorsKubeletThatKeepsDyingIsStartedByUs(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.units.Change(func(u *systemd.Unit) {
		u.LoadState, u.FragmentPath, u.UnitFileState = "loaded", "/usr/lib/systemd/system/kubelet.service", "enabled"
		u.ActiveState, u.SubState, u.Result = "activating", "auto-restart", "exit-code"
		u.ConditionResult, u.ActiveEnterMonotonic = true, 1
	})
	_, stop := r.start()
	joined := r.await("the join", phase(Joined))
	if calls := r.units.Calls(); !slices.Contains(calls, "start") {
		t.Errorf("calls %v", calls)
	}
	if joined.Attempt != 0 || !slices.ContainsFunc(joined.Timeline, func(s Step) bool { return s.Name == StepStart }) {
		t.Errorf("timeline %+v", joined.Timeline)
	}
	calls := len(r.units.Calls())
	r.units.StopByHand()
	r.await("the note that a person holds it back", func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.KubeletStopped })
	})
	if got := r.units.Calls()[calls:]; len(got) != 0 {
		t.Errorf("after a person stopped it: %v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

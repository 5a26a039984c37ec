package agent

import (
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// logged collects what the rig's agent logs.
func (r *rig) logged() *logtest.Hook {
	r.t.Helper()
	hook := &logtest.Hook{}
	r.deps.Log.(*logrus.Logger).AddHook(hook)
	return hook
}

// withID are the entries that lead to one text of the catalog.
func withID(hook *logtest.Hook, id string) (out []*logrus.Entry) {
	for _, e := range hook.AllEntries() {
		if e.Data[systemd.MessageID] == id {
			out = append(out, e)
		}
	}
	return out
}

func TestTheJournalKnowsTheEventsOfAJoin(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	hook := r.logged()
	r.mustJoin()
	for event, kubelets := range map[fault.Event]bool{fault.EventCertificateInstalled: true, fault.EventKubeletStarted: true, fault.EventJoined: false} {
		found := withID(hook, event.MessageID())
		if len(found) != 1 {
			t.Errorf("%s: %d entries", event, len(found))
			continue
		}
		if unit := found[0].Data[systemd.ObjectUnit]; (unit == UnitName) != kubelets {
			t.Errorf("%s is shown beside unit %v", event, unit)
		}
	}
	for _, event := range []fault.Event{fault.EventKubeletRestarted, fault.EventKubeletStopped} {
		if n := len(withID(hook, event.MessageID())); n != 0 {
			t.Errorf("%s: %d entries", event, n)
		}
	}
}

func TestTheJournalKnowsWhyAKubeletWasRestarted(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	hook := r.logged()
	_, stop := r.start()
	r.await("the join", phase(Joined))
	if err := r.api.RotateClientCA(); err != nil {
		t.Fatal(err)
	}
	r.await("the second join", func(s Status) bool { return s.Phase == Joined && len(r.api.CSRs()) == 2 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	for event, want := range map[fault.Event]int{fault.EventKubeletStopped: 1, fault.EventCertificateInstalled: 2, fault.EventKubeletStarted: 2} {
		if n := len(withID(hook, event.MessageID())); n != want {
			t.Errorf("%s: %d entries, want %d", event, n, want)
		}
	}
}

// What the catalog's text shows has to be in the entry: for faults and for notes.
func TestAnEntryAboutAReasonHoldsItsCauseAndItsRemedy(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.NodeClientAllowed(false)
	r.api.SelfNodeClientAllowed(false)
	hook := r.logged()
	_, stop := r.start()
	r.await("a request that waits", reason(fault.CSRPending))
	if !r.api.Approve(r.api.CSRs()[0].Name) {
		t.Fatal("nothing to approve")
	}
	r.await("the join", phase(Joined))
	r.units.StopByHand()
	r.await("the stop", func(s Status) bool { return hasNote(s, fault.KubeletStopped) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	for _, reason := range []fault.Reason{fault.CSRPending, fault.RenewalNotAutomatic, fault.KubeletStopped} {
		found := withID(hook, reason.MessageID())
		if len(found) == 0 {
			t.Errorf("%s: no entry", reason)
			continue
		}
		data := found[0].Data
		if data["reason"] != string(reason) || data["cause"] == "" || data["hint"] == "" {
			t.Errorf("%s: %v", reason, data)
		}
		if unit := data[systemd.ObjectUnit]; (unit == UnitName) != (reason == fault.KubeletStopped) {
			t.Errorf("%s is shown beside unit %v", reason, unit)
		}
	}
}

package agent

import (
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// The bug museum: what others published of their incidents, one test each where
// no other test shows it (docs/reliability.md has the whole list).

// kubernetes/kubernetes#65063, #47856: a new key for each attempt floods whoever
// approves.
func TestTwentyLivesBeforeTheApprovalMakeOneRequest(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	const lives = 20
	for life := range lives {
		_, stop := r.start()
		s := r.await("the request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" && s.CSR.Adopted == (life > 0) })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if made := len(r.api.CSRs()); made != 1 {
			t.Fatalf("%d requests after %d lives", made, life+1)
		}
		if life == lives-1 {
			r.api.Approve(s.CSR.Name)
		}
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
	}
	r.mustJoin()
	if made := len(r.api.CSRs()); made != 1 {
		t.Errorf("%d requests", made)
	}
}

// kubermatic/kubeone#1894: the approved request of a node was collected, as the
// cluster does after an hour, and that was taken for a join that is not complete.
func TestARequestThatWasCollectedAfterTheJoinIsNotMadeAgain(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	for _, made := range r.api.CSRs() {
		r.api.Delete(made.Name)
	}
	before := len(r.units.Calls())
	r.mustJoin()
	if made := len(r.api.CSRs()); made != 0 {
		t.Errorf("%d requests", made)
	}
	if calls := r.units.Calls(); len(calls) != before {
		t.Errorf("systemd was asked to %v", calls[before:])
	}
}

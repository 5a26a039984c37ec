package agent

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

func TestUnitsThatWaitForAJoinedNodeAreStartedOnceARunHoweverItGoesOn(t *testing.T) {
	for _, after := range []AfterJoin{AfterJoinExit, AfterJoinHeal, AfterJoinObserve} {
		t.Run(string(after), func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = after
			_, stop := r.start()
			joined := r.await("the join", phase(Joined))
			// The kubelet stops and runs again: the node is joined a second time.
			if after != AfterJoinExit {
				r.units.StopByHand()
				r.await("the stop", func(s Status) bool { return s.Kubelet.ActiveState == "inactive" })
				r.units.Change(func(u *systemd.Unit) { u.ActiveState, u.MainPID = "active", 1 })
				r.await("the second look", func(s Status) bool { return s.Phase == Joined && s.Since.After(joined.Since) })
			} else {
				r.awaitEnd(stop)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if got := r.units.Reached(); !slices.Equal(got, []string{JoinedTarget}) {
				t.Errorf("reached: %v", got)
			}
		})
	}
}

// awaitEnd lets a run that ends by itself do so.
func (r *rig) awaitEnd(stop func() error) {
	r.t.Helper()
	r.await("the target", func(Status) bool { return len(r.units.Reached()) > 0 })
	if err := stop(); err != nil {
		r.t.Error(err)
	}
}

func TestNothingIsReachedBeforeTheNodeIsJoined(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	r.await("the request", func(s Status) bool { return s.CSR != nil })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := r.units.Reached(); len(got) != 0 {
		t.Errorf("reached: %v", got)
	}
}

// deafUnits does not get through to systemd with the target.
type deafUnits struct {
	Units
	fails, asked atomic.Int32
	there        bool
}

func (u *deafUnits) Reach(context.Context, string) (bool, error) {
	if u.asked.Add(1) <= u.fails.Load() {
		return false, errors.New("no bus")
	}
	return u.there, nil
}

func TestATargetThatCannotBeStartedHoldsNothingUp(t *testing.T) {
	t.Run("the join ends well", func(t *testing.T) {
		r := newRig(t, testapi.Options{Quiet: true})
		units := &deafUnits{Units: r.units}
		units.fails.Store(1000)
		r.deps.Units = units
		r.mustJoin()
		if units.asked.Load() != 1 {
			t.Errorf("asked %d times", units.asked.Load())
		}
	})
	t.Run("it is tried again with the next look", func(t *testing.T) {
		r := newRig(t, testapi.Options{Quiet: true})
		r.cfg.AfterJoin = AfterJoinHeal
		units := &deafUnits{Units: r.units, there: true}
		units.fails.Store(2)
		r.deps.Units = units
		r.start()
		r.await("the third try", func(Status) bool { return units.asked.Load() == 3 })
	})
	t.Run("one that is not installed is asked for once", func(t *testing.T) {
		r := newRig(t, testapi.Options{Quiet: true})
		r.cfg.AfterJoin = AfterJoinHeal
		units := &deafUnits{Units: r.units}
		r.deps.Units = units
		r.start()
		first := r.await("the join", phase(Joined))
		r.await("a later look", func(s Status) bool { return s.Phase == Joined && s.Time.Sub(first.Time) > 5*DefaultPace.LocalCheck })
		if n := units.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

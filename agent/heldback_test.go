package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Disabled or masked says what is to happen at the next start. What runs until then
// is a node, also for an agent that is started beside it.
func TestAKubeletThatRunsAlthoughItIsDisabledIsAJoinedNode(t *testing.T) {
	for _, state := range []string{"disabled", "masked"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			r := joinedRig(t, nil)
			r.units.Change(func(u *systemd.Unit) { u.UnitFileState = state })
			calls := len(r.units.Calls())
			_, stop := r.start()
			s := r.await("the node at rest", phase(Joined))
			if !hasNote(s, fault.KubeletStopped) || strings.Contains(s.Message, "does not run") {
				t.Errorf("notes %+v, message %q", s.Notes, s.Message)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if got := r.units.Calls()[calls:]; len(got) > 0 {
				t.Errorf("the unit was touched: %v", got)
			}
		})
	}
}

// looks counts how often the loop looks at the unit.
type looks struct {
	Units
	n *atomic.Int64
}

func (l looks) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	l.n.Add(1)
	return l.Units.Unit(ctx, name)
}

// A change of the cluster that is due while a person holds the kubelet back waits,
// at the pace of a node at rest.
func TestAChangeThatIsDueForAStoppedKubeletMakesNobodySpin(t *testing.T) {
	var n atomic.Int64
	r, _ := memberOf(t, testapi.Options{Quiet: true}, func(r *rig) {
		r.cfg.RestartSplay = 20 * time.Minute
		r.deps.Units = looks{r.units, &n}
	})
	must(r.api.PrepareServingCA())
	r.await("the plan", func(s Status) bool { return noted(fault.CAOffered, "followed at")(s) })
	r.units.StopByHand()
	r.await("the stop", func(s Status) bool { return hasNote(s, fault.KubeletStopped) })
	r.awaitLater(30 * time.Minute)
	before := n.Load()
	r.awaitLater(30 * time.Minute)
	if looked := n.Load() - before; looked > 60 {
		t.Errorf("%d looks in half an hour", looked)
	}
}

// A kubelet that is started anew registers its Node anew. So while the Node is
// deleted nothing restarts it: neither the cluster's next CA nor a repair.
func TestNothingThatTheClusterDoesRegistersADeletedNodeAnew(t *testing.T) {
	for name, change := range map[string]func(r *rig, a *Agent){
		"another CA":       func(r *rig, _ *Agent) { must(r.api.PrepareServingCA()) },
		"an edited config": func(r *rig, _ *Agent) { r.edit(r.files().ConfigFile(), "maxPods: 42") },
		"an edited unit":   func(r *rig, _ *Agent) { r.edit(r.dropInPath(), "# mine") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, a := member(t, func(r *rig) { r.cfg.Repair = true })
			r.api.DeleteNode(nodeName)
			r.await("the note", func(s Status) bool { return hasNote(s, fault.NodeDeleted) })
			change(r, a)
			calls := len(r.units.Calls())
			s := r.awaitLater(30 * time.Minute)
			if !hasNote(s, fault.NodeDeleted) || s.Phase != Joined {
				t.Errorf("%s, notes %+v", s.Phase, s.Notes)
			}
			if got := r.units.Calls()[calls:]; len(got) > 0 {
				t.Errorf("the unit was touched: %v", got)
			}
			// A person registers it again: then what has waited is done.
			if _, err := r.units.Restart(t.Context(), UnitName); err != nil {
				t.Fatal(err)
			}
			begun := len(r.units.Calls())
			r.await("what has waited", func(Status) bool { return len(r.units.Calls()) > begun })
		})
	}
}

// A kubelet that runs although it is disabled is not restarted, because nobody said
// that it may be started; what it misses by that is told, and done once it may.
func TestWhatADisabledKubeletMissesIsToldAndDoneOnceItMay(t *testing.T) {
	r, _ := member(t, nil)
	r.units.Change(func(u *systemd.Unit) { u.UnitFileState = "masked" })
	r.await("the state", noted(fault.KubeletStopped, "systemctl unmask kubelet; systemctl enable --now kubelet"))
	old, next := r.api.Pin(), must(r.api.PrepareServingCA())
	r.await("both CAs, and a kubelet that knows one", func(s Status) bool {
		return trusts(old, next)(s) && noted(fault.KubeletStopped, "is not restarted")(s)
	})
	if n := restarts(r); n != 0 {
		t.Errorf("%d restarts: %v", n, r.units.Calls())
	}
	r.units.Change(func(u *systemd.Unit) { u.UnitFileState = "enabled" })
	r.await("the restart", func(s Status) bool { return s.Phase == Joined && restarts(r) == 1 && !hasNote(s, fault.KubeletStopped) })
}

package agent

import (
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// A kubelet that does not run was stopped by a person, unless systemd's and the
// agent's records together say otherwise: then it is started again.
func TestWhoEndedTheKubeletIsReadFromBothRecords(t *testing.T) {
	dropped := &systemd.JobError{Unit: UnitName, Op: systemd.OpStart, Result: "dependency"}
	cancelled := &systemd.JobError{Unit: UnitName, Op: systemd.OpRestart, Result: "canceled"}
	for name, row := range map[string]struct {
		begin func(*rig) // before the agent is started
		fails error      // the end of its first job
		held  bool
	}{
		"F37: the first start of a new node fails by a unit that it requires, and an older kubelet ran in this boot": {
			begin: func(r *rig) {
				r.units.Change(func(u *systemd.Unit) {
					u.ConditionResult, u.ActiveEnterMonotonic, u.ExecMainStartMonotonic, u.ActiveExitMonotonic = true, 1, 1, 2
				})
			},
			fails: dropped,
		},
		"a restart for other inputs fails by a unit that it requires":          {begin: olderThanItsInputs, fails: dropped},
		"a restart for other inputs is cancelled by somebody who stops":        {begin: olderThanItsInputs, fails: cancelled, held: true},
		"a person stops the kubelet of a node":                                 {begin: func(r *rig) { r.mustJoin(); r.units.StopByHand() }, held: true},
		"a person has stopped the kubelet that was here before the agent came": {begin: func(r *rig) { r.units.StopByHand() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			row.begin(r)
			starts, inner := 0, r.units.OnStart
			r.units.OnStart = func(argv []string) error {
				if starts++; starts == 1 && row.fails != nil {
					return row.fails
				}
				return inner(argv)
			}
			r.cfg.AfterJoin = AfterJoinHeal
			r.statuses = nil
			_, stop := r.start()
			if row.held {
				r.await("the person's wish", withNote(fault.KubeletStopped, "kubelet.service is stopped"))
			} else {
				r.await("the kubelet", func(s Status) bool { return s.Phase == Joined && s.Kubelet.ActiveState == "active" })
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			want := 1
			if row.fails != nil && !row.held {
				want = 2
			} else if row.fails == nil && row.held {
				want = 0
			}
			if starts != want {
				t.Errorf("%d jobs, want %d", starts, want)
			}
		})
	}
}

// olderThanItsInputs leaves a joined node whose kubelet runs on older files.
func olderThanItsInputs(r *rig) {
	r.t.Helper()
	r.mustJoin()
	r.awaitLock()
	m := must(record.ReadManifest(r.cfg.Paths))
	m.Inputs = record.Moment{BootID: r.boot, Monotonic: r.deps.Clock.Monotonic() + time.Millisecond}
	if err := m.Write(r.cfg.Paths); err != nil {
		r.t.Fatal(err)
	}
}

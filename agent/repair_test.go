package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// What becomes of a drifted file: drift x held back x afterJoin x repair.
func TestDriftIsRepairedOnlyWhereThatIsWanted(t *testing.T) {
	label := []kubelet.Label{{Key: "example.org/rack", Value: "r7"}}
	drifts := map[string]struct {
		path  func(*rig) string
		drift func(*rig)
	}{
		"an edited kubelet config": {func(r *rig) string { return r.files().ConfigFile() }, func(r *rig) { r.edit(r.files().ConfigFile(), "maxPods: 42") }},
		"an edited CA":             {func(r *rig) string { return r.files().CACert() }, func(r *rig) { r.edit(r.files().CACert(), "# mine") }},
		"an edited drop-in":        {(*rig).dropInPath, func(r *rig) { r.edit(r.dropInPath(), "# mine") }},
		"another config":           {(*rig).dropInPath, func(r *rig) { r.cfg.NodeLabels = label }},
	}
	for drift, d := range drifts {
		for _, held := range []bool{false, true} {
			for _, after := range []AfterJoin{AfterJoinHeal, AfterJoinObserve} {
				for _, repair := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, held back %t, %s, repair %t", drift, held, after, repair), func(t *testing.T) {
						t.Parallel()
						r := joinedRig(t, nil)
						r.cfg.AfterJoin, r.cfg.Repair = after, repair
						_, stop := r.start() // a look at the machine as it should be
						r.await("a look", noDrift)
						if err := stop(); err != nil {
							t.Fatal(err)
						}
						r.awaitLock()
						if held {
							r.units.StopByHand()
						}
						before := must(os.ReadFile(d.path(r)))
						d.drift(r)
						edited := must(os.ReadFile(d.path(r)))
						calls := len(r.units.Calls())
						r.mu.Lock()
						r.statuses = nil
						r.mu.Unlock()
						r.start()
						repaired := repair && after == AfterJoinHeal
						if !repaired {
							r.await("the note", drifted(d.path(r)))
							asked := r.deps.Clock.Now().Add(5 * time.Minute)
							r.await("a later look", func(s Status) bool { return s.Time.After(asked) })
							if got := must(os.ReadFile(d.path(r))); string(got) != string(edited) {
								t.Error("it was written to")
							}
							if got := r.units.Calls()[calls:]; len(got) != 0 {
								t.Errorf("the unit was touched: %v", got)
							}
							return
						}
						settled := func(s Status) bool { return noDrift(s) && r.starts() == 2 }
						if held {
							settled = func(s Status) bool {
								return s.Phase == Registering && !strings.Contains(fmt.Sprint(s.Notes), "Drifted")
							}
						}
						r.await("the repair", settled)
						got := string(must(os.ReadFile(d.path(r))))
						if drift == "another config" && !strings.Contains(got, "example.org/rack=r7") || drift != "another config" && got != string(before) {
							t.Errorf("%s is\n%s", d.path(r), got)
						}
						if starts := r.starts(); held && starts != 1 || !held && starts != 2 {
							t.Errorf("%d starts", starts)
						}
					})
				}
			}
		}
	}
}

// pass lets time go by, and the agent look once more.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	clock := r.deps.Clock.(*fastClock)
	clock.mu.Lock()
	clock.ahead += d
	clock.mu.Unlock()
	after := clock.Now()
	r.await("a look "+d.String()+" later", func(s Status) bool { return s.Time.After(after.Add(time.Minute)) })
}

// A fleet sees another config, or a newer agent, at once.
func TestWhatAFleetSeesAtOnceIsRepairedSplayed(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.Repair, r.cfg.RestartSplay = true, 3*time.Hour
	wait := splay(r.deps.Machine.MachineID+nodeName, r.cfg.RestartSplay)
	if wait < 10*time.Minute {
		t.Fatalf("this machine's share of the splay is only %s", wait)
	}
	r.cfg.NodeLabels = []kubelet.Label{{Key: "example.org/rack", Value: "r7"}}
	began := r.deps.Clock.Now()
	r.start()
	s := r.await("the note", drifted(r.dropInPath()))
	if !strings.Contains(fmt.Sprint(s.Notes), "it is repaired at ") || r.starts() != 1 {
		t.Errorf("%v", s.Notes)
	}
	r.pass(wait - 5*time.Minute)
	if r.starts() != 1 {
		t.Error("it was repaired before this machine's time")
	}
	r.await("the repair", func(s Status) bool { return noDrift(s) && r.starts() == 2 })
	if took := r.deps.Clock.Now().Sub(began); took < wait {
		t.Errorf("it was repaired after %s, this machine's share is %s", took, wait)
	}
}

// Whoever writes his own version again and again is given way to.
func TestAFightWithAConfigurationManagementIsNotFought(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.Repair = true
	_, stop := r.start()
	r.await("a look", noDrift)
	path := r.dropInPath()
	right := string(must(os.ReadFile(path)))
	is := func(want bool) func(Status) bool {
		return func(s Status) bool { return noDrift(s) == want && (string(must(os.ReadFile(path))) == right) == want }
	}
	r.edit(path, "# theirs")
	r.await("the repair", func(s Status) bool { return is(true)(s) && r.starts() == 2 })
	r.edit(path, "# theirs")
	contested := func(s Status) bool { return strings.Contains(fmt.Sprint(s.Notes), "changed again within the hour") }
	r.await("the surrender", contested)
	// Also hours later, and by the next run of the agent.
	r.pass(3 * time.Hour)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.awaitLock()
	r.start()
	later := r.deps.Clock.Now().Add(5 * time.Minute)
	r.await("the next run", func(s Status) bool { return contested(s) && s.Time.After(later) })
	if r.starts() != 2 || string(must(os.ReadFile(path))) == right {
		t.Errorf("%d starts", r.starts())
	}
	// Another file is still repaired.
	r.edit(r.files().CACert(), "# mine")
	r.await("the repair of another", func(s Status) bool { return !drifted("ca.crt")(s) && drifted(path)(s) && r.starts() == 3 })
	// A person's word ends it, and then it is watched as before.
	r.looksAndApplies()
	r.await("the end of it", is(true))
	if m := must(record.ReadManifest(r.cfg.Paths)); m.Repairs[path] != (record.Repair{}) {
		t.Errorf("on record: %+v", m.Repairs)
	}
	starts := r.starts()
	r.edit(path, "# theirs")
	r.await("another repair", func(s Status) bool { return is(true)(s) && r.starts() == starts+1 })
}

func TestTheSameEditADayLaterIsRepairedAgain(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.Repair = true
	r.start()
	r.await("a look", noDrift)
	for n := 2; n <= 3; n++ {
		r.edit(r.dropInPath(), "# mine")
		r.await("a repair", func(s Status) bool { return noDrift(s) && r.starts() == n })
		r.pass(2 * time.Hour)
	}
}

func TestAConfigThatNobodyKeptIsLeftToApply(t *testing.T) {
	r := joinedRig(t, nil)
	r.edit(r.files().ConfigFile(), "maxPods: 42")
	r.cfg.Repair = true
	r.start()
	s := r.await("the note", drifted("config.yaml"))
	if !strings.Contains(fmt.Sprint(s.Notes), "not on record") {
		t.Errorf("%v", s.Notes)
	}
	r.pass(time.Hour)
	if r.starts() != 1 {
		t.Errorf("%d starts", r.starts())
	}
	r.looksAndApplies()
	r.await("the end of it", noDrift)
}

func TestAnOperatorsKubeletConfigIsFollowedByRepair(t *testing.T) {
	var own string
	r := joinedRig(t, func(r *rig) {
		own = r.dropInPath() + ".yaml"
		mustWrite(r.t, own, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 11\n")
		r.cfg.Kubelet.ConfigFile = own
	})
	_, stop := r.start()
	r.await("a look", noDrift)
	mustWrite(t, own, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 12\n")
	r.await("the note", drifted("config.yaml"))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.awaitLock()
	r.cfg.Repair = true
	r.start()
	r.await("the repair", func(s Status) bool {
		return noDrift(s) && strings.Contains(string(must(os.ReadFile(r.files().ConfigFile()))), "maxPods: 12") && r.starts() == 2
	})
}

func TestARepairThatFailsIsToldAndTriedAgain(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.Repair = true
	r.deps.Units = fullDisk{r.units}
	_, stop := r.start()
	r.await("a look", noDrift)
	r.edit(r.dropInPath(), "# mine")
	r.await("the note", func(s Status) bool { return strings.Contains(fmt.Sprint(s.Notes), "it cannot be repaired: disk full") })
	if r.starts() != 1 {
		t.Errorf("%d starts", r.starts())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.awaitLock()
	r.deps.Units = r.units
	r.start()
	r.await("the repair", func(s Status) bool { return noDrift(s) && r.starts() == 2 })
}

// A crash in a repair is not taken for somebody who writes the file again.
func TestACrashInTheMiddleOfARepairIsNoFight(t *testing.T) {
	for at := 1; at <= 8; at++ {
		r := newRig(t, testapi.Options{Quiet: true})
		loaded := r.watchApplied()
		r.mustJoin()
		r.awaitLock()
		r.cfg.AfterJoin, r.cfg.Repair = AfterJoinHeal, true
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
		_, stop := r.start()
		r.await("a look", noDrift)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.awaitLock()
		want := r.appliedInputs()
		for path, line := range r.managed() {
			r.edit(path, line)
		}
		must(r.units.Restart(t.Context(), UnitName)) // it runs on what a person wrote
		r.crashRepair(at)
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
		_, stop = r.start()
		r.await(fmt.Sprintf("the end, after a crash at point %d", at), func(s Status) bool { return noDrift(s) && r.appliedInputs() == want && loaded() == want })
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func (r *rig) crashRepair(at int) {
	r.t.Helper()
	type death struct{}
	defer func() {
		if p := recover(); p != (death{}) {
			r.t.Errorf("point %d: %v", at, p)
		}
		r.awaitLock()
	}()
	a := must(New(r.cfg, r.deps))
	points := 0
	a.hands.between = func() {
		if points++; points == at {
			panic(death{})
		}
	}
	held := must(record.Acquire(r.cfg.Paths))
	defer held.Release()
	if err := a.remember(); err != nil {
		r.t.Fatal(err)
	}
	defer a.closeNode()
	a.repair(r.t.Context(), must(a.observe(r.t.Context())))
}

func TestUnderObserveAMissingFileIsNamedAndNotWritten(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.AfterJoin = AfterJoinObserve
	if err := os.Remove(r.files().Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.await("the word", func(s Status) bool {
		return s.Phase == ConfiguringKubelet && strings.Contains(s.Message, r.files().Kubeconfig())
	})
	if _, err := os.Lstat(r.files().Kubeconfig()); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was written")
	}
}

// A unit that was edited, and of which systemd was not told, is not read anew by
// who only looks.
func TestALookDoesNotMakeSystemdReadAnEditedUnit(t *testing.T) {
	r := joinedRig(t, nil)
	r.edit(r.unitPath(), "# mine")
	r.units.Change(func(u *systemd.Unit) { u.NeedDaemonReload = true })
	asked := false
	r.deps.Units = existingAsked{r.units, &asked}
	_, stop := r.start()
	r.await("the note", drifted(r.unitPath()))
	if answer := must(r.applies(Order{})); len(answer.Changes) != 1 {
		t.Errorf("%+v", answer)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if asked {
		t.Error("it was")
	}
}

type existingAsked struct {
	Units
	asked *bool
}

func (e existingAsked) Existing(ctx context.Context, dir string) (systemd.Existing, error) {
	*e.asked = true
	return e.Units.Existing(ctx, dir)
}

func TestAnOrderThatCannotBeReadIsDropped(t *testing.T) {
	r := joinedRig(t, nil)
	mustWrite(t, r.cfg.Paths.OrderFile(), "{")
	r.start()
	r.await("a look", noDrift)
	if !r.eventually(func() bool { _, err := os.Lstat(r.cfg.Paths.OrderFile()); return errors.Is(err, os.ErrNotExist) }) {
		t.Error("it is left")
	}
	if _, err := r.applies(Order{}); fault.ReasonOf(err) != "" || err != nil {
		t.Error(err)
	}
}

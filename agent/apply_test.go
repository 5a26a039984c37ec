package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// applies gives an order to the agent at work, or to one of its own.
func (r *rig) applies(order Order) (*Answer, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	return Apply(ctx, r.cfg.Paths, order, func() (*Agent, error) { return New(r.cfg, r.deps) })
}

// looksAndApplies is `apply --yes`.
func (r *rig) looksAndApplies() *Answer {
	r.t.Helper()
	answer, err := r.applies(Order{})
	if err != nil {
		r.t.Fatal(err)
	}
	done, err := r.applies(answer.Agree(Order{}))
	if err != nil || !done.Done {
		r.t.Fatalf("%+v, %v", done, err)
	}
	return done
}

// node is a machine that has joined and whose agent has ended.
func joinedRig(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	r := newRig(t, testapi.Options{Quiet: true})
	if change != nil {
		change(r)
	}
	r.mustJoin()
	r.awaitLock()
	r.cfg.AfterJoin = AfterJoinHeal
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	return r
}

func (r *rig) unitPath() string { return filepath.Join(r.cfg.Paths.Units, UnitName) }
func (r *rig) dropInPath() string {
	return filepath.Join(r.cfg.Paths.Units, UnitName+".d", systemd.DropInName)
}

// edit appends a line to a file, as a person would. By rename: an agent that runs
// heals a file that it finds half written.
func (r *rig) edit(path, line string) {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	info, err := os.Stat(path)
	mode := os.FileMode(0o600)
	if err == nil {
		mode = info.Mode().Perm()
	}
	if err := errors.Join(os.WriteFile(path+".new", append(data, []byte(line+"\n")...), mode), os.Rename(path+".new", path)); err != nil {
		r.t.Fatal(err)
	}
}

// restarts counts what starts a kubelet that runs.
func (r *rig) starts() int {
	n := 0
	for _, call := range r.units.Calls() {
		if call == "start" || call == "restart" {
			n++
		}
	}
	return n
}

func drifted(path string) func(Status) bool {
	return func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.Drifted && strings.Contains(n.Message, path) })
	}
}

func noDrift(s Status) bool {
	return s.Phase == Joined && !slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.Drifted })
}

// managed are the files that a person may edit, with an edit that leaves them
// parsable.
func (r *rig) managed() map[string]string {
	return map[string]string{
		r.files().CACert():          "# mine",
		r.files().ConfigFile():      "maxPods: 42",
		r.files().EnvironmentFile(): "HTTPS_PROXY=http://me:pass@example.org",
		r.unitPath():                "# mine",
		r.dropInPath():              "# mine",
		r.files().Kubeconfig():      "# mine",
	}
}

func TestEachEditedFileIsReportedLeftAloneAndBroughtBackByApply(t *testing.T) {
	for _, at := range []string{"an agent is at work", "no agent is at work"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			r := joinedRig(t, nil)
			if at == "an agent is at work" {
				r.start()
				r.await("a look", noDrift)
			}
			for path, line := range r.managed() {
				want, wantErr := os.ReadFile(path)
				r.edit(path, line)
				edited := must(os.ReadFile(path))
				starts := r.starts()
				if at == "an agent is at work" {
					r.await("the note on "+path, drifted(path))
				}
				seen, err := r.applies(Order{})
				if err != nil || len(seen.Changes) != 1 || seen.Changes[0].Path != path || !seen.Changes[0].Edited || !seen.Restart || seen.Done {
					t.Fatalf("%s: %+v, %v", path, seen, err)
				}
				if got := must(os.ReadFile(path)); string(got) != string(edited) || r.starts() != starts {
					t.Errorf("%s: to look has changed something", path)
				}
				done := r.looksAndApplies()
				if got, err := os.ReadFile(path); string(got) != string(want) || errors.Is(err, os.ErrNotExist) != errors.Is(wantErr, os.ErrNotExist) {
					t.Errorf("%s is %q, %v", path, got, err)
				}
				if len(done.Changes) != 1 {
					t.Fatalf("%s: %+v", path, done)
				}
				kept := done.Changes[0].Kept
				if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 || string(must(os.ReadFile(kept))) != string(edited) {
					t.Errorf("%s: what it was is not kept in %s: %v", path, kept, err)
				}
				if got := r.starts() - starts; got != 1 {
					t.Errorf("%s: %d starts", path, got)
				}
				if at == "an agent is at work" {
					r.await("the end of the note on "+path, noDrift)
				}
			}
			if n := len(r.api.CSRs()); n != 1 {
				t.Errorf("%d requests for a certificate", n)
			}
			if answer, err := r.applies(Order{}); err != nil || len(answer.Changes) != 0 || answer.Restart {
				t.Errorf("there is still something to apply: %+v, %v", answer, err)
			}
		})
	}
}

func TestAnEditThatIsUndoneIsNoDriftAnyMore(t *testing.T) {
	r := joinedRig(t, nil)
	r.start()
	r.await("a look", noDrift)
	for path, line := range r.managed() {
		before, err := os.ReadFile(path)
		r.edit(path, line)
		r.await("the note", drifted(path))
		if err != nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, before, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		r.await("its end", noDrift)
	}
	if n := r.starts(); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestAllIsAppliedWithOneRestart(t *testing.T) {
	r := joinedRig(t, nil)
	for path, line := range r.managed() {
		r.edit(path, line)
	}
	starts := r.starts()
	if done := r.looksAndApplies(); len(done.Changes) != 6 || !done.Restart {
		t.Errorf("%+v", done)
	}
	if got := r.starts() - starts; got != 1 {
		t.Errorf("%d starts", got)
	}
}

// The cluster's kubelet-config is read at join, re-join and `apply` only.
func TestTheClustersKubeletConfigIsFollowedByApplyAlone(t *testing.T) {
	for _, repair := range []bool{false, true} {
		r := joinedRig(t, nil)
		r.cfg.Repair = repair
		r.start()
		r.await("a look", noDrift)
		before := must(os.ReadFile(r.files().ConfigFile()))
		r.api.SetKubeletConfig("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 77\n")
		asked := r.deps.Clock.Now()
		r.pass(time.Hour)
		r.await("a later look at the API", func(s Status) bool { return s.Node.Asked != nil && s.Node.Asked.After(asked) })
		if s, _ := r.last(); !noDrift(s) || string(must(os.ReadFile(r.files().ConfigFile()))) != string(before) || r.starts() != 1 {
			t.Errorf("repair %t: it was followed: %v", repair, s.Notes)
		}
		done := r.looksAndApplies()
		if got := must(os.ReadFile(r.files().ConfigFile())); !strings.Contains(string(got), "maxPods: 77") || done.Changes[0].Edited || r.starts() != 2 {
			t.Errorf("repair %t: %+v\n%s", repair, done, got)
		}
	}
}

// What a person holds back is written to and never started, whoever asks.
func TestAKubeletThatIsHeldBackGetsItsFilesAndIsNotStarted(t *testing.T) {
	for name, hold := range map[string]func(*systemd.Unit){
		"stopped": func(u *systemd.Unit) {
			u.ActiveState, u.SubState, u.MainPID, u.Result = "inactive", "dead", 0, "success"
		},
		"disabled": func(u *systemd.Unit) { u.UnitFileState = "disabled" },
		"disabled and stopped": func(u *systemd.Unit) {
			u.UnitFileState, u.ActiveState, u.SubState, u.MainPID = "disabled", "inactive", "dead", 0
		},
		"masked and stopped": func(u *systemd.Unit) {
			u.LoadState, u.UnitFileState, u.ActiveState, u.SubState, u.MainPID = "masked", "masked", "inactive", "dead", 0
		},
	} {
		for _, repair := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, repair %t", name, repair), func(t *testing.T) {
				t.Parallel()
				r := joinedRig(t, nil)
				r.cfg.Repair = repair
				r.start()
				r.await("a look", noDrift)
				r.units.Change(hold)
				r.await("the note", func(s Status) bool { return strings.Contains(fmt.Sprint(s.Notes), string(fault.KubeletStopped)) })
				want := must(os.ReadFile(r.files().ConfigFile()))
				calls := len(r.units.Calls())
				r.edit(r.files().ConfigFile(), "maxPods: 42")
				if !repair {
					r.await("the other note", drifted(r.files().ConfigFile()))
					done := r.looksAndApplies()
					if done.Restart || !strings.Contains(done.Kubelet, strings.Fields(name)[0]) {
						t.Errorf("%+v", done)
					}
				}
				if !r.eventually(func() bool { return string(must(os.ReadFile(r.files().ConfigFile()))) == string(want) }) {
					t.Error("its file was not brought back")
				}
				s := r.await("a later look", func(s Status) bool { return !drifted("config.yaml")(s) })
				if !strings.Contains(fmt.Sprint(s.Notes), string(fault.KubeletStopped)) {
					t.Errorf("notes %v", s.Notes)
				}
				if got := r.units.Calls()[calls:]; len(got) != 0 {
					t.Errorf("the unit was touched: %v", got)
				}
			})
		}
	}
}

func (r *rig) eventually(ok func() bool) bool {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(2 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

func TestWhatBecameAnotherChangeSinceItWasShownIsNotWritten(t *testing.T) {
	for name, change := range map[string]func(*rig){
		"the file was edited again": func(r *rig) { r.edit(r.files().ConfigFile(), "maxPods: 43") },
		"another file was edited":   func(r *rig) { r.edit(r.files().CACert(), "# mine") },
		"something else is wanted of it": func(r *rig) {
			r.api.SetKubeletConfig("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := joinedRig(t, nil)
			r.edit(r.files().ConfigFile(), "maxPods: 42")
			seen := must(r.applies(Order{}))
			change(r)
			before := snapshot(t, r.cfg.Paths)
			answer, err := r.applies(seen.Agree(Order{}))
			if err == nil || answer.Done || !strings.Contains(err.Error(), "not the one that was shown") {
				t.Errorf("%+v, %v", answer, err)
			}
			if after := snapshot(t, r.cfg.Paths); !slices.Equal(before, after) {
				t.Errorf("changed:\n%v\n%v", before, after)
			}
			if _, err := os.Lstat(r.cfg.Paths.OrderFile()); !errors.Is(err, os.ErrNotExist) {
				t.Error("the order is left")
			}
		})
	}
}

func TestNothingIsAppliedBeforeTheJoin(t *testing.T) {
	for _, atWork := range []bool{false, true} {
		r := newRig(t, testapi.Options{Quiet: true})
		if err := os.MkdirAll(r.cfg.Paths.Kubelet, 0o700); err != nil {
			t.Fatal(err)
		}
		if atWork {
			r.api.AutoApprove(false)
			a, _ := r.start()
			r.await("a waiting request", func(s Status) bool { return s.CSR != nil })
			// The daemon sees the order's file appear, also in the middle of a wait.
			woken := make(chan struct{})
			t.Cleanup(func() { <-woken })
			go func() {
				defer close(woken)
				r.eventually(func() bool { _, err := os.Lstat(r.cfg.Paths.OrderFile()); return err == nil })
				a.Reload(r.cfg, nil)
			}()
		}
		before := snapshot(t, r.cfg.Paths)
		if _, err := r.applies(Order{}); err == nil || !strings.Contains(err.Error(), "systemctl start bootstrap-agent") {
			t.Errorf("got %v", err)
		}
		if after := snapshot(t, r.cfg.Paths); !atWork && !slices.Equal(before, after) {
			t.Errorf("changed:\n%v\n%v", before, after)
		}
	}
}

func TestSomebodyElsesUnitIsNeverOverwritten(t *testing.T) {
	r := joinedRig(t, nil)
	mine := "[Service]\nExecStart=/usr/bin/kubelet --mine\n"
	if err := os.WriteFile(r.unitPath(), []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(filepath.Dir(r.cfg.Paths.Units), "lib", UnitName)
	r.units.Change(func(u *systemd.Unit) { u.FragmentPath = elsewhere })
	r.edit(r.dropInPath(), "# mine")
	r.start()
	r.await("the note", drifted(r.unitPath()))
	done := r.looksAndApplies()
	if len(done.Changes) != 1 || done.Changes[0].Path != r.dropInPath() || !slices.Equal(done.Left, []string{r.unitPath()}) {
		t.Errorf("%+v", done)
	}
	if got := must(os.ReadFile(r.unitPath())); string(got) != mine {
		t.Errorf("the unit is\n%s", got)
	}
	r.await("the end of the notes: it is on record as not ours", noDrift)
}

func TestABadConfigIsNotApplied(t *testing.T) {
	r := joinedRig(t, nil)
	a, _ := r.start()
	r.await("the join", noDrift)
	a.Reload(Config{}, errors.New("line 3: nodeTaints: must be a list"))
	r.await("the note", func(s Status) bool { return strings.Contains(fmt.Sprint(s.Notes), "line 3") })
	if _, err := r.applies(Order{}); fault.ReasonOf(err) != fault.ConfigInvalid || !strings.Contains(err.Error(), "line 3") || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestADeadAPIIsNamedAndNothingIsWritten(t *testing.T) {
	r := joinedRig(t, nil)
	r.edit(r.files().ConfigFile(), "maxPods: 42")
	before := snapshot(t, r.cfg.Paths)
	r.api.Close()
	if _, err := r.applies(Order{}); fault.ReasonOf(err) != fault.EndpointUnreachable {
		t.Errorf("got %v", err)
	}
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(before, after) {
		t.Errorf("changed:\n%v\n%v", before, after)
	}
}

func TestUnderObserveApplyDoesWhatAPersonSaid(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.AfterJoin = AfterJoinObserve
	r.start()
	r.edit(r.files().ConfigFile(), "maxPods: 42")
	r.await("the note", drifted(r.files().ConfigFile()))
	if done := r.looksAndApplies(); !done.Restart || r.starts() != 2 {
		t.Errorf("%+v, %d starts", done, r.starts())
	}
	r.await("the join", noDrift)
}

func TestOfAnEnvironmentFileOnlyNamesAreShown(t *testing.T) {
	const was, is = "t0p-secret-was", "t0p-secret-is"
	r := joinedRig(t, func(r *rig) { r.cfg.ProxyEnvironment = kubelet.ProxyVariables("http://me:"+was+"@proxy:3128", "") })
	r.cfg.ProxyEnvironment = kubelet.ProxyVariables("http://me:"+is+"@proxy:3128", "")
	r.edit(r.dropInPath(), "Environment=API_KEY="+was)
	r.start()
	r.await("the note", drifted(r.files().EnvironmentFile()))
	seen := must(r.applies(Order{}))
	text := string(must(json.Marshal(seen)))
	if strings.Contains(text, was) || strings.Contains(text, is) {
		t.Errorf("a secret is shown: %s", text)
	}
	if len(seen.Changes) != 2 || !strings.Contains(seen.Changes[0].Diff, "-HTTPS_PROXY=<not shown>\n+HTTPS_PROXY=<not shown>\n") || !strings.Contains(seen.Changes[1].Diff, "-Environment=<not shown>\n") {
		t.Errorf("%s", text)
	}
	if seen.Changes[0].Edited || !seen.Changes[1].Edited {
		t.Errorf("who has changed what is mixed up: %s", text)
	}
	r.looksAndApplies()
	if got := must(os.ReadFile(r.files().EnvironmentFile())); !strings.Contains(string(got), is) {
		t.Error("it was not written")
	}
}

func TestAModeThatWasOpenedIsClosed(t *testing.T) {
	r := joinedRig(t, nil)
	if err := os.Chmod(r.files().Kubeconfig(), 0o644); err != nil {
		t.Fatal(err)
	}
	done := r.looksAndApplies()
	if len(done.Changes) != 1 || done.Changes[0].Mode != "0644, wanted 0600" || done.Restart || r.starts() != 1 {
		t.Errorf("%+v", done)
	}
	if info := must(os.Stat(r.files().Kubeconfig())); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestAnOrderOfYesterdayIsNotFollowedAndOneThatWasBegunIs(t *testing.T) {
	for _, begun := range []bool{false, true} {
		r := joinedRig(t, nil)
		r.edit(r.files().ConfigFile(), "maxPods: 42")
		order := must(r.applies(Order{})).Agree(Order{ID: "1"})
		order.Begun = begun
		if err := record.WriteJSON(r.cfg.Paths.OrderFile(), order); err != nil {
			t.Fatal(err)
		}
		yesterday := time.Now().Add(-24 * time.Hour)
		if err := os.Chtimes(r.cfg.Paths.OrderFile(), yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
		r.start()
		if begun {
			r.await("the order", func(s Status) bool { return noDrift(s) && r.starts() == 2 })
		} else {
			r.await("the note", drifted(r.files().ConfigFile()))
		}
		if _, err := os.Lstat(r.cfg.Paths.OrderFile()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("begun %t: the order is left", begun)
		}
	}
}

func TestTheMachineIsTakenIntoTheRecordByAnOrder(t *testing.T) {
	for _, atWork := range []bool{false, true} {
		r := joinedRig(t, nil)
		r.deps.Machine.UUID = "another"
		if atWork {
			r.start()
			r.await("the join", noDrift)
		}
		seen := must(r.applies(Order{SameMachine: true}))
		if !strings.Contains(seen.Machine, "another") || must(record.ReadTrust(r.cfg.Paths)).Machine.UUID != "" {
			t.Errorf("%+v", seen)
		}
		if done := must(r.applies(seen.Agree(Order{SameMachine: true}))); !done.Done || must(record.ReadTrust(r.cfg.Paths)).Machine.UUID != "another" {
			t.Errorf("%+v", done)
		}
	}
}

// A crash between any two writes of an apply leaves each file old or new, and the
// next run of the agent, or of the command, ends with all of them new and with a
// kubelet that has read them.
func TestACrashInTheMiddleOfAnApplyIsFinishedByTheNextRun(t *testing.T) {
	for _, next := range []string{"the agent", "the agent after a reboot", "the agent under observe"} {
		t.Run(next, func(t *testing.T) {
			t.Parallel()
			points := 1
			for at := 0; at <= points; at++ {
				r := newRig(t, testapi.Options{Quiet: true})
				loaded := r.watchApplied()
				r.mustJoin()
				r.awaitLock()
				r.cfg.AfterJoin = AfterJoinHeal
				want := r.appliedInputs()
				old := map[string]string{}
				for path, line := range r.managed() {
					r.edit(path, line)
					old[path] = string(must(os.ReadFile(path)))
				}
				must(r.units.Restart(t.Context(), UnitName)) // it runs on what a person wrote
				order := must(r.applies(Order{})).Agree(Order{})
				if n := r.crashApply(order, at); at == 0 {
					if points = n; points < 9 {
						t.Fatalf("only %d points", points)
					}
				}
				r.mu.Lock()
				r.statuses = nil
				r.mu.Unlock()
				if yesterday := time.Now().Add(-24 * time.Hour); at > 0 {
					if err := os.Chtimes(r.cfg.Paths.OrderFile(), yesterday, yesterday); err != nil {
						t.Errorf("point %d: what was begun is not on record: %v", at, err)
					}
				}
				for path, before := range old {
					got, err := os.ReadFile(path)
					if err == nil && string(got) != before && !strings.Contains(want, fmt.Sprintf("%q", got)) {
						t.Errorf("point %d: %s is neither old nor new", at, path)
					}
				}
				switch next {
				case "the agent after a reboot":
					r.boot = "22222222-0000-0000-0000-000000000000"
					r.deps.Machine.BootID = r.boot
					r.units.Reboot()
					must(r.units.Start(t.Context(), UnitName)) // it is enabled
				case "the agent under observe":
					r.cfg.AfterJoin = AfterJoinObserve
				}
				_, stop := r.start()
				r.await(fmt.Sprintf("the end, after a crash at point %d", at), func(s Status) bool { return noDrift(s) && r.appliedInputs() == want && loaded() == want })
				if err := stop(); err != nil {
					t.Error(err)
				}
				if n := len(r.api.CSRs()); n != 1 {
					t.Errorf("point %d: %d requests", at, n)
				}
			}
		})
	}
}

// crashApply follows an order until the point with this number, and dies there.
// It returns how many there were.
func (r *rig) crashApply(order Order, at int) (points int) {
	r.t.Helper()
	ctx, kill := context.WithCancel(r.t.Context())
	defer kill()
	type death struct{}
	defer func() {
		if p := recover(); p != nil && p != (death{}) {
			panic(p)
		}
		r.awaitLock()
	}()
	a := must(New(r.cfg, r.deps))
	a.hands.between = func() {
		if points++; points == at {
			panic(death{})
		}
	}
	order.ID = "1"
	held := must(record.Acquire(r.cfg.Paths))
	defer held.Release()
	if err := a.remember(); err != nil {
		r.t.Fatal(err)
	}
	defer a.closeNode()
	o := must(a.observe(ctx))
	if answer := a.fulfil(ctx, &o, &order); answer.err() != nil {
		r.t.Error(answer.err())
	}
	return points
}

// appliedInputs are all files that the kubelet, or systemd for it, reads.
func (r *rig) appliedInputs() string {
	var all strings.Builder
	for _, path := range []string{r.files().CACert(), r.files().ConfigFile(), r.files().EnvironmentFile(), r.unitPath(), r.dropInPath(), r.files().Kubeconfig()} {
		data, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %q %v\n", path, data, err)
	}
	return all.String()
}

// watchApplied notes what the kubelet reads when it starts.
func (r *rig) watchApplied() (loaded func() string) {
	var mu sync.Mutex
	var last string
	inner := r.units.OnStart
	r.units.OnStart = func(argv []string) error {
		mu.Lock()
		last = r.appliedInputs()
		mu.Unlock()
		return inner(argv)
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

type fullDisk struct{ Units }

func (fullDisk) Install(context.Context, string, systemd.Existing, systemd.Rendered, bool) (bool, error) {
	return false, fault.New(fault.WriteFailed, "disk full")
}

func TestAnApplyThatFailsSaysSoAndCallsNobodyAnEditor(t *testing.T) {
	r := joinedRig(t, nil)
	r.cfg.NodeLabels = []kubelet.Label{{Key: "example.org/rack", Value: "r7"}}
	r.deps.Units = fullDisk{r.units}
	_, stop := r.start()
	r.await("the note", drifted(r.dropInPath()))
	seen := must(r.applies(Order{}))
	if _, err := r.applies(seen.Agree(Order{})); fault.ReasonOf(err) != fault.WriteFailed {
		t.Errorf("got %v", err)
	}
	again := must(r.applies(Order{}))
	if len(again.Changes) != 2 || again.Changes[0].Edited || again.Changes[1].Edited {
		t.Errorf("%+v", again)
	}
	if s, _ := r.last(); s.Phase != Joined || r.starts() != 1 {
		t.Errorf("phase %s, %d starts", s.Phase, r.starts())
	}
	_ = stop()
}

package systemd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// soon is a bound for a test that hangs, not a pause.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestStartIsBelievedWhenTheUnitRuns(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	for _, op := range []func(context.Context, string) (Unit, error){m.Start, m.Restart} {
		u, err := op(soon(t), KubeletUnit)
		if err != nil || !u.Running() || !u.WasActive() || u.InvocationID == "" || u.Job != 0 {
			t.Fatalf("%+v, %v", u, err)
		}
	}
	u, err := m.Stop(soon(t), KubeletUnit)
	if err != nil || u.Running() || u.ActiveState != "inactive" || !u.WasActive() {
		t.Fatalf("%+v, %v", u, err)
	}
	if got := b.called(); !slices.Equal(got, []string{"start", "restart", "stop"}) {
		t.Errorf("calls %q", got)
	}
}

// The kubelet of a vendor's package dies every few seconds until somebody
// configures it: a start must not wait for the end of such a pause.
func TestStartDoesNotWaitOutThePauseBetweenTwoRestarts(t *testing.T) {
	for state, want := range map[[2]string]string{
		{"activating", "auto-restart"}:        "restart",
		{"activating", "auto-restart-queued"}: "restart", // systemd 254 and later
		{"activating", "start"}:               "start",
		{"inactive", "dead"}:                  "start",
		{"failed", "failed"}:                  "start",
	} {
		t.Run(state[0]+"/"+state[1], func(t *testing.T) {
			b := startBus(t)
			b.set(map[string]any{"ActiveState": state[0], "SubState": state[1]})
			if u, err := b.manager().Start(soon(t), KubeletUnit); err != nil || !u.Running() {
				t.Fatalf("%+v, %v", u, err)
			}
			if got := b.called(); !slices.Equal(got, []string{want}) {
				t.Errorf("calls %q, want %q", got, want)
			}
		})
	}
}

func TestJobsThatDoNotEndWell(t *testing.T) {
	for name, tc := range map[string]struct {
		result string // what the job ends with
		leave  func(*fake)
		want   string // what the error says the result is
		part   string
	}{
		"failed":     {"failed", func(f *fake) { f.stops("failed", "exit-code"); f.set(map[string]any{"ExecMainStatus": int32(1)}) }, "failed", "result exit-code, main process status 1"},
		"timeout":    {"timeout", func(f *fake) { f.stops("failed", "timeout") }, "timeout", "timeout"},
		"canceled":   {"canceled", func(f *fake) { f.stops("inactive", "success") }, "canceled", "another job"},
		"dependency": {"dependency", func(*fake) {}, "dependency", "requires failed"},
		"skipped":    {"skipped", func(*fake) {}, "skipped", "skipped"},
		"assert":     {"assert", func(*fake) {}, "assert", `"assert"`},
		"done, but a condition was false": {"done", func(f *fake) {
			f.set(map[string]any{"ActiveState": "inactive", "ConditionResult": false, "ConditionTimestampMonotonic": uint64(9)})
		}, ResultCondition, "condition"},
		"done, and gone again": {"done", func(f *fake) {
			f.runs()
			f.set(map[string]any{"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "MainPID": uint32(0)})
		}, ResultGone, "activating/auto-restart"},
		"done, active, no main process": {"done", func(f *fake) { f.runs(); f.set(map[string]any{"MainPID": uint32(0)}) }, ResultGone, "does not run"},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			b.whenJob(func(_ string, job uint32) { tc.leave(b.fake); b.end(job, tc.result) })
			_, err := b.manager().Start(soon(t), KubeletUnit)
			var je *JobError
			if !errors.As(err, &je) || je.Result != tc.want || je.Op != OpStart || je.Unit != KubeletUnit || je.State.Name != KubeletUnit {
				t.Fatalf("got %#v", err)
			}
			if fault.ReasonOf(err) != fault.KubeletFailed || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("reason %s: %v", fault.ReasonOf(err), err)
			}
		})
	}
}

func TestStopThatDoesNotStop(t *testing.T) {
	b := startBus(t)
	b.whenJob(func(_ string, job uint32) { b.runs(); b.end(job, "done") })
	_, err := b.manager().Stop(soon(t), KubeletUnit)
	var je *JobError
	if !errors.As(err, &je) || je.Op != OpStop || je.Result != ResultGone {
		t.Errorf("got %v", err)
	}
}

func TestTheBusDiesUnderAJob(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*fake)
		want      string // result of the error; "" for none
	}{
		"the unit runs when it is back":         {func(f *fake) { f.runs() }, ""},
		"the unit has failed when it is back":   {func(f *fake) { f.stops("failed", "exit-code") }, "failed"},
		"nothing has happened when it is back":  {func(*fake) {}, ResultLost},
		"somebody stopped it in the meantime":   {func(f *fake) { f.stops("inactive", "success") }, ResultGone},
		"the job goes on for a while and works": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			b.runs() // with the invocation of before
			heard, queued := make(chan struct{}, 100), false
			b.whenCalled(func(method string) *dbus.Error {
				b.mu.Lock()
				defer b.mu.Unlock()
				if queued = queued || method == "restart"; queued && method == "properties" {
					heard <- struct{}{} // who asks for the state again has got the answer to the job
				}
				return nil
			})
			b.whenJob(func(string, uint32) {
				<-heard
				b.down()
				if tc.meanwhile != nil {
					tc.meanwhile(b.fake)
					b.set(map[string]any{"Job": jobOf{0, "/"}})
				}
				b.up()
				if tc.meanwhile == nil {
					b.runs()
					b.set(map[string]any{"Job": jobOf{0, "/"}}) // and no JobRemoved that we could hear
				}
			})
			_, err := b.manager().Restart(soon(t), KubeletUnit)
			var je *JobError
			if tc.want == "" && err != nil || tc.want != "" && (!errors.As(err, &je) || je.Result != tc.want) {
				t.Errorf("got %v, want result %q", err, tc.want)
			}
			if got := b.called(); !slices.Equal(got, []string{"restart"}) {
				t.Errorf("a job was sent again: %q", got)
			}
		})
	}
}

func TestALostSignalDoesNotHoldTheWait(t *testing.T) {
	b := startBus(t)
	b.whenJob(func(string, uint32) { b.runs(); b.set(map[string]any{"Job": jobOf{0, "/"}}) })
	if _, err := b.manager().Start(soon(t), KubeletUnit); err != nil {
		t.Fatal(err)
	}
}

func TestAnAbandonedJobHoldsNoOther(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	queued, finish := make(chan uint32, 1), make(chan struct{})
	b.whenJob(func(_ string, job uint32) { queued <- job; <-finish; b.runs(); b.end(job, "done") })
	ctx, cancel := context.WithCancel(soon(t))
	done := make(chan error, 1)
	go func() { _, err := m.Start(ctx, KubeletUnit); done <- err }()
	<-queued
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || fault.ReasonOf(err) != "" {
		t.Fatalf("got %v", err)
	}
	close(finish) // its result comes now, and nobody takes it
	for range 3 {
		if _, err := m.Restart(soon(t), KubeletUnit); err != nil {
			t.Fatal(err)
		}
		<-queued
	}
}

func TestCallsAreSentAgainWhenTheyWereNotTaken(t *testing.T) {
	b := startBus(t)
	var tries atomic.Int32
	b.whenCalled(func(method string) *dbus.Error {
		if method == "start" {
			if tries.Add(1) == 1 {
				return failure("org.freedesktop.DBus.Error.NoReply")
			}
		}
		return nil
	})
	if _, err := b.manager().Start(soon(t), KubeletUnit); err != nil || tries.Load() != 2 {
		t.Errorf("%d tries, %v", tries.Load(), err)
	}
}

func TestAJobThatWasTakenIsNotSentAgain(t *testing.T) {
	b := startBus(t)
	b.whenCalled(func(method string) *dbus.Error {
		if method == "restart" {
			b.mu.Lock()
			b.nextJob = 7
			b.mu.Unlock()
			b.runs() // it was taken and is done, only the answer was lost
			return failure("org.freedesktop.DBus.Error.NoReply")
		}
		return nil
	})
	u, err := b.manager().Restart(soon(t), KubeletUnit)
	if err != nil || !u.Running() || !slices.Equal(b.called(), []string{"restart"}) {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestRefusedJobs(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*bus)
		want    fault.Reason
		part    string
	}{
		"masked, as its state says": {func(b *bus) { b.set(map[string]any{"LoadState": "masked"}) }, fault.UnitMasked, "masked"},
		"masked a moment ago": {func(b *bus) {
			b.whenCalled(func(m string) *dbus.Error {
				if m == "start" {
					return failure("org.freedesktop.systemd1.UnitMasked")
				}
				return nil
			})
		}, fault.UnitMasked, "masked"},
		"no such unit": {func(b *bus) {
			b.whenCalled(func(m string) *dbus.Error {
				if m == "start" {
					return failure("org.freedesktop.systemd1.NoSuchUnit")
				}
				return nil
			})
		}, "", "NoSuchUnit happened"},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			tc.prepare(b)
			_, err := b.manager().Start(soon(t), KubeletUnit)
			if err == nil || fault.ReasonOf(err) != tc.want || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("reason %q: %v", fault.ReasonOf(err), err)
			}
		})
	}
}

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// A refused token sends the agent back to cluster-info, which it reads well each
// time: that must not begin the backoff anew.
func TestGoingBackToDiscoveryIsNoProgress(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.TokenAuth(false)
	_, stop := r.start()
	s := r.await("the fourth attempt", func(s Status) bool { return s.Reason == fault.TokenRejected && s.Attempt >= 4 })
	// The pause as it was told first: the same fault stays on show when the attempt
	// after it has begun, and then little of it is left.
	pause := time.Duration(0)
	r.mu.Lock()
	for _, told := range r.statuses {
		if told.Attempt == s.Attempt && told.NextRetry != nil {
			pause = max(pause, told.NextRetry.Sub(told.Time))
		}
	}
	r.mu.Unlock()
	if pause < 9*time.Second {
		t.Errorf("attempt %d is followed by a pause of %s", s.Attempt, pause)
	}
	r.api.TokenAuth(true)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestProgressBeginsTheBackoffAnew(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.RemoveSignatures()
	_, stop := r.start()
	r.await("some attempts", func(s Status) bool { return s.Reason == fault.NoSignatures && s.Attempt >= 3 })
	r.api.CreateForbidden(true)
	r.api.ResetClusterInfo()
	s := r.await("the next fault", reason(fault.CSRForbidden))
	if s.Attempt != 1 {
		t.Errorf("the first failure of a later phase counts as attempt %d", s.Attempt)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestPhasesHaveAnOrder(t *testing.T) {
	for _, tc := range []struct {
		p, other Phase
		want     bool
	}{
		{RequestingCertificate, Discovering, true}, {Discovering, RequestingCertificate, false}, {Discovering, Discovering, false},
		{Joined, Registering, true}, {Registering, Joined, false}, {Discovering, "", true}, {Blocked, Discovering, false},
	} {
		if got := tc.p.beyond(tc.other); got != tc.want {
			t.Errorf("%s beyond %q: %t", tc.p, tc.other, got)
		}
	}
}

// The lock says that the status is the present one: what an earlier run left
// must be gone when it is taken.
func TestTheStatusOfAnEarlierRunIsNotBelieved(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.Tokens = nil
	_, stop := r.start()
	r.await("the fault", reason(fault.TokenMissing))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	atReady := make(chan Status, 1)
	r.deps.Notify = readyHook{r, func() {
		s, _, err := ReadStatus(r.cfg.Paths)
		if err != nil {
			t.Error(err)
		}
		atReady <- s
	}}
	r.deps.Machine.BootID = "22222222-0000-0000-0000-000000000000"
	_, stop = r.start()
	if s := <-atReady; s.BootID != r.deps.Machine.BootID || s.Reason != "" {
		t.Errorf("at READY=1 the old status was there: %+v", s)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Between the lock and the removal an earlier run's file still lies there.
func TestTheStatusOfAnotherProcessIsNotBelieved(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	paths := r.cfg.Paths
	for _, tt := range []struct {
		name    string
		pid     int
		locked  bool
		full    bool // no room for the number of the one at work
		running bool
		there   bool
	}{
		{"the one at work", os.Getpid(), true, false, true, true},
		{"one before the one at work", os.Getpid() + 1, true, false, true, false},
		{"one, and nobody is at work", os.Getpid() + 1, false, false, false, true},
		{"the one at work, on a disk that was full when it began", os.Getpid(), true, true, true, true},
		{"one before the one at work, on a full disk", 1 << 30, true, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mustWrite(t, paths.StatusFile(), fmt.Sprintf(`{"phase": "Joined", "pid": %d}`, tt.pid))
			if tt.locked {
				held := must(record.Acquire(paths))
				defer held.Release()
			}
			if tt.full {
				if err := os.Truncate(paths.LockFile(), 0); err != nil {
					t.Fatal(err)
				}
			}
			s, running, err := ReadStatus(paths)
			if running != tt.running || (err == nil) != tt.there || !tt.there && (!errors.Is(err, fs.ErrNotExist) || s.Phase != "") {
				t.Errorf("running %t, %v, %+v", running, err, s)
			}
		})
	}
}

type readyHook struct {
	Notifier
	ready func()
}

func (h readyHook) Ready() error { h.ready(); return h.Notifier.Ready() }

func TestADiscoveryThatFailsSaysSoOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.RemoveSignatures()
	_, stop := r.start()
	s := r.await("the fault", reason(fault.NoSignatures))
	if n := strings.Count(s.Message, "cannot discover the cluster"); n != 1 {
		t.Errorf("%d times: %q", n, s.Message)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

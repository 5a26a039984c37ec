package agent

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// shiftedClock shows another wall clock than the cluster has.
type shiftedClock struct {
	*fastClock
	shift sync.Mutex
	by    time.Duration
}

func (c *shiftedClock) Now() time.Time {
	c.shift.Lock()
	defer c.shift.Unlock()
	return c.fastClock.Now().Add(c.by)
}

func (c *shiftedClock) set(by time.Duration) {
	c.shift.Lock()
	defer c.shift.Unlock()
	c.by = by
}

// namesake is another machine's Node under our name. Its kubelet lives or not by
// the Lease that each read of it shows.
type namesake struct {
	API
	r *rig

	mu    *sync.Mutex
	reads *[]time.Duration // when the Lease was read, since the first time
	lease func(since time.Duration) (renewed time.Time, seconds int32, there bool)
	began *time.Time
	gone  *bool // our own kubelet renews the Lease now
}

func (n namesake) GetLease(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	n.mu.Lock()
	if *n.gone {
		n.mu.Unlock()
		return n.API.GetLease(ctx, name)
	}
	now := n.r.deps.Clock.Now()
	if n.began.IsZero() {
		*n.began = now
	}
	since := now.Sub(*n.began)
	*n.reads = append(*n.reads, since)
	n.mu.Unlock()
	if renewed, seconds, there := n.lease(since); there {
		n.r.api.SetLease(name, renewed, seconds)
	} else {
		n.r.api.DeleteLease(name)
	}
	return n.API.GetLease(ctx, name)
}

// beside registers a namesake.
func (r *rig) beside(info corev1.NodeSystemInfo, lease func(since time.Duration) (time.Time, int32, bool)) (reads *[]time.Duration) {
	r.api.RegisterNode(nodeName, info)
	reads = &[]time.Duration{}
	mu, began, connect := &sync.Mutex{}, &time.Time{}, r.deps.Connect
	registered := new(bool)
	inner := r.units.OnStart
	r.units.OnStart = func(argv []string) error { // from here on it is our own kubelet that renews
		mu.Lock()
		defer mu.Unlock()
		*registered = true
		return inner(argv)
	}
	r.deps.Connect = func(id Identity) (API, error) {
		api, err := connect(id)
		return namesake{API: api, r: r, mu: mu, reads: reads, lease: lease, began: began, gone: registered}, err
	}
	return reads
}

// every is a live kubelet's Lease; died is that of one that has died a while ago.
func every(r *rig, period time.Duration, seconds int32) func(time.Duration) (time.Time, int32, bool) {
	start := r.deps.Clock.Now()
	return func(since time.Duration) (time.Time, int32, bool) {
		return start.Add(since.Truncate(period)), seconds, true
	}
}

func died(r *rig, ago time.Duration, seconds int32) func(time.Duration) (time.Time, int32, bool) {
	at := r.deps.Clock.Now().Add(-ago)
	return func(time.Duration) (time.Time, int32, bool) { return at, seconds, true }
}

// F14 and its kin (DESIGN of same name): who is registered under our name, and does
// it live?
func TestANamesakeIsJudgedByItsLease(t *testing.T) {
	other := corev1.NodeSystemInfo{BootID: "other", MachineID: "m2", SystemUUID: "u2"}
	twin := corev1.NodeSystemInfo{BootID: "other", MachineID: "m1", SystemUUID: "u1"} // our own, of before, or a clone
	type lease = func(time.Duration) (time.Time, int32, bool)
	for name, tc := range map[string]struct {
		info    corev1.NodeSystemInfo
		lease   func(*rig) lease
		change  func(*rig)
		taken   bool
		watched time.Duration // at least; 0: gone on at once
	}{
		"it lives": {info: other, lease: func(r *rig) lease { return every(r, 10*time.Second, 40) }, taken: true, watched: 10 * time.Second},
		"it has our UUID and our machine ID, and lives": {info: twin,
			lease: func(r *rig) lease { return every(r, 10*time.Second, 40) }, taken: true, watched: 10 * time.Second},
		"it has been dead for an hour":                {info: other, lease: func(r *rig) lease { return died(r, time.Hour, 40) }},
		"our own, 20 s after a diskless reboot":       {info: twin, lease: func(r *rig) lease { return died(r, 20*time.Second, 40) }, watched: 16 * time.Second},
		"a predecessor that died 30 s ago":            {info: other, lease: func(r *rig) lease { return died(r, 30*time.Second, 40) }, watched: 16 * time.Second},
		"a predecessor that died 55 s ago":            {info: other, lease: func(r *rig) lease { return died(r, 55*time.Second, 40) }},
		"it died just now":                            {info: other, lease: func(r *rig) lease { return died(r, 0, 40) }, watched: 16 * time.Second},
		"a short lease is watched for 15 s":           {info: other, lease: func(r *rig) lease { return died(r, 0, 20) }, watched: 15 * time.Second},
		"a lease of 120 s, dead for 70":               {info: other, lease: func(r *rig) lease { return died(r, 70*time.Second, 120) }, watched: 48 * time.Second},
		"a lease of 120 s that moves every 30 s":      {info: other, lease: func(r *rig) lease { return every(r, 30*time.Second, 120) }, taken: true, watched: 30 * time.Second},
		"a lease of 120 s, dead for longer":           {info: other, lease: func(r *rig) lease { return died(r, 130*time.Second, 120) }},
		"it leaves while it is watched":               {info: other, lease: func(r *rig) lease { return leaving(r) }, watched: time.Second},
		"it lives, nodeNameTakeover":                  {info: other, lease: func(r *rig) lease { return every(r, time.Second, 40) }, change: func(r *rig) { r.cfg.NodeNameTakeover = true }},
		"dead for long, our clock ten minutes behind": {info: other, lease: func(r *rig) lease { return died(r, time.Hour, 40) }, change: ourClock(-10 * time.Minute)},
		"it lives, our clock ten minutes ahead":       {info: other, lease: func(r *rig) lease { return every(r, 10*time.Second, 40) }, change: ourClock(10 * time.Minute), taken: true, watched: 10 * time.Second},
		"died just now, our clock ten minutes ahead":  {info: other, lease: func(r *rig) lease { return died(r, 0, 40) }, change: ourClock(10 * time.Minute), watched: 16 * time.Second},
		"dead, but the server tells no time":          {info: other, lease: func(r *rig) lease { return died(r, time.Hour, 40) }, change: noClock, watched: 16 * time.Second},
		"it lives, and the server tells no time":      {info: other, lease: func(r *rig) lease { return every(r, 10*time.Second, 40) }, change: noClock, taken: true, watched: 10 * time.Second},
		"our own Node of this boot, lease moving":     {info: corev1.NodeSystemInfo{BootID: "11111111-0000-0000-0000-000000000000"}, lease: func(r *rig) lease { return every(r, time.Second, 40) }},
		"no Lease, for longer than one lasts":         {info: other, lease: noLease, change: aged(41 * time.Second)},
		"no Lease yet, and it makes one":              {info: other, lease: func(r *rig) lease { return making(r, 7*time.Second) }, taken: true, watched: 7 * time.Second},
		"no Lease yet, and it dies without":           {info: other, lease: noLease, watched: 16 * time.Second},
		"no Lease, and the server tells no time":      {info: other, lease: noLease, change: both(aged(time.Hour), noClock), watched: 16 * time.Second},
		"no Lease yet, our clock ten minutes ahead":   {info: other, lease: func(r *rig) lease { return making(r, 7*time.Second) }, change: ourClock(10 * time.Minute), taken: true, watched: 7 * time.Second},
		"a Node that was made by hand a moment ago":   {info: corev1.NodeSystemInfo{}, lease: noLease, change: byHand},
		"our own Node of this boot, no Lease yet":     {info: corev1.NodeSystemInfo{BootID: "11111111-0000-0000-0000-000000000000"}, lease: noLease},
		"no Lease yet, nodeNameTakeover":              {info: other, lease: noLease, change: func(r *rig) { r.cfg.NodeNameTakeover = true }},
		"our boot ID is not known, and it is dead":    {info: other, lease: func(r *rig) lease { return died(r, time.Hour, 40) }, change: func(r *rig) { r.deps.Machine.BootID = "" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.Machine.UUID = "u1"
			reads := r.beside(tc.info, tc.lease(r))
			if tc.change != nil {
				tc.change(r)
			}
			_, stop := r.start()
			s := r.await("an end", func(s Status) bool { return s.Phase == Joined || s.Reason == fault.NodeNameTaken })
			_ = stop()
			if got := s.Reason == fault.NodeNameTaken; got != tc.taken {
				t.Fatalf("%s %s %s", s.Phase, s.Reason, s.Message)
			}
			watched := time.Duration(0)
			if n := len(*reads); n > 0 {
				watched = (*reads)[n-1]
			}
			if watched < tc.watched || tc.watched == 0 && watched > time.Second {
				t.Errorf("watched for %s, want %s", watched, tc.watched)
			}
			_, err := os.Lstat(r.files().Kubeconfig())
			if installed := err == nil; installed == tc.taken {
				t.Errorf("taken: %t, installed: %t", tc.taken, installed)
			}
			if tc.taken && (!strings.Contains(s.Message, tc.info.MachineID) || !strings.Contains(s.Message, tc.info.SystemUUID) || s.Hint == "") {
				t.Errorf("%s", s.Message)
			}
		})
	}
}

func leaving(r *rig) func(time.Duration) (time.Time, int32, bool) {
	at := r.deps.Clock.Now()
	return func(since time.Duration) (time.Time, int32, bool) { return at, 40, since < time.Second }
}

func noLease(*rig) func(time.Duration) (time.Time, int32, bool) {
	return func(time.Duration) (time.Time, int32, bool) { return time.Time{}, 0, false }
}

// making has the Lease made so long after it was first asked for.
func making(r *rig, after time.Duration) func(time.Duration) (time.Time, int32, bool) {
	start := r.deps.Clock.Now()
	return func(since time.Duration) (time.Time, int32, bool) { return start.Add(after), 40, since >= after }
}

func aged(by time.Duration) func(*rig) {
	return func(r *rig) {
		r.api.MutateNode(nodeName, func(node *corev1.Node) {
			node.CreationTimestamp.Time = node.CreationTimestamp.Add(-by)
		})
	}
}

// byHand is what `kubectl create -f node.yaml` leaves.
func byHand(r *rig) {
	r.api.MutateNode(nodeName, func(node *corev1.Node) { node.Status = corev1.NodeStatus{} })
}

func both(one, other func(*rig)) func(*rig) {
	return func(r *rig) { one(r); other(r) }
}

func ourClock(by time.Duration) func(*rig) {
	return func(r *rig) {
		r.deps.Clock = &shiftedClock{fastClock: r.deps.Clock.(*fastClock), by: by}
	}
}

// noClock takes the Date out of every answer.
func noClock(r *rig) {
	connect := r.deps.Connect
	r.deps.Connect = func(id Identity) (API, error) {
		api, err := connect(id)
		return timeless{api}, err
	}
}

type timeless struct{ API }

func (timeless) Clock() (time.Time, time.Time, bool) { return time.Time{}, time.Time{}, false }

// A restart is no way round the check: what is on the disk is a new pair that has
// not passed it, and it is checked again. The dead may be followed.
func TestAnAgentRestartedWhileTheNameIsTakenChecksAgain(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	other := corev1.NodeSystemInfo{BootID: "other", MachineID: "m2"}
	var mu sync.Mutex
	alive := every(r, 10*time.Second, 40)
	r.beside(other, func(since time.Duration) (time.Time, int32, bool) {
		mu.Lock()
		defer mu.Unlock()
		return alive(since)
	})
	for range 3 {
		_, stop := r.start()
		r.await("taken", reason(fault.NodeNameTaken))
		_ = stop()
		r.mu.Lock()
		r.statuses = nil
		r.mu.Unlock()
		if _, err := os.Lstat(r.files().CurrentPair()); err == nil {
			t.Fatal("the pair was installed all the same")
		}
		if _, err := os.Lstat(r.cfg.Paths.NewPair()); err != nil {
			t.Fatal(err)
		}
		r.units.Reboot() // not even that helps
	}
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
	if calls := r.units.Calls(); len(calls) > 1 { // the unit is written ahead
		t.Errorf("calls %v", calls)
	}
	mu.Lock()
	alive = died(r, time.Minute, 40)
	mu.Unlock()
	_, stop := r.start()
	r.await("the join after its death", phase(Joined))
	_ = stop()
	if node := r.api.Node(nodeName); node.Status.NodeInfo.BootID != r.boot {
		t.Errorf("%+v", node.Status.NodeInfo)
	}
}

// A node that is re-joined knows its own Node by the boot ID, also while its own
// kubelet renews the Lease.
func TestAReJoinDoesNotTakeItselfForANamesake(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.cfg.AfterJoin = AfterJoinHeal
	if err := os.Remove(r.files().CurrentPair()); err != nil {
		t.Fatal(err)
	}
	r.anyLease()
	_, stop := r.start()
	r.await("the second join", func(s Status) bool { return s.Phase == Joined && len(r.api.CSRs()) == 2 })
	_ = stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.statuses {
		if s.Reason == fault.NodeNameTaken {
			t.Errorf("%s", s.Message)
		}
	}
}

// Two machines of one name that start at the same moment both find no Node. Both
// are in; each says so as soon as it sees the other's description of the Node, and
// no longer when that one is gone.
func TestTwoMachinesThatBothFoundNoNodeSaySo(t *testing.T) {
	other := corev1.NodeSystemInfo{BootID: "other", MachineID: "m2"}
	for name, theirsFirst := range map[string]bool{
		"the other one registers it":                       true,
		"we register it, the other one describes it later": false,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = AfterJoinHeal
			ours := corev1.NodeSystemInfo{BootID: r.boot, MachineID: "m1"}
			r.units.OnStart = func([]string) error {
				if theirsFirst {
					r.api.RegisterNode(nodeName, other)
				} else {
					r.api.RegisterNode(nodeName, ours)
				}
				return nil
			}
			_, stop := r.start()
			joined := r.await("the join", phase(Joined))
			note, told := noteOf(joined, fault.NodeNameTaken)
			if told != theirsFirst {
				t.Fatalf("told with the join: %t", told)
			}
			if !told {
				r.api.RegisterNode(nodeName, other)
				r.api.SetNodeReady(nodeName, true, "") // else only that is asked about at first
				s := r.await("the note", func(s Status) bool { _, ok := noteOf(s, fault.NodeNameTaken); return ok })
				note, _ = noteOf(s, fault.NodeNameTaken)
			}
			if !strings.Contains(note.Message, `"m2"`) || !strings.Contains(note.Hint, "nodeName") {
				t.Errorf("%+v", note)
			}
			started := r.starts()
			r.api.RegisterNode(nodeName, ours)
			r.api.SetNodeReady(nodeName, true, "")
			s := r.await("its end", func(s Status) bool {
				_, ok := noteOf(s, fault.NodeNameTaken)
				return s.Phase == Joined && !ok && s.Time.After(joined.Time)
			})
			if err := stop(); err != nil {
				t.Error(err)
			}
			if s.Phase != Joined || r.starts() != started {
				t.Errorf("%s, and the kubelet was started %d times", s.Phase, r.starts())
			}
		})
	}
}

// A predecessor's description may still stand in the Node when a kubelet has just
// renewed its Lease.
func TestWhatAPredecessorLeftInTheNodeIsNoOtherMachine(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	other := corev1.NodeSystemInfo{BootID: "other", MachineID: "m2"}
	r.units.OnStart = func([]string) error {
		r.api.RenewLease(nodeName)
		return nil
	}
	r.beside(other, died(r, time.Hour, 40))
	_, stop := r.start()
	s := r.await("the join", phase(Joined))
	if n, ok := noteOf(s, fault.NodeNameTaken); ok {
		t.Errorf("%+v", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// anyLease has the Lease moved at each read, by whoever.
func (r *rig) anyLease() {
	connect := r.deps.Connect
	r.deps.Connect = func(id Identity) (API, error) {
		api, err := connect(id)
		return leaseMoves{api, r.api}, err
	}
}

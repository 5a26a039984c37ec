package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// UnitName is the kubelet's unit.
const UnitName = "kubelet.service"

// How long one act may take before the watchdog calls it stuck. The CSR wait
// beats by itself at each backstop.
const (
	actAtMost      = 10 * time.Minute
	shutdownAtMost = time.Second
)

// Agent is one run of the loop. Make it with New, use it once.
type Agent struct {
	cfg  Config
	deps Deps
	pace Pace
	log  logrus.FieldLogger

	files kubelet.Files
	heart heartbeat

	reloads chan struct{} // wake-ups; the config itself is in pending
	mu      sync.Mutex    // guards pending only
	pending *reload

	// Memory of the loop's goroutine; nothing else touches it.
	held         *record.Lock
	configErr    error
	trust        *record.Trust
	distrusted   bool // the record in memory has proven wrong: discover anew
	manifest     *record.Manifest
	wallet       wallet
	node         API                             // with the node's own pair; open during the join only
	prepared     *beside[systemd.KubeletService] // of kubelet.service, while the approval is awaited
	asked        *runtimeQuestion                // the container runtime, beside that
	rendering    *beside[rendered]               // of the kubelet config, while the name is asked for
	awaited      *runtimeWait                    // the join waits for a container runtime
	runtimeUnits <-chan struct{}                 // ticks meanwhile; see runtimeTicks
	unwatch      context.CancelFunc
	examined     *examination // of the kubelet's version
	readingAhead bool
	retry        backoff
	retryPhase   Phase // the one that failed; only what is beyond it ends the backoff
	lastFault    error
	lastSeen     Observation
	memory       memory
	hands        handsOff
	status       Status
	timeline     timeline
	exports      exports
	loggedPhase  Phase
	loggedFault  fault.Reason
	loggedAt     time.Time
	loggedNotes  map[string]bool
	notified     string // the line that systemd was told last
	readied      bool   // systemd was told that the loop runs
	announced    bool   // so was that the machine is a node
}

// New makes an agent. Nothing happens before Run.
func New(cfg Config, deps Deps) (*Agent, error) {
	if cfg.NodeName == "" {
		return nil, fault.New(fault.ConfigInvalid, "nodeName is empty")
	}
	if cfg.AfterJoin == "" {
		cfg.AfterJoin = AfterJoinHeal
	}
	a := &Agent{cfg: cfg, deps: deps, log: deps.Log, manifest: &record.Manifest{}, reloads: make(chan struct{}, 1)}
	a.files = kubelet.Files{Layout: kubelet.Layout{Dir: cfg.Paths.Kubelet}, Now: deps.Clock.Now}
	a.pace = deps.Pace.orDefault()
	a.retry.jitter, a.retry.pace = deps.Jitter, a.pace
	return a, nil
}

// Run makes the machine a node and keeps it one until ctx ends, which is no
// error. It returns nil when the node is joined under AfterJoinExit; the fault
// when StopWhenBlocked is set; the last fault when ctx ran into its deadline;
// Locked when another agent is at work.
func (a *Agent) Run(ctx context.Context) error {
	held, err := record.Acquire(a.cfg.Paths)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	a.held = held
	defer func() { a.held.Release() }()
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ticks := a.deps.Units.Watch(ctx, UnitName) // the bus is dialled while the records are read
	if err := a.remember(); err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	// What an earlier run published is not what is the case now, and from here on
	// the lock says that it is.
	if err := atomicfile.Remove(a.cfg.Paths.StatusFile()); err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	a.dropMetrics()
	defer a.endExports()
	a.heart.beat(a.deps.Clock.Now(), actAtMost)
	background.Go(func() { a.feedWatchdog(ctx) })
	if a.manifest.Started.IsZero() {
		a.examine(ctx) // a first join: its answer is wanted before the request
	}

	err = a.loop(ctx, ticks)
	a.tell(a.deps.Notify.Stopping())
	a.closeNode()
	a.prepared.end()
	a.reexamine()
	return err
}

// ready tells systemd, once, that the loop runs: after the first look at the
// unit, not before it. It makes systemd busy (it ends the start job, tells all
// who listen, goes on with the boot), and then a join would wait for its answer.
func (a *Agent) ready() {
	if !a.readied {
		a.readied = true
		a.tell(a.deps.Notify.Ready())
	}
}

// remember loads the records of earlier runs and sweeps up after a crash.
func (a *Agent) remember() error {
	paths := a.cfg.Paths
	for _, dir := range []string{paths.State, paths.Run} {
		if err := atomicfile.CleanTemp(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{paths.Units, filepath.Dir(a.dropIn())} {
		if err := atomicfile.CleanTemp(dir); err != nil {
			a.log.WithError(err).Debug("cannot sweep up") // nobody reads them there
		}
	}
	err := a.files.Clean()
	if err != nil {
		return err
	}
	if a.trust, err = record.ReadTrust(paths); err != nil {
		return err
	}
	if a.manifest, err = record.ReadManifest(paths); err != nil {
		return err
	}
	a.takeAdopted()
	a.memory.lookForDrift = true
	if a.trust == nil {
		return a.restoreTrust()
	}
	if a.trust.Generation < a.manifest.Generation {
		if err := a.renewTrust(); err != nil || a.trust == nil {
			return err
		}
	}
	a.memory.node.Known = a.trust.NodeUID != ""
	a.keepName()
	return a.learnMachine()
}

// loop observes, decides and acts until ctx ends.
func (a *Agent) loop(ctx context.Context, ticks <-chan struct{}) error {
	for {
		a.takeReload()
		a.takeOrder()
		a.listen(ctx)
		a.heart.beat(a.deps.Clock.Now(), actAtMost)
		if err := a.keepState(); err != nil {
			return err
		}
		obs, err := a.observe(ctx)
		if ctx.Err() != nil {
			return a.ended(ctx)
		}
		phase := nextPhase(obs)
		if err != nil {
			// What cannot be seen has not changed.
			obs, phase = a.lastSeen, nextPhase(a.lastSeen)
		}
		a.lastSeen = obs
		if err == nil && a.hands.order != nil {
			a.obey(ctx, &obs)
			if ctx.Err() != nil {
				return a.ended(ctx)
			}
			continue
		}
		if err == nil {
			if phase.beyond(a.retryPhase) || a.anew(phase) {
				a.retry.reset()
				a.lastFault = nil
			}
			if phase != RequestingCertificate {
				a.status.CSR = withoutApprove(a.status.CSR)
			}
			if phase != Discovering && phase != RequestingCertificate {
				a.ready()
			}
			var idle bool
			idle, err = a.step(ctx, phase, obs)
			if ctx.Err() != nil || err != nil && cutOff(ctx) {
				return a.ended(ctx)
			}
			if err == nil && !idle {
				continue
			}
		}
		a.ready() // whatever came of it
		if phase == Joined && err == nil {
			if a.announce(ctx); a.cfg.AfterJoin == AfterJoinExit {
				return nil
			}
		}
		pause := a.pace.LocalCheck
		if err != nil {
			if pause = a.fail(phase, obs, err); a.stops(err) {
				return err
			}
		} else if left := a.untilSomethingIsDue(phase, obs); left < pause {
			pause = left
		}
		a.wait(ctx, pause, phase, ticks)
	}
}

// step does what the phase asks for. idle: there is nothing to do but wait.
func (a *Agent) step(ctx context.Context, phase Phase, obs Observation) (idle bool, err error) {
	acts := map[Phase]func(context.Context, Observation) error{
		Discovering:           a.discover,
		RequestingCertificate: a.request,
		CheckingName:          a.checkName,
		ConfiguringKubelet:    a.configure,
		StartingKubelet:       a.start,
		Registering:           a.register,
	}
	if obs.Copied == "" && (a.fellBack(ctx, obs) || a.reissued(ctx, &obs)) { // never with the pair of another machine
		return false, nil
	}
	// What runs although it is disabled has a Lease to be seen like any other.
	atRest := obs.Unit.HeldBack != "" && !obs.Unit.Active || obs.Node.Deleted && obs.Healthy
	if obs.Pair == PairVanishing || phase == Joined || atRest && phase == Registering {
		return !a.rest(ctx, phase, obs), nil
	}
	if a.cfg.AfterJoin == AfterJoinObserve && !a.manifest.Started.IsZero() && phase != Registering {
		a.publish(phase, obs, nil, observing(obs)+obs.Copied.clause())
		return true, nil
	}
	if a.retry.attempt == 0 {
		// While something is tried again, its fault stays on show.
		a.publish(phase, obs, nil, "")
	}
	ctx, stop := a.interruptible(ctx)
	defer stop()
	if obs.Pair == PairUsable && !a.isOurs(a.files.CurrentPair()) {
		// Somebody else's node; or ours, and the records of that are gone (a purge of
		// the package). The pair fits, but whose the rest is only a person can say.
		if err := a.admissible(ctx); err != nil {
			return false, err
		}
	}
	err = acts[phase](ctx, obs)
	switch {
	case err == nil && phase == Registering:
		a.memory.follow.outage = outage{}
	case err != nil && obs.Pair == PairUsable && a.serverFailed(ctx, obs, err):
		return false, nil // a node whose server is gone has got another one
	}
	return false, a.whyAnew(phase, obs, err)
}

// wait pauses until the next attempt, a reload, a change of the unit (once the
// kubelet is the point), or the end.
func (a *Agent) wait(ctx context.Context, pause time.Duration, phase Phase, ticks <-chan struct{}) {
	a.export(ctx)
	a.heart.beat(a.deps.Clock.Now(), pause+actAtMost)
	fire, stop := a.deps.Clock.After(pause)
	defer stop()
	if phase != Joined && phase != Registering && phase != CheckingName {
		// Elsewhere the unit is not what is waited for; a start that failed would
		// wake itself up by the changes that it made.
		ticks = nil
	}
	runtime := a.runtimeTicks(ctx)
	select {
	case <-ctx.Done():
	case <-fire:
	case <-ticks:
	case <-runtime:
	case <-a.reloads:
		a.wake() // the loop takes it
	}
}

// anew says whether a node has to begin again: its identity is lost.
func (a *Agent) anew(phase Phase) bool {
	settled := a.retryPhase == Registering || a.retryPhase == Joined
	return settled && (phase == Discovering || phase == RequestingCertificate)
}

// fail records a fault and says how long to pause.
func (a *Agent) fail(phase Phase, obs Observation, err error) time.Duration {
	class := fault.Retry
	var after time.Duration
	if f, ok := fault.As(err); ok {
		if row, known := fault.Lookup(f.Reason); known {
			class = row.Class
		}
		after = f.RetryAfter
	}
	if errors.Is(err, context.Canceled) {
		return 0 // an act was interrupted by a reload: go round at once
	}
	now := a.deps.Clock.Now()
	if a.retry.attempt == 0 || phase.beyond(a.retryPhase) {
		a.retryPhase = phase
	}
	pause := a.retry.next(now, class, after)
	next := now.Add(pause).UTC()
	a.lastFault = err
	a.exports.failed(phase, fault.ReasonOf(err))
	if phase == StartingKubelet || phase == Registering {
		a.lookAround() // what it finds may be why
	}
	if class == fault.Blocked && phase != Registering && phase != Joined {
		phase = Blocked
	}
	a.status.Attempt, a.status.NextRetry = a.retry.attempt, &next
	a.publish(phase, obs, err, "")
	return pause
}

func (a *Agent) stops(err error) bool {
	if !a.deps.StopWhenBlocked {
		return false
	}
	row, ok := fault.Lookup(fault.ReasonOf(err))
	return ok && row.Class == fault.Blocked
}

// cutOff says whether an attempt ended because the deadline of join --timeout
// did: the network notices some milliseconds before the context does, and that
// must not hide what earlier attempts have found out.
func cutOff(ctx context.Context) bool {
	const near = 100 * time.Millisecond
	deadline, ok := ctx.Deadline()
	if !ok || time.Until(deadline) > near {
		return false
	}
	<-ctx.Done()
	return true
}

// ended tells a deadline (join --timeout) from a plain stop.
func (a *Agent) ended(ctx context.Context) error {
	if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil
	}
	if a.lastFault != nil {
		return fmt.Errorf("not joined in time: %w", a.lastFault)
	}
	if csr := a.status.CSR; csr != nil && csr.Approve != "" {
		return fault.New(fault.CSRPending, "not joined in time: %s waits for approval", csr.Name).WithHint("%s", csr.Approve)
	}
	for _, note := range a.status.Notes {
		if note.Reason == fault.KubeletStopped {
			return fault.New(fault.KubeletFailed, "not joined in time: %s", note.Message).WithHint("%s", note.Hint)
		}
	}
	if a.status.Phase == Registering {
		return fault.New(fault.NodeNotRegistered, "not joined in time, in phase %s", a.status.Phase)
	}
	return fault.New(fault.EndpointUnreachable, "not joined in time, in phase %s", a.status.Phase)
}

// feedWatchdog pings systemd while the loop's heartbeat is fresh, and only then.
func (a *Agent) feedWatchdog(ctx context.Context) {
	every := a.deps.Notify.Interval()
	if every <= 0 {
		return
	}
	for {
		if a.heart.fresh(a.deps.Clock.Now()) {
			a.tell(a.deps.Notify.Watchdog())
		}
		fire, stop := a.deps.Clock.After(every)
		select {
		case <-ctx.Done():
			stop()
			return
		case <-fire:
		}
	}
}

// tell notes that systemd could not be told something. Nothing else follows from
// it: if it matters, the watchdog acts.
func (a *Agent) tell(err error) {
	if err != nil {
		a.log.WithError(err).Debug("cannot notify systemd")
	}
}

// token returns the token to use now, as discovery wants it.
func (a *Agent) token() (discovery.Token, string, bool, error) {
	return a.wallet.choose(a.cfg.Tokens)
}

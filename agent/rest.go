package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
)

// rest is the act of a node at rest: it is looked at, seldom asked about, and
// left alone. acted: something was repaired, so that there is more to look at.
func (a *Agent) rest(ctx context.Context, phase Phase, o Observation) (acted bool) {
	// From here on next to nothing is done; what the look needed goes back.
	defer a.giveBack()
	defer a.closeNode()
	now := a.deps.Clock.Now()
	if a.node != nil {
		// The join has just asked everything there is to ask.
		a.keepVersion()
		a.lookAtRest()
		a.memory.eager = a.pace.EagerFirst
		a.scheduleCheck(now)
	}
	lookForTokens := len(a.memory.leftovers) > 0 // so that one that was removed is not told of
	if a.memory.lookForDrift && !a.manifest.Started.IsZero() {
		a.memory.lookForDrift = false
		a.memory.renderDrift = a.differing(ctx)
		o.Outdated = a.rendersOtherwise(o)
		lookForTokens = true
	}
	if phase == Joined {
		a.removeToken()
	}
	if a.repair(ctx, o) {
		return true
	}
	o.Repairs = a.repairNotes(o)
	if lookForTokens {
		a.memory.leftovers = Leftovers(a.cfg.Paths, a.cfg.Discovery)
		o.Leftovers = a.memory.leftovers
	}
	if left := a.memory.spent.left; left != nil {
		o.Leftovers = append(slices.Clone(o.Leftovers), *left)
	}
	if a.memory.eager == 0 && a.unasked(o) {
		a.memory.nextAPICheck = now // something new is seen here: what does the API know of it?
	}
	if f := a.memory.follow; phase == Joined && f.plan != nil && !now.Before(f.due) {
		a.memory.nextAPICheck = now // the kubelet is about to be restarted: is its Node still there?
	}
	if phase == Joined && a.kubeletRefused(ctx, now) {
		a.memory.nextAPICheck = now
	}
	check, moved := !now.Before(a.memory.nextAPICheck) && a.canAsk(o), false
	if check {
		wasReady := a.memory.node.Ready
		if err := a.askAPI(ctx, o); err != nil {
			a.log.WithError(err).Debug("the API cannot be asked now")
			if moved = a.serverFailed(ctx, o, err); !cutsOff(err) {
				a.memory.follow.outage = outage{}
			}
		} else {
			a.memory.follow.outage = outage{}
		}
		if wasReady && !a.memory.node.Ready && !a.memory.node.Deleted {
			a.memory.eager = a.pace.EagerFirst // it was Ready: somebody will want to know when it is again
		}
		a.lookAtRest()
		a.scheduleCheck(a.deps.Clock.Now())
		a.memory.lookForDrift = true
		a.heard(&o)
		a.describeNode(o.LeaseRenewed)
	}
	if phase == Joined && !moved {
		a.follow(ctx, check && a.memory.eager == 0, o)
	}
	say := "node " + a.cfg.NodeName
	if phase != Joined {
		switch {
		case o.Pair == PairVanishing:
			say = "the certificate is gone; if it stays gone for 10 s a new one is requested"
		case o.Unit.HeldBack != "" && !o.Unit.Active:
			say = "the kubelet does not run: " + o.Unit.HeldBack
		default:
			say = "the kubelet runs, and its Node was deleted"
		}
	}
	a.publish(phase, o, nil, say)
	a.annotate(ctx) // over the connection that this look has opened, if it has
	return false
}

// giveBack returns what is not needed at rest, where the caller knows how.
func (a *Agent) giveBack() {
	if a.deps.AtRest != nil {
		a.deps.AtRest()
	}
}

// scheduleCheck decides when the API is asked again: 15 to 22 minutes, which
// spreads a fleet's questions. Sooner only in two cases: a node that has just
// joined and is not Ready yet, or has just ceased to be (10 s, doubling), and a
// certificate that was refused once and is tried again.
func (a *Agent) scheduleCheck(now time.Time) {
	jitter := a.deps.Jitter
	if jitter == nil {
		jitter = rand.N[time.Duration]
	}
	next := a.pace.APICheck + jitter(a.pace.APICheck/2)
	if at, waits := a.nextRequest(); waits && at.After(now) {
		next = min(next, max(at.Sub(now), a.pace.APICheck)+jitter(time.Minute))
	}
	switch {
	case !a.memory.unauthorized.IsZero():
		next = a.pace.UnauthorizedGap
	case !a.memory.follow.outage.since.IsZero():
		next = a.pace.LocalCheck + jitter(a.pace.LocalCheck) // the kubelet is cut off: every minute counts
	case a.memory.eager > 0 && !a.memory.node.Ready && a.memory.eager < a.pace.APICheck:
		next = a.memory.eager
		a.memory.eager *= 2
	default:
		a.memory.eager = 0
	}
	a.memory.nextAPICheck = now.Add(next)
}

// askAPI looks at our Node with our own pair, and at cluster-info anonymously
// over a connection verified by the trust record. The first stays open until the
// end of this look.
func (a *Agent) askAPI(ctx context.Context, o Observation) error {
	if err := a.connectCurrent(); err != nil {
		return err
	}
	defer a.noteClock()
	a.memory.annotated = nil // until it is seen what the Node says now
	node, err := a.node.GetNode(ctx, a.cfg.NodeName)
	var unauthorized *apiclient.Unauthorized
	switch {
	case err == nil:
		a.memory.unauthorized = time.Time{}
		a.rememberNode(node)
		if a.memory.eager == 0 { // a kubelet that has just started may not have described it yet
			a.noteOwner(node)
		}
		a.askServerVersion(ctx, node)
	case apierrors.IsNotFound(err):
		a.memory.node.Deleted, a.memory.node.Ready = a.memory.node.Known, false
		a.memory.nodeAsked = a.deps.Clock.Now()
	case errors.As(err, &unauthorized):
		return a.judgeUnauthorized(err)
	default:
		return err
	}
	if a.memory.eager > 0 || a.unasked(o) {
		return a.eagerQuestions(ctx, o) // beside these only Ready is waited for
	}
	return a.askInTurn(ctx, o)
}

// canAsk: there is something to ask the API with, and to know it by.
func (a *Agent) canAsk(o Observation) bool { return o.Pair == PairUsable && a.trust != nil }

// untilSomethingIsDue says how long a node at rest may be left alone. What nobody
// does in this phase is not due in it.
func (a *Agent) untilSomethingIsDue(phase Phase, o Observation) time.Duration {
	if o.Pair == PairVanishing {
		return a.pace.VanishGrace
	}
	if a.memory.nextAPICheck.IsZero() || !a.canAsk(o) {
		return a.pace.LocalCheck
	}
	now := a.deps.Clock.Now()
	left := a.memory.nextAPICheck.Sub(now)
	if f := a.memory.follow; f.plan != nil && phase == Joined {
		left = min(left, f.due.Sub(now))
	}
	if left <= 0 {
		return time.Second
	}
	return left
}

// Survey observes without a daemon, for `status` on a machine where none runs:
// it needs no lock, asks no network and changes nothing.
func Survey(ctx context.Context, cfg Config, deps Deps) (Status, error) {
	a, err := New(cfg, deps)
	if err != nil {
		return Status{}, err
	}
	if a.trust, err = record.ReadTrust(cfg.Paths); err != nil {
		return Status{}, err
	}
	if a.manifest, err = record.ReadManifest(cfg.Paths); err != nil {
		return Status{}, err
	}
	a.takeAdopted()
	if cfg.NodeName == "" && a.trust != nil {
		a.cfg.NodeName = a.trust.NodeName
	}
	obs, err := a.observe(ctx)
	if err != nil {
		return Status{}, err
	}
	// Whether the Lease is renewed only the API knows; a healthy kubelet with a
	// usable pair is taken for a node.
	obs.LeaseRenewed = obs.Healthy
	a.status.Phase = nextPhase(obs)
	if obs.Leftovers = nil; a.status.Phase == Joined {
		obs.Leftovers = Leftovers(cfg.Paths, cfg.Discovery)
	}
	a.status.Notes = notesOf(obs)
	a.status.Time = deps.Clock.Now().UTC()
	a.status.Version, a.status.BootID = deps.Version, deps.Machine.BootID
	return a.status, nil
}

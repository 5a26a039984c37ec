package agent

import (
	"context"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Where the server in use cannot be used any more, the node is down already, and
// what would heal it is done at once: another server that the trust record
// verifies; else the cluster is discovered anew, with signature and pins as at
// the first join, and only CA and kubeconfig change.

// outage is that the server in use cannot be reached, or does not verify.
type outage struct {
	since time.Time // zero: there is none
	err   error     // of the server in use
	other error     // of discovering the cluster anew
	again time.Time // when that is tried again
	alien bool      // somebody answered with a certificate that the record does not verify
}

// cutsOff says whether an error means that a server is of no use to the kubelet:
// one that answers, whatever it says, is none of these.
func cutsOff(err error) bool {
	switch fault.ReasonOf(err) {
	case fault.EndpointUnreachable, fault.DNSFailure, fault.TLSHandshakeFailed, fault.ServerCertificateInvalid:
		return true
	}
	return false
}

// serverFailed is told an error of a question to the server in use. It returns
// true when the node was given another one, or other CAs, and the loop shall look.
func (a *Agent) serverFailed(ctx context.Context, o Observation, err error) bool {
	f := &a.memory.follow
	if a.trust == nil || !cutsOff(err) {
		return false
	}
	now := a.deps.Clock.Now()
	if f.outage.since.IsZero() {
		f.outage.since = now
	}
	f.outage.err = err
	f.outage.alien = fault.ReasonOf(err) == fault.ServerCertificateInvalid
	if f.stays = a.staysAsIs(o); f.stays != "" {
		return false
	}
	if plan := f.plan; plan != nil && f.outage.alien && plan.CA != a.trust.CA && a.answers(ctx, plan.Server, plan.CA) == nil {
		// The cluster was quicker than its nodes: what was going to be taken, shown
		// over a verified connection, is needed now.
		return a.take(plan)
	}
	if now.Sub(f.outage.since) < a.pace.ServerDead {
		return false // a blip changes nothing
	}
	if a.moveElsewhere(ctx) {
		return true
	}
	return f.outage.alien && !now.Before(f.outage.again) && a.rediscover(ctx)
}

// moveElsewhere looks for a server of the cluster that answers and that the trust
// record verifies: the one that cluster-info names where it can be read elsewhere,
// else the endpoint that has answered, for the time being.
func (a *Agent) moveElsewhere(ctx context.Context) bool {
	places := a.endpointURLs()
	switch {
	case a.cfg.Server != "":
		places = []string{a.cfg.Server} // it overrides all
	case a.cfg.Discovery != nil:
		places = []string{a.fileServer()}
	default:
		places = append(places, a.trust.InfoServer)
		// Each machine begins elsewhere, or all of a fleet would meet at the first one.
		first := int(splay(a.deps.Machine.MachineID+a.cfg.NodeName, time.Duration(len(places))))
		places = append(places[first:], places[:first]...)
	}
	for _, place := range places {
		if place == "" || place == a.trust.Server {
			continue
		}
		a.heart.beat(a.deps.Clock.Now(), actAtMost)
		s, _, err := a.hear(ctx, place)
		if err != nil {
			a.memory.follow.outage.alien = a.memory.follow.outage.alien || fault.ReasonOf(err) == fault.ServerCertificateInvalid
			a.log.WithError(err).Debug("another endpoint is of no use either")
			continue
		}
		next := *a.trust
		next.Server, next.Provisional, next.ServerByConfig = place, a.cfg.Server == "" && a.cfg.Discovery == nil, a.cfg.Server != ""
		if s != nil && s.Server != "" && next.Provisional {
			next.InfoServer = s.Server
		}
		switch named := next.InfoServer; {
		case named == place:
			next.Provisional = false
		case next.Provisional && named != "" && named != a.trust.Server && a.reaches(ctx, named, a.trust.CA) == nil:
			next.Server, next.Provisional = named, false
		}
		return a.take(&next)
	}
	return false
}

// rediscover trusts anew, on the grounds of a first join: a signature with a token
// of ours, and a pin where pins are configured; or the discovery file. The node's
// identity stays; should the API refuse it, that is seen and healed by itself.
func (a *Agent) rediscover(ctx context.Context) bool {
	d := &a.memory.follow.outage
	cluster, err := a.findCluster(ctx, false)
	now := a.deps.Clock.Now()
	if d.other = err; err != nil {
		if ctx.Err() != nil {
			d.other = nil
			return false
		}
		pause := a.pace.Slow
		if row, _ := fault.Lookup(fault.ReasonOf(err)); row.Class == fault.Blocked {
			pause = a.pace.Blocked
		}
		d.again = now.Add(pause)
		return false
	}
	d.again = now.Add(a.pace.Slow)
	next := newTrust(a.cfg, cluster, a.deps.Machine)
	if next.CA == a.trust.CA && next.Server == a.trust.Server {
		return false // the cluster is what it was: something else answers in its place
	}
	next.CATaken, next.ServerMoved, next.UnitBefore = a.trust.CATaken, a.trust.ServerMoved, a.trust.UnitBefore
	bundle, pins := next.CA, next.CAPins
	next.CA, next.FormerCA = a.trust.CA, a.trust.FormerCA
	next.TakeCA(bundle, pins)
	return a.take(next)
}

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// reload is what Reload handed in last.
type reload struct {
	cfg Config
	err error
}

// Reload hands in a config that was read anew, or the error that reading it
// gave: then the one in use stays, and the status tells. It returns at once;
// the newest call wins.
func (a *Agent) Reload(cfg Config, err error) {
	a.mu.Lock()
	a.pending = &reload{cfg: cfg, err: err}
	a.mu.Unlock()
	a.wake()
}

func (a *Agent) wake() {
	select {
	case a.reloads <- struct{}{}:
	default: // one wake-up is queued already
	}
}

// interruptible ends an act when a reload arrives: a new token or a new config
// must not wait for an approval that may take a day.
func (a *Agent) interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-a.reloads:
			cancel()
			a.wake() // the loop takes it
		case <-done:
		}
	}()
	return ctx, func() { close(done); <-finished; cancel() }
}

// takeReload puts a config that was handed in to use.
func (a *Agent) takeReload() {
	select {
	case <-a.reloads:
	default:
		return
	}
	a.mu.Lock()
	next := a.pending
	a.pending = nil
	a.mu.Unlock()
	if next == nil {
		return
	}
	before := a.cfg
	a.tell(a.deps.Notify.Reloading())
	if next.err != nil {
		a.configErr, a.hands.badConfig = next.err, true
		a.log.WithError(next.err).Warn("config file is bad and is not used")
	} else {
		a.configErr, a.hands.badConfig = nil, false
		a.cfg = next.cfg
		a.keepName()
		a.closeNode() // server, proxy and CA may be others now
		a.log.Info("config loaded anew")
	}
	a.wallet.refused = nil
	a.memory.lookForDrift = true
	a.memory.file, a.memory.spent = nil, spentToken{}
	if f := &a.memory.follow; a.cfg.Discovery != nil || f.asks() || !sameCluster(before, a.cfg) {
		a.memory.nextAPICheck = time.Time{} // the file may show another CA; a pin, an endpoint or a token what was lacking
		f.outage.again = time.Time{}
	}
	a.memory.annotateRefused = false
	a.exports.next = time.Time{} // whoever held the port may have gone
	a.memory.admitted = 0
	a.awaited = nil // another endpoint may be named now
	a.reexamine()
	a.retry.reset()
	a.tell(a.deps.Notify.Ready())
}

// sameCluster says whether two configs lead to the same server and the same CAs.
func sameCluster(a, b Config) bool {
	return slices.Equal(a.Endpoints, b.Endpoints) && a.Server == b.Server && a.CARotation == b.CARotation && slices.Equal(a.Pins.List(), b.Pins.List())
}

// keepName lets a node keep the name that it joined under, whatever the config
// (or a host name that DHCP changed) says now: another name would be another
// node, and this one would be left behind.
func (a *Agent) keepName() {
	if a.copied() != "" {
		return // that name is another machine's
	}
	if a.trust == nil || a.manifest.Started.IsZero() || a.trust.NodeName == "" || a.trust.NodeName == a.cfg.NodeName {
		return
	}
	a.configErr = fault.New(fault.ConfigInvalid, "nodeName: this machine is joined as %s and keeps that name, not %s, until it is removed from the cluster",
		a.trust.NodeName, a.cfg.NodeName)
	a.cfg.NodeName = a.trust.NodeName
}

package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/csr"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// discover decides which cluster to trust and records it. The machine is
// checked first: what would stop the join anyway stops it before any traffic.
//
// On the disk of another machine that comes before anything is set aside: without a
// token that the cluster knows today nothing would be left to go on with.
func (a *Agent) discover(ctx context.Context, o Observation) error {
	if o.Copied != "" {
		return a.discoverAnew(ctx, o)
	}
	return a.discoverCluster(ctx)
}

func (a *Agent) discoverCluster(ctx context.Context) error {
	if err := a.admissible(ctx); err != nil {
		return err
	}
	a.readAhead(ctx)
	cluster, err := a.findCluster(ctx, true)
	if err != nil {
		return err // it says itself what could not be done
	}
	return a.accept(ctx, cluster)
}

// findCluster asks the configured endpoints, or the discovery file, for a cluster
// that passes every check of a first contact. It decides nothing. joins: a
// certificate is requested next, which takes a token whoever names the cluster.
func (a *Agent) findCluster(ctx context.Context, joins bool) (cluster *discovery.Cluster, err error) {
	if a.cfg.Discovery != nil {
		return a.findByFile(ctx, joins)
	}
	for {
		token, from, more, err := a.token()
		if err != nil {
			return nil, fmt.Errorf("cannot discover the cluster: %w", err)
		}
		err = a.stepped(StepDiscover, func() (string, error) {
			cluster, err = a.deps.Discoverer.Discover(ctx, discovery.Request{
				Endpoints: a.cfg.Endpoints, Token: token, Pins: a.cfg.Pins,
				UnsafeSkipCAVerification: a.cfg.UnsafeSkipCAVerification,
				Server:                   a.cfg.Server, Proxy: a.cfg.Proxy,
			})
			if err != nil {
				return "", err
			}
			return "from " + cluster.Endpoint, nil
		})
		if err != nil && a.tokenRefused(token, err) && more {
			a.log.WithField("source", from).WithField("tokenID", token.ID()).Warn("token refused, the next source is tried")
			continue
		}
		return cluster, err
	}
}

// findByFile takes the cluster from the discovery file. Only the server is asked
// to show itself; a machine that joins looks for the token all the same, because
// without one there is nothing to do next.
func (a *Agent) findByFile(ctx context.Context, joins bool) (cluster *discovery.Cluster, err error) {
	file, err := a.cfg.Discovery.Read()
	if err == nil && joins {
		_, _, _, err = a.token()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot discover the cluster: %w", err)
	}
	err = a.stepped(StepDiscover, func() (string, error) {
		cluster, err = a.deps.Discoverer.Discover(ctx, discovery.Request{File: file, Pins: a.cfg.Pins, Server: a.cfg.Server, Proxy: a.cfg.Proxy})
		return "from " + a.cfg.Discovery.Path, err
	})
	return cluster, err
}

// requesterOf is who the API server takes the token's bearer for; "" where only
// the server knows.
func requesterOf(token discovery.Token) string {
	if token.Static() {
		return ""
	}
	return "system:bootstrap:" + token.ID()
}

// explainStatic gives a refused static token its own remedy: that of bootstrap
// tokens would lead to another place.
func explainStatic(token discovery.Token, err error) error {
	if f, ok := fault.As(err); ok && f.Reason == fault.TokenRejected && token.Static() {
		return f.WithHint("This is no bootstrap token, so the API server has to know it as it is: check the file of its --token-auth-file, which it reads only when it starts.")
	}
	return err
}

// tokenRefused remembers a token that the cluster does not take.
func (a *Agent) tokenRefused(token discovery.Token, err error) bool {
	switch fault.ReasonOf(err) {
	case fault.TokenUnknown, fault.SignatureMismatch, fault.TokenRejected, fault.CSRForbidden:
		a.wallet.refuse(token)
		return true
	}
	return false
}

func (a *Agent) accept(ctx context.Context, cluster *discovery.Cluster) error {
	next := newTrust(a.cfg, cluster, a.deps.Machine)
	next.UnitBefore = a.unitBefore()
	if why := a.copied(); why != "" {
		if err := a.setAside(ctx, why); err != nil {
			return fmt.Errorf("cannot set the identity of another machine aside: %w", err)
		}
	}
	if old := a.trust; old != nil && old.NodeName == next.NodeName {
		next.NodeUID = old.NodeUID
	}
	next.Generation = a.nextGeneration()
	if err := next.Write(a.cfg.Paths); err != nil {
		return err
	}
	a.trust, a.distrusted = next, false
	if len(next.ClientCAs) > 0 && a.cfg.Kubelet.ClientCAFile == "" {
		a.log.WithField("clientCAs", next.ClientCAs).Warn("the API server's clients are vouched for by other CAs than the accepted ones; kubelet.clientCAFile is most likely needed")
	}
	log := a.log.WithField("server", next.Server).WithField("endpoint", next.Endpoint).WithField("caPins", next.CAPins)
	if next.Provisional {
		log.Warn("cluster accepted; its own server cannot be reached, so the endpoint that answered is used")
	} else {
		log.Info("cluster accepted")
	}
	return nil
}

// request gets a certificate for the pending key. A request that waits is no
// fault: it waits as long as it takes, and the status says so.
func (a *Agent) request(ctx context.Context, o Observation) error {
	if err := a.admissible(ctx); err != nil {
		return err
	}
	a.readAhead(ctx)
	if err := a.suitable(ctx); err != nil {
		return err
	}
	token, _, _, err := a.token()
	if err != nil {
		return fmt.Errorf("cannot request a certificate: %w", err)
	}
	if !serves(a.trust, a.cfg, token.ID(), a.fileDigest()) {
		return nil // the token was changed a moment ago: look again
	}
	api, err := a.deps.Connect(Identity{Server: a.trust.Server, CA: []byte(a.trust.CA), Bearer: token})
	if err != nil {
		return fmt.Errorf("cannot request a certificate: %w", err)
	}
	defer api.Close()
	var credentials *csr.Credentials
	a.status.CSR = nil
	waiting := false
	err = a.stepped(StepRequest, func() (string, error) {
		requester := csr.Requester{
			KeyPath: a.cfg.Paths.PendingKey(), Now: a.deps.Clock.Now, Log: a.log,
			Waits: csr.Waits{Backstop: a.pace.Backstop, Signed: a.pace.Signed},
			OnProgress: func(p csr.Progress) {
				if !waiting && p.Name != "" {
					waiting = true
					a.prepareUnit(ctx) // now, when there is nothing to do but wait
					a.timeline.end(StepRequest, a.deps.Clock.Now(), p.Name, "")
					a.timeline.begin(StepApproval, a.deps.Clock.Now())
				}
				a.progress(ctx, p, o)
			},
		}
		credentials, err = requester.Request(ctx, csr.Target{API: api, NodeName: a.cfg.NodeName, Requester: requesterOf(token)})
		err = explainStatic(token, err)
		return "", err
	})
	if err != nil {
		if ctx.Err() != nil {
			a.timeline.end(StepApproval, a.deps.Clock.Now(), "interrupted", "")
			return err // stopped or interrupted: the request goes on waiting
		}
		a.timeline.end(StepApproval, a.deps.Clock.Now(), "", reasonOrFailed(err))
		a.status.CSR = withoutApprove(a.status.CSR)
		switch fault.ReasonOf(err) {
		case fault.ServerCertificateInvalid, fault.EndpointUnreachable, fault.DNSFailure, fault.TLSHandshakeFailed:
			a.distrusted = true
		}
		if a.tokenRefused(token, err) {
			a.distrusted = true
		}
		// Distrusted: the next attempt reads cluster-info anew. Token, CA or the
		// server's address may have changed.
		return fmt.Errorf("cannot get a certificate: %w", err)
	}
	now := a.deps.Clock.Now()
	a.timeline.end(StepApproval, now, credentials.CSR, "")
	if c := withoutApprove(a.status.CSR); c != nil {
		at := now.UTC()
		c.Approved = &at
		a.status.CSR = c
	}
	pair := slices.Concat(credentials.CertPEM, credentials.KeyPEM)
	if _, err := atomicfile.Write(a.cfg.Paths.NewPair(), pair, 0o600); err != nil {
		return err
	}
	a.log.WithField("csr", credentials.CSR).WithField("notAfter", credentials.Leaf.NotAfter.UTC().Format(time.RFC3339)).Info("certificate issued")
	// Should the key come back after a power cut, the pair above goes before it.
	return atomicfile.Discard(a.cfg.Paths.PendingKey())
}

func withoutApprove(c *CSRStatus) *CSRStatus {
	if c == nil {
		return nil
	}
	out := *c
	out.Approve, out.Bind = "", ""
	return &out
}

// progress shows a request that waits.
func (a *Agent) progress(ctx context.Context, p csr.Progress, o Observation) {
	now := a.deps.Clock.Now()
	a.heart.beat(now, actAtMost)
	a.lastFault = nil // overcome: the request is made
	a.status.CSR = &CSRStatus{
		Name: p.Name, Created: p.Created.UTC(), Adopted: p.Adopted, WillBeApproved: p.WillBeApproved,
		BackstopGets: p.Backstops, Approve: approveCommand(p.Name), Bind: p.Bind,
	}
	if !p.Approved.IsZero() {
		at := p.Approved.UTC()
		a.status.CSR.Approved, a.status.CSR.Approve, a.status.CSR.Bind = &at, "", ""
	}
	if p.WillBeApproved != nil || p.Backstops > 0 {
		a.lookAround() // it takes its time: there is some to look at the machine
		defer a.export(ctx)
	}
	if p.WillBeApproved != nil && !*p.WillBeApproved || now.Sub(p.Created) > time.Minute {
		hint := a.status.CSR.Approve
		if p.Bind != "" {
			hint += "; or, for this machine and all after it: " + p.Bind
		}
		err := fault.New(fault.CSRPending, "request %s waits for approval", p.Name).WithHint("%s", hint)
		a.publish(RequestingCertificate, o, err, "")
		return
	}
	a.publish(RequestingCertificate, o, nil, "request "+p.Name+" is made")
}

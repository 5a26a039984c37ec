package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/csr"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// A node whose certificate still serves asks for the next one with it: to the
// signer and approver that is the same question as the kubelet's own renewal
// (selfnodeclient), and no token is needed. The agent asks in two cases only, in
// which the kubelet would not: the certificate is signed by a CA that the trust
// record held and has since dropped, or it is nearly over and the kubelet, which
// would renew it, does not run. It never moves the phase, and until the new pair
// has been seen to work the old one goes on.

const (
	// What asking again cannot help soon (denied, still signed by the dropped CA)
	// is asked again after an hour, doubling to a day.
	uselessFirst = time.Hour
	uselessMost  = 24 * time.Hour
)

// Reissue is what is known of a certificate that is to be replaced before its end.
type Reissue struct {
	Why     string        // "": it is not
	Due     bool          // the new one is to be asked for now
	At      time.Time     // when it is asked for (again)
	Held    string        // by a person: the kubelet could not be started again
	Request *pendingAsked // it waits for approval
	Failed  string        // what came of the last attempt
}

// message tells what is done about it.
func (r Reissue) message() string {
	text := "the certificate is to be replaced: " + r.Why
	switch {
	case r.Held != "":
		return text + "; that waits, because kubelet.service is " + r.Held + " and could not be started again after it"
	case r.Request.waits():
		return text + r.Request.clause()
	case r.Failed != "":
		text += "; " + r.Failed
	}
	if r.Due {
		return text
	}
	return text + "; a new one is asked for at " + r.At.UTC().Format(time.RFC3339)
}

// approve is the command for a person, "" where none is known to help.
func (r Reissue) approve() string {
	switch {
	case r.Held != "":
		return "systemctl unmask kubelet; systemctl enable kubelet"
	case r.Request.waits():
		row, _ := fault.Lookup(fault.RenewalNotAutomatic)
		return r.Request.approve() + "; or, for this node and all others: " + row.Remedy
	}
	return ""
}

// reissue is what the loop remembers of it. Another pair makes all of it void.
type reissue struct {
	serial  string    // of the pair that is to be replaced
	down    time.Time // the kubelet has not run since then; zero: it runs
	due     time.Time
	useless time.Duration // the last pause after an attempt that could not help
	request *pendingAsked
	failed  string
	back    bool // the old pair is taken back
}

// reissueState says whether the pair in use is to be replaced, and when.
func (a *Agent) reissueState(p kubelet.PairState, o Observation, now time.Time) Reissue {
	m := &a.memory.reissue
	switch {
	case o.Unit.Active:
		m.down = time.Time{}
	case m.down.IsZero():
		m.down = now
	}
	why := ""
	if o.Pair == PairUsable && a.trust != nil && !a.manifest.Started.IsZero() && !o.Node.Deleted {
		why = a.outdated(p.Leaf)
		if why == "" && o.Renewal.Overdue && a.nobodyRenews(o, now) {
			why = "it is past 90 % of its lifetime, and the kubelet, which would renew it, does not run"
		}
	}
	if why == "" {
		if o.Pair == PairUsable {
			*m = reissue{down: m.down}
		}
		return Reissue{}
	}
	if m.serial != p.Serial {
		// What makes all nodes do this at once is spread; but one restart is enough
		// where one is at hand anyway.
		*m = reissue{serial: p.Serial, down: m.down, due: now.Add(splay(a.deps.Machine.MachineID+a.cfg.NodeName, a.cfg.RestartSplay))}
	}
	first := m.failed == "" && m.request == nil
	if first && (!o.Unit.Active || o.Unit.Older || len(o.Files.Damaged) > 0) && now.Before(m.due) {
		m.due = now
	}
	r := Reissue{Why: why, At: m.due, Request: m.request, Failed: m.failed}
	if o.Unit.Active {
		r.Held = o.Unit.HeldBack
	}
	// The kubelet alone rotates: while it does, its new pair is waited for.
	r.Due = r.Held == "" && !p.Updating && !o.NewPair && a.cfg.AfterJoin == AfterJoinHeal && !now.Before(m.due)
	return r
}

// nobodyRenews says whether the kubelet is known not to run: held back by a
// person, or down for longer than systemd's restarts take.
func (a *Agent) nobodyRenews(o Observation, now time.Time) bool {
	return !o.Unit.Active && (o.Unit.HeldBack != "" || now.Sub(a.memory.reissue.down) >= a.pace.LocalCheck)
}

// outdated says why a certificate will not be accepted for much longer: only a CA
// that the trust record has dropped vouches for it. One whose signer was never in
// the record says nothing: the signing CA may be another than the serving CA.
func (a *Agent) outdated(leaf *x509.Certificate) string {
	if leaf == nil || a.trust == nil || a.trust.FormerCA == "" {
		return ""
	}
	if signedBy(leaf, a.trust.FormerCA) && !signedBy(leaf, a.trust.CA) {
		return "it is signed by a CA that the cluster has dropped"
	}
	return ""
}

// signedBy says whether one of these CAs (PEM) vouches for the certificate, were
// it the day on which that was issued.
func signedBy(leaf *x509.Certificate, bundle string) bool {
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		at := leaf.NotBefore // certificates are backdated, a new CA may be younger
		if at.Before(ca.NotBefore) {
			at = ca.NotBefore
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			return true
		}
	}
}

// reissued asks for the next certificate where that is due. true: there is a new
// pair, look again. Whatever else comes of it is told beside the phase, and tried
// again later.
func (a *Agent) reissued(ctx context.Context, o *Observation) bool {
	if !o.Reissue.Due || o.Pair != PairUsable {
		return false
	}
	outer := ctx
	ctx, stop := a.interruptible(ctx)
	defer stop()
	m := &a.memory.reissue
	old := m.failed
	err := a.askAnew(ctx, *o)
	if outer.Err() != nil || ctx.Err() != nil {
		return false // stopped, or the config has changed: nothing is lost
	}
	now := a.deps.Clock.Now()
	if err == nil {
		m.failed, m.request = "", nil
		a.closeNode() // which speaks with the old one
		return true
	}
	// Near its end a certificate is not left waiting for a quarter of an hour.
	pause := max(min(a.pace.APICheck, o.Renewal.NotAfter.Sub(now)/8), a.pace.LocalCheck)
	var waits *stillPending
	m.failed, m.request = err.Error(), nil
	switch reason := fault.ReasonOf(err); {
	case errors.As(err, &waits):
		m.failed, m.request = "", waits.request
	case reason == fault.CSRDenied || reason == fault.CSRFailed || reason == fault.CSRForbidden || reason == fault.CertificateInvalid:
		m.useless = min(max(2*m.useless, uselessFirst), uselessMost)
		pause = m.useless
	}
	m.due = now.Add(pause)
	if m.request != nil || m.failed != old {
		a.log.WithError(err).Warn("the certificate cannot be replaced yet, the old one goes on")
	}
	o.Reissue.Due, o.Reissue.At, o.Reissue.Request, o.Reissue.Failed = false, m.due, m.request, m.failed
	return false
}

// stillPending ends an attempt whose request waits for a person.
type stillPending struct{ request *pendingAsked }

func (s *stillPending) Error() string {
	return "certificate signing request " + s.request.name + " waits for approval"
}

// askAnew gets a new pair with the old one and leaves it where the name check finds
// it, which shows whether the API accepts it.
func (a *Agent) askAnew(ctx context.Context, o Observation) error {
	pair, err := a.readPair()
	if err != nil {
		return fmt.Errorf("cannot read the node's pair: %w", err)
	}
	old := kubelet.JudgePair(pair, a.cfg.NodeName, a.deps.Clock.Now())
	if old.Status != kubelet.PairUsable || old.Serial != a.memory.reissue.serial {
		return errors.New("the kubelet has just renewed it")
	}
	api, err := a.deps.Connect(Identity{Server: a.trust.Server, CA: []byte(a.trust.CA), Pair: pair})
	if err != nil {
		return err
	}
	defer api.Close()
	if err := a.mayAsk(ctx, api, o); err != nil {
		return err
	}
	credentials, err := a.requestAnew(ctx, api)
	if err != nil {
		return err
	}
	why := a.outdated(credentials.Leaf)
	if credentials.Leaf.Equal(old.Leaf) {
		why = "it is the one in use"
	}
	if why != "" {
		if err := atomicfile.Remove(a.cfg.Paths.PendingKey()); err != nil {
			return err
		}
		return fault.New(fault.CertificateInvalid, "the new certificate is of no use: %s; is --cluster-signing-cert-file the new CA?", why)
	}
	pair = slices.Concat(credentials.CertPEM, credentials.KeyPEM)
	if _, err := atomicfile.Write(a.cfg.Paths.NewPair(), pair, 0o600); err != nil {
		return err
	}
	a.log.WithField("csr", credentials.CSR).WithField("why", o.Reissue.Why).Info("certificate issued to the old one")
	return atomicfile.Discard(a.cfg.Paths.PendingKey())
}

// mayAsk makes sure that the Node is there (a deleted one is not registered again)
// and that a kubelet that runs does not wait for a renewal of its own.
func (a *Agent) mayAsk(ctx context.Context, api API, o Observation) error {
	_, err := api.GetNode(ctx, a.cfg.NodeName)
	if apierrors.IsNotFound(err) {
		a.memory.nextAPICheck = time.Time{} // which says NodeDeleted
		return errors.New("its Node is not in the API")
	}
	if err != nil {
		a.memory.nextAPICheck = time.Time{} // which judges a 401
		return err
	}
	if !o.Unit.Active {
		return nil
	}
	found, err := api.PendingCSR(ctx, clientSigner, kubelet.NodeUser(a.cfg.NodeName))
	if err != nil || found == nil {
		return err
	}
	request := &pendingAsked{name: found.Name, created: found.Created}
	own := a.memory.reissue.request
	if own != nil && own.name == found.Name || request.asOf(a.deps.Clock.Now()).old {
		return nil // ours, or one that the kubelet has given up
	}
	return &stillPending{request}
}

// requestAnew makes or finds the request and waits as long as machines take.
func (a *Agent) requestAnew(ctx context.Context, api API) (*csr.Credentials, error) {
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last csr.Progress
	made := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-made:
		}
		fire, stop := a.deps.Clock.After(a.pace.Reissued)
		defer stop()
		select {
		case <-ctx.Done():
		case <-fire:
			cancel()
		}
	}()
	requester := csr.Requester{
		KeyPath: a.cfg.Paths.PendingKey(), Now: a.deps.Clock.Now, Log: a.log,
		OnProgress: func(p csr.Progress) {
			if last.Name == "" && p.Name != "" {
				close(made)
			}
			if last = p; p.WillBeApproved != nil && !*p.WillBeApproved {
				cancel()
			}
		},
	}
	credentials, err := requester.Request(ctx, csr.Target{API: api, NodeName: a.cfg.NodeName, Requester: kubelet.NodeUser(a.cfg.NodeName)})
	switch {
	case err == nil || outer.Err() != nil || ctx.Err() == nil || last.Name == "":
		return credentials, err
	case !last.Approved.IsZero():
		return nil, fault.New(fault.CSRNotSigned, "request %s is approved and not signed", last.Name)
	}
	return nil, &stillPending{&pendingAsked{name: last.Name, created: last.Created}}
}

// dropNewPair gives up a pair that was to replace one which still serves.
func (a *Agent) dropNewPair(why string) error {
	m := &a.memory.reissue
	m.useless = min(max(2*m.useless, uselessFirst), uselessMost)
	m.failed, m.due = why, a.deps.Clock.Now().Add(m.useless)
	a.log.WithField("why", why).Warn("the new certificate is not installed, the old one goes on")
	return atomicfile.Remove(a.cfg.Paths.NewPair())
}

// accepted says whether the API server takes a pair for this node's.
func (a *Agent) accepted(ctx context.Context, pair []byte) error {
	api, err := a.deps.Connect(Identity{Server: a.trust.Server, CA: []byte(a.trust.CA), Pair: pair})
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.GetNode(ctx, a.cfg.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // who asked was believed
	}
	return err
}

// fellBack takes the old pair back where the API refuses the new one before that
// has ever worked, and still accepts the old one. true: it waits to be installed.
func (a *Agent) fellBack(ctx context.Context, o Observation) bool {
	if o.Pair != PairRejected || a.manifest.Before == "" || a.trust == nil || a.cfg.AfterJoin == AfterJoinObserve {
		return false
	}
	old, err := atomicfile.Read(a.manifest.Before, maxPairFile)
	now := a.deps.Clock.Now()
	judged := kubelet.JudgePair(old, a.cfg.NodeName, now)
	usable := err == nil && judged.Status == kubelet.PairUsable
	if usable {
		err = a.accepted(ctx, old)
		var unauthorized *apiclient.Unauthorized
		usable = err == nil
		if err != nil && !errors.As(err, &unauthorized) {
			return false // it could not be asked
		}
	}
	if usable {
		if _, err := atomicfile.Write(a.cfg.Paths.NewPair(), old, 0o600); err != nil {
			return false // it is tried again
		}
		a.log.Warn("the API server refuses the new certificate, the old one is taken back")
		// Not asked again at once: the same would come of it.
		a.memory.reissue = reissue{
			serial: judged.Serial, down: a.memory.reissue.down, due: now.Add(uselessMost), back: true,
			failed: "the API server refused the certificate that was to replace it",
		}
		a.closeNode() // which speaks with the refused one
	}
	a.manifest.Before = ""
	return a.manifest.Write(a.cfg.Paths) == nil && usable
}

// wayBack is the file of the pair that is about to be replaced by this one, if it
// could serve again.
func (a *Agent) wayBack(o Observation, next []byte) string {
	if o.Pair != PairUsable && o.Pair != PairRejected {
		return ""
	}
	path, err := os.Readlink(a.files.CurrentPair())
	if err != nil {
		return "" // a file where a link belongs is set aside under another name
	}
	now := a.deps.Clock.Now()
	data, err := atomicfile.Read(path, maxPairFile)
	if err != nil || kubelet.JudgePair(data, a.cfg.NodeName, now).Serial == kubelet.JudgePair(next, a.cfg.NodeName, now).Serial {
		return a.manifest.Before // it is installed already: what was noted before stays
	}
	return path
}

// overtaken says whether the kubelet has renewed its pair while a new one was made
// for it: what it has is as good, and it alone rotates.
func (a *Agent) overtaken(next []byte) bool {
	now := a.deps.Clock.Now()
	data, err := a.readPair()
	current := kubelet.JudgePair(data, a.cfg.NodeName, now)
	return err == nil && current.Status == kubelet.PairUsable && a.outdated(current.Leaf) == "" &&
		current.NotBefore.After(kubelet.JudgePair(next, a.cfg.NodeName, now).NotBefore)
}

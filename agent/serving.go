package agent

import (
	"context"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// The kubelet gives up a request that nobody decides after 15 minutes and makes
// another one with another key: approving the old one helps nobody any more. So
// while one waits it is looked up again a little later than that.
const (
	requestLives = 15 * time.Minute
	requestAgain = requestLives + time.Minute
)

// Serving is how the API server can reach this kubelet, for logs and exec.
type Serving struct {
	// Missing: the kubelet is set to get its serving certificate from the
	// cluster, and has none that is good.
	Missing bool
	// Request is what the API said about it when it was asked last.
	Request *pendingAsked
	// OtherCAs are those whose clients the API server takes, while the kubelet
	// lets in only clients of the accepted CAs.
	OtherCAs []string
}

// pendingAsked is what the API said about a request of the kubelet's own.
type pendingAsked struct {
	name    string // "": there was none
	created time.Time
	old     bool // so old that the kubelet has given it up
	unknown bool // it could not be asked; that is tried again in its turn, not at once
}

func (p *pendingAsked) waits() bool { return p != nil && p.name != "" && !p.old }

// clause continues a note's message.
func (p *pendingAsked) clause() string {
	switch {
	case p == nil:
		return ""
	case p.waits():
		return "; its request " + p.name + " waits for approval since " + p.created.UTC().Format(time.RFC3339)
	case p.unknown:
		return "; the API could not be asked about its request"
	}
	return "; no request of it was found waiting when the API was asked last"
}

// approve is the command for a person, "" when no request is known to wait.
func (p *pendingAsked) approve() string {
	if !p.waits() {
		return ""
	}
	return approveCommand(p.name)
}

func approveCommand(name string) string { return "kubectl certificate approve " + name }

// status is the request for `status -o json`.
func (s Serving) status() *CSRStatus {
	if !s.Missing || !s.Request.waits() {
		return nil
	}
	return &CSRStatus{Name: s.Request.name, Created: s.Request.created.UTC(), Approve: s.Request.approve()}
}

// servingState looks at the kubelet's configuration and at its serving pair. A
// configuration that cannot be read says nothing here: its health tells that.
func (a *Agent) servingState(now time.Time) (s Serving) {
	layers, err := a.layers()
	if err != nil {
		return s
	}
	effective, err := layers.Effective(a.files.Root())
	if err != nil {
		return s
	}
	if a.trust != nil && effective.ClientCAFile == a.files.CACert() {
		s.OtherCAs = a.trust.ClientCAs
	}
	s.Missing = effective.ServerTLSBootstrap && !a.hasServingPair(now)
	if !s.Missing {
		a.memory.serving = nil
		return s
	}
	s.Request = a.memory.serving.asOf(now)
	return s
}

// asOf says what an answer of some time ago is worth now.
func (p *pendingAsked) asOf(now time.Time) *pendingAsked {
	if p == nil || p.name == "" {
		return p
	}
	out := *p
	out.old = now.Sub(p.created) > requestLives
	return &out
}

func (a *Agent) hasServingPair(now time.Time) bool {
	path, err := filepath.EvalSymlinks(a.files.ServerPair())
	if err != nil {
		return false
	}
	data, err := atomicfile.Read(path, maxPairFile)
	pair := kubelet.JudgePair(data, a.cfg.NodeName, now) // as no client certificate it is never usable
	return err == nil && pair.Leaf != nil && !now.After(pair.NotAfter)
}

// askPending looks for a request that this node's kubelet has made.
func (a *Agent) askPending(ctx context.Context, signer string, into **pendingAsked) error {
	found, err := a.node.PendingCSR(ctx, signer, kubelet.NodeUser(a.cfg.NodeName))
	if err != nil {
		return err
	}
	*into = &pendingAsked{}
	if found != nil {
		*into = &pendingAsked{name: found.Name, created: found.Created}
	}
	return nil
}

// servingSigner and clientSigner are whom the kubelet asks.
const (
	servingSigner = certificatesv1.KubeletServingSignerName
	clientSigner  = certificatesv1.KubeAPIServerClientKubeletSignerName
)

// unasked says whether something waits for a person that the API was not asked
// about yet.
func (a *Agent) unasked(o Observation) bool {
	return o.Serving.Missing && a.memory.serving == nil || o.Renewal.Overdue && a.memory.renewal == nil
}

// eagerQuestions are asked with the first looks after the join, and once when
// there is something new, so that what waits for a person is known in seconds.
func (a *Agent) eagerQuestions(ctx context.Context, o Observation) error {
	if o.Serving.Missing && !a.memory.serving.waits() {
		if err := a.askPending(ctx, servingSigner, &a.memory.serving); err != nil {
			return err
		}
	}
	if o.Renewal.Overdue && !a.memory.renewal.waits() {
		return a.askPending(ctx, clientSigner, &a.memory.renewal)
	}
	return nil
}

// questionsAtRest is how many of the questions below are asked with one look:
// with the one for the Node that makes three in a quarter of an hour.
const questionsAtRest = 2

// askInTurn asks what is due, a few questions each time.
func (a *Agent) askInTurn(ctx context.Context, o Observation) error {
	due := []func(context.Context) error{a.askClusterInfo}
	if automatic := a.manifest.RenewalAutomatic; automatic == nil || !*automatic {
		due = append(due, func(ctx context.Context) error { a.askRenewal(ctx); return nil })
	}
	if o.Serving.Missing {
		due = append(due, func(ctx context.Context) error { return a.askPending(ctx, servingSigner, &a.memory.serving) })
	}
	if o.Renewal.Overdue {
		due = append(due, func(ctx context.Context) error { return a.askPending(ctx, clientSigner, &a.memory.renewal) })
	}
	questions := questionsAtRest
	if a.annotationsDue() {
		questions-- // writing them is the third request, then
	} else {
		a.memory.annotated = nil // what this look changes waits for the next one
	}
	for range min(questions, len(due)) {
		a.memory.turn++
		if err := due[a.memory.turn%len(due)](ctx); err != nil {
			return err
		}
	}
	return nil
}

// nextRequest is when a request that waits now will have been replaced.
func (a *Agent) nextRequest() (at time.Time, ok bool) {
	for _, p := range []*pendingAsked{a.memory.serving, a.memory.renewal} {
		if p.waits() && (!ok || p.created.Before(at)) {
			at, ok = p.created, true
		}
	}
	return at.Add(requestAgain), ok
}

// heard brings the answers of a look at the API into the observation that was
// made before it.
func (a *Agent) heard(o *Observation) {
	now := a.deps.Clock.Now()
	if o.Serving.Missing && a.memory.serving == nil {
		a.memory.serving = &pendingAsked{unknown: true}
	}
	if o.Renewal.Overdue && a.memory.renewal == nil {
		a.memory.renewal = &pendingAsked{unknown: true}
	}
	o.Node, o.CARefreshClosed = a.memory.node, a.memory.caClosed
	if automatic := a.manifest.RenewalAutomatic; automatic != nil {
		o.Renewal.NotAutomatic = !*automatic
	}
	if o.Renewal.Overdue {
		o.Renewal.Request = a.memory.renewal.asOf(now)
	}
	if o.Serving.Missing {
		o.Serving.Request = a.memory.serving.asOf(now)
	}
	a.status.ServingCSR = o.Serving.status()
}

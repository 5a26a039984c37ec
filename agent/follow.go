package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// A joined node follows its cluster: another bundle of CAs, another server. What
// it follows was shown by a server that the trust record verifies; what that asks
// for is put on record, after a pause of each machine's own, and the loop finds
// CA and kubeconfig outdated then and does the rest, with one restart of the
// kubelet. Nothing is followed that would cut the node off.

// following is what the loop remembers of it between two looks. Losing it costs a
// few requests, and a pause that begins anew.
type following struct {
	shown   *shown        // by the cluster, when it was asked last
	fresh   bool          // with this look
	refused error         // why what it showed cannot be read
	cas     caChange      // what it means for the CAs
	server  serverChange  // and for the server
	plan    *record.Trust // the record as it will be; nil: nothing changes
	due     time.Time     // when
	stays   string        // why nothing changes whatever is shown
	strange string        // endpoints of a changed config that the record does not verify, and why
	outage  outage
}

// shown is what a server that the trust record verifies, or a discovery file, says
// about the cluster now.
type shown struct {
	discovery.Offer
	from   string // the server that answered
	byFile bool   // the CAs are the discovery file's
	fits   error  // why that server would not verify under what would be taken of them
}

// caChange is how the bundle on show differs from the one that is held, in pins.
type caChange struct {
	added, gone []string
	byFile      bool
	held        string // why it is not taken
	paste       string // what caCertHashes would have to be
}

// serverChange is the server on offer where it is not the one in use.
type serverChange struct {
	offered string
	held    string // why it is not followed
}

// askClusterInfo hears what the cluster shows now. Where anonymous access is
// closed the discovery file is read instead.
func (a *Agent) askClusterInfo(ctx context.Context) error {
	f := &a.memory.follow
	f.strange = ""
	var closed bool
	var s *shown
	var err error
	for _, server := range a.sources() {
		if s, closed, err = a.hear(ctx, server); err == nil && (s != nil || server == a.trust.Server) {
			break
		}
		if fault.ReasonOf(err) == fault.ServerCertificateInvalid && server != a.trust.Server {
			f.strange = err.Error()
		}
	}
	f.refused = nil
	if fault.ReasonOf(err) == fault.ClusterInfoInvalid {
		// It was heard, and is nothing that anybody could follow.
		s, f.refused, err = nil, err, nil
	}
	if err != nil {
		return err
	}
	f.shown, f.fresh = s, true
	a.memory.caClosed = closed && s == nil
	return nil
}

// sources are the servers that are asked, in this order. Endpoints that were
// changed since the cluster was accepted come before the server in use: whoever
// changed them wants the nodes to hear what is said there.
func (a *Agent) sources() []string {
	var list []string
	if endpoints, _ := grounds(a.cfg); a.cfg.Server == "" && a.cfg.Discovery == nil && !slices.Equal(endpoints, a.trust.Endpoints) {
		list = a.endpointURLs()
	}
	return append(without(list, a.trust.Server), a.trust.Server)
}

func (a *Agent) endpointURLs() []string {
	var list []string
	for _, e := range a.cfg.Endpoints {
		list = append(list, e.URL())
	}
	return list
}

// hear reads cluster-info anonymously at a server that the trust record verifies.
// Where that answers but does not let strangers read (closed), it is the
// discovery file that says something, or nobody (nil).
func (a *Agent) hear(ctx context.Context, server string) (s *shown, closed bool, err error) {
	api, err := a.deps.Connect(Identity{Server: server, CA: []byte(a.trust.CA)})
	if err != nil {
		return nil, false, err
	}
	defer api.Close()
	text, err := api.ClusterInfo(ctx)
	switch {
	case refusedRead(err):
		offer, ok := a.fileOffer()
		if !ok {
			return nil, true, nil
		}
		s, closed = &shown{Offer: offer, from: server, byFile: true}, true
	case err != nil:
		return nil, false, err
	default:
		offer, err := discovery.Offered(text)
		if err != nil {
			return nil, false, fmt.Errorf("what %s shows is not followed: %w", server, err)
		}
		if a.cfg.Discovery != nil {
			offer.Server = a.fileServer() // that is who names it
		}
		s = &shown{Offer: offer, from: server}
	}
	if take := a.takeable(s); take.Len() > 0 {
		s.fits = api.VerifiesUnder(take.PEM())
	}
	return s, closed, nil
}

// refusedRead says whether a server answered that it does not let us read: so it
// is there, and speaks.
func refusedRead(err error) bool {
	var unauthorized *apiclient.Unauthorized
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || errors.As(err, &unauthorized)
}

// pinned says whether pins decide about these CAs. A discovery file is the
// operator's word itself, unless he has configured pins as well.
func (a *Agent) pinned(s *shown) bool {
	return a.cfg.CARotation == CARotationPinned && !(s.byFile && a.cfg.Pins.Len() == 0)
}

// takeable is what would be taken of the CAs on show: all of them; where pins
// decide, without those that they left out when the cluster was accepted.
func (a *Agent) takeable(s *shown) discovery.Bundle {
	if !a.pinned(s) {
		return s.Bundle
	}
	return s.Bundle.Without(without(a.trust.DroppedPins, a.cfg.Pins.List()...))
}

// without returns what of a list is not among others.
func without(list []string, others ...string) (left []string) {
	for _, one := range list {
		if !contains(others, one) {
			left = append(left, one)
		}
	}
	return left
}

// judgeBundle compares the CAs on show with those that the record holds, and puts
// them into next if they are to be taken.
func (a *Agent) judgeBundle(next *record.Trust) (c caChange) {
	s := a.memory.follow.shown
	if s == nil {
		return c
	}
	held, err := discovery.ParseBundle([]byte(next.CA))
	if err != nil {
		held = discovery.Bundle{}
	}
	take := a.takeable(s)
	c.added, c.gone, c.byFile = take.Minus(held).Pins(), held.Minus(take).Pins(), s.byFile
	if len(c.added)+len(c.gone) == 0 {
		return c
	}
	configured := a.cfg.Pins.List()
	unpinned := without(without(c.added, configured...), next.CAPins...)
	switch {
	case take.Len() == 0:
		c.held = "no CA would be left"
	case a.pinned(s) && len(unpinned) > 0:
		c.held = "caRotation is pinned, and caCertHashes lacks the pin"
		c.paste = `caCertHashes: ["` + strings.Join(append(configured, unpinned...), `", "`) + `"]`
	case s.fits != nil:
		c.held = "the server that shows it would not verify under it: " + s.fits.Error()
	default:
		next.TakeCA(string(take.PEM()), take.Pins())
		next.DroppedPins = s.Bundle.Minus(take).Pins()
		next.ClientCAs = nil // who vouches for the server's clients is heard when a cluster is discovered
	}
	return c
}

// judgeServer finds out which server a join with today's config would choose, and
// puts it into next if it answers, verified by what is held now and by what will be.
func (a *Agent) judgeServer(ctx context.Context, next *record.Trust) (c serverChange) {
	s := a.memory.follow.shown
	named := next.InfoServer
	if s != nil && s.Server != "" {
		named = s.Server
	}
	if next.InfoServer == "" {
		next.InfoServer = named // the record was lost: what was named when its server was chosen is not known
	}
	want, byConfig := next.Server, a.cfg.Server != ""
	switch {
	case byConfig:
		want = a.cfg.Server
	case named != "" && (next.Provisional || next.ServerByConfig || named != next.InfoServer):
		want = named
	}
	if want == next.Server {
		next.InfoServer, next.Provisional, next.ServerByConfig = named, next.Provisional && named == "", byConfig
		return c
	}
	if !next.Provisional || want != next.InfoServer {
		c.offered = want
	}
	err := a.reaches(ctx, want, next.CA)
	if err == nil {
		next.Server, next.InfoServer, next.Provisional, next.ServerByConfig = want, named, false, byConfig
		return c
	}
	c.held = "it does not answer as a server of this cluster: " + err.Error()
	if next.Provisional && s != nil && s.from != next.Server && !contains(a.endpointURLs(), next.Server) {
		next.Server = s.from // another endpoint is configured now, and it is still only for the time being
	}
	return c
}

// reaches says whether a server that the trust record verifies speaks HTTP, and
// would verify under another bundle as well. It is asked anonymously: whether it
// lets us read cluster-info does not matter.
func (a *Agent) reaches(ctx context.Context, server, ca string) error {
	return a.answers(ctx, server, a.trust.CA, ca)
}

// answers says whether a server speaks HTTP and verifies under each of these
// bundles; the connection is made under the first.
func (a *Agent) answers(ctx context.Context, server string, bundles ...string) error {
	api, err := a.deps.Connect(Identity{Server: server, CA: []byte(bundles[0])})
	if err != nil {
		return err
	}
	defer api.Close()
	if _, err := api.ClusterInfo(ctx); err != nil && !refusedRead(err) {
		return err
	}
	for _, ca := range bundles[1:] {
		if err := api.VerifiesUnder([]byte(ca)); err != nil {
			return err
		}
	}
	return nil
}

// staysAsIs says why the node is not changed whatever the cluster shows; "": it is.
func (a *Agent) staysAsIs(o Observation) string {
	if a.cfg.AfterJoin == AfterJoinObserve {
		return "afterJoin is observe"
	}
	if o.Node.Deleted {
		return "the Node was deleted, and a kubelet that is restarted would register it anew"
	}
	for _, path := range []string{a.files.CACert(), a.files.Kubeconfig()} {
		if contains(o.Files.Drifted, path) {
			return path + " was edited: `bootstrap-agent apply` first"
		}
	}
	return ""
}

// follow plans what the cluster asks of this node, and does it when it is due and
// the cluster still says so. checked: the API was asked with this look.
func (a *Agent) follow(ctx context.Context, checked bool, o Observation) {
	f := &a.memory.follow
	defer func() { f.fresh = false }()
	due := f.plan != nil && !a.deps.Clock.Now().Before(f.due)
	if a.trust == nil || !checked && !due {
		return
	}
	if due && !f.fresh {
		if err := a.askClusterInfo(ctx); err != nil {
			a.log.WithError(err).Debug("the cluster cannot be asked whether it still shows what is due")
			f.due = a.deps.Clock.Now().Add(a.pace.LocalCheck)
			return
		}
	}
	next := *a.trust
	f.cas = a.judgeBundle(&next)
	f.server = a.judgeServer(ctx, &next)
	f.stays = a.staysAsIs(o)
	now := a.deps.Clock.Now()
	changes := next.CA != a.trust.CA || next.Server != a.trust.Server
	switch {
	case f.stays != "":
		f.plan = nil
		return
	case !changes:
		f.plan = nil
		if next.InfoServer != a.trust.InfoServer || next.Provisional != a.trust.Provisional || next.ServerByConfig != a.trust.ServerByConfig {
			a.put(&next) // of what is known of the cluster, nothing that the kubelet reads
		}
		return
	case f.plan == nil || f.plan.CA != next.CA || f.plan.Server != next.Server:
		f.due = a.notBefore(&next, now)
		a.log.WithField("at", f.due.UTC().Format(time.RFC3339)).Info("the cluster has changed, the kubelet follows")
	}
	f.plan = &next
	if now.Before(f.due) {
		return
	}
	if f.shown != nil && f.shown.from != next.Server && next.Server == a.trust.Server {
		// Somebody else has shown the bundle: does the server in use verify under it?
		if err := a.reaches(ctx, next.Server, next.CA); err != nil {
			f.cas.held, f.plan = "the server in use would not verify under it: "+err.Error(), nil
			return
		}
	}
	a.take(&next)
}

// notBefore is when a change that was seen now is due: after this machine's own
// pause, and never soon after another one of its kind.
func (a *Agent) notBefore(next *record.Trust, now time.Time) time.Time {
	due := now.Add(splay(a.deps.Machine.MachineID+a.cfg.NodeName, a.cfg.RestartSplay))
	after := func(last time.Time, concerned bool) {
		// A moment that is still to come was written under another clock.
		if again := last.Add(a.pace.ChangeGap); concerned && !last.After(now) && again.After(due) {
			due = again
		}
	}
	after(a.trust.CATaken, next.CA != a.trust.CA)
	after(a.trust.ServerMoved, next.Server != a.trust.Server)
	return due
}

// take puts another bundle, or another server, on record. The loop finds the files
// outdated then; a crash in between finds the same.
func (a *Agent) take(next *record.Trust) bool {
	old, now := a.trust, a.deps.Clock.Now().UTC()
	if next.NodeName == old.NodeName {
		next.NodeUID = old.NodeUID // it may have been seen since this was planned
	}
	var step []string
	did := func(event fault.Event, what, text string) {
		step = append(step, what)
		a.log.WithField(systemd.MessageID, event.MessageID()).WithField("detail", what).Info(text)
	}
	if next.CA != old.CA {
		next.CATaken = now
		was, _ := discovery.ParseBundle([]byte(old.CA))
		is, _ := discovery.ParseBundle([]byte(next.CA))
		did(fault.EventCATaken, "CA: "+changed(is.Minus(was).Pins(), was.Minus(is).Pins()), "the cluster's CAs are taken")
	}
	if next.Server != old.Server {
		next.ServerMoved = now
		did(fault.EventServerMoved, "server: "+fault.Quote(next.Server)+", before "+fault.Quote(old.Server), "the node moves to another server of its cluster")
	}
	next.Generation = a.nextGeneration()
	if !a.put(next) {
		return false
	}
	a.timeline.begin(StepFollow, now)
	a.timeline.end(StepFollow, now, strings.Join(step, "; "), "")
	a.memory.follow = following{}
	a.memory.unauthorized = time.Time{}
	a.closeNode()
	a.wake()
	return true
}

// put makes a record the one in use.
func (a *Agent) put(next *record.Trust) bool {
	if err := next.Write(a.cfg.Paths); err != nil {
		a.log.WithError(err).Warn("cannot record what the cluster is now")
		return false
	}
	a.trust = next
	return true
}

// changed says in a few words which CAs came and which went.
func changed(added, gone []string) string {
	var words []string
	if len(added) > 0 {
		words = append(words, "taken "+listed(added))
	}
	if len(gone) > 0 {
		words = append(words, "dropped "+listed(gone))
	}
	return strings.Join(words, ", ")
}

// mostPins is how many pins one sentence names.
const mostPins = 5

func listed(pins []string) string {
	if more := len(pins) - mostPins; more > 0 {
		return strings.Join(pins[:mostPins], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(pins, ", ")
}

// asks says whether the cluster shows what this node does not have.
func (f *following) asks() bool {
	return len(f.cas.added)+len(f.cas.gone) > 0 || f.server.offered != "" || f.refused != nil || !f.outage.since.IsZero()
}

package discovery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Request is what an operator configured.
type Request struct {
	Endpoints []Endpoint
	Token     Token
	// File names the cluster instead of Endpoints and Token; nil: they do. Its
	// CAs need no pin; with pins, only pinned ones are trusted all the same.
	File *File
	// Pins decide which CAs are trusted. Without any,
	// UnsafeSkipCAVerification must say that the token alone is enough.
	Pins                     Pins
	UnsafeSkipCAVerification bool
	// Server overrides where credentials go (config key server); else empty.
	Server string
	// Proxy names the proxy for a URL, nil for none. A nil Proxy is no proxy:
	// the environment is never asked.
	Proxy func(*url.URL) (*url.URL, error)
}

// Limits bound what a server may cost before it is trusted. A field that is
// zero has its default.
type Limits struct {
	Dial         time.Duration // one connection: 5 s
	TLS          time.Duration // one handshake: 10 s
	FirstByte    time.Duration // from the request to the answer's head: 15 s
	Whole        time.Duration // one endpoint, from dial to last byte: 30 s
	Stagger      time.Duration // until the next endpoint is started, too: 500 ms
	Reach        time.Duration // a connection to cluster-info's server: 5 s
	Body         int64         // 2 MiB
	Headers      int64         // 64 KiB
	Certificates int           // in the CA bundle: 100
}

func (l Limits) orDefaults() Limits {
	or := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	or(&l.Dial, 5*time.Second)
	or(&l.TLS, 10*time.Second)
	or(&l.FirstByte, 15*time.Second)
	or(&l.Whole, 30*time.Second)
	or(&l.Stagger, 500*time.Millisecond)
	or(&l.Reach, 5*time.Second)
	if l.Body == 0 {
		l.Body = 2 << 20
	}
	if l.Headers == 0 {
		l.Headers = 64 << 10
	}
	if l.Certificates == 0 {
		l.Certificates = 100
	}
	return l
}

// Discoverer finds and verifies a cluster. The zero value works; every field is
// a way to look in from outside. It holds no state and may be used by several
// goroutines at once.
type Discoverer struct {
	Dial      func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	Now       func() time.Time                                                  // nil: time.Now
	Shuffle   func(n int, swap func(i, j int))                                  // order of the endpoints; nil: random
	Log       logrus.FieldLogger                                                // nil: silence
	UserAgent string                                                            // empty: "bootstrap-agent"
	Limits    Limits
}

// Cluster is a cluster that passed every check.
type Cluster struct {
	Server      string   // where credentials may go: an https URL
	Provisional bool     // Server is the endpoint that answered, because InfoServer could not be reached
	InfoServer  string   // the server that cluster-info names
	Endpoint    string   // who answered, host:port
	CA          []byte   // the accepted CAs: PEM without headers, in a stable order
	Pins        []string // of the accepted CAs, in that order, each once
	Dropped     []string // CAs of the bundle that no pin names: "subject" and pin
	DroppedPins []string // their pins
	Expired     []string // accepted CAs that are not valid at this time, likewise
	// OtherClientCAs are the names of the CAs whose client certificates the
	// server takes, quoted, if no accepted CA is among them: then the kubelet
	// needs another clientCAFile than the accepted CAs.
	OtherClientCAs []string
	TokenID        string    // whose signature was verified; empty with a discovery file
	FileDigest     string    // of the discovery file; empty without one
	ServerTime     time.Time // Date of the verified answer; zero if it had none
	LocalTime      time.Time // when it was read
	Requests       int       // sent to all endpoints together
	Handshakes     int       // TLS handshakes begun, likewise
}

// Discover returns the first endpoint's cluster that passes everything. If none
// does, the error names every endpoint with its cause; its reason is that of
// the endpoint that came furthest (see decide). The caller's retry, its pace
// and its patience are not decided here.
func (d *Discoverer) Discover(ctx context.Context, req Request) (*Cluster, error) {
	req, err := d.prepare(req)
	if err != nil {
		return nil, err
	}
	if req.File != nil {
		return d.discoverFile(ctx, req)
	}
	d.shuffle(req.Endpoints)
	var n counters
	seen := make([]EndpointReport, len(req.Endpoints))
	won, f, errs := race(ctx, len(req.Endpoints), d.Limits.orDefaults().Stagger, func(ctx context.Context, i int) (*finding, error) {
		f, err := d.attempt(ctx, req, req.Endpoints[i], &n, &seen[i])
		if err != nil && ctx.Err() == nil {
			d.log().WithFields(logrus.Fields{"endpoint": req.Endpoints[i].String(), "reason": fault.ReasonOf(err)}).Debug("endpoint did not pass")
		}
		return f, err
	})
	if won < 0 {
		return nil, decide(ctx, req.Endpoints, seen, errs)
	}
	return d.conclude(ctx, req, f, &n), nil
}

// prepare checks what can be checked before any traffic.
func (d *Discoverer) prepare(req Request) (Request, error) {
	req.Endpoints = distinct(req.Endpoints)
	switch {
	case req.File != nil:
	case req.Token.IsZero():
		return req, fault.New(fault.TokenMissing, "no bootstrap token to verify cluster-info with")
	case req.Token.Static():
		return req, fault.New(fault.ConfigInvalid, "a static token cannot verify cluster-info").
			WithHint("Use a bootstrap token (`kubeadm token create`), or give server and CA in a kubeconfig: key discoveryFile.")
	case len(req.Endpoints) == 0:
		return req, fault.New(fault.ConfigInvalid, "endpoints: none is configured")
	}
	if req.Server != "" {
		s, err := ParseServer(req.Server)
		if err != nil {
			return req, err
		}
		req.Server = s
	}
	return req, nil
}

func distinct(list []Endpoint) []Endpoint {
	var out []Endpoint
	for _, e := range list {
		if e != (Endpoint{}) && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// finding is what one endpoint proved.
type finding struct {
	endpoint          Endpoint
	server            Endpoint
	accepted, dropped []*x509.Certificate
	answer            *answer
}

// attempt takes one endpoint through all the steps, in their fixed order, and
// notes in seen how far it came.
func (d *Discoverer) attempt(ctx context.Context, req Request, e Endpoint, n *counters, seen *EndpointReport) (f *finding, err error) {
	seen.Endpoint = e.String()
	defer func() {
		if err != nil {
			err = naming(e, err)
			seen.Err = err
		}
	}()
	a, err := d.fetch(ctx, req, e, n, seen)
	if err != nil {
		return nil, err
	}
	seen.SignedFor = signedFor(a.data)
	if err := checkSignature(a.data, req.Token); err != nil {
		return nil, err
	}
	seen.Reached = StepSigned
	entry, err := parseKubeconfig(a.data[kubeconfigKey])
	if err != nil {
		return nil, err
	}
	seen.Server = entry.server.URL()
	bundle, err := parseBundle(entry.ca, d.Limits.orDefaults().Certificates)
	if err != nil {
		return nil, err
	}
	seen.Reached = StepRead
	seen.CAs = reportAll(bundle, req.Pins)
	accepted, dropped, err := accept(bundle, req.Pins, req.UnsafeSkipCAVerification, "cluster-info, signed with our token,")
	if err != nil {
		return nil, err
	}
	seen.Reached = StepAccepted
	if err := verifyPeer(a.peer, accepted, e, d.now(), a.date); err != nil {
		return nil, err
	}
	seen.Reached = StepVerified
	return &finding{endpoint: e, server: entry.server, accepted: accepted, dropped: dropped, answer: a}, nil
}

// naming puts the endpoint before the cause and keeps reason, hint and wait.
func naming(e Endpoint, err error) error { return keeping(err, "%s: %w", e, err) }

// keeping is fmt.Errorf with reason, hint and wait of err kept.
func keeping(err error, format string, args ...any) error {
	if f, ok := fault.As(err); ok {
		return &fault.Error{Reason: f.Reason, Err: fmt.Errorf(format, args...), Hint: f.Hint, RetryAfter: f.RetryAfter}
	}
	return fmt.Errorf(format, args...)
}

// conclude makes the Cluster out of the winner's finding and says aloud what an
// operator would want to know.
func (d *Discoverer) conclude(ctx context.Context, req Request, f *finding, n *counters) *Cluster {
	c := &Cluster{
		InfoServer: f.server.URL(), Endpoint: f.endpoint.String(), TokenID: req.Token.ID(),
		OtherClientCAs: otherClientCAs(f.answer.asked, f.accepted),
		CA:             encodeBundle(f.accepted), ServerTime: f.answer.date, LocalTime: f.answer.local,
	}
	if req.File != nil {
		c.FileDigest, c.TokenID = req.File.Digest(), ""
	}
	log := d.log().WithField("endpoint", c.Endpoint)
	c.Pins = Bundle{f.accepted}.Pins()
	for _, ca := range f.dropped {
		name := fault.Quote(ca.Subject.String()) + " " + SPKIPin(ca)
		c.Dropped, c.DroppedPins = append(c.Dropped, name), append(c.DroppedPins, SPKIPin(ca))
		log.WithField("ca", name).Warn("CA certificate without a configured pin dropped")
	}
	for _, ca := range outside(f.accepted, f.answer.local) {
		name := fault.Quote(ca.Subject.String()) + " " + SPKIPin(ca)
		c.Expired = append(c.Expired, name)
		log.WithFields(logrus.Fields{"ca": name, "notBefore": day(ca.NotBefore), "notAfter": day(ca.NotAfter)}).Warn("CA certificate is not valid at this time")
	}
	if req.Pins.Len() == 0 && req.File == nil {
		log.WithField("pins", strings.Join(c.Pins, " ")).Warn("CA accepted without a pin, as unsafeSkipCAVerification says")
	}
	c.Server, c.Provisional = d.chooseServer(ctx, req, f)
	if c.Provisional {
		log.WithField("server", c.InfoServer).Warn("server named by cluster-info cannot be reached, using the endpoint for now")
	}
	c.Requests, c.Handshakes = int(n.requests.Load()), int(n.handshakes.Load())
	return c
}

// chooseServer decides where credentials go: the operator's word, else the
// server that cluster-info names if a connection to it can be made, else the
// endpoint that answered, for now.
func (d *Discoverer) chooseServer(ctx context.Context, req Request, f *finding) (server string, provisional bool) {
	switch {
	case req.Server != "":
		return req.Server, false
	case req.File != nil: // it has just answered
		return f.server.URL(), false
	case f.server.address() == f.endpoint.String(), d.reachable(ctx, req, f.server):
		return f.server.URL(), false
	}
	return f.endpoint.URL(), true
}

// reachable tries a bare TCP connection. Behind a proxy the proxy alone could
// tell, so it is assumed.
func (d *Discoverer) reachable(ctx context.Context, req Request, server Endpoint) bool {
	if req.Proxy != nil {
		u, err := url.Parse(server.URL())
		if err != nil {
			return false
		}
		if proxy, err := req.Proxy(u); err == nil && proxy != nil {
			return true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.Limits.orDefaults().Reach)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", server.address())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// decide makes one error out of those of all endpoints. Its reason is that of
// the endpoint that came furthest, the first in the race of equals: whoever
// signed with our token and then failed says more than one that is down. One
// exception: a blocked fault from an answer that nobody signed counts least,
// or any stranger could make the agent stop asking.
func decide(ctx context.Context, endpoints []Endpoint, seen []EndpointReport, errs []error) error {
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return fmt.Errorf("cannot discover the cluster: %w", err)
	}
	best := -1
	all := make([]error, len(errs))
	var wait time.Duration
	for i, err := range errs {
		if err == nil {
			all[i] = fmt.Errorf("%s: not tried, the time was up", endpoints[i])
			continue
		}
		all[i] = err
		if best < 0 || rank(seen[i], err) > rank(seen[best], errs[best]) {
			best = i
		}
		// The shortest wait counts: one server does not speak for the others.
		asked := time.Duration(0)
		if f, ok := fault.As(err); ok {
			asked = f.RetryAfter
		}
		if i == 0 || asked < wait {
			wait = asked
		}
	}
	if best < 0 { // the time was up before the first one
		return fault.New(fault.EndpointUnreachable, "cannot discover the cluster: %w", ctx.Err())
	}
	out := fault.New(fault.ReasonOf(errs[best]), "cannot discover the cluster: %w", joined(all))
	if f, ok := fault.As(errs[best]); ok {
		out.Hint = f.Hint
	} else {
		out.Reason = fault.EndpointUnreachable
	}
	out.RetryAfter = wait
	return out
}

func rank(seen EndpointReport, err error) int {
	row, _ := fault.Lookup(fault.ReasonOf(err))
	if row.Class == fault.Blocked && seen.Reached < StepSigned {
		return -1
	}
	return int(seen.Reached)
}

// joined is errors.Join on one line.
type joined []error

func (j joined) Error() string {
	var list []string
	for _, err := range j {
		list = append(list, err.Error())
	}
	return strings.Join(list, "; ")
}

func (j joined) Unwrap() []error { return j }

func (d *Discoverer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.Dial != nil {
		return d.Dial(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (d *Discoverer) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d *Discoverer) shuffle(list []Endpoint) {
	swap := func(i, j int) { list[i], list[j] = list[j], list[i] }
	if d.Shuffle != nil {
		d.Shuffle(len(list), swap)
		return
	}
	rand.Shuffle(len(list), swap) //nolint:gosec // G404: this spreads load over the endpoints; nobody gains by guessing the order.
}

func (d *Discoverer) userAgent() string {
	if d.UserAgent != "" {
		return d.UserAgent
	}
	return "bootstrap-agent"
}

func (d *Discoverer) log() logrus.FieldLogger {
	if d.Log != nil {
		return d.Log
	}
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	return silent
}

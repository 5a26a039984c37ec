package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const clusterInfoPath = "/api/v1/namespaces/kube-public/configmaps/cluster-info"

// maxRetryAfter bounds what a server may ask for before it is trusted.
const maxRetryAfter = 5 * time.Minute

// counters count what went over the wire, for all endpoints together.
type counters struct{ requests, handshakes atomic.Int64 }

// answer is a ConfigMap and what is known of the connection it came over.
type answer struct {
	data  map[string]string
	peer  []*x509.Certificate
	asked [][]byte  // names of the CAs whose client certificates it takes, DER
	date  time.Time // the server's clock; zero if it gave none
	local time.Time // ours, when the answer's head was read
}

// fetch asks one endpoint for cluster-info. Nothing of what comes back is
// believed here; all that is done is to bound it in bytes and seconds.
func (d *Discoverer) fetch(ctx context.Context, req Request, e Endpoint, n *counters, seen *EndpointReport) (*answer, error) {
	return d.ask(ctx, req, e.URL()+clusterInfoPath, n, seen, func(ctx context.Context, resp *http.Response, a *answer) error {
		if resp.StatusCode != http.StatusOK {
			return refusal(resp, a)
		}
		body, err := readBody(resp, d.Limits.orDefaults().Body)
		if err == nil {
			err = ctx.Err() // a body without a length seems whole when we cut it
		}
		if err == nil {
			a.data, err = parseConfigMap(body)
		}
		return err
	})
}

// ask sends one anonymous request over a connection that nothing has verified,
// and hands the answer to read. The connection serves this one request and is
// gone when ask returns.
func (d *Discoverer) ask(ctx context.Context, req Request, target string, n *counters, seen *EndpointReport,
	read func(context.Context, *http.Response, *answer) error,
) (*answer, error) {
	lim := d.Limits.orDefaults()
	ctx, cancel := context.WithTimeout(ctx, lim.Whole)
	defer cancel()
	var wire wireState
	client := &http.Client{
		Transport:     d.transport(ctx, req, lim, &wire),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	get, err := http.NewRequestWithContext(wire.trace(ctx, n), http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", target, err)
	}
	get.Header.Set("Accept", "application/json")
	get.Header.Set("User-Agent", d.userAgent())

	resp, err := client.Do(get)
	if err != nil {
		seen.Reached = wire.step()
		return nil, wire.classify(ctx, err)
	}
	seen.Reached = StepAnswered
	defer func() { _ = resp.Body.Close() }()
	seen.Status = resp.StatusCode
	a := &answer{local: d.now(), asked: wire.clientCAs.told()}
	if resp.TLS != nil {
		a.peer = resp.TLS.PeerCertificates
	}
	if a.date, err = http.ParseTime(resp.Header.Get("Date")); err != nil {
		a.date = time.Time{}
	}
	seen.ServerTime, seen.LocalTime = a.date, a.local
	seen.Peer = reportAll(a.peer[:min(len(a.peer), maxReportedPeers)], Pins{})
	err = read(ctx, resp, a)
	if _, known := fault.As(err); err != nil && !known {
		err = wire.classify(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// transport makes the client for one request. Its connection lives no longer
// than ctx: net/http would finish a dial or a handshake that nobody waits for.
func (d *Discoverer) transport(ctx context.Context, req Request, lim Limits, wire *wireState) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy: proxyFor(req.Proxy),
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			dialCtx, cancel := context.WithTimeout(ctx, lim.Dial)
			defer cancel()
			conn, err := d.dial(dialCtx, network, addr)
			if err != nil {
				return nil, err
			}
			wire.connected.Store(true)
			context.AfterFunc(ctx, func() { _ = conn.Close() })
			return conn, nil
		},
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"http/1.1"},
			//nolint:gosec // G402: there is no CA to verify against yet; the chain is recorded and verified in verifyPeer, before anything is believed, and no credential travels here.
			InsecureSkipVerify:   true,
			GetClientCertificate: wire.clientCAs.hear,
		},
		Protocols:              protocols,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		TLSHandshakeTimeout:    lim.TLS,
		ResponseHeaderTimeout:  lim.FirstByte,
		MaxResponseHeaderBytes: lim.Headers,
	}
}

// proxyFor adapts the request's proxy. A proxy that itself speaks TLS is
// refused: net/http would not verify it either, with this client's settings,
// and its password would go to whoever answers.
func proxyFor(proxy func(*url.URL) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil {
		return nil
	}
	return func(r *http.Request) (*url.URL, error) {
		u, err := proxy(r.URL)
		if err == nil && u != nil && u.Scheme == "https" {
			return nil, fault.New(fault.ConfigInvalid, "an https:// proxy is not supported for discovery; write http://")
		}
		return u, err
	}
}

// readBody reads at most limit bytes, uncompressed.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fault.New(fault.ServerError, "the answer is encoded as %s, which was not asked for", fault.Quote(enc))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fault.New(fault.ServerError, "the answer is longer than %d bytes", limit)
	}
	return body, nil
}

// refusal turns a status other than 200 into its fault.
func refusal(resp *http.Response, a *answer) error {
	says := statusMessage(resp)
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fault.New(fault.ClusterInfoForbidden, "an anonymous read of cluster-info was answered with %d%s", code, says)
	case code == http.StatusNotFound:
		return fault.New(fault.ClusterInfoMissing, "cluster-info was not found (404)%s", says)
	case code == http.StatusTooManyRequests:
		return waiting(fault.New(fault.Throttled, "asked too often (429)%s", says), resp, a)
	case code >= 300 && code < 400:
		return fault.New(fault.ServerError, "answered with a redirect (%d) to %s, which is never followed", code, fault.Quote(resp.Header.Get("Location")))
	default:
		return waiting(fault.New(fault.ServerError, "answered with status %d%s", code, says), resp, a)
	}
}

// statusMessage returns what a Kubernetes Status object says. An answer that is
// none hints at something else than an API server.
func statusMessage(resp *http.Response) string {
	body, err := readBody(resp, 64<<10)
	var status struct{ Kind, Message string }
	if err != nil || json.Unmarshal(body, &status) != nil || status.Kind != "Status" {
		return ", not in the form of a Kubernetes API server"
	}
	return ": " + fault.Quote(status.Message)
}

// waiting adds Retry-After, seconds or a date, bounded.
func waiting(f *fault.Error, resp *http.Response, a *answer) *fault.Error {
	v := resp.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		f.RetryAfter = time.Duration(s) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		now := a.local
		if !a.date.IsZero() {
			now = a.date // both by the server's clock
		}
		f.RetryAfter = max(t.Sub(now), 0)
	}
	f.RetryAfter = min(f.RetryAfter, maxRetryAfter)
	return f
}

// wireState is how far a connection came. net/http calls its hooks from
// goroutines of its own.
type wireState struct {
	connected, started, secured atomic.Bool
	clientCAs                   clientCAs
}

func (w *wireState) trace(ctx context.Context, n *counters) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeStart: func() { n.handshakes.Add(1); w.started.Store(true) },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { w.secured.Store(err == nil) },
		WroteHeaders:      func() { n.requests.Add(1) },
	})
}

func (w *wireState) step() Step {
	switch {
	case w.secured.Load():
		return StepSecured
	case w.connected.Load():
		return StepConnected
	}
	return StepNone
}

// classify gives a transport error its reason, by how far the connection came:
// the same "connection reset" means another thing in each place.
func (w *wireState) classify(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL: our caller names the endpoint
	}
	if ctx.Err() != nil {
		err = ctx.Err() // and not the closed connection that came of it
	}
	if _, known := fault.As(err); known || errors.Is(err, context.Canceled) {
		return err
	}
	what := "no connection"
	switch {
	case w.secured.Load():
		what = "no whole answer"
	case w.started.Load():
		what = "no TLS session"
	}
	classified := fault.FromNetwork(shown{err}, what)
	f, ok := fault.As(classified)
	if !ok || f.Reason != fault.EndpointUnreachable {
		return classified
	}
	switch {
	case w.secured.Load() && !wasCut(err):
		f.Reason = fault.ServerError // it spoke, but not HTTP within our limits
	case w.started.Load() && !w.secured.Load():
		f.Reason = fault.TLSHandshakeFailed
	}
	return f
}

// wasCut reports errors of the connection, as against errors of what was said.
func wasCut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded)
}

package discovery

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// MaxFile bounds a discovery file and the CA file beside it.
const MaxFile = 2 << 20

// versionPath is asked where nothing but a TLS session is wanted: every API
// server answers it, if only with a refusal.
const versionPath = "/version"

// File is a discovery file: a kubeconfig that an operator has put on the
// machine. Its CA is the operator's word, so no signature and no pin is needed
// to trust it. Its token, if it has one, shows by accident as little as any
// Token does.
type File struct {
	server Endpoint
	bundle []*x509.Certificate
	token  Token
	caFile string
	secret bool
}

// Server returns the URL of the API server.
func (f *File) Server() string { return f.server.URL() }

// CA returns the CA certificates: PEM without headers, in a stable order.
func (f *File) CA() []byte { return encodeBundle(f.bundle) }

// Bundle returns the CA certificates.
func (f *File) Bundle() Bundle { return Bundle{f.bundle} }

// Pins returns the SPKI pins of the CA certificates, in that order.
func (f *File) Pins() []string { return f.Bundle().Pins() }

// Token returns the token of the file's user; the zero Token if it has none.
func (f *File) Token() Token { return f.token }

// CAFile returns the path of the CA file that was read beside it, or "".
func (f *File) CAFile() string { return f.caFile }

// HoldsSecret reports whether any user in the file has content: then nobody but
// its owner may read it.
func (f *File) HoldsSecret() bool { return f.secret }

// Digest names what the file makes us trust, server and CAs, and nothing of its
// users: it may be written down, and another token is no other ground.
func (f *File) Digest() string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s", f.Server(), f.CA()) // a hash takes everything
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// attemptFile takes the server of a discovery file through the steps: the pins
// first, because they need no traffic, then a connection that shows whether the
// server's certificate verifies against the file's CA. The request on it is
// anonymous, and its answer does not matter.
func (d *Discoverer) attemptFile(ctx context.Context, req Request, n *counters, seen *EndpointReport) (f *finding, err error) {
	e := req.File.server
	if req.Server != "" {
		if e, err = parseServer(req.Server); err != nil {
			return nil, fault.New(fault.ConfigInvalid, "server %s %w", showAddress(req.Server), err)
		}
	}
	e.port = e.orPort(defaultServerPort)
	seen.Endpoint, seen.Server = e.String(), req.File.Server()
	defer func() {
		if err != nil {
			err = naming(e, err)
			seen.Err = err
		}
	}()
	seen.CAs = reportAll(req.File.bundle, req.Pins)
	accepted, dropped, err := accept(req.File.bundle, req.Pins, true, "the discovery file")
	if err != nil {
		return nil, err
	}
	a, err := d.ask(ctx, req, e.URL()+versionPath, n, seen, func(context.Context, *http.Response, *answer) error { return nil })
	if err != nil {
		return nil, nobodyHome(e, err)
	}
	if err := verifyPeer(a.peer, accepted, e, d.now(), a.date); err != nil {
		return nil, err
	}
	seen.Reached = StepVerified
	return &finding{endpoint: e, server: req.File.server, accepted: accepted, dropped: dropped, answer: a}, nil
}

// nobodyHome says more where the server is this machine itself: a balancer of
// the node that comes up later is no mistake, and is waited for.
func nobodyHome(e Endpoint, err error) error {
	f, ok := fault.As(err)
	if !ok || f.Reason != fault.EndpointUnreachable || !e.loopback() {
		return err
	}
	return f.WithHint("Nothing serves on %s of this machine yet. Where a balancer of the node is meant to listen there, it is waited for; see `ss -ltn sport = :%s`.", e, e.port)
}

// loopback reports whether the host is the machine itself.
func (e Endpoint) loopback() bool {
	if e.host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(e.host)
	return err == nil && addr.IsLoopback()
}

// discoverFile is Discover where a discovery file names the cluster.
func (d *Discoverer) discoverFile(ctx context.Context, req Request) (*Cluster, error) {
	var n counters
	var seen EndpointReport
	f, err := d.attemptFile(ctx, req, &n, &seen)
	if err != nil {
		return nil, keeping(err, "cannot discover the cluster: %w", err)
	}
	return d.conclude(ctx, req, f, &n), nil
}

// inspectFile is Inspect where a discovery file names the cluster.
func (d *Discoverer) inspectFile(ctx context.Context, req Request) (*Report, error) {
	var n counters
	r := &Report{File: true, Endpoints: make([]EndpointReport, 1)}
	f, err := d.attemptFile(ctx, req, &n, &r.Endpoints[0])
	if err == nil {
		r.Cluster = d.conclude(ctx, req, f, &n)
	}
	r.Requests, r.Handshakes = int(n.requests.Load()), int(n.handshakes.Load())
	return r, err
}

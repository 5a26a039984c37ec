// Package testapi is a Kubernetes API server in one process and one package:
// as much of one as a joining machine meets. Tests of every client in this
// project talk to it, and so does the rehearsal that shows the agent to
// somebody who has no cluster and is not root.
//
// What it serves behaves like kube-apiserver with kubeadm's RBAC and like the
// signer and approver of kube-controller-manager: cluster-info with its detached
// signatures, certificate signing requests, the Node, Lease and kubelet-config
// reads of a fresh node, access reviews, /version. It is hostile but legal by
// default: answers come late, in pieces or as 429, watches end early, connections
// are closed after an answer, as real ones do on a bad day. [Options.Quiet] turns
// that off; [Server.Seed] tells how to see the same day again. What is not legal
// is asked for by name ([Server.Inject] and the setters).
//
// It never stores anything outside its own memory, never logs a credential, and
// knows no other package of this project, so that a mistake there is not made
// here too. JSON is the only form it answers in; it reads JSON and protobuf.
//
//	Options --New--> Server --TLS--> the client under test
//	                   ^ setters, RegisterNode, Approve ... by the test; Requests, Await... back to it
package testapi

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	certv1 "k8s.io/api/certificates/v1"
)

// ErrClosed is what the Await methods return once the server is closed.
var ErrClosed = errors.New("the test API server is closed")

// Options of a server. The zero value works: loopback, a random port, a random
// seed and token, approval and signing on, hostile but legal.
type Options struct {
	// Seed decides the hostile part; 0 picks one (see Server.Seed).
	Seed int64
	// Quiet: no delays, refusals, dropped watches or closed connections, and
	// approval and signing are done before the answer to the create is sent.
	Quiet bool
	// Token is the first bootstrap token, "id.secret"; empty makes a random one.
	Token string
	// NoToken: no bootstrap token exists until SetToken.
	NoToken bool
	// HandMade: RBAC of a cluster made by hand: no kubelet-config, and a token
	// may not read Nodes.
	HandMade bool
	// SeparateClientCA: client certificates are signed by another CA than the
	// serving certificate (the one cluster-info tells about).
	SeparateClientCA bool
	// OldHTTP: no HTTP/2, so that a Fault's Serve may take the connection over.
	OldHTTP bool
	// Listen is the address to listen on; empty: 127.0.0.1, any port.
	Listen string
	// Names are additional names and addresses of the serving certificate.
	Names []string
	// Version is gitVersion in /version; empty: v1.36.3.
	Version string
	// SigningDuration is the signer's limit; 0: one year.
	SigningDuration time.Duration
	// Now is the clock of the cluster (API server and signer); nil: time.Now.
	Now func() time.Time
	// Logf is told the seed once, at the start (a test passes t.Logf); may be nil.
	Logf func(format string, args ...any)
}

// Server is the API server. Its methods may be called from any goroutine.
type Server struct {
	opts  Options
	seed  int64
	now   func() time.Time
	token string
	host  string // host:port

	http *http.Server
	done chan struct{}  // closed by Close
	stop sync.Once      // guards done
	wg   sync.WaitGroup // accept loop, connections, late approvals

	conns      atomic.Int64
	handshakes atomic.Int64

	mu      sync.Mutex
	changed chan struct{} // closed and renewed at every change: what waiters wait for
	live    map[net.Conn]struct{}
	pki     pki
	store   store
	auth    authState
	info    infoState
	signer  signerState
	chaos   chaosState
	log     []Request
	watches watchState
}

// New starts a server. Close it.
func New(o Options) (*Server, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Version == "" {
		o.Version = "v1.36.3"
	}
	if o.SigningDuration == 0 {
		o.SigningDuration = 365 * 24 * time.Hour
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	s := &Server{
		opts: o, seed: o.Seed, now: o.Now, token: o.Token,
		done: make(chan struct{}), changed: make(chan struct{}), live: map[net.Conn]struct{}{},
	}
	if s.seed == 0 {
		s.seed = int64(binary.BigEndian.Uint64(randomBytes(8)) >> 1)
	}
	if s.token == "" {
		s.token = randomToken()
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", o.Listen, err)
	}
	s.host = ln.Addr().String()
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	if o.Logf != nil && !o.Quiet {
		o.Logf("testapi: hostile but legal; seed %d repeats it", s.seed)
	}
	s.wg.Go(func() { _ = s.http.ServeTLS(ln, "", "") }) // always http.ErrServerClosed, or the listener's end
	return s, nil
}

// prepare builds everything that needs the address but no traffic.
func (s *Server) prepare() error {
	s.store = newStore()
	s.auth = authState{anonymous: true, tokenAuth: true, nodeClient: true, selfNodeClient: true, tokens: map[string]Token{}, static: map[string]StaticToken{}}
	s.info = infoState{signing: true, jws: map[string]string{}}
	s.signer = signerState{approve: true, sign: true}
	s.chaos = chaosState{counts: map[string]int{}, refused: map[string]bool{}}
	if err := s.newPKI(); err != nil {
		return err
	}
	if !s.opts.NoToken {
		id, secret, err := splitToken(s.token)
		if err != nil {
			return err
		}
		s.auth.tokens[id] = Token{ID: id, Secret: secret}
	}
	s.refreshClusterInfo()
	if !s.opts.HandMade {
		s.setKubeletConfig(defaultKubeletConfig)
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // refused handshakes are what many tests are about
		ConnState:         s.connState,
		ConnContext:       s.connContext,
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			ClientAuth:         tls.RequestClientCert, // as kube-apiserver: judged by the authenticator, 401 and no alert
			GetConfigForClient: s.tlsConfig,
			NextProtos:         s.protocols(),
		},
	}
	if s.opts.OldHTTP {
		s.http.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	return nil
}

// protocols are what the server offers, the best first.
func (s *Server) protocols() []string {
	if s.opts.OldHTTP {
		return []string{"http/1.1"}
	}
	return []string{"h2", "http/1.1"}
}

// Close ends every connection and waits until nothing of the server is left.
// It may be called twice.
func (s *Server) Close() {
	s.mu.Lock()
	s.stop.Do(func() { close(s.done) })
	s.mu.Unlock()
	_ = s.http.Close() // closes listener and connections; their errors help nobody
	s.wg.Wait()
}

// Host is host:port.
func (s *Server) Host() string { return s.host }

// URL is https://host:port.
func (s *Server) URL() string { return "https://" + s.host }

// Seed repeats the hostile part when given as Options.Seed. What a request meets
// depends on the seed, its verb, its resource, and how many of these came before.
func (s *Server) Seed() int64 { return s.seed }

// Token is the first bootstrap token, "id.secret".
func (s *Server) Token() string { return s.token }

// Connections counts TCP connections accepted.
func (s *Server) Connections() int64 { return s.conns.Load() }

// Handshakes counts TLS handshakes in which the client accepted the serving
// certificate.
func (s *Server) Handshakes() int64 { return s.handshakes.Load() }

// SetDateOffset moves the Date header, and nothing else, by d.
func (s *Server) SetDateOffset(d time.Duration) { s.set(func() { s.chaos.dateOffset = d }) }

// DropConnections closes every connection without a word.
func (s *Server) DropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		abort(c)
	}
}

// set changes state under the lock and wakes everybody who waits.
func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	s.notify()
}

// notify wakes all waiters; the lock is held.
func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns when ready, called under the lock, is true.
func (s *Server) await(ctx context.Context, what string, ready func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := ready(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-s.done:
			return fmt.Errorf("cannot await %s: %w", what, ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("cannot await %s: %w", what, context.Cause(ctx))
		}
	}
}

// pause waits; false when there is nobody left to wait for.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-s.done:
		return false
	}
}

// abort closes the TCP connection under c, without TLS's goodbye.
func abort(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close() // the point is that it is gone
}

// connKey finds the connection in a request's context.
// enter counts a handler; it returns false once the server is closing, so that
// nothing is added to wg beside Wait.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return false
	default:
		s.wg.Add(1)
		return true
	}
}

type connKey struct{}

// connInfo numbers a connection.
type connInfo struct {
	number int64
	conn   net.Conn
}

func (s *Server) connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connInfo{number: s.conns.Add(1), conn: c})
}

func (s *Server) connState(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.wg.Add(1) // by the accept loop, which is counted itself
		s.live[c] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		if _, ok := s.live[c]; ok {
			delete(s.live, c)
			s.wg.Done()
		}
	case http.StateActive, http.StateIdle:
	}
}

// CSRs returns every certificate signing request there is, oldest first.
func (s *Server) CSRs() []certv1.CertificateSigningRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []certv1.CertificateSigningRequest
	for _, raw := range s.store.list(csrs, "") {
		out = append(out, decode[certv1.CertificateSigningRequest](raw))
	}
	return out
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand never fails: it crashes the program instead
	return b
}

// Package proxy stands between a client and a real API server and does what
// networks and impostors do: records, rewrites, refuses, goes silent.
//
// There are two kinds. [Pipe] passes bytes on and knows only how many; the TLS
// session is the client's and the server's own. [Front] ends TLS with a
// certificate of the cluster's CA (or of any other), so it sees each request and
// can change the answers; client certificates do not survive it, so it is for
// what is done with no identity or with a token. It never writes a token
// down: only whether there was one.
//
//	client --> Pipe or Front (records, Mode) --> target
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Mode is how a Pipe treats connections.
type Mode int32

// The modes. A change affects connections to come, and Silent also those that are there.
const (
	Pass   Mode = iota // bytes go both ways
	Refuse             // connections are reset as soon as they are there
	Silent             // connections are accepted and never answered
	Cut                // like Refuse, and connections that are there are reset too
	Drip               // what the server says arrives one byte a second
)

// Pipe is a TCP proxy.
type Pipe struct {
	listener net.Listener
	target   string
	mode     atomic.Int32
	accepted atomic.Int64
	sent     atomic.Int64 // bytes that clients sent
	mu       sync.Mutex   // guards open
	open     map[net.Conn]struct{}
	deaf     map[net.Conn]struct{} // of open: towards the client nothing passes any more
	closed   context.Context
	close    context.CancelFunc
	wait     sync.WaitGroup
}

// NewPipe listens on address ("127.0.0.1:0", "198.18.0.1:0") for target.
func NewPipe(ctx context.Context, address, target string) (*Pipe, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Pipe{listener: listener, target: target, open: map[net.Conn]struct{}{}, deaf: map[net.Conn]struct{}{}}
	p.closed, p.close = context.WithCancel(context.WithoutCancel(ctx))
	p.wait.Go(p.accept)
	return p, nil
}

// Endpoint is the host:port to give to clients.
func (p *Pipe) Endpoint() string { return p.listener.Addr().String() }

// Accepted is how many connections came.
func (p *Pipe) Accepted() int64 { return p.accepted.Load() }

// Sent is how many bytes clients sent.
func (p *Pipe) Sent() int64 { return p.sent.Load() }

// Set changes the mode.
func (p *Pipe) Set(mode Mode) {
	p.mode.Store(int32(mode))
	if mode == Cut {
		p.resetAll()
	}
}

// Deafen makes the connections that are there half-open, for good: what the
// clients say still arrives, the answers do not, and nobody is told. Connections
// to come are as the mode says.
func (p *Pipe) Deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		p.deaf[conn] = struct{}{}
	}
}

func (p *Pipe) isDeaf(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, deaf := p.deaf[conn]
	return deaf
}

// Close ends all connections and waits for them.
func (p *Pipe) Close() error {
	p.close()
	err := p.listener.Close()
	p.resetAll()
	p.wait.Wait()
	return err
}

func (p *Pipe) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.accepted.Add(1)
		if !p.keep(conn) {
			reset(conn)
			continue
		}
		p.wait.Go(func() {
			defer p.drop(conn)
			p.serve(conn)
		})
	}
}

func (p *Pipe) serve(conn net.Conn) {
	mode := Mode(p.mode.Load())
	if mode == Refuse || mode == Cut {
		reset(conn)
		return
	}
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(p.closed, "tcp", p.target)
	if err != nil || !p.keep(server) {
		reset(conn)
		return
	}
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, conn, &p.sent) })
	both.Go(func() { p.copy(conn, server, nil) })
	both.Wait()
}

// copy moves bytes until one side ends. While the mode is Silent it swallows
// them, so that the peer sees neither an answer nor an end.
func (p *Pipe) copy(to, from net.Conn, count *atomic.Int64) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if count != nil {
			count.Add(int64(n))
		}
		silent := Mode(p.mode.Load()) == Silent || count == nil && p.isDeaf(to)
		if n > 0 && !silent {
			if err := p.write(to, buffer[:n], count == nil); err != nil {
				reset(from)
				return
			}
		}
		switch {
		case err == nil:
		case silent:
			<-p.closed.Done()
			return
		case errors.Is(err, io.EOF):
			if half, ok := to.(*net.TCPConn); ok {
				_ = half.CloseWrite() // it may be gone as well
			}
			return
		default:
			reset(to)
			return
		}
	}
}

// write passes bytes on; those for the client drip while the mode is Drip.
func (p *Pipe) write(to net.Conn, data []byte, forClient bool) error {
	for len(data) > 0 && forClient && Mode(p.mode.Load()) == Drip {
		if _, err := to.Write(data[:1]); err != nil {
			return err
		}
		data = data[1:]
		select {
		case <-p.closed.Done():
			return p.closed.Err()
		case <-time.After(time.Second):
		}
	}
	_, err := to.Write(data)
	return err
}

// keep remembers a connection; false when the pipe is closed already.
func (p *Pipe) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Err() != nil {
		return false
	}
	p.open[conn] = struct{}{}
	return true
}

func (p *Pipe) drop(conn net.Conn) {
	p.mu.Lock()
	delete(p.open, conn)
	delete(p.deaf, conn)
	p.mu.Unlock()
	_ = conn.Close() // perhaps for the second time
}

func (p *Pipe) resetAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		reset(conn)
	}
}

// reset closes with a RST instead of a FIN.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a connection that is gone cannot linger
	}
	_ = conn.Close() // perhaps for the second time
}

// Request is what a Front saw of one request.
type Request struct {
	Time          time.Time
	Method, Path  string // the path with its query
	Authorization bool   // whether a credential was sent; never which
	Certificate   bool   // whether a client certificate was offered
	Status        int
}

// Front is an HTTPS proxy with a serving certificate of its own.
type Front struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{}
	mu       sync.Mutex // guards what follows
	seen     []Request
	shift    time.Duration
	answer   func(http.ResponseWriter, *http.Request) bool
}

// NewFront serves on address with the pair and passes requests to the target,
// whose certificate it checks against ca.
func NewFront(ctx context.Context, address string, certPEM, keyPEM []byte, target string, ca []byte) (*Front, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the target's CA is no PEM")
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	f := &Front{listener: listener, done: make(chan struct{})}
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: target})
	reverse.Transport = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	reverse.FlushInterval = -1 // watches
	reverse.ErrorLog = log.New(io.Discard, "", 0)
	reverse.ModifyResponse = f.date
	f.server = &http.Server{
		Handler: f.record(reverse), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12},
	}
	go func() {
		defer close(f.done)
		_ = f.server.ServeTLS(listener, "", "") // always ends with an error: closed
	}()
	return f, nil
}

// Endpoint is the host:port to give to clients.
func (f *Front) Endpoint() string { return f.listener.Addr().String() }

// ShiftDate makes answers claim a time that is off by d.
func (f *Front) ShiftDate(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shift = d
}

// Answer lets a function answer requests instead of the target: it returns
// whether it did. Nil ends that.
func (f *Front) Answer(answer func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// Requests returns what was seen so far, in the order of arrival.
func (f *Front) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

// Close ends all connections.
func (f *Front) Close() error {
	err := f.server.Close()
	<-f.done
	return err
}

func (f *Front) date(resp *http.Response) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shift != 0 {
		resp.Header.Set("Date", time.Now().Add(f.shift).UTC().Format(http.TimeFormat))
	}
	return nil
}

func (f *Front) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		i := len(f.seen)
		f.seen = append(f.seen, Request{
			Time: time.Now(), Method: r.Method, Path: r.URL.RequestURI(),
			Authorization: r.Header.Get("Authorization") != "", Certificate: len(r.TLS.PeerCertificates) > 0,
		})
		answer := f.answer
		f.mu.Unlock()
		status := &statusWriter{ResponseWriter: w, note: func(code int) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.seen[i].Status = code
		}}
		if answer == nil || !answer(status, r) {
			next.ServeHTTP(status, r)
		}
	})
}

// statusWriter notes the status of an answer as soon as it is sent.
type statusWriter struct {
	http.ResponseWriter
	note func(int)
	once sync.Once
}

func (w *statusWriter) WriteHeader(code int) {
	w.once.Do(func() { w.note(code) })
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { w.note(http.StatusOK) })
	return w.ResponseWriter.Write(p)
}

// Unwrap lets the reverse proxy flush.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

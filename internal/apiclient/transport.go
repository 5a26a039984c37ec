package apiclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxRetryAfter bounds what a server may ask for, in a wait for a watch as well as
// between attempts.
const maxRetryAfter = 10 * time.Minute

// call is what the transport notes about one request for the method that made
// it; it travels in the request's context.
type call struct {
	watch      bool
	list       bool
	sent       bool          // it reached the transport
	status     int           // of the answer; 0: there was none
	retryAfter time.Duration // of the answer
	failed     error         // why there was no answer
}

type callKey struct{}

// roundTripper is what client-go sends its requests through.
type roundTripper struct{ c *Client }

// RoundTrip adds who we are, notes what the answer's headers say, and refuses
// what no API server answers.
func (rt roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	c := rt.c
	note, _ := req.Context().Value(callKey{}).(*call)
	if note == nil {
		note = &call{}
	}
	note.sent = true
	if req.URL.Scheme != "https" || req.URL.Host != c.host {
		return nil, fmt.Errorf("refused to ask another host than %s", c.host)
	}
	connected, err := c.first.enter(req.Context())
	if err != nil {
		note.failed = err
		return nil, err
	}
	defer connected(false)
	trace := &httptrace.ClientTrace{
		TLSHandshakeStart: func() { c.handshakes.Add(1) },
		GotConn:           func(httptrace.GotConnInfo) { connected(true) },
	}
	req = req.Clone(httptrace.WithClientTrace(req.Context(), trace))
	if c.userAgent != "" {
		req.Header.Set("User-Agent", c.userAgent)
	}
	if c.bearer != nil {
		token := c.bearer.Bearer()
		if token == "" {
			return nil, fault.New(fault.TokenMissing, "there is no bootstrap token to show")
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	c.requests.Add(1)
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		note.failed = err
		return nil, err
	}
	c.noteDate(resp.Header.Get("Date"))
	c.notePeer(resp.TLS)
	note.status = resp.StatusCode
	note.retryAfter = retryAfter(resp.Header)
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close()
		return nil, &redirect{code: resp.StatusCode, location: resp.Header.Get("Location")}
	}
	resp.Body = bounded(resp, note)
	return resp, nil
}

// firstConnection lets requests that are made together share a connection: as
// long as there is none, one request dials and the others wait until it has got
// through or failed. Otherwise each would dial and shake hands for itself.
type firstConnection struct {
	mu      sync.Mutex
	there   bool
	dialing chan struct{} // closed when the one that dials is done; nil: nobody does
}

// enter returns when there is a connection or it is on this request to make one.
// The returned function says whether the request has its connection; only the
// first call counts.
func (f *firstConnection) enter(ctx context.Context) (done func(connected bool), err error) {
	for {
		f.mu.Lock()
		if f.there {
			f.mu.Unlock()
			return func(bool) {}, nil
		}
		ahead := f.dialing
		if ahead == nil {
			mine := make(chan struct{})
			f.dialing = mine
			f.mu.Unlock()
			var once sync.Once
			return func(connected bool) {
				once.Do(func() {
					f.mu.Lock()
					f.there, f.dialing = connected, nil
					f.mu.Unlock()
					close(mine)
				})
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ahead:
		}
	}
}

// redirect is a 3xx answer. It is never followed: the token would go along.
type redirect struct {
	code     int
	location string
}

func (r *redirect) Error() string {
	return fmt.Sprintf("the server answered %d and points to %s; redirects are not followed", r.code, fault.Quote(r.location))
}

// retryAfter reads the header, in seconds or as a date against the answer's own.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.Atoi(text); err == nil {
		d = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			d = at.Sub(date)
		}
	}
	return max(0, min(d, maxRetryAfter))
}

// connections knows every open TCP connection, so that Close can mean it.
type connections struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu     sync.Mutex
	closed bool
	open   map[*connection]struct{}
}

var errClosed = errors.New("the API client is closed")

type connection struct {
	net.Conn
	all *connections
}

func (s *connections) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := s.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := &connection{Conn: raw, all: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = raw.Close()
		return nil, errClosed
	}
	if s.open == nil {
		s.open = map[*connection]struct{}{}
	}
	s.open[conn] = struct{}{}
	return conn, nil
}

// Close forgets the connection and closes it.
func (c *connection) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

func (s *connections) close() {
	s.mu.Lock()
	open := make([]*connection, 0, len(s.open))
	for conn := range s.open {
		open = append(open, conn)
	}
	s.closed, s.open = true, nil
	s.mu.Unlock()
	for _, conn := range open {
		_ = conn.Conn.Close()
	}
}

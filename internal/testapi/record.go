package testapi

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
)

// Request is one line of the request log. It never holds a credential.
type Request struct {
	Seq           int // 1 for the first
	Method, Path  string
	Query         string
	Proto         string // HTTP/1.1 or HTTP/2.0
	UserAgent     string
	Verb          string // get, list, watch, create ...
	Resource      string // with subresource; "" for plain paths
	Name          string
	Identity      string // user name; "" when authentication failed (401)
	Authorization bool   // an Authorization header came, right or wrong
	Certificate   bool   // a client certificate came, right or wrong
	Conn          int64  // number of the TLS connection, from 1
	Status        int    // 0: not answered (yet)
	Done          bool   // the answer has ended
}

// Requests returns the log, in the order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.log...)
}

// AwaitRequest returns the first request that match accepts, from the start of
// the log or arriving later. It looks only at requests that have a status, or
// that have ended without one. match is called under the server's lock and must
// not call the server.
func (s *Server) AwaitRequest(ctx context.Context, match func(Request) bool) (Request, error) {
	var found Request
	err := s.await(ctx, "a request", func() bool {
		for _, r := range s.log {
			if (r.Status != 0 || r.Done) && match(r) {
				found = r
				return true
			}
		}
		return false
	})
	return found, err
}

// Is matches requests by verb and resource: Is("watch", "nodes").
func Is(verb, resource string) func(Request) bool {
	return func(r Request) bool { return r.Verb == verb && r.Resource == resource }
}

// IsPath matches requests by the beginning of their path.
func IsPath(prefix string) func(Request) bool {
	return func(r Request) bool { return strings.HasPrefix(r.Path, prefix) }
}

func (s *Server) logStart(c *call, known bool) Request {
	r, a := c.r, c.attrs
	entry := Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Proto: r.Proto, UserAgent: r.UserAgent(),
		Verb: a.verb, Name: a.name, Conn: c.conn.number,
		Authorization: r.Header.Get("Authorization") != "", Certificate: r.TLS != nil && len(r.TLS.PeerCertificates) > 0,
	}
	if a.resource != "" {
		entry.Resource = join(a.resource, a.sub)
	}
	if known {
		entry.Identity = c.id.name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entry.Seq = len(s.log) + 1
	c.seq = entry.Seq
	s.log = append(s.log, entry)
	s.notify()
	return entry
}

func (s *Server) logStatus(seq, status int) {
	s.set(func() { s.log[seq-1].Status = status })
}

func (s *Server) logEnd(c *call) {
	s.set(func() { s.log[c.seq-1].Done = true })
	if v := recover(); v != nil {
		if v != http.ErrAbortHandler && s.opts.Logf != nil { //nolint:errorlint // a panic value, not an error chain
			s.opts.Logf("testapi: panic: %v\n%s", v, debug.Stack())
		}
		panic(v) // the answer ends in its middle
	}
	if !c.sent {
		panic(http.ErrAbortHandler) // nobody answered: no empty 200
	}
}

// Package apiclient talks to one API server over connections that are verified
// against the accepted CA: the few requests that a joining node makes, with
// every failure already given its reason.
//
// It never retries, never throttles itself and never waits on its own: that
// belongs to the loop in package agent, so that status and heartbeat are never
// blind. It never follows a redirect, never sends the bearer token to another
// host than the server's, and never skips a verification. It holds client-go's
// rest client with a scheme of just the types used, because the typed clientset
// would double the binary.
//
//	Options -> *Client -> CertificateSigningRequest, Node, Lease, kubelet-config | fault
package apiclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// The limits of one request. A watch has them too, up to its first byte.
const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 15 * time.Second
	requestTimeout   = 30 * time.Second
	// A connection that stays silent is pinged, so that a watch over a dead
	// line ends instead of waiting for ever.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second

	maxHeaderBytes = 64 << 10
	maxBodyBytes   = 2 << 20 // etcd keeps no object of more than 1.5 MiB
	maxErrorBytes  = 64 << 10
	// A whole watch: it is of one object, whose first events are all that matters,
	// and client-go's reader of events takes in one that never ends. A server ends
	// a watch after an hour at the latest; whoever needs it longer opens it again.
	maxWatchBytes = 1 << 20
	// What a decoder makes of an answer can be a hundred times as large as the
	// answer: an entry of a list, `{},`, is three bytes there and hundreds here. A
	// Node has one or two thousand marks that begin something, a request some fifty.
	maxMarks = 20_000
	// A list of requests is decoded into few fields of each.
	maxListMarks = 80_000
)

// Options say which server is asked, what it is verified against, and who asks.
type Options struct {
	// Server is https://host:port, nothing behind it.
	Server string
	// CA holds the accepted certificate authorities, PEM.
	CA []byte
	// Bearer is asked for the token at each request; nil for a client
	// certificate, or for no identity at all.
	Bearer interface{ Bearer() string }
	// CertPEM and KeyPEM are the client certificate (chain) and its key.
	CertPEM, KeyPEM []byte
	// Proxy chooses the proxy of a request; nil: none, whatever the
	// environment says.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is what the server's audit log shows.
	UserAgent string
	// Now is the clock that certificates are judged by; nil: time.Now.
	Now func() time.Time
	// Dial makes the TCP connection; nil: a net.Dialer with 5 s.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// PingAfter is how long a connection may stay silent before it is pinged; 0: 30 s.
	PingAfter time.Duration
}

// Stats counts what a client has cost the server.
type Stats struct {
	Requests   int64 // requests sent, watches included
	Handshakes int64 // TLS handshakes begun
}

// Client asks one API server. It is safe for concurrent use.
type Client struct {
	host      string // as it appears in every URL and Host header
	name      string // the name that certificates are verified for
	bearer    interface{ Bearer() string }
	userAgent string
	now       func() time.Time
	roots     *x509.CertPool
	transport *http.Transport
	conns     connections
	first     firstConnection

	certificates, core, coordination, authorization *rest.RESTClient

	requests, handshakes atomic.Int64

	mu                    sync.Mutex
	serverTime, localTime time.Time
	peer                  []*x509.Certificate // of the last answer
}

// New makes a client; nothing is dialled before the first request. The errors
// name what is wrong with the options and never show a key or a token.
func New(o Options) (*Client, error) {
	server, err := parseServer(o.Server)
	if err != nil {
		return nil, fmt.Errorf("cannot make an API client: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("cannot make an API client: there is no CA certificate to verify the server against")
	}
	c := &Client{
		host: server.Host, name: server.Hostname(), bearer: o.Bearer, userAgent: o.UserAgent, now: o.Now, roots: roots,
	}
	if c.now == nil {
		c.now = time.Now
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: c.now}
	switch {
	case len(o.CertPEM) == 0 && len(o.KeyPEM) == 0:
	case o.Bearer != nil:
		return nil, errors.New("cannot make an API client: both a token and a client certificate were given")
	default:
		pair, err := tls.X509KeyPair(o.CertPEM, o.KeyPEM)
		if err != nil {
			return nil, fmt.Errorf("cannot make an API client: the client certificate is of no use: %w", err)
		}
		// Always shown, also when the server's list of client CAs does not hold
		// its issuer: Go would then stay silent, and a refused identity (401)
		// would look like an anonymous one (403).
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	c.conns.dial = o.Dial
	if c.conns.dial == nil {
		c.conns.dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	c.transport = &http.Transport{
		Proxy:                  o.Proxy,
		DialContext:            c.conns.dialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns:           2,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: cmp.Or(o.PingAfter, pingAfter), PingTimeout: pingTimeout},
	}
	return c, c.makeClients(server)
}

// parseServer takes https://host[:port] and nothing else.
func parseServer(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("the server is no URL") // the text might hold credentials
	case u.User != nil:
		return nil, errors.New("the server's URL carries credentials")
	case u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("the server %q is not of the form https://host:port", s)
	case (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the server %q has something behind host and port", s)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

// Close ends the client: its connections are closed, idle or not, and a dial
// still under way is closed when it ends. Nothing survives it.
func (c *Client) Close() {
	c.transport.CloseIdleConnections()
	c.conns.close()
}

// Stats returns what was counted so far.
func (c *Client) Stats() Stats {
	return Stats{Requests: c.requests.Load(), Handshakes: c.handshakes.Load()}
}

// Clock returns the Date header of the last answer, and when it was read. It
// is the server's word over a verified connection; ok is false before the
// first answer that carried one.
func (c *Client) Clock() (server, local time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serverTime, c.localTime, !c.serverTime.IsZero()
}

func (c *Client) noteDate(header string) {
	server, err := http.ParseTime(header)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serverTime, c.localTime = server, c.now()
}

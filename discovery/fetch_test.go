package discovery

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// raw answers with these bytes and closes the connection.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","message":"the server says \u001b[2J %d"}`, code)
	}
}

// oneEndpoint is a cluster with one rogue server that answers like h.
func oneEndpoint(t *testing.T, h http.Handler) (*rogue, *authority, Request) {
	t.Helper()
	ca := newCA(t, "kubernetes")
	r := newRogue(t, ca.serving(t, []string{"127.0.0.1"}), h)
	return r, ca, Request{Endpoints: []Endpoint{r.endpoint}, Token: testToken(t), Pins: pinsOf(ca)}
}

// Every way in which a server can answer wrongly has its reason. None of them
// sees a credential: newRogue asserts that for each.
func TestHostileAnswers(t *testing.T) {
	zipped := func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(make([]byte, 1<<20))
		_ = z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(b.Bytes())
	}
	endless := func(head, chunk string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, head); err != nil {
				return
			}
			for err == nil { // until the client hangs up
				_, err = io.WriteString(conn, chunk)
			}
		}
	}
	for name, tc := range map[string]struct {
		h      http.HandlerFunc
		reason fault.Reason
		says   string
	}{
		"401":                        {status(401), fault.ClusterInfoForbidden, "401"},
		"403":                        {status(403), fault.ClusterInfoForbidden, "403"},
		"404":                        {status(404), fault.ClusterInfoMissing, `the server says \x1b[2J 404`},
		"404 of a web server":        {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, fault.ClusterInfoMissing, "not in the form of a Kubernetes"},
		"429":                        {status(429), fault.Throttled, "429"},
		"500":                        {status(500), fault.ServerError, "500"},
		"503":                        {status(503), fault.ServerError, "503"},
		"504":                        {status(504), fault.ServerError, "504"},
		"204":                        {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, fault.ServerError, "204"},
		"418":                        {status(418), fault.ServerError, "418"},
		"200 with HTML":              {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, fault.ServerError, "no JSON"},
		"200 with nothing":           {func(http.ResponseWriter, *http.Request) {}, fault.ServerError, "no JSON"},
		"200 with a Status":          {status(200), fault.ServerError, `kind "Status"`},
		"200 without kubeconfig":     {answering(map[string]string{"x": "y"}), fault.ClusterInfoInvalid, "data.kubeconfig"},
		"redirect to plain http":     {status(302, "Location", "http://evil.example/x"), fault.ServerError, `"http://evil.example/x"`},
		"redirect to another host":   {status(307, "Location", "https://evil.example/"), fault.ServerError, "never followed"},
		"redirect to itself":         {status(308, "Location", clusterInfoPath), fault.ServerError, "redirect (308)"},
		"gzip that nobody asked for": {zipped, fault.ServerError, "gzip"},
		"3 MiB with a length":        {answering(map[string]string{"kubeconfig": strings.Repeat("x", 3<<20)}), fault.ServerError, "longer than 2097152 bytes"},
		"an endless body":            {endless("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 4096)), fault.ServerError, "longer than"},
		"an endless chunked body":    {endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("20\r\n"+strings.Repeat("x", 32)+"\r\n", 1000)), fault.ServerError, ""},
		"an endless error body":      {endless("HTTP/1.1 403 Forbidden\r\n\r\n", strings.Repeat("x", 4096)), fault.ClusterInfoForbidden, "403"},
		"endless headers":            {endless("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("x", 1000)+"\r\n"), fault.ServerError, "headers exceeded"},
		"one endless header":         {endless("HTTP/1.1 200 OK\r\nX-A: ", strings.Repeat("x", 1000)), fault.ServerError, ""},
		"endless 1xx":                {endless("", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"), fault.ServerError, ""},
		"an upgrade":                 {raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), fault.ServerError, ""},
		"no HTTP":                    {raw("SSH-2.0-OpenSSH\r\n\x1b[2J"), fault.ServerError, "malformed"},
		"a header with escapes":      {raw("HTTP/1.1 200 OK\r\nbad\x1b[2J\r\n\r\n"), fault.ServerError, `\x1b[2J`},
		"two lengths":                {raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"), fault.ServerError, ""},
		"cut in the body":            {raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), fault.EndpointUnreachable, "no whole answer"},
		"closed without an answer":   {raw(""), fault.EndpointUnreachable, "no whole answer"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, req := oneEndpoint(t, tc.h)
			c, err := new(Discoverer).Discover(t.Context(), req)
			wantReason(t, err, tc.reason, tc.says, r.endpoint.String())
			if c != nil {
				t.Error("a cluster came with the error")
			}
			if r.tap.Connections() != 1 {
				t.Errorf("%d connections for one attempt", r.tap.Connections())
			}
		})
	}
}

func TestRetryAfterIsObeyedWithinBounds(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		code   int
		header []string
		want   time.Duration
	}{
		"429 with seconds":         {429, []string{"Retry-After", "60"}, time.Minute},
		"503 with seconds":         {503, []string{"Retry-After", "7"}, 7 * time.Second},
		"a date, by their clock":   {429, []string{"Date", date.Format(http.TimeFormat), "Retry-After", date.Add(9 * time.Second).Format(http.TimeFormat)}, 9 * time.Second},
		"a date that has passed":   {429, []string{"Date", date.Format(http.TimeFormat), "Retry-After", date.Add(-time.Hour).Format(http.TimeFormat)}, 0},
		"a year":                   {429, []string{"Retry-After", "31536000"}, maxRetryAfter},
		"more than fits":           {429, []string{"Retry-After", "99999999999999999999"}, 0},
		"negative":                 {429, []string{"Retry-After", "-5"}, 0},
		"a word":                   {429, []string{"Retry-After", "soon"}, 0},
		"none":                     {429, nil, 0},
		"403 does not ask to wait": {403, []string{"Retry-After", "60"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, req := oneEndpoint(t, status(tc.code, tc.header...))
			_, err := new(Discoverer).Discover(t.Context(), req)
			f, ok := fault.As(err)
			if !ok || f.RetryAfter != tc.want {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestTheRequestIsAnonymousAndPlain(t *testing.T) {
	var got *http.Request
	_, ca, req := oneEndpoint(t, nil)
	data := signed(kubeconfig(req.Endpoints[0].URL(), pemOf(ca)))
	r := newRogue(t, ca.serving(t, []string{"127.0.0.1"}), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		got = q.Clone(t.Context())
		w.Header().Set("Set-Cookie", "a=b")
		answering(data)(w, q)
	}))
	req.Endpoints, req.Server = []Endpoint{r.endpoint}, "https://10.0.0.1"
	d := &Discoverer{UserAgent: "bootstrap-agent/v1 (test)"}
	for range 2 {
		if _, err := d.Discover(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if got.Method != "GET" || got.URL.String() != "/api/v1/namespaces/kube-public/configmaps/cluster-info" || got.Host != r.endpoint.String() || got.ProtoMajor != 1 {
			t.Errorf("%s %s %s %s", got.Method, got.URL, got.Host, got.Proto)
		}
		want := http.Header{"Accept": {"application/json"}, "User-Agent": {"bootstrap-agent/v1 (test)"}, "Connection": {"close"}}
		if fmt.Sprint(got.Header) != fmt.Sprint(want) {
			t.Errorf("headers %v, want %v", got.Header, want)
		}
	}
	if r.tap.Connections() != 2 {
		t.Errorf("%d connections for two requests", r.tap.Connections())
	}
}

// tcpServer starts a bare listener on loopback whose connections are given to
// handle.
func tcpServer(t *testing.T, handle func(net.Conn)) Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return mustEndpoint(t, l.Addr().String())
}

func TestHandshakesThatFail(t *testing.T) {
	ca := newCA(t, "kubernetes")
	cert := ca.serving(t, []string{"127.0.0.1"})
	handshake := func(edit func(*tls.Config)) func(net.Conn) {
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10}
		edit(cfg)
		return func(c net.Conn) {
			s := tls.Server(c, cfg)
			if s.Handshake() == nil {
				_, _ = s.Read(make([]byte, 4096))
			}
		}
	}
	for name, tc := range map[string]struct {
		handle func(net.Conn)
		reason fault.Reason
	}{
		"plain http":          {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, fault.TLSHandshakeFailed},
		"ssh":                 {func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n") }, fault.TLSHandshakeFailed},
		"closed at once":      {func(net.Conn) {}, fault.TLSHandshakeFailed},
		"TLS 1.1 at the most": {handshake(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }), fault.TLSHandshakeFailed},
		"wants our certificate": {handshake(func(c *tls.Config) {
			c.ClientAuth = tls.RequireAnyClientCert
		}), fault.TLSHandshakeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			e := tcpServer(t, tc.handle)
			_, err := new(Discoverer).Discover(t.Context(), Request{Endpoints: []Endpoint{e}, Token: testToken(t), Pins: pinsOf(ca)})
			wantReason(t, err, tc.reason, e.String())
		})
	}
}

func TestDialsThatFail(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		reason fault.Reason
	}{
		"unknown host": {&net.DNSError{Err: "no such host", Name: "api.example.org"}, fault.DNSFailure},
		"DNS times out": {&net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", Name: "api.example.org", IsTimeout: true}},
			fault.DNSFailure},
		"refused": {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, fault.EndpointUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Discoverer{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, tc.err }}
			_, err := d.Discover(t.Context(), Request{Endpoints: []Endpoint{mustEndpoint(t, "api.example.org")}, Token: testToken(t)})
			wantReason(t, err, tc.reason, "api.example.org:6443")
		})
	}
}

// The limits in seconds, on a network inside the process whose clock is false.
func TestSlowServersMeetTheirLimit(t *testing.T) {
	silent := func(net.Conn) {}
	for name, tc := range map[string]struct {
		handle func(net.Conn) // nil: drops packets
		h      http.HandlerFunc
		want   time.Duration
		reason fault.Reason
	}{
		"dial":       {nil, nil, 5 * time.Second, fault.EndpointUnreachable},
		"handshake":  {silent, nil, 10 * time.Second, fault.TLSHandshakeFailed},
		"first byte": {nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 15 * time.Second, fault.EndpointUnreachable},
		"a byte of a header each second": {nil, func(w http.ResponseWriter, _ *http.Request) {
			drip(w, "HTTP/1.1 200 OK\r\nX-A: ", "x")
		}, 15 * time.Second, fault.EndpointUnreachable},
		"a byte of the body each second": {nil, func(w http.ResponseWriter, _ *http.Request) {
			drip(w, "HTTP/1.1 200 OK\r\n\r\n", " ")
		}, 30 * time.Second, fault.EndpointUnreachable},
		"a byte of an error each second": {nil, func(w http.ResponseWriter, _ *http.Request) {
			drip(w, "HTTP/1.1 403 Forbidden\r\n\r\n", " ")
		}, 30 * time.Second, fault.ClusterInfoForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, w := newCA(t, "kubernetes"), newWires()
				e := mustEndpoint(t, "10.0.0.1:6443")
				switch {
				case tc.h != nil:
					r := &rogue{endpoint: e}
					r.serve(t, w.listen(e.String()), ca.serving(t, []string{"10.0.0.1"}), tc.h)
				case tc.handle != nil:
					l := w.listen(e.String())
					go func() {
						c, err := l.Accept()
						if err != nil {
							return
						}
						_, _ = io.Copy(io.Discard, c) // until the client hangs up
					}()
				}
				d := &Discoverer{Dial: w.Dial}
				begun := time.Now()
				_, err := d.Discover(t.Context(), Request{Endpoints: []Endpoint{e}, Token: testToken(t), Pins: pinsOf(ca)})
				wantReason(t, err, tc.reason, e.String())
				if took := time.Since(begun); took != tc.want {
					t.Errorf("took %s, want %s", took, tc.want)
				}
			})
		})
	}
}

// drip writes one byte a second until the client hangs up.
func drip(w http.ResponseWriter, head, drop string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	gone := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, conn); close(gone) }()
	_, err = io.WriteString(conn, head)
	for err == nil {
		select {
		case <-gone:
			return
		case <-time.After(time.Second):
			_, err = io.WriteString(conn, drop)
		}
	}
}

// The proxy sees a CONNECT and nothing else; without Request.Proxy there is no
// proxy, whatever the environment says.
func TestProxyOnlyWhenAsked(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	var asked []string
	_, ca, req := oneEndpoint(t, nil)
	r := newRogue(t, ca.serving(t, []string{"127.0.0.1"}), answering(signed(kubeconfig("https://10.99.99.99:6443", pemOf(ca)))))
	req.Endpoints = []Endpoint{r.endpoint}
	proxy := tcpServer(t, func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		asked = append(asked, string(b[:n]))
		up, err := net.Dial("tcp", r.endpoint.String())
		if err != nil {
			return
		}
		defer func() { _ = up.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, c); _ = up.Close() }()
		_, _ = io.Copy(c, up)
	})
	req.Proxy = func(u *url.URL) (*url.URL, error) { return &url.URL{Scheme: "http", Host: proxy.String()}, nil }
	c, err := new(Discoverer).Discover(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 1 || !strings.HasPrefix(asked[0], "CONNECT "+r.endpoint.String()+" HTTP/1.1\r\n") || strings.Contains(asked[0], testSecret) {
		t.Errorf("the proxy was asked %q", asked)
	}
	// Whether cluster-info's server answers, only the proxy could tell.
	if c.Server != "https://10.99.99.99:6443" || c.Provisional {
		t.Errorf("server %s, provisional %t", c.Server, c.Provisional)
	}

	req.Proxy = func(u *url.URL) (*url.URL, error) { return &url.URL{Scheme: "https", Host: proxy.String()}, nil }
	_, err = new(Discoverer).Discover(t.Context(), req)
	wantReason(t, err, fault.ConfigInvalid, "https:// proxy")

	req.Proxy, req.Server = nil, "https://10.0.0.1"
	if _, err = new(Discoverer).Discover(t.Context(), req); err != nil {
		t.Errorf("without a proxy: %v", err)
	}
	if len(asked) != 1 {
		t.Errorf("the proxy was asked %d times", len(asked))
	}
}

func TestProxyThatRefuses(t *testing.T) {
	proxy := tcpServer(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 403 No\x1b[2J way\r\n\r\n")
	})
	_, err := new(Discoverer).Discover(t.Context(), Request{
		Endpoints: []Endpoint{mustEndpoint(t, "10.0.0.1:6443")}, Token: testToken(t), UnsafeSkipCAVerification: true,
		Proxy: func(*url.URL) (*url.URL, error) {
			return &url.URL{Scheme: "http", Host: proxy.String(), User: url.UserPassword("u", "hunter")}, nil
		},
	})
	wantReason(t, err, fault.EndpointUnreachable)
	if strings.Contains(err.Error(), "hunter") {
		t.Errorf("the error shows the proxy's password: %v", err)
	}
}

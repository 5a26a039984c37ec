package metrics

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = "# HELP a A.\n# TYPE a gauge\na 1\n"

// listen serves text on a loopback port until the test ends.
func listen(t *testing.T, page func() []byte) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, page)
	t.Cleanup(s.Close)
	return l.Addr().String()
}

func constant() []byte { return []byte(text) }

// ask sends bytes and returns all that comes back, with the connection's end.
func ask(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("after %q: %v", answer, err)
	}
	return string(answer)
}

func TestAnOrdinaryClientReadsThePage(t *testing.T) {
	address := listen(t, constant)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(body) != text || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != ContentType || !resp.Close {
			t.Errorf("%v, %d %v %q", err, resp.StatusCode, resp.Header, body)
		}
	}
}

func TestEveryAnswerIsOneThatHTTPKnows(t *testing.T) {
	address := listen(t, constant)
	big := strings.Repeat("x", maxHead)
	for name, tc := range map[string]struct {
		request string
		status  int
		body    bool
	}{
		"the page":                     {"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, true},
		"the page, for an old client":  {"GET /metrics HTTP/1.0\r\n\r\n", 200, true},
		"the page, with a question":    {"GET /metrics?collect=all HTTP/1.1\r\nHost: a\r\n\r\n", 200, true},
		"its head":                     {"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, false},
		"another path":                 {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, true},
		"a path below":                 {"GET /metrics/../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", 404, true},
		"another method":               {"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, true},
		"a body":                       {"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400, true},
		"a body in chunks":             {"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
		"a length that is none":        {"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", 400, true},
		"no host":                      {"GET /metrics HTTP/1.1\r\n\r\n", 400, true},
		"two hosts":                    {"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, true},
		"a field without a colon":      {"GET /metrics HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400, true},
		"a folded field":               {"GET /metrics HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, true},
		"a blank before the colon":     {"GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", 400, true},
		"a control in a field":         {"GET /metrics HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400, true},
		"bare line ends":               {"GET /metrics HTTP/1.1\nHost: a\n\n\r\n\r\n", 400, true},
		"no version":                   {"GET /metrics\r\n\r\n", 400, true},
		"a version of something else":  {"GET /metrics SPDY/1.1\r\nHost: a\r\n\r\n", 400, true},
		"another version":              {"PRI * HTTP/2.0\r\n\r\n", 505, true},
		"the beginning of TLS":         {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, true},
		"two requests in one go":       {"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, true},
		"a huge field":                 {"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + big + "\r\n\r\n", 431, true},
		"a huge target":                {"GET /" + big + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, true},
		"an answer while much follows": {"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("y", 32<<10), 200, true},
	} {
		t.Run(name, func(t *testing.T) {
			answer := ask(t, address, tc.request)
			method, _, _ := strings.Cut(tc.request, " ")
			if method != http.MethodHead {
				method = http.MethodGet
			}
			reader := bufio.NewReader(strings.NewReader(answer))
			resp, err := http.ReadResponse(reader, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%q: %v", answer, err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			rest, _ := io.ReadAll(reader)
			if err != nil || resp.StatusCode != tc.status || !resp.Close || len(rest) > 0 || (len(body) > 0) != tc.body || tc.status == 200 && tc.body && string(body) != text {
				t.Errorf("status %d, want %d, error %v, close %v, body %q, then %q", resp.StatusCode, tc.status, err, resp.Close, body, rest)
			}
		})
	}
}

func TestNothingToTellYetIsSaid(t *testing.T) {
	address := listen(t, func() []byte { return nil })
	if answer := ask(t, address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 503 ") {
		t.Errorf("%q", answer)
	}
}

// pipes is a listener without a network, for clocks of their own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	fail   atomic.Int32 // so many accepts fail
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	if p.fail.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns nil when nobody accepts for a while.
func (p *pipes) dial(ctx context.Context, patience time.Duration) net.Conn {
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case p.conns <- theirs:
		return ours
	case <-ctx.Done():
		return nil
	}
}

func TestAClientThatSendsByteAfterByteIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s := Serve(l, constant)
		defer s.Close()
		conn := l.dial(t.Context(), time.Second)
		began := time.Now()
		for i := 0; ; i++ {
			if _, err := conn.Write([]byte("G")); err != nil {
				break
			}
			time.Sleep(400 * time.Millisecond)
		}
		if took := time.Since(began); took < 4*time.Second || took > requestTime+time.Second {
			t.Errorf("hung up on after %s", took)
		}
	})
}

func TestAClientThatReadsNothingIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s := Serve(l, constant)
		defer s.Close()
		conn := l.dial(t.Context(), time.Second)
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(requestTime + time.Second)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
}

func TestSilentClientsKeepOthersWaitingForSecondsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		s := Serve(l, constant)
		defer s.Close()
		for i := range maxConnections {
			if l.dial(t.Context(), time.Second) == nil {
				t.Fatalf("client %d is not accepted", i)
			}
		}
		if l.dial(t.Context(), time.Second) != nil {
			t.Fatalf("there are more than %d connections", maxConnections)
		}
		conn := l.dial(t.Context(), requestTime)
		if conn == nil {
			t.Fatal("an honest client is not accepted")
		}
		if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(answer), text) {
			t.Errorf("%v: %q", err, answer)
		}
	})
}

func TestAFailedAcceptIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipes()
		l.fail.Store(3)
		s := Serve(l, constant)
		defer s.Close()
		if l.dial(t.Context(), time.Second) == nil {
			t.Error("nobody accepts any more")
		}
	})
}

func TestTheServerEndsWithClientsThatWait(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(l, constant)
	var conns []net.Conn
	for range maxConnections + 2 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	s.Close() // goleak tells whether all is over
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// What the server takes for a request is one in the eyes of net/http, too, and the
// same one.
func FuzzWhatIsAnsweredIsARequest(f *testing.F) {
	for _, seed := range []string{
		"GET /metrics HTTP/1.1\r\nHost: a\r\n", "HEAD /metrics?a=b HTTP/1.0\r\n", "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n",
		"GET /metrics HTTP/1.1\r\nHost: a\r\nX:\ty\r\n", "POST / HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, head string) {
		if strings.Contains(head+"\r\n", "\r\n\r\n") && !strings.HasSuffix(head, "\r\n") || !strings.HasSuffix(head, "\r\n") || strings.Contains(head, "\r\n\r\n") {
			return // never a head
		}
		status, _ := judge(head)
		if http.StatusText(status) == "" {
			t.Fatalf("%q: status %d", head, status)
		}
		if status != statusOK {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\r\n")))
		if err != nil {
			t.Fatalf("%q is answered, net/http says %v", head, err)
		}
		if req.Method != http.MethodGet && req.Method != http.MethodHead || req.URL.Path != "/metrics" || req.ContentLength > 0 || len(req.TransferEncoding) > 0 {
			t.Errorf("%q is %s %s for net/http, with %d bytes", head, req.Method, req.URL, req.ContentLength)
		}
	})
}

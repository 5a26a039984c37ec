package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func say(conn net.Conn, word string, patience time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	answer := make([]byte, len(word))
	n, err := io.ReadFull(conn, answer)
	return string(answer[:n]), err
}

func TestAPipePassesRefusesGoesSilentAndCuts(t *testing.T) {
	pipe, err := NewPipe(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.DialTimeout("tcp", pipe.Endpoint(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conn := dial()
	if got, err := say(conn, "hello", time.Second); got != "hello" || err != nil {
		t.Errorf("passing: %q, %v", got, err)
	}
	if pipe.Sent() != 5 || pipe.Accepted() != 1 {
		t.Errorf("%d bytes in %d connections", pipe.Sent(), pipe.Accepted())
	}
	pipe.Set(Silent)
	if _, err := say(conn, "hello", 50*time.Millisecond); !isTimeout(err) {
		t.Errorf("silent, old connection: %v", err)
	}
	if _, err := say(dial(), "hello", 50*time.Millisecond); !isTimeout(err) {
		t.Errorf("silent, new connection: %v", err)
	}
	pipe.Set(Refuse)
	// The reset may come before or after connect(2) has returned.
	conn, err = net.DialTimeout("tcp", pipe.Endpoint(), time.Second)
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
		_, err = say(conn, "hello", time.Second)
	}
	if err == nil || isTimeout(err) {
		t.Errorf("refusing: %v", err)
	}
	pipe.Set(Pass)
	conn = dial()
	if got, err := say(conn, "again", time.Second); got != "again" || err != nil {
		t.Errorf("passing again: %q, %v", got, err)
	}
	pipe.Set(Cut)
	if _, err := say(conn, "hello", time.Second); err == nil || isTimeout(err) {
		t.Errorf("cut: %v", err)
	}
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
}

func TestAPipeMakesWhatIsThereHalfOpenAndLetsWhatComesPass(t *testing.T) {
	pipe, err := NewPipe(t.Context(), "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		conn, err := net.DialTimeout("tcp", pipe.Endpoint(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if got, err := say(conn, "x", time.Second); got != "x" || err != nil {
			t.Fatalf("passing: %q, %v", got, err)
		}
		return conn
	}
	old := dial()
	pipe.Deafen()
	sent := pipe.Sent()
	if _, err := say(old, "hello", 50*time.Millisecond); !isTimeout(err) {
		t.Errorf("the old connection is told: %v", err)
	}
	if pipe.Sent() != sent+5 {
		t.Error("what the client says does not arrive")
	}
	dial()
	pipe.Set(Drip)
	began := time.Now()
	conn, err := net.DialTimeout("tcp", pipe.Endpoint(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if got, err := say(conn, "ab", 5*time.Second); got != "ab" || err != nil || time.Since(began) < time.Second {
		t.Errorf("dripping: %q after %s, %v", got, time.Since(began), err)
	}
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

func TestARefusedEndpointRefuses(t *testing.T) {
	endpoint, free, err := Refused("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", endpoint, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, %v", conn, err)
	}
	if err := free(); err != nil {
		t.Error(err)
	}
}

func TestADroppedEndpointNeitherAnswersNorRefuses(t *testing.T) {
	endpoint, free, err := Dropped(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", endpoint, 200*time.Millisecond); !isTimeout(err) {
		t.Errorf("dial: %v, %v", conn, err)
	}
	if err := free(); err != nil {
		t.Error(err)
	}
}

func TestAFrontRecordsThatThereWasACredentialAndMovesTheDate(t *testing.T) {
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer target.Close()
	targetCA := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: target.Certificate().Raw})
	ca, err := cluster.NewAuthority("front")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Server("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	front, err := NewFront(t.Context(), "127.0.0.1:0", cert, key, target.Listener.Addr().String(), targetCA)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	get := func(path, token string) http.Header {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+front.Endpoint()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // only the header counts
		return resp.Header
	}
	get("/a?b=c", "")
	front.ShiftDate(-48 * time.Hour)
	header := get("/missing", "secret")
	if date, err := http.ParseTime(header.Get("Date")); err != nil || time.Since(date) < 47*time.Hour {
		t.Errorf("Date %v, %v", date, err)
	}
	front.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	get("/a", "")
	want := []Request{
		{Method: "GET", Path: "/a?b=c", Status: 200},
		{Method: "GET", Path: "/missing", Status: 404, Authorization: true},
		{Method: "GET", Path: "/a", Status: 429},
	}
	seen := front.Requests()
	for i := range seen {
		seen[i].Time = time.Time{}
	}
	if len(seen) != len(want) {
		t.Fatalf("saw %+v", seen)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Errorf("saw %+v, want %+v", seen[i], want[i])
		}
	}
}

func TestAPipeOutlivesTheContextOfItsMaker(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pipe, err := NewPipe(ctx, "127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	conn, err := net.DialTimeout("tcp", pipe.Endpoint(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := say(conn, "hello", time.Second); got != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := pipe.Close(); err != nil {
		t.Error(err)
	}
}

package apiclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const status = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no\nway","reason":%q,"code":%d}`

func TestEveryAnswerHasItsReason(t *testing.T) {
	ca := newAuthority(t)
	type header map[string]string
	for name, test := range map[string]struct {
		code   int
		header header
		body   string
		want   fault.Reason
		after  time.Duration
		is     func(error) bool
		say    string
	}{
		"401":                      {code: 401, body: fmt.Sprintf(status, "Unauthorized", 401), want: fault.TokenRejected, is: apierrors.IsUnauthorized, say: `"no\nway"`},
		"403":                      {code: 403, body: fmt.Sprintf(status, "Forbidden", 403), is: apierrors.IsForbidden, say: `403 Forbidden: "no\nway"`},
		"404":                      {code: 404, body: fmt.Sprintf(status, "NotFound", 404), is: apierrors.IsNotFound},
		"404 in plain text":        {code: 404, header: header{"Content-Type": "text/plain"}, body: "404 page not found\n", is: apierrors.IsNotFound},
		"409":                      {code: 409, body: fmt.Sprintf(status, "AlreadyExists", 409), is: apierrors.IsAlreadyExists},
		"410":                      {code: 410, body: fmt.Sprintf(status, "Expired", 410), is: apierrors.IsResourceExpired},
		"422":                      {code: 422, body: fmt.Sprintf(status, "Invalid", 422), is: apierrors.IsInvalid},
		"429":                      {code: 429, header: header{"Retry-After": "60"}, body: fmt.Sprintf(status, "TooManyRequests", 429), want: fault.Throttled, after: time.Minute},
		"429 in plain text":        {code: 429, header: header{"Retry-After": "1", "Content-Type": "text/plain"}, body: "slow down", want: fault.Throttled, after: time.Second},
		"429 without Retry-After":  {code: 429, body: fmt.Sprintf(status, "TooManyRequests", 429), want: fault.Throttled},
		"500":                      {code: 500, body: fmt.Sprintf(status, "InternalError", 500), want: fault.ServerError},
		"503 with Retry-After":     {code: 503, header: header{"Retry-After": "5"}, body: fmt.Sprintf(status, "ServiceUnavailable", 503), want: fault.ServerError, after: 5 * time.Second},
		"504 in HTML":              {code: 504, header: header{"Content-Type": "text/html"}, body: "<html>", want: fault.ServerError},
		"a Status without a code":  {code: 503, body: `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"x"}`, want: fault.ServerError},
		"200 with a Status inside": {code: 200, body: fmt.Sprintf(status, "Forbidden", 403), is: apierrors.IsForbidden},
		"200 in HTML":              {code: 200, header: header{"Content-Type": "text/html"}, body: "<html>\nlogin", want: fault.ServerError, say: "no Kubernetes answer"},
		"200, HTML said JSON":      {code: 200, body: "<html>\nlogin", want: fault.ServerError, say: "no Kubernetes answer"},
		"200 of another kind":      {code: 200, body: `{"kind":"Pod","apiVersion":"v1"}`, want: fault.ServerError},
		"200 and nothing":          {code: 200, want: fault.ServerError},
		"200, cut off":             {code: 200, header: header{"Content-Length": "100"}, body: `{"kind":"Node","api`, want: fault.ServerError, say: "cut off"},
		"200 and far too much":     {code: 200, body: `{"kind":"Node","apiVersion":"v1","x":"` + strings.Repeat("y", maxBodyBytes) + `"}`, want: fault.ServerError, say: "larger than"},
		"200 and far too rich":     {code: 200, body: `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"},"status":{"conditions":[` + strings.Repeat("{},", maxMarks/2) + `{}]}}`, want: fault.ServerError, say: "more than 20000 marks"},
		"200 of another name":      {code: 200, body: `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n2\n"}}`, want: fault.ServerError, say: `cannot read node n1: the API server answered with an object named "n2\n"`},
		"200 of no name":           {code: 200, body: `{}`, want: fault.ServerError, say: "an object named"},
		"403 with megabytes":       {code: 403, body: fmt.Sprintf(status, "Forbidden", 403) + strings.Repeat(" ", 10<<20), is: apierrors.IsForbidden},
		"500 with megabytes":       {code: 500, body: strings.Repeat("x", 10<<20), want: fault.ServerError},
		"302":                      {code: 302, header: header{"Location": "http://evil/\n"}, want: fault.ServerError, say: "redirects are not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				for k, v := range test.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(test.code)
				_, _ = io.WriteString(w, test.body)
			})
			c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Bearer: secretToken})
			start := time.Now()
			_, err := c.GetNode(t.Context(), "n1")
			if err == nil {
				t.Fatal("no error")
			}
			f, _ := fault.As(err)
			if fault.ReasonOf(err) != test.want || (f != nil && f.RetryAfter != test.after) {
				t.Errorf("%v is %q with Retry-After %+v, want %q and %v", err, fault.ReasonOf(err), f, test.want, test.after)
			}
			if test.is != nil && !test.is(err) {
				t.Errorf("%v (%T) is not recognised", err, err)
			}
			text := err.Error()
			if !strings.HasPrefix(text, "cannot read node n1: ") || !strings.Contains(text, test.say) || strings.ContainsAny(text, "\n\r") || len(text) > 600 || strings.Contains(text, string(secretToken)) {
				t.Errorf("the text is %q", text)
			}
			if c.Stats().Requests != 1 || time.Since(start) > 5*time.Second {
				t.Errorf("%d requests in %v: it retried by itself", c.Stats().Requests, time.Since(start))
			}
			w, werr := c.WatchNode(t.Context(), "n1", "")
			if w != nil {
				w.Stop() // a 200 is a stream, which then delivers the trouble
			} else if fault.ReasonOf(werr) != test.want {
				t.Errorf("a watch gives %v, a read %v", werr, err)
			}
		})
	}
}

func TestA401WithoutATokenIsLeftToTheCaller(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 401, fmt.Sprintf(status, "Unauthorized", 401))
	})
	cert, key := ca.issue(t, nil)
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), CertPEM: cert, KeyPEM: key})
	_, err := c.GetNode(t.Context(), "n1")
	var unauthorized *Unauthorized
	if !errors.As(err, &unauthorized) || fault.ReasonOf(err) != "" || !apierrors.IsUnauthorized(err) {
		t.Errorf("got %T %v", err, err)
	}
}

func TestAMissingTokenIsNotSentAsAnEmptyOne(t *testing.T) {
	ca := newAuthority(t)
	c := newClient(t, Options{Server: "https://127.0.0.1:1", CA: ca.pem(), Bearer: bearer("")})
	_, err := c.GetNode(t.Context(), "n1")
	if fault.ReasonOf(err) != fault.TokenMissing || c.Stats().Requests != 0 {
		t.Errorf("got %v after %+v", err, c.Stats())
	}
}

func TestEveryNetworkFailureHasItsReason(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	ok := func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 404, `{}`) }
	dialError := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for name, test := range map[string]struct {
		dial   func(context.Context, string, string) (net.Conn, error)
		server func(t *testing.T) string
		want   fault.Reason
		say    string
	}{
		"refused":    {dial: dialError(refused), want: fault.EndpointUnreachable, say: "connection refused"},
		"no address": {dial: dialError(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "api", IsNotFound: true}}), want: fault.DNSFailure},
		"timed out":  {dial: dialError(context.DeadlineExceeded), want: fault.EndpointUnreachable},
		"strange":    {dial: dialError(errors.New("two\nlines")), want: fault.EndpointUnreachable, say: `two\nlines`},
		"another CA": {server: func(t *testing.T) string { return serve(t, stranger, nil, ok).URL }, want: fault.ServerCertificateInvalid, say: " at 127.0.0.1:"},
		"another name": {server: func(t *testing.T) string {
			return serve(t, ca, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"other.example"} }, ok).URL
		}, want: fault.ServerCertificateInvalid},
		"expired": {server: func(t *testing.T) string {
			return serve(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, ok).URL
		}, want: fault.ServerCertificateInvalid, say: "expired"},
		"no TLS": {server: func(t *testing.T) string { return babble(t, "SSH-2.0-OpenSSH_9.2\r\n\r\n") }, want: fault.TLSHandshakeFailed},
		"closed": {server: func(t *testing.T) string { return babble(t, "") }, want: fault.EndpointUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			server := "https://127.0.0.1:6443"
			if test.server != nil {
				server = test.server(t)
			}
			c := newClient(t, Options{Server: server, CA: ca.pem(), Bearer: secretToken, Dial: test.dial})
			_, err := c.GetNode(t.Context(), "n1")
			_, werr := c.WatchNode(t.Context(), "n1", "")
			for _, err := range []error{err, werr} {
				if fault.ReasonOf(err) != test.want || !strings.Contains(err.Error(), test.say) || strings.ContainsAny(err.Error(), "\r\n") {
					t.Errorf("%v is %q, want %q", err, fault.ReasonOf(err), test.want)
				}
			}
		})
	}
}

// babble says something to whoever connects and closes.
func babble(t *testing.T, text string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	return "https://" + listener.Addr().String()
}

func TestTheCallersEndIsNoFault(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	for want, canceled := range map[error]bool{context.Canceled: true, context.DeadlineExceeded: false} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if canceled {
			cancel()
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(10*time.Millisecond, cancel)
		}
		_, err := c.GetNode(ctx, "n1")
		if !errors.Is(err, want) || fault.ReasonOf(err) != "" {
			t.Errorf("got %v (%q), want %v", err, fault.ReasonOf(err), want)
		}
		cancel()
	}
}

func TestAWrongClockIsToldFromAWrongCertificate(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 404, `{}`) })
	now := time.Now()
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Now: func() time.Time { return now }})
	now = now.Add(72 * time.Hour)
	_, err := c.GetNode(t.Context(), "n1")
	if fault.ReasonOf(err) != fault.ServerCertificateInvalid {
		t.Errorf("nobody has told the server's time, yet: %q", fault.ReasonOf(err))
	}
	now = now.Add(-72 * time.Hour)
	if _, err = c.GetNode(t.Context(), "n1"); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	c.transport.CloseIdleConnections()
	c.mu.Lock() // the machine's clock was set forward by 72 h after that answer
	c.localTime = c.localTime.Add(72 * time.Hour)
	c.mu.Unlock()
	now = now.Add(72 * time.Hour)
	_, err = c.GetNode(t.Context(), "n1")
	if fault.ReasonOf(err) != fault.ClockSkew || !strings.Contains(err.Error(), "apart") {
		t.Errorf("got %v (%q), want ClockSkew with both times", err, fault.ReasonOf(err))
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "3600", "99999999999999999999", "9223372036854775807", "1.5", " 1", "Wed, 01 Jul 2026 10:00:05 GMT", "Fri, 01 Jan 1500 00:00:00 GMT"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := http.Header{}
		h["Retry-After"], h["Date"] = []string{s}, []string{"Wed, 01 Jul 2026 10:00:00 GMT"}
		got := retryAfter(h)
		if got < 0 || got > maxRetryAfter {
			t.Errorf("Retry-After %q = %v", s, got)
		}
		want, known := map[string]time.Duration{"1": time.Second, "-1": 0, "9223372036854775807": maxRetryAfter, "Wed, 01 Jul 2026 10:00:05 GMT": 5 * time.Second}[s]
		if known && got != want {
			t.Errorf("Retry-After %q = %v, want %v", s, got, want)
		}
	})
}

package apiclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"go.uber.org/goleak"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOptionsAreCheckedBeforeAnythingIsDialled(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, nil)
	good := Options{Server: "https://10.0.0.1:6443", CA: ca.pem()}
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"plain http":            {func(o *Options) { o.Server = "http://10.0.0.1:6443" }, "https://host:port"},
		"no scheme":             {func(o *Options) { o.Server = "10.0.0.1:6443" }, "no URL"},
		"no host":               {func(o *Options) { o.Server = "https://:6443" }, "https://host:port"},
		"a path":                {func(o *Options) { o.Server += "/k8s" }, "behind host and port"},
		"a query":               {func(o *Options) { o.Server += "?a=b" }, "behind host and port"},
		"credentials":           {func(o *Options) { o.Server = "https://a:sesame@10.0.0.1" }, "carries credentials"},
		"control characters":    {func(o *Options) { o.Server = "https://a\n:sesame" }, "no URL"},
		"no CA":                 {func(o *Options) { o.CA = nil }, "no CA certificate"},
		"a CA that is none":     {func(o *Options) { o.CA = []byte("-----BEGIN") }, "no CA certificate"},
		"token and certificate": {func(o *Options) { o.Bearer, o.CertPEM, o.KeyPEM = secretToken, cert, key }, "both"},
		"certificate, no key":   {func(o *Options) { o.CertPEM = cert }, "of no use"},
		"key, no certificate":   {func(o *Options) { o.KeyPEM = key }, "of no use"},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			test.change(&o)
			_, err := New(o)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("New() = %v, want %q", err, test.want)
			}
		})
	}
	if c, err := New(good); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestOneHandshakeServesCreateWatchAndRead(t *testing.T) {
	ca := newAuthority(t)
	stop := make(chan struct{})
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+string(secretToken) || r.UserAgent() != "agent/1" || r.ProtoMajor != 2 {
			answerJSON(w, http.StatusTeapot, `{}`)
			return
		}
		if r.URL.Query().Get("watch") == "true" {
			if r.URL.Query().Get("fieldSelector") != "metadata.name=mine" || r.URL.Query().Get("resourceVersion") != "7" {
				answerJSON(w, http.StatusBadRequest, `{}`)
				return
			}
			answerJSON(w, http.StatusOK, `{"type":"MODIFIED","object":{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","metadata":{"name":"mine","resourceVersion":"8"}}}`+"\n")
			w.(http.Flusher).Flush()
			select {
			case <-stop:
			case <-r.Context().Done():
			}
			return
		}
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			if !strings.Contains(string(body), `"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1"`) {
				answerJSON(w, http.StatusBadRequest, `{}`)
				return
			}
		}
		answerJSON(w, http.StatusOK, `{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","metadata":{"name":"mine","resourceVersion":"7"}}`)
	})
	defer close(stop)
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Bearer: secretToken, UserAgent: "agent/1"})
	csr, err := c.CreateCSR(t.Context(), &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "mine"}})
	if err != nil || csr.Name != "mine" {
		t.Fatalf("CreateCSR() = %v, %v", csr, err)
	}
	w, err := c.WatchCSR(t.Context(), "mine", csr.ResourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	event := <-w.ResultChan()
	if seen, ok := event.Object.(*certificatesv1.CertificateSigningRequest); !ok || event.Type != watch.Modified || seen.ResourceVersion != "8" {
		t.Errorf("the watch delivered %v %v", event.Type, event.Object)
	}
	if _, err := c.GetCSR(t.Context(), "mine"); err != nil {
		t.Error(err)
	}
	if got := c.Stats(); got != (Stats{Requests: 3, Handshakes: 1}) {
		t.Errorf("three requests cost %+v, want one handshake", got)
	}
}

func TestEachReadAsksThePathOfTheAPI(t *testing.T) {
	ca := newAuthority(t)
	bodies := map[string]string{
		"GET /api/v1/nodes/n1": `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"}}`,
		"GET /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1": `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"n1"},"spec":{"leaseDurationSeconds":40}}`,
		"GET /api/v1/namespaces/kube-system/configmaps/kubelet-config":          `{"kind":"ConfigMap","apiVersion":"v1","data":{"kubelet":"a: b"}}`,
		"GET /api/v1/namespaces/kube-public/configmaps/cluster-info":            `{"kind":"ConfigMap","apiVersion":"v1","data":{"kubeconfig":"c: d"}}`,
		"POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews":           `{"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`,
		"POST /apis/authentication.k8s.io/v1/selfsubjectreviews":                `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","status":{"userInfo":{"username":"u1","groups":["g1","g2"]}}}`,
	}
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.Method+" "+r.URL.Path]
		if !ok || r.Header.Get("Authorization") != "" || len(r.TLS.PeerCertificates) != 1 {
			answerJSON(w, http.StatusNotFound, `{}`)
			return
		}
		answerJSON(w, http.StatusOK, body)
	})
	cert, key := ca.issue(t, nil)
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), CertPEM: cert, KeyPEM: key})
	if node, err := c.GetNode(t.Context(), "n1"); err != nil || node.Name != "n1" {
		t.Errorf("GetNode() = %v, %v", node, err)
	}
	if lease, err := c.GetLease(t.Context(), "n1"); err != nil || *lease.Spec.LeaseDurationSeconds != 40 {
		t.Errorf("GetLease() = %v, %v", lease, err)
	}
	if text, err := c.KubeletConfig(t.Context()); err != nil || text != "a: b" {
		t.Errorf("KubeletConfig() = %q, %v", text, err)
	}
	if text, err := c.ClusterInfo(t.Context()); err != nil || text != "c: d" {
		t.Errorf("ClusterInfo() = %q, %v", text, err)
	}
	if ok, err := c.Allowed(t.Context(), authorizationv1.ResourceAttributes{Verb: "create"}); err != nil || !ok {
		t.Errorf("Allowed() = %v, %v", ok, err)
	}
	if user, groups, err := c.WhoAmI(t.Context()); err != nil || user != "u1" || !slices.Equal(groups, []string{"g1", "g2"}) {
		t.Errorf("WhoAmI() = %q, %q, %v", user, groups, err)
	}
	bodies["GET /api/v1/namespaces/kube-system/configmaps/kubelet-config"] = `{"kind":"ConfigMap","apiVersion":"v1","data":{}}`
	if _, err := c.KubeletConfig(t.Context()); !apierrors.IsNotFound(err) {
		t.Errorf("a kubelet-config without its key: %v, want not found", err)
	}
	if node, err := c.GetNode(t.Context(), "other"); !apierrors.IsNotFound(err) || node != nil {
		t.Errorf("GetNode(other) = %v, %v", node, err)
	}
	before := c.Stats().Requests
	if _, err := c.GetNode(t.Context(), "../secrets"); err == nil || fault.ReasonOf(err) != "" || c.Stats().Requests != before {
		t.Errorf("a name that leaves its folder was sent: %v", err)
	}
}

func TestOfManyRequestsTheNewestUndecidedOneOfTheUserIsFound(t *testing.T) {
	ca := newAuthority(t)
	item := func(name, created, user, signer, conditions string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q,"creationTimestamp":%q},"spec":{"username":%q,"signerName":%q},"status":{%s}}`, name, created, user, signer, conditions)
	}
	const serving, user = "kubernetes.io/kubelet-serving", "system:node:n1"
	items := []string{
		item("old", "2026-01-01T00:00:00Z", user, serving, ""),
		item("newest", "2026-01-01T00:20:00Z", user, serving, ""),
		item("older", "2026-01-01T00:10:00Z", user, serving, ""),
		item("approved", "2026-01-01T00:30:00Z", user, serving, `"conditions":[{"type":"Approved","status":"True"}]`),
		item("of-another", "2026-01-01T00:30:00Z", "system:node:n2", serving, ""),
		item("for-another", "2026-01-01T00:30:00Z", user, "example.com/x", ""), // a server that does not select
	}
	var asked []string
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+"?"+r.URL.Query().Encode())
		answerJSON(w, http.StatusOK, `{"kind":"CertificateSigningRequestList","apiVersion":"certificates.k8s.io/v1","metadata":{"continue":"more"},"items":[`+strings.Join(items, ",")+`]}`)
	})
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	got, err := c.PendingCSR(t.Context(), serving, user)
	if err != nil || got == nil || got.Name != "newest" || got.Created.Minute() != 20 {
		t.Errorf("PendingCSR() = %+v, %v", got, err)
	}
	want := "GET /apis/certificates.k8s.io/v1/certificatesigningrequests?fieldSelector=spec.signerName%3Dkubernetes.io%2Fkubelet-serving&limit=500"
	if len(asked) != 1 || asked[0] != want {
		t.Errorf("asked %q", asked)
	}
	items = items[3:]
	if got, err := c.PendingCSR(t.Context(), serving, user); err != nil || got != nil {
		t.Errorf("with none of ours: %+v, %v", got, err)
	}
	items = []string{"nonsense"}
	if _, err := c.PendingCSR(t.Context(), serving, user); fault.ReasonOf(err) != fault.ServerError {
		t.Errorf("an answer that is no list: %v", err)
	}
}

func TestAnAnnotationIsAPatchOfThatAndNothingElse(t *testing.T) {
	ca := newAuthority(t)
	var asked []string
	status := http.StatusOK
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(body))
		answerJSON(w, status, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"}}`)
	})
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	value := "a\"b"
	if err := c.AnnotateNode(t.Context(), "n1", map[string]*string{"x/y": &value, "x/gone": nil}); err != nil {
		t.Fatal(err)
	}
	want := `PATCH /api/v1/nodes/n1 application/merge-patch+json {"metadata":{"annotations":{"x/gone":null,"x/y":"a\"b"}}}`
	if len(asked) != 1 || asked[0] != want {
		t.Errorf("asked %q", asked)
	}
	status = http.StatusServiceUnavailable
	if err := c.AnnotateNode(t.Context(), "n1", nil); fault.ReasonOf(err) != fault.ServerError || len(asked) != 2 {
		t.Errorf("%v after %d requests", err, len(asked))
	}
	if err := c.AnnotateNode(t.Context(), "../n2", nil); err == nil || len(asked) != 2 {
		t.Errorf("a name that leaves its folder was sent: %v", err)
	}
}

func TestTheServersClockIsItsDateHeader(t *testing.T) {
	ca := newAuthority(t)
	date := "Wed, 01 Jul 2026 10:00:00 GMT"
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date)
		answerJSON(w, http.StatusNotFound, `{}`)
	})
	local := time.Now()
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Now: func() time.Time { return local }})
	if _, _, ok := c.Clock(); ok {
		t.Error("a clock is told before any answer")
	}
	for _, date = range []string{"Wed, 01 Jul 2026 10:00:00 GMT", "yesterday"} {
		_, _ = c.GetNode(t.Context(), "n1")
		server, at, ok := c.Clock()
		if !ok || !server.Equal(time.Date(2026, 7, 1, 10, 0, 0, 0, time.UTC)) || !at.Equal(local) {
			t.Errorf("after Date %q: Clock() = %v, %v, %v", date, server, at, ok)
		}
	}
}

func TestARedirectIsRefusedAndTheTokenStays(t *testing.T) {
	ca := newAuthority(t)
	reached := false
	other := serve(t, ca, nil, func(http.ResponseWriter, *http.Request) { reached = true })
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Bearer: secretToken})
	_, err := c.GetNode(t.Context(), "n1")
	if err == nil || !strings.Contains(err.Error(), "redirects are not followed") || reached {
		t.Errorf("GetNode() = %v, the other server was reached: %v", err, reached)
	}
	if _, err := c.WatchNode(t.Context(), "n1", ""); err == nil || reached {
		t.Errorf("WatchNode() = %v, the other server was reached: %v", err, reached)
	}
}

func TestTheTokenIsNeverSentToAnotherHost(t *testing.T) {
	ca := newAuthority(t)
	c := newClient(t, Options{Server: "https://10.0.0.1:6443", CA: ca.pem(), Bearer: secretToken})
	for _, u := range []string{"https://10.0.0.2:6443/", "http://10.0.0.1:6443/", "https://10.0.0.1/"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
		resp, err := roundTripper{c}.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("a request to %s was sent", u)
		}
	}
	if c.Stats() != (Stats{}) {
		t.Error("something was sent")
	}
}

func TestTheProxySeesNoToken(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusNotFound, `{}`) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heard strings.Builder
	var done sync.WaitGroup
	defer done.Wait()
	defer func() { _ = listener.Close() }()
	done.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		mu.Lock()
		heard.Write(buf[:n])
		mu.Unlock()
		up, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			return
		}
		defer func() { _ = up.Close() }()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		done.Go(func() { _, _ = io.Copy(conn, up); _ = conn.Close() })
		_, _ = io.Copy(up, conn)
	})
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Bearer: secretToken, Proxy: func(*http.Request) (*url.URL, error) {
		return url.Parse("http://" + listener.Addr().String())
	}})
	if _, err := c.GetNode(t.Context(), "n1"); !apierrors.IsNotFound(err) {
		t.Errorf("through the proxy: %v", err)
	}
	c.Close()
	mu.Lock()
	defer mu.Unlock()
	if !strings.HasPrefix(heard.String(), "CONNECT ") || strings.Contains(heard.String(), "abcdef") || strings.Contains(heard.String(), "Authorization") {
		t.Errorf("the proxy heard %q", heard.String())
	}
}

func TestCloseEndsAnOpenWatchAndLaterRequests(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusOK, "")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	w, err := c.WatchNode(t.Context(), "n1", "")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for range w.ResultChan() {
		continue
	}
	if _, err := c.GetNode(t.Context(), "n1"); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTheEndOfTheContextEndsAWatchAtOnce(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusOK, "")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	ctx, cancel := context.WithCancel(t.Context())
	w, err := c.WatchNode(ctx, "n1", "")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	start := time.Now()
	for range w.ResultChan() {
		continue
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the watch ended after %v", took)
	}
}

// T3: an event without end, white space between events, events by the thousand:
// the watch ends, in bounded memory, and who waits on it opens it again.
func TestAWatchThatIsAFloodEnds(t *testing.T) {
	event := `{"type":"MODIFIED","object":{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1"}}}` + "\n"
	for name, flood := range map[string]struct{ head, chunk string }{
		"an event without end":   {`{"type":"ADDED","object":{"kind":"Node","apiVersion":"v1","x":"`, strings.Repeat("y", 1<<10)},
		"newlines inside it":     {`{"type":"ADDED",`, strings.Repeat("\n", 1<<10)},
		"nothing but newlines":   {"", strings.Repeat("\n", 1<<10)},
		"brackets":               {`{"type":`, strings.Repeat("[", 1<<10)},
		"events by the thousand": {"", strings.Repeat(event, 10)},
	} {
		t.Run(name, func(t *testing.T) {
			ca := newAuthority(t)
			var sent atomic.Int64
			s := serve(t, ca, nil, func(w http.ResponseWriter, r *http.Request) {
				answerJSON(w, http.StatusOK, flood.head)
				for r.Context().Err() == nil && sent.Load() < 64<<20 {
					n, err := io.WriteString(w, flood.chunk)
					if sent.Add(int64(n)); err != nil {
						return
					}
				}
			})
			c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
			w, err := c.WatchNode(t.Context(), "n1", "")
			if err != nil {
				t.Fatal(err)
			}
			events := 0
			for range w.ResultChan() {
				events++
			}
			if most := sent.Load(); most > 16<<20 { // what is under way in the buffers of TLS and HTTP/2 comes on top
				t.Errorf("%d bytes were taken in, %d events", most, events)
			}
		})
	}
}

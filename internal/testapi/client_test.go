package testapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	infoPath   = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
	kubeletCfg = "/api/v1/namespaces/kube-system/configmaps/kubelet-config"
	csrPath    = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	nodesPath  = "/api/v1/nodes"
	leasePath  = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	ssarPath   = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
)

// start runs a server for one test.
func start(t testing.TB, o Options) *Server {
	t.Helper()
	o.Logf = t.Logf
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func quiet(t testing.TB) *Server {
	t.Helper()
	return start(t, Options{Quiet: true})
}

// client is one HTTP client with one identity; bearer or pair may be empty.
type client struct {
	t      testing.TB
	s      *Server
	http   *http.Client
	bearer string
}

func (s *Server) as(t testing.TB, bearer string, pair ...[]byte) *client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if len(pair) == 2 {
		cert, err := tls.X509KeyPair(pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		// As client-go: sent whatever the server says it accepts.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, s: s, bearer: bearer, http: &http.Client{
		Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *Server) node(t testing.TB, name string) *client {
	t.Helper()
	cert, key, err := s.NodeCertificate(name)
	if err != nil {
		t.Fatal(err)
	}
	return s.as(t, "", cert, key)
}

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   []byte
	proto  string
	err    error // of reading the body
}

func (a answer) object(t testing.TB) metav1.Status {
	t.Helper()
	var st metav1.Status
	if err := json.Unmarshal(a.body, &st); err != nil {
		t.Fatalf("status %d, body %q: %v", a.status, a.body, err)
	}
	return st
}

func (c *client) try(ctx context.Context, method, path string, body []byte, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.s.URL()+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, raw, resp.Proto, err}, nil
}

func (c *client) do(method, path string, body []byte, header ...string) answer {
	c.t.Helper()
	a, err := c.try(c.t.Context(), method, path, body, header...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (c *client) get(path string) answer {
	c.t.Helper()
	return c.do(http.MethodGet, path, nil)
}

// stream is an open watch.
type stream struct {
	t      testing.TB
	status int
	dec    *json.Decoder
	cancel context.CancelFunc
}

type streamEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

func (e streamEvent) meta() metav1.PartialObjectMetadata {
	return decode[metav1.PartialObjectMetadata](e.Object)
}

func (c *client) watch(path, query string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.s.URL()+path+"?watch=true&"+query, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	return &stream{c.t, resp.StatusCode, json.NewDecoder(resp.Body), cancel}
}

// next returns the next event, or the error that ended the stream.
func (w *stream) next() (streamEvent, error) {
	var e streamEvent
	err := w.dec.Decode(&e)
	return e, err
}

func (w *stream) want(typ, name string) streamEvent {
	w.t.Helper()
	e, err := w.next()
	if err != nil {
		w.t.Fatalf("watch ended (%v), want %s %s", err, typ, name)
	}
	if e.Type != typ || e.meta().Name != name {
		w.t.Fatalf("got %s %s, want %s %s", e.Type, e.Object, typ, name)
	}
	return e
}

// newCSR makes a request for a node, as a joining machine does; change may
// spoil it.
func newCSR(t testing.TB, name, node string, change func(*certv1.CertificateSigningRequest)) []byte {
	t.Helper()
	csr := certv1.CertificateSigningRequest{
		TypeMeta: csrs.typeMeta(), ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certv1.CertificateSigningRequestSpec{
			Request:    requestPEM(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}}),
			SignerName: certv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth},
		},
	}
	if change != nil {
		change(&csr)
	}
	return encode(csr)
}

func requestPEM(t testing.TB, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func (c *client) createCSR(name, node string, change func(*certv1.CertificateSigningRequest)) certv1.CertificateSigningRequest {
	c.t.Helper()
	a := c.do(http.MethodPost, csrPath, newCSR(c.t, name, node, change), "Content-Type", "application/json")
	if a.status != http.StatusCreated {
		c.t.Fatalf("status %d: %s", a.status, a.body)
	}
	return decode[certv1.CertificateSigningRequest](a.body)
}

// soon bounds a wait that must not happen.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

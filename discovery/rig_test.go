package discovery

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

const (
	testID     = "abcdef"
	testSecret = "k3j2h4g5f6d7s8a9"
)

func testToken(tb testing.TB) Token {
	tb.Helper()
	tok, err := ParseToken(testID + "." + testSecret)
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

// authority is a CA made for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// newCA makes a CA that is valid for a day around now; edit changes its
// template.
func newCA(tb testing.TB, name string, edit ...func(*x509.Certificate)) *authority {
	tb.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, f := range edit {
		f(tmpl)
	}
	key := newKey(tb)
	return &authority{cert: sign(tb, tmpl, tmpl, key, key), key: key}
}

func sign(tb testing.TB, tmpl, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// serving makes a server certificate for these hosts.
func (a *authority) serving(tb testing.TB, hosts []string, edit ...func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	for _, f := range edit {
		f(tmpl)
	}
	key := newKey(tb)
	cert := sign(tb, tmpl, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func pinsOf(cas ...*authority) Pins {
	var p Pins
	for _, ca := range cas {
		p.list = append(p.list, pinOf(ca.cert))
	}
	return p
}

// kubeconfig is what the cluster's bootstrap signer would publish.
func kubeconfig(server string, pem []byte) string {
	return fmt.Sprintf(`apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: %s
    server: %s
  name: ""
contexts: null
current-context: ""
kind: Config
preferences: {}
users: null
`, base64.StdEncoding.EncodeToString(pem), server)
}

// signed is the data of a cluster-info that holds this kubeconfig.
func signed(config string) map[string]string {
	return map[string]string{
		kubeconfigKey:            config,
		signaturePrefix + testID: detachedJWS(config, testID, testSecret),
	}
}

func configMapJSON(data map[string]string) []byte {
	b, err := json.Marshal(map[string]any{
		"kind": "ConfigMap", "apiVersion": "v1",
		"metadata": map[string]any{"name": "cluster-info", "namespace": "kube-public"},
		"data":     data,
	})
	if err != nil {
		panic(err)
	}
	return b
}

// answering is a handler that serves this cluster-info.
func answering(data map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != clusterInfoPath || r.Method != http.MethodGet {
			http.Error(w, "unexpected "+r.Method+" "+r.URL.Path, http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(configMapJSON(data))
	}
}

// rogue is a TLS server that keeps every byte its clients sent.
type rogue struct {
	endpoint Endpoint
	tap      *testapi.Tap
}

// newRogue serves h on loopback. When the test ends it fails if any client ever
// sent a credential: that is asserted for every test that uses one.
func newRogue(t *testing.T, cert tls.Certificate, h http.Handler) *rogue {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rogue{}
	if r.endpoint, err = ParseEndpoint(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	r.serve(t, l, cert, h)
	return r
}

func (r *rogue) serve(t *testing.T, l net.Listener, cert tls.Certificate, h http.Handler) {
	t.Helper()
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	r.tap = testapi.NewTap(tls.NewListener(l, cfg))
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(r.tap)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		r.assertNoCredential(t)
	})
}

func (r *rogue) assertNoCredential(t *testing.T) {
	t.Helper()
	for _, bad := range []string{"authorization", "cookie", "bearer", testSecret} {
		if strings.Contains(strings.ToLower(r.tap.Heard()), bad) {
			t.Errorf("a client sent %q to %s:\n%s", bad, r.endpoint, r.tap.Heard())
		}
	}
}

// wires is a network inside the process, for tests that count seconds: under
// testing/synctest nothing waits in real time.
type wires struct {
	begun  time.Time
	mu     sync.Mutex
	hosts  map[string]chan net.Conn
	refuse map[string]bool
	dials  map[string]time.Duration // when each address was first dialled
}

func newWires() *wires {
	return &wires{begun: time.Now(), hosts: map[string]chan net.Conn{}, refuse: map[string]bool{}, dials: map[string]time.Duration{}}
}

// Dial connects to a host of these wires. One that is not there drops packets.
func (w *wires) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	if _, ok := w.dials[addr]; !ok {
		w.dials[addr] = time.Since(w.begun)
	}
	host, refused := w.hosts[addr], w.refuse[addr]
	w.mu.Unlock()
	if refused {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if host == nil {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
	}
	here, there := net.Pipe()
	select {
	case host <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen makes a host.
func (w *wires) listen(addr string) net.Listener {
	ch := make(chan net.Conn)
	w.mu.Lock()
	w.hosts[addr] = ch
	w.mu.Unlock()
	return &wireListener{ch: ch, closed: make(chan struct{})}
}

type wireListener struct {
	ch     chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *wireListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ch:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *wireListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *wireListener) Addr() net.Addr { return &net.TCPAddr{} }

func inOrder(int, func(i, j int)) {}

func mustEndpoint(tb testing.TB, s string) Endpoint {
	tb.Helper()
	e, err := ParseEndpoint(s)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func wantReason(t *testing.T, err error, want fault.Reason, contains ...string) {
	t.Helper()
	if fault.ReasonOf(err) != want {
		t.Fatalf("reason %q, want %q: %v", fault.ReasonOf(err), want, err)
	}
	for _, c := range contains {
		if !strings.Contains(err.Error(), c) {
			t.Errorf("the error does not say %q: %v", c, err)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\r\x1b") {
		t.Errorf("the error is not one clean line: %q", err)
	}
	if strings.Contains(err.Error()+fault.HintOf(err), testSecret) {
		t.Errorf("the error shows the secret: %v", err)
	}
}

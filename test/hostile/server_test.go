//go:build e2e

package hostile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// The token of every run.
const (
	tokenID = "h0st1l"
	secret  = "q7w3e9r1t5y2u8i4"
)

// authority is a CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes a CA that is valid for a day around now; change edits it.
func newAuthority(name string, change func(*x509.Certificate)) *authority {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	return &authority{must(x509.ParseCertificate(der)), key}
}

// serving makes a certificate for a server on loopback.
func (a *authority) serving(change func(*x509.Certificate)) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: time.Now().Add(-12 * time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key))
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

func (a *authority) pem() []byte { return pemOf(a.cert.Raw) }

func (a *authority) pin() string {
	sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// stage is a server on loopback that a stranger runs, and what he has.
type stage struct {
	ca   *authority
	host string // host:port
	tap  *testapi.Tap
}

// open serves h with one certificate until shut is called.
func open(ca *authority, pair tls.Certificate, h http.Handler) (s *stage, shut func()) {
	return openChanging(ca, func(int) tls.Certificate { return pair }, h)
}

// openChanging has another certificate for each connection; the first is 1.
func openChanging(ca *authority, pair func(connection int) tls.Certificate, h http.Handler) (s *stage, shut func()) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	s = &stage{ca: ca, host: l.Addr().String()}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		chosen := pair(s.tap.Connections())
		return &chosen, nil
	}}
	s.tap = testapi.NewTap(tls.NewListener(l, config))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(s.tap)
	}()
	return s, func() {
		_ = server.Close()
		<-done
	}
}

// jws is the signature as the cluster's signer makes it, with any header.
func jws(header, content, key string) string {
	enc := base64.RawURLEncoding
	head := enc.EncodeToString([]byte(header))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(head + "." + enc.EncodeToString([]byte(content))))
	return head + ".." + enc.EncodeToString(mac.Sum(nil))
}

func goodJWS(content string) string {
	return jws(`{"alg":"HS256","kid":"`+tokenID+`"}`, content, secret)
}

// kubeconfig is what a cluster publishes.
func kubeconfig(server string, bundle []byte) string {
	return "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(bundle) +
		"\n    server: " + server + "\n  name: \"\"\ncontexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: null\n"
}

// signed is cluster-info with this kubeconfig and our token's signature over it.
func signed(content string) map[string]string {
	return map[string]string{"kubeconfig": content, "jws-kubeconfig-" + tokenID: goodJWS(content)}
}

// configMap answers with this cluster-info.
func configMap(data map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": data})
	}
}

// wire answers with whatever write writes, below HTTP.
func wire(write func(w io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_ = write(conn)
	}
}

// endless writes head, then chunk until the client hangs up or 10 GiB have passed.
func endless(head, chunk string) http.HandlerFunc {
	return wire(func(w io.Writer) error {
		_, err := io.WriteString(w, head)
		for sent := 0; err == nil && sent < 10<<30; sent += len(chunk) {
			_, err = io.WriteString(w, chunk)
		}
		return err
	})
}

// drip writes head, then a byte a second.
func drip(head, drop string) http.HandlerFunc {
	return wire(func(w io.Writer) error {
		_, err := io.WriteString(w, head)
		for err == nil {
			time.Sleep(time.Second)
			_, err = io.WriteString(w, drop)
		}
		return err
	})
}

func failing(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("the server's own tools fail: %v", err))
	}
	return v
}

// late is a handler that is known only once its server listens.
type late struct{ http.Handler }

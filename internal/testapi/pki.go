package testapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// backdate is how far kube-controller-manager dates certificates back.
const backdate = 5 * time.Minute

const year = 365 * 24 * time.Hour

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// pki is all key material of the server; under the server's lock.
type pki struct {
	serving *authority   // signs the serving certificate; named by cluster-info
	client  *authority   // signs client certificates
	foreign *authority   // of another cluster: trusted by nobody here
	next    *authority   // the serving CA to come, shown beside the one in use
	retired []*authority // former serving CAs that are still in the bundle
	former  []*authority // former signers of clients that are still accepted
	leaf    tls.Certificate

	refuseSigner bool
}

// ServingMode is which certificate the server shows from the next handshake on.
type ServingMode int

// The serving certificates.
const (
	ServingGood      ServingMode = iota
	ServingWrongName             // right CA, a name that nobody dials
	ServingExpired               // ran out an hour ago
	ServingNotYet                // becomes valid in an hour
	ServingForeignCA             // right name, another cluster's CA
)

func (s *Server) newPKI() error {
	var err error
	if s.pki.serving, err = newAuthority("kubernetes", s.now()); err != nil {
		return err
	}
	s.pki.client = s.pki.serving
	if s.opts.SeparateClientCA {
		if s.pki.client, err = newAuthority("kubernetes-clients", s.now()); err != nil {
			return err
		}
	}
	if s.pki.foreign, err = newAuthority("kubernetes", s.now()); err != nil {
		return err
	}
	return s.issueServing(ServingGood)
}

// issueServing renews the serving certificate; the lock is held or nobody else is there.
func (s *Server) issueServing(mode ServingMode) error {
	host, _, err := net.SplitHostPort(s.host)
	if err != nil {
		return fmt.Errorf("cannot make a serving certificate: %w", err)
	}
	now, ca := s.now(), s.pki.serving
	names := append([]string{host, "127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default.svc"}, s.opts.Names...)
	notBefore, notAfter := now.Add(-backdate), now.Add(year)
	switch mode {
	case ServingWrongName:
		names = []string{"other.example.org", "192.0.2.1"}
	case ServingExpired:
		notBefore, notAfter = now.Add(-24*time.Hour), now.Add(-time.Hour)
	case ServingNotYet:
		notBefore, notAfter = now.Add(time.Hour), now.Add(24*time.Hour)
	case ServingForeignCA:
		ca = s.pki.foreign
	case ServingGood:
	}
	s.pki.leaf, err = ca.serving(names, notBefore, notAfter)
	return err
}

// SetServing chooses the serving certificate of the next handshakes.
// Connections that exist stay; see DropConnections.
func (s *Server) SetServing(mode ServingMode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issueServing(mode)
}

// SetServingWindow renews the serving certificate with this validity.
func (s *Server) SetServingWindow(notBefore, notAfter time.Time) error {
	host, _, err := net.SplitHostPort(s.host)
	if err != nil {
		return fmt.Errorf("cannot make a serving certificate: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pki.leaf, err = s.pki.serving.serving(append([]string{host, "localhost"}, s.opts.Names...), notBefore, notAfter)
	return err
}

// RotateServingCA makes a new serving CA and shows a certificate of it. The
// bundle in cluster-info holds the new one and, if keepOld, the old ones after it.
// Client certificates stay valid, as their CA does not change.
func (s *Server) RotateServingCA(keepOld bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ca, err := newAuthority("kubernetes", s.now())
	if err != nil {
		return err
	}
	if keepOld {
		s.pki.retired = append([]*authority{s.pki.serving}, s.pki.retired...)
	} else {
		s.pki.retired = nil
	}
	s.pki.serving = ca
	s.refreshClusterInfo()
	return s.issueServing(ServingGood)
}

// PrepareServingCA makes the next serving CA, shows it in cluster-info beside the
// one in use, and returns its pin. SwitchServingCA then shows a certificate of it.
func (s *Server) PrepareServingCA() (pin string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pki.next, err = newAuthority("kubernetes", s.now()); err != nil {
		return "", err
	}
	s.refreshClusterInfo()
	return pinOf(s.pki.next.cert), nil
}

// SwitchServingCA shows a certificate of the CA that was prepared; the CAs before
// it stay in cluster-info until DropRetiredCAs.
func (s *Server) SwitchServingCA() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pki.retired = append([]*authority{s.pki.serving}, s.pki.retired...)
	s.pki.serving, s.pki.next = s.pki.next, nil
	s.refreshClusterInfo()
	return s.issueServing(ServingGood)
}

// DropRetiredCAs leaves only the serving CA of now in cluster-info.
func (s *Server) DropRetiredCAs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pki.retired, s.pki.next = nil, nil
	s.refreshClusterInfo()
	s.notify()
}

// RotateClientCA makes a new CA for client certificates: every one issued
// before is answered 401.
func (s *Server) RotateClientCA() error {
	ca, err := newAuthority("kubernetes-clients", s.now())
	if err != nil {
		return err
	}
	s.set(func() { s.pki.client, s.pki.former = ca, nil })
	return nil
}

// SignClientsWithServingCA lets the serving CA of now sign client certificates,
// as after a rotation. Certificates of the signers before it are accepted until
// DropFormerSigners.
func (s *Server) SignClientsWithServingCA() {
	s.set(func() { s.pki.client, s.pki.former = s.pki.serving, append(s.pki.former, s.pki.client) })
}

// RefuseSigner has certificates of the signer of now answered 401, as an API
// server does that was not given its CA; those of former ones are accepted.
func (s *Server) RefuseSigner(on bool) { s.set(func() { s.pki.refuseSigner = on }) }

// DropFormerSigners has every certificate of a former signer answered 401.
func (s *Server) DropFormerSigners() { s.set(func() { s.pki.former = nil }) }

// CA is the serving CA (PEM), the one that cluster-info tells about.
func (s *Server) CA() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pki.serving.pem()
}

// ClientCA is the CA of client certificates (PEM).
func (s *Server) ClientCA() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pki.client.pem()
}

// ForeignCA is a CA of the same name with another key (PEM).
func (s *Server) ForeignCA() []byte { return s.pki.foreign.pem() }

// Pin is the pin of the serving CA: sha256:<hex of its SubjectPublicKeyInfo>.
func (s *Server) Pin() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return pinOf(s.pki.serving.cert)
}

// ForeignPin is the pin of ForeignCA.
func (s *Server) ForeignPin() string { return pinOf(s.pki.foreign.cert) }

func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// NodeCertificate issues a client certificate for system:node:<name>, outside
// of any CSR.
func (s *Server) NodeCertificate(name string) (certPEM, keyPEM []byte, err error) {
	s.mu.Lock()
	ca := s.pki.client
	s.mu.Unlock()
	return ca.client("system:node:"+name, []string{"system:nodes"}, s.now().Add(-backdate), s.now().Add(year))
}

// ClientCertificate issues a client certificate with any subject and validity.
func (s *Server) ClientCertificate(commonName string, organizations []string, notBefore, notAfter time.Time) (certPEM, keyPEM []byte, err error) {
	s.mu.Lock()
	ca := s.pki.client
	s.mu.Unlock()
	return ca.client(commonName, organizations, notBefore, notAfter)
}

// ForeignNodeCertificate is a node's certificate of another cluster: 401 here.
func (s *Server) ForeignNodeCertificate(name string) (certPEM, keyPEM []byte, err error) {
	return s.pki.foreign.client("system:node:"+name, []string{"system:nodes"}, s.now().Add(-backdate), s.now().Add(year))
}

// tlsConfig makes the config of one handshake: the certificate of this moment.
func (s *Server) tlsConfig(*tls.ClientHelloInfo) (*tls.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clients := x509.NewCertPool()
	clients.AddCert(s.pki.client.cert)
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{s.pki.leaf},
		ClientAuth:   tls.RequestClientCert,
		ClientCAs:    clients, // only told to the client here, as kube-apiserver does
		NextProtos:   s.protocols(),
		VerifyConnection: func(tls.ConnectionState) error {
			s.handshakes.Add(1)
			return nil
		},
	}, nil
}

func newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key: %w", err)
	}
	return key, nil
}

func newAuthority(name string, now time.Time) (*authority, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(10 * year),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true, DNSNames: []string{name},
	}
	cert, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, nil
}

func (a *authority) pem() []byte { return certPEM(a.cert.Raw) }

func (a *authority) serving(names []string, notBefore, notAfter time.Time) (tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, err := create(template, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

func (a *authority) client(commonName string, organizations []string, notBefore, notAfter time.Time) (certOut, keyOut []byte, err error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	cert, err := create(&x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: commonName, Organization: organizations},
		NotBefore: notBefore, NotAfter: notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode a key: %w", err)
	}
	return certPEM(cert.Raw), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func create(template, parent *x509.Certificate, public any, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read a certificate: %w", err)
	}
	return cert, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func serial() *big.Int { return new(big.Int).SetBytes(randomBytes(15)) }

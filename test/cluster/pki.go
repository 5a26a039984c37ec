package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// pki is what the lab needs to know of the cluster's keys once they are made.
type pki struct {
	caPEM, clientPEM []byte
	pin, clientPin   string
}

// Authority is a small CA: the by-hand cluster's, or that of an impostor.
type Authority struct {
	CertPEM, KeyPEM []byte
	cert            *x509.Certificate
	key             *ecdsa.PrivateKey
}

// NewAuthority makes a CA with an ECDSA key, valid from an hour ago for a year.
func NewAuthority(name string) (*Authority, error) { return newAuthority(name, nil) }

// newAuthority makes a CA, signed by parent or, without one, by itself.
func newAuthority(name string, parent *Authority) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := newTemplate(pkix.Name{CommonName: name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	certPEM, keyPEM, err := sign(template, issuer, key, signer)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &Authority{certPEM, keyPEM, cert, key}, nil
}

// Pin is the authority's pin: sha256:<64 hex> over its public key info.
func (a *Authority) Pin() string { return pinOf(a.cert) }

// Server issues a serving certificate for names and addresses.
func (a *Authority) Server(names ...string) (certPEM, keyPEM []byte, err error) {
	template := newTemplate(pkix.Name{CommonName: "kube-apiserver"})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return a.issue(template)
}

// Client issues a client certificate for a user and groups.
func (a *Authority) Client(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	template := newTemplate(pkix.Name{CommonName: user, Organization: groups})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

// ClientDated is Client with a validity of the caller's choice: what a machine has
// that was off for a year.
func (a *Authority) ClientDated(notBefore, notAfter time.Time, user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	template := newTemplate(pkix.Name{CommonName: user, Organization: groups})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.NotBefore, template.NotAfter = notBefore, notAfter
	return a.issue(template)
}

func (a *Authority) issue(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	return sign(template, a.cert, key, a.key)
}

// Intermediate issues a CA below this one.
func (a *Authority) Intermediate(name string) (*Authority, error) {
	return newAuthority(name, a)
}

func newTemplate(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // the kernel has no randomness: nothing goes on
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
}

func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (certPEM, keyPEM []byte, err error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

func pinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// kubeconfig with everything inside; without a user when there is no certificate.
func kubeconfig(endpoint string, ca []byte, user string, cert, key []byte) []byte {
	encode := base64.StdEncoding.EncodeToString
	out := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: https://%s\n    certificate-authority-data: %s\n",
		endpoint, encode(ca))
	if cert == nil {
		return []byte(out)
	}
	return []byte(out + fmt.Sprintf("users:\n- name: %[1]s\n  user:\n    client-certificate-data: %[2]s\n    client-key-data: %[3]s\ncontexts:\n- name: lab\n  context: {cluster: lab, user: %[1]q}\ncurrent-context: lab\n",
		user, encode(cert), encode(key)))
}

// readKeys reads back what the shape made: the CA, and the administrator's
// certificate as an HTTP client.
func (c *Cluster) readKeys() (keys pki, admin, nobody *http.Client, err error) {
	caPEM, ca, err := c.readCA("pki/ca")
	if err != nil {
		return pki{}, nil, nil, err
	}
	clientPEM, clientCA, err := c.readCA(c.signingCA())
	if err != nil {
		return pki{}, nil, nil, err
	}
	// kubeadm's admin.conf has no rights until its bindings are there.
	path := c.AdminKubeconfig()
	if c.Shape == Kubeadm {
		path = filepath.Join(c.Dir, "super-admin.conf")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return pki{}, nil, nil, err
	}
	var config struct {
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil || len(config.Users) != 1 {
		return pki{}, nil, nil, fmt.Errorf("%s does not name one user: %w", path, err)
	}
	pair, err := tls.X509KeyPair(config.Users[0].User.Cert, config.Users[0].User.Key)
	if err != nil {
		return pki{}, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return pki{caPEM, clientPEM, pinOf(ca), pinOf(clientCA)}, clientWith(roots, pair), clientWith(roots), nil
}

// clientWith is an HTTP client that trusts these CAs, with or without an identity.
func clientWith(roots *x509.CertPool, pairs ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: pairs, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}}
}

func (c *Cluster) readCA(name string) ([]byte, *x509.Certificate, error) {
	text, err := os.ReadFile(filepath.Join(c.Dir, name+".crt"))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("%s.crt holds no PEM", name)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s.crt: %w", name, err)
	}
	return text, ca, nil
}

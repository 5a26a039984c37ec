package kubelet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

// A serving pair as the kubelet makes it for itself (client-go,
// util/cert.GenerateSelfSignedCertKey): valid for a year from an hour ago.
const (
	servingValid     = 365 * 24 * time.Hour
	servingBackdated = time.Hour
)

// ServingPair is a self-signed serving certificate and its key, both in PEM.
type ServingPair struct{ CertPEM, KeyPEM []byte }

// MakeServingPair makes the serving pair that the kubelet would make itself at
// its first start, because the kubelet makes two RSA keys for it: 0.2 s in which
// it does nothing else, and up to half a second. Ours is one P-256 key; like the
// kubelet's it proves nothing to anybody, is never renewed, and is only the
// stopgap of a kubelet that was given no other.
//
// It returns nil when the kubelet would not use it: it was given a certificate,
// asks the cluster for one (serverTLSBootstrap), may only speak cipher suites
// that want an RSA key, or has a pair that works. Half a pair and a damaged one
// do not count as a pair: with those the kubelet never starts.
func (f Files) MakeServingPair(nodeName string, l Layers) (*ServingPair, error) {
	if !l.selfSigned() || f.hasServingPair() {
		return nil, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a serving key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("cannot make a serving certificate: %w", err)
	}
	from := f.now().Add(-servingBackdated)
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: fmt.Sprintf("%s@%d", nodeName, f.now().Unix())},
		NotBefore:    from, NotAfter: from.Add(servingValid),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{nodeName}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a serving certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make a serving key: %w", err)
	}
	return &ServingPair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// errGiven ends the reading: the kubelet was given a certificate, or will be.
var errGiven = errors.New("the serving certificate is decided")

// selfSigned says whether a kubelet that is started like this makes itself a
// pair, and can speak with an ECDSA one. What cannot be read is left to the
// kubelet.
func (l Layers) selfSigned() bool {
	for _, arg := range l.Args {
		switch flagName(arg) {
		case "tls-cert-file", "tls-private-key-file", "tls-cipher-suites", "cert-dir":
			return false
		}
	}
	return nil == l.documents(func(_ string, doc document) error {
		if doc["serverTLSBootstrap"] == true {
			return errGiven
		}
		for _, key := range []string{"tlsCertFile", "tlsPrivateKeyFile"} {
			if v, given := doc[key]; given && v != nil && v != "" {
				return errGiven
			}
		}
		if suites, ok := doc["tlsCipherSuites"].([]any); ok && len(suites) > 0 && !slices.ContainsFunc(suites, isECDSA) {
			return errGiven
		}
		return nil
	})
}

func isECDSA(suite any) bool {
	name, _ := suite.(string)
	// The suites of TLS 1.3 say nothing about the key.
	return strings.Contains(name, "_ECDSA_WITH_") || strings.HasPrefix(name, "TLS_AES_") || strings.HasPrefix(name, "TLS_CHACHA20_")
}

// hasServingPair says whether the kubelet could start with what is there, or
// something stands there that is not ours to judge (a link, a folder).
func (f Files) hasServingPair() bool {
	var parts [2][]byte
	for i, path := range []string{f.ServingCert(), f.ServingKey()} {
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return true
		}
		data, err := atomicfile.Read(path, maxFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true
		}
		parts[i] = data
	}
	_, err := tls.X509KeyPair(parts[0], parts[1])
	return err == nil
}

// servingFiles sets aside what is left of an older pair and names the files of
// the new one, the key first: a certificate alone would look like a pair to
// somebody who lists the folder.
func (f Files) servingFiles(pair *ServingPair) ([]atomicfile.File, error) {
	for _, path := range []string{f.ServingCert(), f.ServingKey()} {
		if _, err := f.setAside(path); err != nil {
			return nil, err
		}
	}
	return []atomicfile.File{
		{Path: f.ServingKey(), Data: pair.KeyPEM, Mode: secretMode},
		{Path: f.ServingCert(), Data: pair.CertPEM, Mode: publicMode},
	}, nil
}

package csr

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	maxCertificates = 256 << 10
	maxChain        = 16
	// patience is how far ahead a certificate's beginning may lie to be waited
	// for: clocks of signer, server and node differ a little.
	patience = time.Minute
)

// believe checks what the signer returned before anything is done with it. The
// chain comes back normalised: certificates only, the leaf first.
func (w *waiter) believe(ctx context.Context, data []byte) (*x509.Certificate, []byte, error) {
	chain, err := parseChain(data)
	if err == nil {
		err = w.q.matches(chain[0])
	}
	if err != nil {
		return nil, nil, fault.New(fault.CertificateInvalid, "the certificate of request %s is not the one asked for: %w", w.q.name, err)
	}
	leaf := chain[0]
	local := w.r.now()
	server := local
	if told, at, ok := w.t.API.Clock(); ok {
		server = told.Add(local.Sub(at))
	}
	early, err := validity(leaf, local, server)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate of request %s is of no use: %w", w.q.name, err)
	}
	if early > 0 {
		timer := time.NewTimer(early)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, nil, w.ended(ctx)
		}
	}
	var out bytes.Buffer
	for _, cert := range chain {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return leaf, out.Bytes(), nil
}

// parseChain reads PEM certificates. Text between them is allowed (RFC 7468,
// and so by the API); every block that begins must be a whole certificate.
func parseChain(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxCertificates {
		return nil, fmt.Errorf("it is larger than %d bytes", maxCertificates)
	}
	begun := bytes.Count(data, []byte("-----BEGIN"))
	if begun > maxChain {
		return nil, fmt.Errorf("it has more than %d PEM blocks", maxChain)
	}
	var chain []*x509.Certificate
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return nil, fmt.Errorf("it holds a PEM block %s, or one with headers", fault.Quote(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate cannot be parsed: %s", fault.Quote(err.Error()))
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 || len(chain) != begun {
		return nil, fmt.Errorf("it begins %d PEM blocks and has %d certificates", begun, len(chain))
	}
	return chain, nil
}

// matches says how a leaf differs from what was asked for.
func (q *request) matches(leaf *x509.Certificate) error {
	subject := leaf.Subject
	switch {
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, q.public):
		return errors.New("it is for another key")
	case subject.CommonName != q.user:
		return fmt.Errorf("its common name is %s, not %s", fault.Quote(subject.CommonName), q.user)
	case !slices.Equal(subject.Organization, []string{nodesGroup}):
		return fmt.Errorf("its organization is %s, not exactly %s", fault.Quote(fmt.Sprint(subject.Organization)), nodesGroup)
	case len(subject.Names) != 2:
		return fmt.Errorf("its subject has more than was asked for: %s", fault.Quote(subject.String()))
	case !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(leaf.UnknownExtKeyUsage) != 0:
		return errors.New("its extended key usage is not exactly client authentication")
	case leaf.KeyUsage&^(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment) != 0,
		leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage is not digital signature")
	case leaf.IsCA:
		return errors.New("it is a CA certificate")
	case len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) != 0:
		return errors.New("it has subject alternative names")
	case len(leaf.UnhandledCriticalExtensions) != 0:
		return fmt.Errorf("it has an unknown critical extension %s", leaf.UnhandledCriticalExtensions[0])
	}
	return nil
}

// validity judges by the server's clock, which decides whether the certificate
// is taken, and by ours, which decides whether the kubelet uses it. early is
// how long to wait until both agree; nothing is waited for that is far away.
func validity(leaf *x509.Certificate, local, server time.Time) (early time.Duration, err error) {
	early = max(leaf.NotBefore.Sub(local), leaf.NotBefore.Sub(server))
	over := local.After(leaf.NotAfter) || server.After(leaf.NotAfter)
	if early > 0 && early <= patience && !over {
		return early, nil
	}
	if skew := fault.SkewOf(leaf.NotBefore, leaf.NotAfter, local, server); skew != nil {
		return 0, skew
	}
	if server.Before(leaf.NotBefore) || server.After(leaf.NotAfter) {
		return 0, fault.New(fault.CertificateInvalid, "it is valid from %s to %s, and it is %s by the server's clock, %s by ours",
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339),
			server.UTC().Format(time.RFC3339), local.UTC().Format(time.RFC3339))
	}
	return 0, nil
}

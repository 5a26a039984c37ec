package discovery

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// parseBundle reads the CA certificates of cluster-info. Each must really be a
// CA; certificates that stand there twice count once. The order that comes out
// depends on the certificates alone, not on how the bundle was put together.
func parseBundle(data []byte, most int) ([]*x509.Certificate, error) {
	certs, err := decodeBundle(data, most)
	if err != nil {
		return nil, fault.New(fault.ClusterInfoInvalid, "certificate-authority-data in cluster-info: %w", err)
	}
	return certs, nil
}

func decodeBundle(data []byte, most int) ([]*x509.Certificate, error) {
	blocks, err := certificateBlocks(data, most)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for i, der := range blocks {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d does not parse: %w", i+1, shown{err})
		}
		if why := notCA(c); why != "" {
			return nil, fmt.Errorf("certificate %d, %s, %s", i+1, fault.Quote(c.Subject.String()), why)
		}
		certs = append(certs, c)
	}
	slices.SortStableFunc(certs, func(a, b *x509.Certificate) int {
		pa, pb := pinOf(a), pinOf(b)
		return cmp.Or(bytes.Compare(pa[:], pb[:]), bytes.Compare(a.Raw, b.Raw))
	})
	return slices.CompactFunc(certs, func(a, b *x509.Certificate) bool { return a.Equal(b) }), nil
}

// certificateBlocks returns the DER of each PEM block. Text between blocks is
// allowed, as openssl writes it; headers inside a block are dropped.
func certificateBlocks(data []byte, most int) ([][]byte, error) {
	var blocks [][]byte
	// pem.Decode passes over a damaged block in silence: count what begins.
	begun := bytes.Count(data, []byte("-----BEGIN "))
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a block of type %s; only CERTIFICATE is expected", fault.Quote(b.Type))
		}
		if len(blocks) == most {
			return nil, fmt.Errorf("holds more than %d certificates", most)
		}
		blocks = append(blocks, b.Bytes)
	}
	switch {
	case begun == 0:
		return nil, errors.New("holds no PEM certificate")
	case begun != len(blocks):
		return nil, errors.New("holds a damaged PEM block")
	}
	return blocks, nil
}

// notCA says why a certificate may not vouch for others, or "".
func notCA(c *x509.Certificate) string {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return "is no CA certificate (basic constraints do not say CA:TRUE)"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "is a CA certificate whose key usage forbids to sign certificates"
	}
	return ""
}

// encodeBundle writes certificates as PEM without headers.
func encodeBundle(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

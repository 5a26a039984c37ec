package discovery

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"sync/atomic"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// clientCAs are the names of the authorities whose client certificates a server
// takes: TLS servers tell them in the handshake, and kube-apiserver does. It is
// the one hint that a machine gets of a client CA that is not in cluster-info.
type clientCAs struct{ names atomic.Pointer[[][]byte] }

// hear is for [tls.Config].GetClientCertificate: it shows no certificate.
func (c *clientCAs) hear(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	names := info.AcceptableCAs
	c.names.Store(&names)
	return new(tls.Certificate), nil
}

// told returns the names, DER; none if the server told none.
func (c *clientCAs) told() [][]byte {
	if names := c.names.Load(); names != nil {
		return *names
	}
	return nil
}

// otherClientCAs returns the names that a server told, for a person, if no
// accepted CA has one of them: then whoever asks the kubelet on the API server's
// behalf is vouched for by somebody whom the kubelet does not know. One match is
// enough to say nothing, because other names (of aggregated API servers) are
// always among them.
func otherClientCAs(told [][]byte, accepted []*x509.Certificate) []string {
	var names []string
	for _, der := range told {
		for _, ca := range accepted {
			if bytes.Equal(der, ca.RawSubject) {
				return nil
			}
		}
		if len(names) < maxListed {
			names = append(names, nameOf(der))
		}
	}
	return names
}

func nameOf(der []byte) string {
	var sequence pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &sequence); err != nil || len(rest) > 0 {
		return "(a name that cannot be read)"
	}
	var name pkix.Name
	name.FillFromRDNSequence(&sequence)
	return fault.Quote(name.String())
}

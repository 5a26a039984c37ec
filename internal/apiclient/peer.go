package apiclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func (c *Client) notePeer(state *tls.ConnectionState) {
	if state == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peer = state.PeerCertificates
}

// VerifiesUnder returns nil if the server that gave the last answer, verified as
// it is, would verify under another bundle of CAs (PEM) as well: whoever takes
// that bundle still reaches it.
func (c *Client) VerifiesUnder(ca []byte) error {
	c.mu.Lock()
	peer := c.peer
	c.mu.Unlock()
	if len(peer) == 0 {
		return errors.New("the server has not answered yet")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("the bundle holds no CA certificate")
	}
	for _, cert := range peer[1:] {
		between.AddCert(cert)
	}
	_, err := peer[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: c.name, CurrentTime: c.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fault.New(fault.ServerCertificateInvalid, "%w", quoted{err})
	}
	return nil
}

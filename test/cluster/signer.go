package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// SignNodesWith has the controller-manager sign with this CA and the API server
// accept clients of it and of the cluster's own client CA, and of no other: who was
// signed by the one before is answered 401 from here on. Only for clusters made by
// hand with a CA for clients.
func (c *Cluster) SignNodesWith(ctx context.Context, signer *Authority) error {
	if !c.Authorities.Clients {
		return errors.New("cannot replace the signer of a cluster that has one CA for everything")
	}
	cert, key := filepath.Join(c.Dir, "pki/nodes-ca.crt"), filepath.Join(c.Dir, "pki/nodes-ca.key")
	c.StopControllers()
	err := errors.Join(os.WriteFile(cert, signer.CertPEM, 0o600), os.WriteFile(key, signer.KeyPEM, 0o600),
		// The API server watches this file.
		os.WriteFile(filepath.Join(c.Dir, c.signingCA()+".crt"), slices.Concat(c.ClientCA(), signer.CertPEM), 0o600))
	if err != nil {
		return err
	}
	if err := c.StartControllers("--cluster-signing-cert-file="+cert, "--cluster-signing-key-file="+key); err != nil {
		return err
	}
	certPEM, keyPEM, err := signer.Client("system:node:nobody", "system:nodes")
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.CA())
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
	return await.Until(ctx, "the API server to accept the new signer", 100*time.Millisecond, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Endpoint()+"/api/v1/nodes/nobody", nil)
		if err != nil {
			return await.Stop(err)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusUnauthorized {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	})
}

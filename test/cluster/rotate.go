package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// The steps in which an operator takes a cluster from one CA to another, in the
// order of docs/operations.md. Between two of them everything works.

// infoPath is where cluster-info lies.
const infoPath = "/api/v1/namespaces/kube-public/configmaps/cluster-info"

// ShowClusterInfo puts a server and these CAs (PEM) into cluster-info, where
// nodes look for them; "" leaves the server as it is.
func (c *Cluster) ShowClusterInfo(ctx context.Context, server string, cas ...[]byte) error {
	var info corev1.ConfigMap
	if err := c.Get(ctx, infoPath, &info); err != nil {
		return err
	}
	if server == "" {
		server = c.Endpoint()
	}
	info.Data["kubeconfig"] = string(kubeconfig(server, slices.Concat(cas...), "", nil, nil))
	return c.Do(ctx, http.MethodPut, infoPath, &info, nil)
}

// ServeWith restarts the API server with a serving certificate of this CA, and
// with a client certificate of it for the kubelets. Clients of any of the client
// CAs (PEM) are accepted; administrator and controller-manager get certificates
// of it, and go on with what they are.
func (c *Cluster) ServeWith(ctx context.Context, ca *Authority, clientCAs ...[]byte) error {
	cert, key, err := ca.Server(append(c.sans(), "kubernetes.default.svc", "10.96.0.1")...)
	if err != nil {
		return err
	}
	kubeletCert, kubeletKey, err := ca.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"pki/apiserver.crt": cert, "pki/apiserver.key": key,
		"pki/apiserver-kubelet-client.crt": kubeletCert, "pki/apiserver-kubelet-client.key": kubeletKey,
		c.signingCA() + ".crt": slices.Concat(clientCAs...),
	}
	var admin tls.Certificate
	for name, who := range map[string][]string{
		"admin.conf": {"kubernetes-admin", "system:masters"}, "super-admin.conf": {"kubernetes-super-admin", "system:masters"},
		"controller-manager.conf": {"system:kube-controller-manager"},
	} {
		cert, key, err := ca.Client(who[0], who[1:]...)
		if err != nil {
			return err
		}
		files[name] = kubeconfig(c.Endpoint(), ca.CertPEM, who[0], cert, key)
		if name == "admin.conf" {
			if admin, err = tls.X509KeyPair(cert, key); err != nil {
				return err
			}
		}
	}
	if err := c.write(files); err != nil {
		return err
	}
	c.StopAPI()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	c.admin.CloseIdleConnections()
	c.admin = clientWith(roots, admin)
	c.nobody = clientWith(roots)
	return c.StartAPI(ctx)
}

// SignWith restarts the controller-manager with this CA as its signer.
func (c *Cluster) SignWith(ca *Authority) error {
	if err := c.write(map[string][]byte{"pki/signer.crt": ca.CertPEM, "pki/signer.key": ca.KeyPEM}); err != nil {
		return err
	}
	c.StopControllers()
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	return c.StartControllers("--cluster-signing-cert-file="+file("pki/signer.crt"), "--cluster-signing-key-file="+file("pki/signer.key"),
		"--root-ca-file="+file("pki/signer.crt"))
}

// write replaces files below the cluster's folder, each of them whole.
func (c *Cluster) write(files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(c.Dir, name)
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

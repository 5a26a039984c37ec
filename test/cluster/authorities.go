package cluster

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
)

// Authorities are the ways in which clusters made by hand have more than one
// CA. The zero value is one CA for everything, as kubeadm makes them.
type Authorities struct {
	// Clients: client certificates and those of kubelets are signed by a CA of
	// their own (--client-ca-file, --cluster-signing-cert-file), which is not the
	// one of the API server's certificate.
	Clients bool
	// Intermediate: the API server's certificate is issued by a CA below the one
	// in cluster-info; the server sends both.
	Intermediate bool
	// Bundle: cluster-info holds all CAs, and one more that was retired.
	Bundle bool
}

// clusterInfoCA holds the CAs of cluster-info, below the cluster's folder.
const clusterInfoCA = "pki/cluster-info-ca.crt"

// signingCA is the path of the CA that signs for clients, without its ending.
func (c *Cluster) signingCA() string {
	if c.Authorities.Clients {
		return "pki/client-ca"
	}
	return "pki/ca"
}

// handKeys makes the keys of a by-hand cluster, in the places where kubeadm's
// would be, so that the components are started in the same way.
func handKeys(_ context.Context, c *Cluster) error {
	ca, err := NewAuthority("by-hand-ca")
	if err != nil {
		return err
	}
	accounts, err := NewAuthority("service-accounts") // only its key pair is used
	if err != nil {
		return err
	}
	accountsPub, err := x509.MarshalPKIXPublicKey(accounts.key.Public())
	if err != nil {
		return err
	}
	serving, chain := ca, []byte(nil)
	if c.Authorities.Intermediate {
		if serving, err = ca.Intermediate("by-hand-intermediate"); err != nil {
			return err
		}
		chain = serving.CertPEM
	}
	cert, key, err := serving.Server(append(c.sans(), "kubernetes.default.svc", "10.96.0.1")...)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"pki/ca.crt": ca.CertPEM, "pki/ca.key": ca.KeyPEM, "pki/apiserver.crt": slices.Concat(cert, chain), "pki/apiserver.key": key,
		"pki/sa.key": accounts.KeyPEM, "pki/sa.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: accountsPub}),
	}
	clients := ca
	if c.Authorities.Clients {
		if clients, err = NewAuthority("by-hand-client-ca"); err != nil {
			return err
		}
		files["pki/client-ca.crt"], files["pki/client-ca.key"] = clients.CertPEM, clients.KeyPEM
	}
	bundle := ca.CertPEM
	if c.Authorities.Bundle {
		retired, err := NewAuthority("by-hand-retired-ca")
		if err != nil {
			return err
		}
		bundle = slices.Concat(retired.CertPEM, ca.CertPEM)
		if clients != ca {
			bundle = slices.Concat(bundle, clients.CertPEM)
		}
	}
	files[clusterInfoCA] = bundle
	for name, who := range map[string][]string{
		"admin.conf":              {"admin", "system:masters"},
		"controller-manager.conf": {"system:kube-controller-manager"},
	} {
		cert, key, err := clients.Client(who[0], who[1:]...)
		if err != nil {
			return err
		}
		files[name] = kubeconfig(c.Endpoint(), ca.CertPEM, who[0], cert, key)
	}
	// Its rights are those of apiserver-to-kubelet.yaml.
	if files["pki/apiserver-kubelet-client.crt"], files["pki/apiserver-kubelet-client.key"], err = clients.Client("kube-apiserver-kubelet-client"); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(c.Dir, "pki"), 0o700); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(c.Dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

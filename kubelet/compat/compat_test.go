// Package compat holds tests only: what package kubelet writes is read here by
// the code of client-go that the kubelet itself is built from. They have a
// folder of their own so that client-go stays out of the fuzz builds next door.
package compat

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// selfSigned makes a certificate for node worker-1, its own issuer.
func selfSigned(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}},
		NotBefore:    time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func ca(t *testing.T) []byte {
	t.Helper()
	cert, _ := selfSigned(t)
	return cert
}

func files(t *testing.T) kubelet.Files {
	t.Helper()
	// An hour ago: FileStore truncates a pair of the same second.
	then := func() time.Time { return time.Now().Add(-time.Hour) }
	return kubelet.Files{Now: then, Layout: kubelet.Layout{Dir: filepath.Join(t.TempDir(), "a folder: with # signs, 'quotes' and \"more\"")}}
}

// join writes all that a joined node has, but its config.
func join(t *testing.T) kubelet.Files {
	t.Helper()
	f := files(t)
	cert, key := selfSigned(t)
	if _, err := f.WritePair(cert, key); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteSet(kubelet.Set{CA: ca(t)}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteKubeconfig("https://[fd00::1]:6443"); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The kubelet loads and rotates its pair with this very code.
func TestFileStoreOfClientGoLoadsAndRotatesOurPair(t *testing.T) {
	f := join(t)
	store, err := certificate.NewFileStore("kubelet-client", f.PKI(), f.PKI(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	current, err := store.Current()
	if err != nil {
		t.Fatal(err)
	}
	if current.Leaf.Subject.CommonName != "system:node:worker-1" || store.CurrentPath() != f.CurrentPair() {
		t.Errorf("%s at %s", current.Leaf.Subject, store.CurrentPath())
	}
	ours, _ := os.Readlink(f.CurrentPair())

	cert, key := selfSigned(t)
	if _, err := store.Update(cert, key); err != nil {
		t.Fatal(err)
	}
	o, err := f.Observe("worker-1")
	if err != nil || o.Pair.Status != kubelet.PairUsable || o.Pair.Path == ours || o.Pair.Updating {
		t.Errorf("after a rotation: %+v, %v", o.Pair, err)
	}
	if _, err := os.Stat(ours); err != nil {
		t.Error("the older pair is gone")
	}
	if changed, err := f.WritePair(cert, key); err != nil || changed {
		t.Errorf("the kubelet's own pair was written anew: %t, %v", changed, err)
	}
}

func TestOurPairHasTheBytesThatClientGoWouldWrite(t *testing.T) {
	cert, key := selfSigned(t)
	chain := append(cert, ca(t)...)
	f := files(t)
	if _, err := f.WritePair(chain, key); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	store, err := certificate.NewFileStore("kubelet-client", dir, dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Update(chain, key); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, f.CurrentPair()), read(t, store.CurrentPath())) {
		t.Error("they differ")
	}
}

func TestInterruptedRotationIsMendedByClientGoNotByUs(t *testing.T) {
	f := join(t)
	if err := os.Rename(f.CurrentPair(), f.UpdatedPair()); err != nil {
		t.Fatal(err)
	}
	o, err := f.Observe("worker-1")
	if err != nil || o.Pair.Status != kubelet.PairMissing || !o.Pair.Updating {
		t.Fatalf("%+v, %v", o.Pair, err)
	}
	if _, err := certificate.NewFileStore("kubelet-client", f.PKI(), f.PKI(), "", ""); err != nil {
		t.Fatal(err)
	}
	if o, err := f.Observe("worker-1"); err != nil || o.Pair.Status != kubelet.PairUsable || o.Pair.Updating {
		t.Errorf("%+v, %v", o.Pair, err)
	}
}

// A regular file under the link's name is the trap: the store loads it and
// then can never rotate.
func TestFileStoreRotatesAgainAfterARegularFileWasSetAside(t *testing.T) {
	f := files(t)
	cert, key := selfSigned(t)
	if err := os.MkdirAll(f.PKI(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.CurrentPair(), append(cert, key...), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := certificate.NewFileStore("kubelet-client", f.PKI(), f.PKI(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Update(cert, key); err == nil {
		t.Fatal("the trap is no trap any more: drop this test")
	}
	if _, err := f.WritePair(cert, key); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Update(cert, key); err != nil {
		t.Error(err)
	}
}

func TestClientGoReadsOurKubeconfig(t *testing.T) {
	f := join(t)
	data := read(t, f.Kubeconfig())
	rest, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if rest.Host != "https://[fd00::1]:6443" || rest.CAFile != f.CACert() || rest.CertFile != f.CurrentPair() || rest.KeyFile != f.CurrentPair() ||
		rest.Insecure || rest.BearerToken != "" || len(rest.CAData) > 0 {
		t.Errorf("%+v", rest)
	}
	o, err := f.Observe("worker-1")
	if err != nil || !o.Kubeconfig.OK || o.Kubeconfig.Server != rest.Host {
		t.Errorf("%+v, %v", o.Kubeconfig.Kubeconfig, err)
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		t.Fatal(err)
	}
	c := config.Contexts["default-context"]
	if config.CurrentContext != "default-context" || c == nil || c.Cluster != "default-cluster" || c.AuthInfo != "default-auth" || c.Namespace != "default" ||
		config.Clusters["default-cluster"] == nil || config.AuthInfos["default-auth"] == nil {
		t.Errorf("not the names of the kubelet's own: %+v", config)
	}
}

func TestAllowedLabelsAreThoseOfTheAPI(t *testing.T) {
	for _, key := range []string{
		corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone,
		corev1.LabelFailureDomainBetaRegion, corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable,
		corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		corev1.LabelNamespaceSuffixKubelet + "/x", "a.b." + corev1.LabelNamespaceSuffixKubelet + "/x",
		corev1.LabelNamespaceSuffixNode + "/x", "a." + corev1.LabelNamespaceSuffixNode + "/x",
	} {
		if _, err := kubelet.ParseLabels([]string{key + "=x"}); err != nil {
			t.Error(err)
		}
	}
	for _, key := range []string{"node-role.kubernetes.io/worker", corev1.LabelNamespaceNodeRestriction + "/x", "kubernetes.io/x", "xnode.kubernetes.io/x", "x.k8s.io/y"} {
		if _, err := kubelet.ParseLabels([]string{key + "=x"}); err == nil {
			t.Errorf("%s is allowed", key)
		}
	}
}

// What we understand of a kubeconfig, client-go must understand the same way.
func FuzzKubeconfigAgainstClientGo(f *testing.F) {
	for _, user := range []string{"token: x", "client-certificate: /a, client-key: /b", "exec: {command: x}", ""} {
		f.Add([]byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n" +
			"clusters: [{name: k, cluster: {server: \"https://h:1\"}}]\nusers: [{name: u, user: {" + user + "}}]\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := kubelet.ParseKubeconfig(data)
		if err != nil {
			return
		}
		config, err := clientcmd.Load(data)
		if err != nil {
			t.Skip("client-go is stricter here:", err)
		}
		if c := config.Contexts[config.CurrentContext]; c != nil && config.Clusters[c.Cluster] != nil && config.Clusters[c.Cluster].Server != k.Server {
			t.Errorf("server %q, client-go %q", k.Server, config.Clusters[c.Cluster].Server)
		}
	})
}

// The kubelet looks for its serving pair with this very code, and makes one only
// where it finds none.
func TestTheKubeletTakesOurServingPairForItsOwn(t *testing.T) {
	f := join(t)
	pair, err := f.MakeServingPair("worker-1", kubelet.Layers{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteSet(kubelet.Set{Serving: pair}); err != nil {
		t.Fatal(err)
	}
	there, err := certutil.CanReadCertAndKey(f.ServingCert(), f.ServingKey())
	if err != nil || !there {
		t.Errorf("found: %t, %v", there, err)
	}
}

// Package compat holds tests only: what package discovery accepts as a discovery
// file is read here by client-go's clientcmd, too, and both must see the same
// server, CA and token. They have a folder of their own so that client-go stays
// out of the fuzz builds next door.
package compat

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
)

func ca(tb testing.TB) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// compare reads a file with both; what ours accepts, theirs must read alike.
func compare(tb testing.TB, text []byte) {
	tb.Helper()
	dir := tb.TempDir()
	authority := ca(tb)
	path := filepath.Join(dir, "file")
	for name, data := range map[string][]byte{"file": text, "ca.crt": authority} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	ours, err := discovery.ParseFile(text, dir, os.ReadFile)
	if err != nil {
		return
	}
	theirs, err := clientcmd.LoadFromFile(path)
	if err != nil {
		tb.Fatalf("clientcmd does not take what we take: %v", err)
	}
	cluster, user := picked(theirs)
	if cluster == nil {
		tb.Fatal("clientcmd sees no cluster")
	}
	if same, err := discovery.ParseServer(cluster.Server); err != nil || same != ours.Server() {
		tb.Errorf("server %q and %q", ours.Server(), cluster.Server)
	}
	bundle := cluster.CertificateAuthorityData
	if len(bundle) == 0 {
		if bundle, err = os.ReadFile(resolved(dir, cluster.CertificateAuthority)); err != nil {
			tb.Fatal(err)
		}
	}
	if pins, err := discovery.BundlePins(bundle); err != nil || strings.Join(pins, " ") != strings.Join(ours.Pins(), " ") {
		tb.Errorf("pins %v and %v (%v)", ours.Pins(), pins, err)
	}
	token := ""
	if user != nil {
		token = user.Token
	}
	if strings.TrimRight(token, "\r\n") != ours.Token().Bearer() {
		tb.Error("another token")
	}
}

func resolved(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// picked is what kubectl would use, and the only ones there are where the file
// does not say.
func picked(c *clientcmdapi.Config) (cluster *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
	if c.CurrentContext != "" {
		if context := c.Contexts[c.CurrentContext]; context != nil {
			return c.Clusters[context.Cluster], c.AuthInfos[context.AuthInfo]
		}
		return nil, nil
	}
	for _, cluster = range c.Clusters {
		break
	}
	for _, user = range c.AuthInfos {
		break
	}
	return cluster, user
}

func samples(tb testing.TB) []string {
	tb.Helper()
	data := base64.StdEncoding.EncodeToString(ca(tb))
	folded := data[:76] + "\n      " + data[76:]
	return []string{
		"clusters: [{name: a, cluster: {server: 'https://x:6443', certificate-authority-data: " + data + "}}]\n",
		"clusters: [{name: a, cluster: {server: 'https://x:6443', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {token: t}}]\n",
		"clusters:\n- name: a\n  cluster:\n    server: https://[fd00::1]:6443\n    certificate-authority-data: |\n      " + folded + "\nusers:\n- name: u\n  user:\n    token: \"abcdef.0123456789abcdef\"\ncontexts:\n- name: c\n  context: {cluster: a, user: u}\ncurrent-context: c\n",
		"clusters: [{name: a, cluster: {server: 'https://x', certificate-authority: ca.crt}}, {name: b, cluster: {server: 'https://y', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {token: t}}, {name: v, user: {token: w, extensions: []}}]\ncontexts: [{name: c, context: {cluster: b, user: v}}]\ncurrent-context: c\n",
		`{"kind":"Config","apiVersion":"v1","clusters":[{"name":"a","cluster":{"server":"https://x","certificate-authority":"ca.crt","insecure-skip-tls-verify":false}}],"users":[{"name":"u","user":{"token":"a\u0062c"}}]}`,
		"clusters: [{name: 'yes', cluster: {server: 'https://x', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {token: '1e5'}}]\n",
	}
}

func TestClientcmdReadsADiscoveryFileAsWeDo(t *testing.T) {
	for _, text := range samples(t) {
		if _, err := discovery.ParseFile([]byte(text), t.TempDir(), func(string) ([]byte, error) { return ca(t), nil }); err != nil {
			t.Errorf("not accepted: %v\n%s", err, text)
		}
		compare(t, []byte(text))
	}
}

// FuzzDiscoveryFile changes words of files that are accepted; what is accepted
// still must mean the same to clientcmd.
func FuzzDiscoveryFile(f *testing.F) {
	for _, text := range samples(f) {
		f.Add([]byte(text), "token", "name")
		f.Add([]byte(text), "https", "HTTPS")
		f.Add([]byte(text), "u", "yes")
		f.Add([]byte(text), "{token: t}", "null")
	}
	f.Fuzz(func(t *testing.T, text []byte, from, to string) {
		if from != "" {
			text = []byte(strings.ReplaceAll(string(text), from, to))
		}
		compare(t, text)
	})
}

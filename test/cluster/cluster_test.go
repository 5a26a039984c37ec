//go:build e2e

package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	logf := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if _, err := Build(ctx, logf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m.Run()
}

func TestBothShapesServeWhatAJoinNeeds(t *testing.T) {
	for _, shape := range []Shape{Kubeadm, ByHand} {
		t.Run(string(shape), func(t *testing.T) {
			c := StartTest(t, Options{Shape: shape})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()

			token, err := c.NewToken(ctx, TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.AwaitSignature(ctx, token); err != nil {
				t.Error(err)
			}
			t.Logf("signed after %s", time.Since(began).Round(time.Millisecond))
			line, err := c.PrintJoinLine(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if want := "kubeadm join " + c.Endpoint() + " --token "; !strings.HasPrefix(line, want) || !strings.Contains(line, c.Pin()) {
				t.Errorf("join line %q lacks %q or the pin %s", line, want, c.Pin())
			}
			// As administrator of any cluster would, with the real kubectl.
			if out, err := c.Kubectl(ctx, "get", "configmap", "-n", "kube-public", "cluster-info", "-o", "name"); err != nil || out != "configmap/cluster-info\n" {
				t.Errorf("kubectl: %q, %v", out, err)
			}
			kubeletConfig := c.Get(ctx, "/api/v1/namespaces/kube-system/configmaps/kubelet-config", nil)
			if has := kubeletConfig == nil; has != (shape == Kubeadm) {
				t.Errorf("kubelet-config there: %v (%v)", has, kubeletConfig)
			}
			if shape == ByHand { // last: it takes everything back
				t.Run("the commands of the docs", func(t *testing.T) { documentedCommandsDoWhatTheySay(t, ctx, c) })
			}
		})
	}
}

// What docs/cluster.md tells a person to do is what was done here already; the
// rest of it: the pin, a token, the optional parts, and taking it all back.
func documentedCommandsDoWhatTheySay(t *testing.T, ctx context.Context, c *Cluster) {
	if pin, err := c.RunDocumented(ctx, "pin"); err != nil || pin != c.Pin() {
		t.Errorf("pin %q, want %q, %v", pin, c.Pin(), err)
	}
	token, err := c.DocumentedToken(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(token.ID) != 6 || len(token.Secret) != 16 {
		t.Errorf("token of %d and %d characters", len(token.ID), len(token.Secret))
	}
	if err := c.AwaitSignature(ctx, token); err != nil {
		t.Error(err)
	}
	if out, err := c.Kubectl(ctx, append(asToken(c, token), "auth", "can-i", "create", "certificatesigningrequests/nodeclient.certificates.k8s.io")...); err != nil || !strings.Contains(out, "yes") {
		t.Errorf("the token: %q, %v", out, err)
	}
	root, err := moduleFolder(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "packaging/cluster") + "/"
	if out, err := c.Kubectl(ctx, "apply", "--dry-run=server", "--validate=strict", "-f", dir+"kubelet-config.yaml", "-f", dir+"node-join.yaml", "-f", dir+"apiserver-to-kubelet.yaml"); err != nil {
		t.Errorf("%s %v", out, err)
	}
	if _, err := c.RunDocumented(ctx, "taking it back"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/v1/namespaces/kube-public/configmaps/cluster-info", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-" + token.ID,
		"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/bootstrap-agent:approve-renewals"} {
		if err := c.Get(ctx, path, nil); !IsStatus(err, 404) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestAnOutageEndsAndStopLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{Shape: ByHand, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	c.StopAPI()
	if err := c.Get(ctx, "/readyz", nil); err == nil {
		t.Error("a stopped API server answers")
	}
	if err := c.StartAPI(ctx); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Stop(), c.Stop()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir); err == nil {
		t.Errorf("%s is still there", c.Dir)
	}
	if conn, err := net.DialTimeout("tcp", c.Endpoint(), time.Second); err == nil {
		t.Error("somebody still listens", conn.Close())
	}
}

func TestAStartThatCannotWorkSaysWhatTheComponentSaid(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{Shape: ByHand, APIServerFlags: []string{"--no-such-flag"}})
	if err == nil {
		t.Fatal("started", c.Stop())
	}
	if !strings.Contains(err.Error(), "kube-apiserver ended") || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("err %v", err)
	}
}

func TestAPersonApprovesOrDenies(t *testing.T) {
	c := StartTest(t, Options{Shape: Kubeadm, NoAutoApproval: true, SigningDuration: 3 * time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Kubectl(ctx, "get", "clusterrolebinding", approvalBinding[Kubeadm][0]); err == nil {
		t.Error("the binding for auto-approval is there")
	}
	token, err := c.NewToken(ctx, TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wanted", "unwanted"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		subject := pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
		if err != nil {
			t.Fatal(err)
		}
		csr := certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}}
		csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		csr.Spec.SignerName = certificatesv1.KubeAPIServerClientKubeletSignerName
		csr.Spec.Usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
		// As a token: the approver judges who asks, and an administrator may approve.
		csr.APIVersion, csr.Kind = "certificates.k8s.io/v1", "CertificateSigningRequest"
		if _, err := c.KubectlInput(ctx, mustJSON(csr), append(asToken(c, token), "create", "-f", "-")...); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.Approve(ctx, "wanted"), c.Deny(ctx, "unwanted")); err != nil {
		t.Fatal(err)
	}
	signed, err := c.AwaitCSR(ctx, func(csr *certificatesv1.CertificateSigningRequest) bool { return len(csr.Status.Certificate) > 0 })
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(signed.Status.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(cert.NotAfter); signed.Name != "wanted" || left > 3*time.Minute {
		t.Errorf("signed %s for %s", signed.Name, left)
	}
	denied := func(csr *certificatesv1.CertificateSigningRequest) bool {
		return csr.Name == "unwanted" && len(csr.Status.Conditions) == 1 && csr.Status.Conditions[0].Type == certificatesv1.CertificateDenied
	}
	if _, err := c.AwaitCSR(ctx, denied); err != nil {
		t.Error(err)
	}
}

// asToken are kubectl's flags to be nobody but the token.
func asToken(c *Cluster, token Token) []string {
	return []string{"--kubeconfig=/dev/null", "--server=https://" + c.Endpoint(), "--certificate-authority=pki/ca.crt", "--token=" + token.String()}
}

func TestWithoutTheSignerTokensWorkAndNothingIsSigned(t *testing.T) {
	c := StartTest(t, Options{Shape: ByHand, Controllers: []string{"*", "-bootstrapsigner", "tokencleaner"}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	token, err := c.NewToken(ctx, TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if err := c.AwaitSignature(short, token); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err %v", err)
	}
	out, err := c.Kubectl(ctx, append(asToken(c, token), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")...)
	if err != nil || out != "system:bootstrap:"+token.ID {
		t.Errorf("the token is %q, %v", out, err)
	}
	if err := c.DeleteToken(ctx, token); err != nil {
		t.Error(err)
	}
}

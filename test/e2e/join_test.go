//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/certificate"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The main job, on a cluster shaped by kubeadm: install the package, configure it
// from kubeadm's own printed line, start, Ready. What was written is what
// kubectl and client-go understand.
func TestADebianMachineJoinsAKubeadmCluster(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	line, err := c.PrintJoinLine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const name = "debian-kubeadm"
	m := bootMachine(t, ctx, machine.Options{Name: name})
	installAgent(t, ctx, m)
	if out := mustRun(t, ctx, m, "systemctl", "show", "--property=ActiveState,SubState", "bootstrap-agent.service"); !strings.Contains(out, "ActiveState=inactive") {
		t.Errorf("an install without a config started something: %s", out)
	}
	configure(t, ctx, m, line)

	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
	if _, err := c.AwaitNode(ctx, name); err != nil {
		t.Fatal(err)
	}
	t.Logf("node seen %.2f s after systemctl start", time.Since(began).Seconds())
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", mustRun(t, ctx, m, "bootstrap-agent", "wait", "--timeout", "30s"))
	t.Logf("\n%s", mustRun(t, ctx, m, "bootstrap-agent", "status"))
	checkIdentity(t, ctx, c, m, name)
	checkServingPair(t, ctx, m)
}

// The same on a cluster made by hand, by the commands of docs/cluster.md: no object
// of kubeadm's, a token without extra groups, no kubelet-config. The API server
// reaches the kubelet of the node, as `kubectl logs` does.
func TestADebianMachineJoinsAClusterMadeByHand(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.ByHand)
	const name = "debian-by-hand"
	token, err := c.DocumentedToken(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m := joinMachine(t, ctx, c, machine.Options{Name: name}, token)
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+name+"/proxy/healthz"); err != nil || out != "ok" {
		t.Errorf("the kubelet through the API server: %q, %v", out, err)
	}
	checkIdentity(t, ctx, c, m, name)
}

// checkIdentity shows that kubectl and client-go can use what the agent wrote.
func checkIdentity(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, name string) {
	t.Helper()
	// The kubeconfig names paths of the machine: kubectl looks from its root.
	out, err := c.Kubectl(ctx, "--kubeconfig", mirror(t, ctx, m), "auth", "whoami", "--output=jsonpath={.status.userInfo.username}")
	if err != nil || out != "system:node:"+name {
		t.Errorf("whoami with the node's kubeconfig: %q, %v", out, err)
	}
}

// checkServingPair shows that the kubelet serves with the pair that the agent
// made in its place, and made none itself.
func checkServingPair(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	text, err := m.ReadFile(ctx, "/var/lib/kubelet/pki/kubelet.crt")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("kubelet.crt is no PEM")
	}
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // it is looked at below
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(m.Address, "10250"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	served := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if !bytes.Equal(served.Raw, block.Bytes) || served.PublicKeyAlgorithm != x509.ECDSA {
		t.Errorf("the kubelet serves with %s (%s), not with what the agent made", served.Subject, served.PublicKeyAlgorithm)
	}
}

// mirror copies the node's identity out of the machine, with the paths in its
// kubeconfig made to fit, and has client-go's FileStore load the pair.
func mirror(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	dir := t.TempDir()
	pki := filepath.Join(dir, "pki")
	if err := os.Mkdir(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	target := strings.TrimSpace(mustRun(t, ctx, m, "readlink", "/var/lib/kubelet/pki/kubelet-client-current.pem"))
	files := map[string]string{
		target: filepath.Join(pki, filepath.Base(target)), "/var/lib/kubelet/pki/ca.crt": filepath.Join(pki, "ca.crt"),
		"/var/lib/kubelet/kubeconfig": filepath.Join(dir, "kubeconfig"),
	}
	for from, to := range files {
		text, err := m.ReadFile(ctx, from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(strings.ReplaceAll(text, "/var/lib/kubelet", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(pki, filepath.Base(target)), filepath.Join(pki, "kubelet-client-current.pem")); err != nil {
		t.Fatal(err)
	}
	store, err := certificate.NewFileStore("kubelet-client", pki, pki, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if pair, err := store.Current(); err != nil || len(pair.Certificate) == 0 {
		t.Errorf("client-go's FileStore: %v", err)
	}
	return filepath.Join(dir, "kubeconfig")
}

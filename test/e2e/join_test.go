//go:build e2e

package e2e

import (
	"context"
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
	ctx := scenario(t, 3*time.Minute)
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
}

// The same on a cluster made by hand: no object of kubeadm's, a token without
// extra groups, no kubelet-config.
func TestADebianMachineJoinsAClusterMadeByHand(t *testing.T) {
	ctx := scenario(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.ByHand)
	const name = "debian-by-hand"
	m := joinMachine(t, ctx, c, machine.Options{Name: name}, newToken(t, ctx, c))
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
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

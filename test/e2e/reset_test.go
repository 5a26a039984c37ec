//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// identityLeft lists what of a join lies on a machine.
const identityLeft = `find /var/lib/bootstrap-agent /var/lib/kubelet/pki /var/lib/kubelet/kubeconfig /var/lib/kubelet/config.yaml /run/bootstrap-agent \
  /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d /etc/systemd/system/multi-user.target.wants/kubelet.service \
  ! -type d ! -path /var/lib/bootstrap-agent/lock 2>/dev/null || true`

// A node with a pod leaves: refused while the pod runs, in the order drain, delete,
// reset; twice; and it joins again. Then it becomes a template, and copies of it
// and of a node join as themselves.
func TestANodeLeavesBecomesATemplateAndIsCopied(t *testing.T) {
	ctx := scenario(t, 6*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	kubectl := filepath.Join(filepath.Dir(kubelet), "kubectl") + ":/usr/bin/kubectl"
	a := joinMachine(t, ctx, c, machine.Options{Name: "leaving", Binds: []string{kubectl}}, newToken(t, ctx, c))
	if _, err := c.AwaitReady(ctx, a.Name); err != nil {
		t.Fatal(err)
	}

	t.Run("not while a pod runs", func(t *testing.T) {
		pod := runPod(t, ctx, a)
		result, err := a.Run(ctx, "bootstrap-agent", "reset", "--yes")
		entry, _ := fault.Lookup(fault.MachineUnfit)
		if err != nil || result.Code != entry.Exit || !strings.Contains(flat(result.Stderr), "kubectl drain "+a.Name) {
			t.Errorf("%v, %+v", err, result)
		}
		t.Log(flat(result.Stderr))
		if now := podProcess(t, ctx, a); now != pod {
			t.Errorf("the pod's process was %s and is %s", pod, now)
		}
		if s, err := statusOf(ctx, a); err != nil || s.Phase != agent.Joined {
			t.Errorf("phase %s, %v", s.Phase, err)
		}
	})

	t.Run("drain, delete, reset", func(t *testing.T) {
		if out, err := c.Kubectl(ctx, "drain", a.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// A node may not delete its own Node, unless the cluster lets it.
		remove := []string{"kubectl", "--kubeconfig", "/var/lib/kubelet/kubeconfig", "delete", "node", a.Name}
		if result, err := a.Run(ctx, remove...); err != nil || result.Code == 0 || !strings.Contains(flat(result.Stderr), "orbidden") {
			t.Errorf("a node deleted itself: %v, %+v", err, result)
		}
		role, err := filepath.Abs("../../packaging/cluster/node-deletes-itself.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := c.Kubectl(ctx, "apply", "-f", role); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		defer func() {
			if out, err := c.Kubectl(ctx, "delete", "-f", role); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}()
		if out, err := c.KubectlInput(ctx, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"another-node"}}`, "create", "-f", "-"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		// Only once the role works its answer says something about others' Nodes.
		mustEventually(t, ctx, a, remove...)
		if result, err := a.Run(ctx, "kubectl", "--kubeconfig", "/var/lib/kubelet/kubeconfig", "delete", "node", "another-node"); err != nil || result.Code == 0 || !strings.Contains(flat(result.Stderr), "orbidden") {
			t.Errorf("a node deleted another: %v, %+v", err, result)
		}
		if err := c.DeleteNode(ctx, "another-node"); err != nil {
			t.Error(err)
		}
		if _, err := c.Node(ctx, a.Name); !cluster.IsStatus(err, 404) {
			t.Errorf("the Node: %v", err)
		}
		endPod(t, ctx, a)
		t.Log(mustRun(t, ctx, a, "bootstrap-agent", "reset", "--yes"))
		checkLeft(t, ctx, a)
		// Twice without harm.
		mustRun(t, ctx, a, "bootstrap-agent", "reset", "--yes")
		checkLeft(t, ctx, a)
		if config, err := a.ReadFile(ctx, "/etc/bootstrap-agent/config.yaml"); err != nil || config == "" {
			t.Errorf("the operator's config: %v", err)
		}
	})

	t.Run("not from a sandbox", func(t *testing.T) {
		result, err := a.Run(ctx, "systemd-run", "--wait", "--pipe", "--quiet", "--property=ProtectSystem=strict", "bootstrap-agent", "reset", "--yes")
		if err != nil || result.Code == 0 || !strings.Contains(flat(result.Stderr+result.Stdout), "root shell") {
			t.Errorf("%v, %+v", err, result)
		}
	})

	t.Run("join again, then a template", func(t *testing.T) {
		mustRun(t, ctx, a, "systemctl", "enable", "--now", agentUnit)
		awaitStatus(t, ctx, a, "the join", 60*time.Second, inPhase(agent.Joined))
		b := copyOf(t, ctx, c, a, "copied")
		awaitStatus(t, ctx, b, "the copy's join", 60*time.Second, inPhase(agent.Joined))
		if keyOf(t, ctx, a) == keyOf(t, ctx, b) {
			t.Error("both have one key")
		}
		if _, err := c.AwaitReady(ctx, b.Name); err != nil {
			t.Error(err)
		}
		if s, err := statusOf(ctx, a); err != nil || s.Phase != agent.Joined {
			t.Errorf("the original: phase %s, %v", s.Phase, err)
		}
		if out := mustRun(t, ctx, b, "find", "/var/lib/bootstrap-agent/set-aside", "-name", "trust.json"); out == "" {
			t.Error("nothing is set aside")
		}

		mustRun(t, ctx, b, "bootstrap-agent", "reset", "--image", "--yes")
		if left := mustRun(t, ctx, b, "sh", "-c", identityLeft+"; find /var/lib/kubelet -mindepth 1 -name '*_state'"); left != "" {
			t.Errorf("a template holds %s", left)
		}
		if state := strings.TrimSpace(mustRun(t, ctx, b, "sh", "-c", "systemctl is-enabled "+agentUnit+"; systemctl is-enabled kubelet.service 2>/dev/null || true")); !strings.HasPrefix(state, "enabled") || strings.Count(state, "enabled") != 1 {
			t.Errorf("agent and kubelet: %q", state)
		}
		if err := c.DeleteNode(ctx, b.Name); err != nil {
			t.Error(err)
		}

		copiedWhileWaiting(t, ctx, c, a, b)
	})
}

// copiedWhileWaiting: b waits for its approval, a (which has left) gets b's disk.
func copiedWhileWaiting(t *testing.T, ctx context.Context, c *cluster.Cluster, a, b *machine.Machine) {
	t.Helper()
	if err := c.SetAutoApproval(ctx, false); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.SetAutoApproval(ctx, true); err != nil {
			t.Error(err)
		}
	}()
	if err := c.DeleteNode(ctx, a.Name); err != nil {
		t.Error(err)
	}
	mustRun(t, ctx, a, "bootstrap-agent", "reset", "--yes")
	mustRun(t, ctx, b, "systemctl", "start", agentUnit)
	waits := func(s agent.Status) bool { return s.CSR != nil && s.CSR.Name != "" && s.CSR.Approved == nil }
	first := awaitStatus(t, ctx, b, "a waiting request", 60*time.Second, waits)
	copyFiles(t, ctx, b, a, "/var/lib/bootstrap-agent")
	mustRun(t, ctx, a, "systemctl", "start", agentUnit)
	second := awaitStatus(t, ctx, a, "another request", 60*time.Second, waits)
	if first.CSR.Name == second.CSR.Name || second.CSR.Adopted {
		t.Errorf("both wait for %s", first.CSR.Name)
	}
	for m, name := range map[*machine.Machine]string{b: first.CSR.Name, a: second.CSR.Name} {
		if err := c.Approve(ctx, name); err != nil {
			t.Fatal(err)
		}
		awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	}
	if keyOf(t, ctx, a) == keyOf(t, ctx, b) {
		t.Error("both have one key")
	}
	for _, m := range []*machine.Machine{a, b} {
		if err := c.DeleteNode(ctx, m.Name); err != nil {
			t.Error(err)
		}
	}
}

// copyOf boots a machine with the disk of a node, as far as it is that of a node:
// another machine ID, another host name, and a kubelet that starts at its first
// boot under the other's name.
func copyOf(t *testing.T, ctx context.Context, c *cluster.Cluster, from *machine.Machine, name string) *machine.Machine {
	t.Helper()
	m := readyMachine(t, ctx, c, machine.Options{Name: name}, newToken(t, ctx, c))
	copyFiles(t, ctx, from, m, "/var/lib/bootstrap-agent", "/var/lib/kubelet/pki", "/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/config.yaml",
		"/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/multi-user.target.wants/kubelet.service")
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	mustRun(t, ctx, m, "systemctl", "start", "kubelet.service")
	mustRun(t, ctx, m, "systemctl", "enable", "--now", agentUnit)
	return m
}

func copyFiles(t *testing.T, ctx context.Context, from, to *machine.Machine, paths ...string) {
	t.Helper()
	result, err := from.Run(ctx, append([]string{"tar", "--create", "--absolute-names"}, paths...)...)
	if err != nil || result.Code != 0 {
		t.Fatalf("%v, %s", err, result.Stderr)
	}
	if result, err = to.RunInput(ctx, []byte(result.Stdout), "tar", "--extract", "--absolute-names"); err != nil || result.Code != 0 {
		t.Fatalf("%v, %+v", err, result)
	}
}

// keyOf is the digest of the key that a node works with.
func keyOf(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	return mustRun(t, ctx, m, "sh", "-c", "sed -n '/PRIVATE KEY/,$p' /var/lib/kubelet/pki/kubelet-client-current.pem | sha256sum")
}

func checkLeft(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	if left := mustRun(t, ctx, m, "sh", "-c", identityLeft); left != "" {
		t.Errorf("left: %s", left)
	}
	for _, unit := range []string{"kubelet.service", agentUnit, "bootstrap-agent.path"} {
		props := mustRun(t, ctx, m, "systemctl", "show", unit, "--property=ActiveState,UnitFileState")
		if strings.Contains(props, "ActiveState=active") || strings.Contains(props, "UnitFileState=enabled") {
			t.Errorf("%s: %s", unit, props)
		}
	}
}

// mustEventually runs a command until it succeeds: RBAC takes a moment.
func mustEventually(t *testing.T, ctx context.Context, m *machine.Machine, argv ...string) {
	t.Helper()
	for {
		result, err := m.Run(ctx, argv...)
		if err == nil && result.Code == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%v: %v, %+v", argv, err, result)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

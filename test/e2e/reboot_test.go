//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// A node that reboots is a node again with the certificate it had, without the
// token (which is gone by then) and without a request; the kubelet's own unit
// starts it, the agent only sees that all is well.
func TestARebootedMachineComesBackWithItsCertificate(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name = "rebooted"
	token := newToken(t, ctx, c)
	m := joinMachine(t, ctx, c, machine.Options{Name: name}, token)
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
	}
	before, err := statusOf(ctx, m)
	if err != nil || before.Certificate == nil {
		t.Fatalf("%v, %+v", err, before)
	}
	pair := pairTarget(t, ctx, m)
	if out := strings.TrimSpace(mustRun(t, ctx, m, "systemctl", "is-enabled", "kubelet.service")); out != "enabled" {
		t.Errorf("kubelet.service is %s", out)
	}
	node, err := c.Node(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	boot := bootOf(t, ctx, m)
	uid := node.UID
	requests := requestsOf(t, ctx, c, token, name)
	if err := c.DeleteToken(ctx, token); err != nil {
		t.Fatal(err)
	}

	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	booted := time.Now()
	after := awaitStatus(t, ctx, m, "the return", 90*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Time.After(booted)
	})
	t.Logf("Joined again %.1f s after the boot", time.Since(booted).Seconds())
	if after.Certificate == nil || after.Certificate.Serial != before.Certificate.Serial {
		t.Errorf("certificate before %+v, after %+v", before.Certificate, after.Certificate)
	}
	if now := pairTarget(t, ctx, m); now != pair {
		t.Errorf("the pair was %s and is %s", pair, now)
	}
	if now := requestsOf(t, ctx, c, token, name); strings.Join(now, " ") != strings.Join(requests, " ") {
		t.Errorf("requests before %q, after %q", requests, now)
	}
	if lease := leaseOf(t, ctx, c, name); lease.Spec.RenewTime == nil || !lease.Spec.RenewTime.After(booted) {
		t.Errorf("the Lease was renewed at %v, the machine was up at %s", lease.Spec.RenewTime, booted)
	}
	for _, step := range after.Timeline {
		if step.Name != agent.StepHealth && step.Name != agent.StepRegister {
			t.Errorf("after a reboot there was the step %q", step.Name)
		}
	}
	checkLeftAlone(t, ctx, m)
	now := bootOf(t, ctx, m)
	// Until the kubelet has written it anew, the Node is as it was before.
	if err := await.Until(ctx, "the Node to tell of this boot", 100*time.Millisecond, func(ctx context.Context) error {
		if node, err = c.Node(ctx, name); err == nil && node.Status.NodeInfo.BootID != now {
			err = fmt.Errorf("boot %s", node.Status.NodeInfo.BootID)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if node, err = c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
	}
	if node.UID != uid {
		t.Errorf("before the reboot the Node was %s, now it is %s", uid, node.UID)
	}
	if boot == now {
		t.Error("the machine has not been rebooted")
	}
}

// bootOf is the boot ID as the machine shows it. (Not to the agent: its sandbox
// has another /proc, and a container's boot ID is a file put over the real one.)
func bootOf(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	text, err := m.ReadFile(ctx, "/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

// pairTarget is the file that the kubelet's symlink names.
func pairTarget(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	return strings.TrimSpace(mustRun(t, ctx, m, "readlink", "/var/lib/kubelet/pki/kubelet-client-current.pem"))
}

// requestsOf names all requests for a client certificate that the token or the
// node has made.
func requestsOf(t *testing.T, ctx context.Context, c *cluster.Cluster, token cluster.Token, node string) []string {
	t.Helper()
	all, err := c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range all {
		if u := all[i].Spec.Username; u == "system:bootstrap:"+token.ID || u == "system:node:"+node {
			names = append(names, all[i].Name)
		}
	}
	return names
}

func leaseOf(t *testing.T, ctx context.Context, c *cluster.Cluster, node string) coordinationv1.Lease {
	t.Helper()
	var lease coordinationv1.Lease
	if err := c.Get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+node, &lease); err != nil {
		t.Fatal(err)
	}
	return lease
}

// checkLeftAlone shows from the agent's own journal of this boot that it did
// nothing to the kubelet, and took its start for no failure.
func checkLeftAlone(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	journal, err := m.Journal(ctx, "bootstrap-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(journal) {
		for _, act := range []string{"kubelet started", "kubelet restarts", "kubelet stopped", "files written", "certificate signing request", string(fault.KubeletFailed)} {
			if strings.Contains(line, act) {
				t.Errorf("the agent acted in this boot: %s", line)
			}
		}
	}
}

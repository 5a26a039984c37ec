//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// Two machines with one name and one machine ID: a real kubelet's Lease decides
// whether the first one lives. A Lease of 20 s instead of 40, renewed every 5, is
// watched for 8 s; nothing else is quicker than on any machine.
func TestTwoMachinesWithOneName(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name, lease = "namesake", "/etc/kubernetes/kubelet.d/20-lease.conf"
	join := func(also map[string]machine.File) *machine.Machine {
		files := map[string]machine.File{lease: {Content: "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nnodeLeaseDurationSeconds: 20\n"}}
		for path, file := range also {
			files[path] = file
		}
		m := readyMachine(t, ctx, c, machine.Options{Name: name, Files: files}, newToken(t, ctx, c))
		appendConfig(t, ctx, m, "kubelet: {configDir: /etc/kubernetes/kubelet.d}\n")
		labAgent(t, ctx, m, labSettings{Pace: map[string]string{"NamesakeAtLeast": "2s", "NamesakeEvery": "1s", "Slow": "3s"}})
		mustRun(t, ctx, m, "systemctl", "enable", "--now", "bootstrap-agent.service")
		return m
	}
	joined := func(m *machine.Machine, what string) agent.Status {
		t.Helper()
		began := time.Now()
		s := awaitStatus(t, ctx, m, what, 60*time.Second, inPhase(agent.Joined))
		node, err := c.Node(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if id := strings.TrimSpace(mustRun(t, ctx, m, "cat", "/proc/sys/kernel/random/boot_id")); node.Status.NodeInfo.BootID != id {
			t.Errorf("%s: the Node is of boot %s, not %s", what, node.Status.NodeInfo.BootID, id)
		}
		t.Logf("%s: Joined after %.1f s", what, time.Since(began).Seconds())
		return s
	}
	first := join(nil)
	joined(first, "the first")
	// The second machine comes at once: perhaps before the first one's kubelet has
	// made its Lease, some seconds after its Node.
	id, err := first.ReadFile(ctx, "/etc/machine-id")
	if err != nil {
		t.Fatal(err)
	}
	run := kubeletRun(t, ctx, first)

	second := join(map[string]machine.File{"/etc/machine-id": {Content: id, Mode: 0o444}})
	isTaken := func(what string) {
		t.Helper()
		began := time.Now()
		s := awaitStatus(t, ctx, second, what, 40*time.Second, hasReason(fault.NodeNameTaken))
		t.Logf("%s: told after %.1f s: %s -> %s", what, time.Since(began).Seconds(), s.Message, s.Hint)
		ids := fmt.Sprintf("its machine ID is %q, ours %q", strings.TrimSpace(id), strings.TrimSpace(id))
		if !strings.Contains(s.Message, ids) || !strings.Contains(s.Hint, "nodeName") {
			t.Errorf("%s -> %s", s.Message, s.Hint)
		}
		for _, path := range []string{"/var/lib/kubelet/kubeconfig", currentPair} {
			if _, err := second.ReadFile(ctx, path); err == nil {
				t.Errorf("%s was installed all the same", path)
			}
		}
		if p := unitProps(t, ctx, second, "kubelet.service", "MainPID"); p["MainPID"] != "0" {
			t.Error("a second kubelet runs")
		}
	}
	isTaken("while the first lives")
	mustRun(t, ctx, second, "systemctl", "restart", "bootstrap-agent.service")
	isTaken("and after a restart of the agent")
	if again := kubeletRun(t, ctx, first); again != run {
		t.Errorf("the first kubelet was disturbed: %v, %v", run, again)
	}

	if err := first.KillHard(); err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	joined(second, "the replacement after its predecessor's death")
	if took := time.Since(dead); took > 60*time.Second {
		t.Errorf("the replacement waited %s", took)
	}

	// Without a disk nothing is left of the node but its Node, and a Lease that is
	// fresh and stands still.
	if err := second.KillHard(); err != nil {
		t.Fatal(err)
	}
	mustRunOff(t, ctx, second, "rm", "-rf", "/var/lib/kubelet", "/var/lib/bootstrap-agent", "/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d")
	if err := second.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	s := joined(second, "its own Node after a reboot without a disk")
	if step, ok := stepOf(s, agent.StepName); !ok || step.Seconds == nil {
		t.Errorf("%+v", s.Timeline)
	} else {
		t.Logf("name check: %.1f s, %s", *step.Seconds, step.Detail)
	}
	if err := c.DeleteNode(ctx, name); err != nil {
		t.Error(err)
	}
}

// mustRunOff runs a command on the disk of a machine that is off.
func mustRunOff(t *testing.T, ctx context.Context, m *machine.Machine, argv ...string) {
	t.Helper()
	if m.On() {
		t.Fatal("the machine is on")
	}
	if _, err := m.Output(ctx, argv...); err != nil {
		t.Fatal(err)
	}
}

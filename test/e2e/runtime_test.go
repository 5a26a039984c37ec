//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	containerdConfig = "/etc/containerd/config.toml"
	// The file of Docker's containerd package, but for its comments.
	dockersConfig = "#   Licensed under the Apache License, Version 2.0\n\ndisabled_plugins = [\"cri\"]\n\n#root = \"/var/lib/containerd\"\n"
)

// The real containerd, in every state in which machines have it when they are
// told to join: not running, running as Docker's package configures it, stuck.
// Each is told apart while it is waited for, and when it is mended the agent goes
// on by itself.
func TestEachStateOfContainerdIsToldApartAndTheJoinGoesOnByItself(t *testing.T) {
	ctx := aside(t, 2*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name = "runtime-late"
	token := newToken(t, ctx, c)
	m := readyMachine(t, ctx, c, machine.Options{Name: name}, token)
	mended, err := m.ReadFile(ctx, containerdConfig)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "disable", "--now", "--quiet", "containerd.service")
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	saysOfRuntime(t, ctx, m, "containerd is installed (/usr/bin/containerd) but does not run: there is no /run/containerd/containerd.sock",
		"`systemctl enable --now containerd`")
	t.Logf("\n%s", mustRun(t, ctx, m, "sh", "-c", "bootstrap-agent status || true"))

	if err := m.WriteFile(ctx, containerdConfig, dockersConfig, 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "enable", "--now", "--quiet", "containerd.service")
	saysOfRuntime(t, ctx, m, `containerd runs without its CRI plugin: line 3 of /etc/containerd/config.toml disables it (disabled_plugins = ["cri"])`,
		"`systemctl restart containerd`")

	mustRun(t, ctx, m, "systemctl", "kill", "--signal=STOP", "containerd.service")
	mustRun(t, ctx, m, "systemctl", "daemon-reload") // wakes the agent; else the pause between two questions ends by itself
	saysOfRuntime(t, ctx, m, "containerd listens on /run/containerd/containerd.sock but does not answer: no answer within 2s",
		"`systemctl restart containerd`")
	mustRun(t, ctx, m, "systemctl", "kill", "--signal=CONT", "containerd.service")

	// Mended, but not restarted: the file is right, what runs is not.
	if err := m.WriteFile(ctx, containerdConfig, mended, 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	saysOfRuntime(t, ctx, m, "containerd runs without its CRI plugin: it is disabled, or failed when containerd was started",
		"If its config was mended since: `systemctl restart containerd`.")

	mustRun(t, ctx, m, "systemctl", "restart", "containerd.service")
	restarted := time.Now()
	joined := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	step, ok := stepOf(joined, agent.StepRuntime)
	if !ok || step.Seconds == nil || step.Reason != "" || !strings.HasPrefix(step.Detail, "containerd ") {
		t.Fatalf("timeline %+v", joined.Timeline)
	}
	answered := step.Start.Add(time.Duration(*step.Seconds * float64(time.Second)))
	t.Logf("waited for %.1f s; %s answered %.2f s after its restart; joined %.1f s after it", *step.Seconds, step.Detail, answered.Sub(restarted).Seconds(), time.Since(restarted).Seconds())
	if late := answered.Sub(restarted); late > 3*time.Second {
		t.Errorf("the agent went on %s after containerd was there: the pause of the loop, not the unit, has woken it", late)
	}
	if props := unitProps(t, ctx, m, "kubelet.service", "After"); !strings.Contains(props["After"], "containerd.service") {
		t.Errorf("After=%s", props["After"])
	}
	if csrs := csrsOf(t, ctx, c, token); len(csrs) != 1 {
		t.Errorf("requests %v", csrs)
	}
	t.Logf("\n%s", mustRun(t, ctx, m, "bootstrap-agent", "status"))
}

// saysOfRuntime waits for RuntimeNotReady with these words and this next step.
func saysOfRuntime(t *testing.T, ctx context.Context, m *machine.Machine, says, hint string) {
	t.Helper()
	began := time.Now()
	s := awaitStatus(t, ctx, m, says, 20*time.Second, func(s agent.Status) bool {
		return s.Reason == fault.RuntimeNotReady && s.Phase == agent.ConfiguringKubelet && strings.Contains(s.Message, says)
	})
	t.Logf("after %.2f s: %s -> %s", time.Since(began).Seconds(), s.Message, s.Hint)
	if !strings.Contains(s.Hint, hint) {
		t.Errorf("hint %q does not say %q", s.Hint, hint)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	joinedTarget = "bootstrap-agent-joined.target"
	waitUnit     = "bootstrap-agent-wait.service"
	kubeadmFile  = "/etc/join.yaml"

	// A unit as docs/operations.md has it, for what needs a joined node.
	dependent = `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo started >> /run/dependent'

[Install]
WantedBy=bootstrap-agent-joined.target
`
	// The wrong form of it, which the boot wants.
	wrongForm = `[Unit]
Requires=bootstrap-agent-wait.service
After=bootstrap-agent-wait.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true

[Install]
WantedBy=multi-user.target
`
	// For what is started by hand.
	onDemand = `[Unit]
Requires=bootstrap-agent-wait.service
After=bootstrap-agent-wait.service

[Service]
Type=oneshot
ExecStart=/bin/true
`
	// Where cloud-init's last stage (runcmd) stands in the boot, and what it does.
	lastStage = `[Unit]
After=multi-user.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/bootstrap-agent configure --force --from-kubeadm ` + kubeadmFile + `

[Install]
WantedBy=multi-user.target
`
)

// joinConfiguration is a worker's, as people write them for kubeadm.
func joinConfiguration(c *cluster.Cluster, token cluster.Token, name string) string {
	return fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    token: %s
    apiServerEndpoint: %s
    caCertHashes: [%s]
  tlsBootstrapToken: %s
nodeRegistration:
  name: %s
  criSocket: unix:///run/containerd/containerd.sock
  ignorePreflightErrors: [Swap]
  taints:
  - {key: example.org/lab, value: "true", effect: PreferNoSchedule}
  kubeletExtraArgs:
  - {name: node-labels, value: "example.org/rack=r7"}
  - {name: v, value: "3"}
timeouts: {discovery: 1m0s}
`, token, c.Endpoint(), c.Pin(), token, name)
}

// A machine that is configured after its boot, by a file for kubeadm join, and a unit
// on it that needs a joined node. Before that: what happens when the boot wants such a
// unit. At both ends a report for a colleague.
func TestUnitsThatNeedAJoinedNodeWaitWithoutTheBoot(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	token, unknown := newToken(t, ctx, c), cluster.RandomToken()
	password := strings.ToLower(rand.Text()) // of somebody else's, in the kubelet's environment
	const name = "joined-later"
	m := bootMachine(t, ctx, machine.Options{
		Name: "waited-for", Binds: []string{filepath.Join(filepath.Dir(kubelet), "kubeadm") + ":/usr/bin/kubeadm"},
		Files: map[string]machine.File{
			"/etc/systemd/system/dependent.service":  {Content: dependent},
			"/etc/systemd/system/wrong.service":      {Content: wrongForm},
			"/etc/systemd/system/on-demand.service":  {Content: onDemand},
			"/etc/systemd/system/last-stage.service": {Content: lastStage},
			kubeadmFile:                              {Content: joinConfiguration(c, token, name), Mode: 0o600},
			"/etc/default/kubelet":                   {Content: "KUBELET_EXTRA_ARGS=\nMY_SECRET=" + password + "\n"},
		},
	})
	if out := mustRun(t, ctx, m, "kubeadm", "config", "validate", "--config", kubeadmFile); strings.TrimSpace(out) != "ok" {
		t.Fatalf("kubeadm does not take the file: %s", out)
	}
	installAgent(t, ctx, m)
	for unit, want := range map[string]string{joinedTarget: "static", waitUnit: "static"} {
		if got := unitProps(t, ctx, m, unit, "UnitFileState", "ActiveState"); got["UnitFileState"] != want || got["ActiveState"] != "inactive" {
			t.Errorf("%s after the installation: %v", unit, got)
		}
	}

	t.Run("a report of a join that fails", func(t *testing.T) {
		configure(t, ctx, m, joinLineOf(c, unknown))
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		awaitStatus(t, ctx, m, "the refusal", 20*time.Second, hasReason(fault.TokenUnknown))
		checkReport(t, ctx, m, []string{unknown.Secret, token.Secret, password}, "TokenUnknown", "endpoints: ["+c.Endpoint()+"]", "✓ config", "kubelet          v1.36.3 at /usr/bin/kubelet",
			"ActiveState=active", "not there yet", "reason=TokenUnknown", "Version=25")
	})
	t.Run("the wrong form holds up the boot, and whoever would end the wait", func(t *testing.T) { wrongFormHangs(t, ctx, m) })
	t.Run("the right form does not, and is started when the node is joined", func(t *testing.T) { rightForm(t, ctx, c, m, name) })
	t.Run("what a person has stopped is not started again", func(t *testing.T) {
		mustRun(t, ctx, m, "systemctl", "stop", "dependent.service")
		mustRun(t, ctx, m, "systemctl", "restart", agentUnit)
		restarted := time.Now()
		awaitStatus(t, ctx, m, "the restarted agent", 20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && s.Time.After(restarted) })
		pause(t, ctx, 500*time.Millisecond)
		if got := unitProps(t, ctx, m, "dependent.service", "ActiveState")["ActiveState"]; got != "inactive" {
			t.Errorf("dependent.service is %s", got)
		}
	})
	t.Run("a unit that is started by hand waits for what is there already, also without the agent", func(t *testing.T) {
		mustRun(t, ctx, m, "systemctl", "stop", agentUnit) // as afterJoin: exit leaves it
		mustRun(t, ctx, m, "systemctl", "start", "on-demand.service")
	})
	t.Run("a report of a node, whose agent is down", func(t *testing.T) {
		checkReport(t, ctx, m, []string{unknown.Secret, token.Secret, password}, "Joined", "The agent is not running", "subject  CN=system:node:"+name+",O=system:nodes", "pin "+c.Pin(), "/etc/systemd/system/kubelet.service",
			"kubelet-client-current.pem -> /var/lib/kubelet/pki/kubelet-client-", "kubelet.go", "MY_SECRET=<redacted>", "nodeLabels: [example.org/rack=r7]")
		result, err := m.Run(ctx, "runuser", "-u", "nobody", "--", "bootstrap-agent", "report", "-o", "-")
		if err != nil || result.Code != 0 || !strings.Contains(result.Stdout, "without root") || !strings.Contains(result.Stdout, "Configuration: not whole") || !strings.Contains(result.Stdout, "Joined") {
			t.Errorf("%v, %+v", err, result)
		}
	})
	if err := c.DeleteNode(ctx, name); err != nil {
		t.Error(err)
	}
}

// wrongFormHangs shows a boot that does not end, because what would configure the
// machine comes after it.
func wrongFormHangs(t *testing.T, ctx context.Context, m *machine.Machine) {
	mustRun(t, ctx, m, "rm", configPath)
	mustRun(t, ctx, m, "systemctl", "enable", "--quiet", "wrong.service", "last-stage.service")
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	// The boot comes as far as it can; what is then left waits for each other.
	waiting := []string{waitUnit, "wrong.service", "multi-user.target", "last-stage.service"}
	eventually(t, ctx, "nothing but what waits", func(ctx context.Context) error {
		jobs, err := m.Output(ctx, "systemctl", "list-jobs", "--no-legend", "--no-pager")
		if err != nil {
			return err
		}
		for line := range strings.Lines(jobs) {
			// Targets above multi-user.target, and what tells that the boot is over, wait with it.
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "running" && f[1] != waitUnit {
				return fmt.Errorf("%s is still being started", f[1])
			}
		}
		return holds(jobs, nil)(waiting...)
	})
	pause(t, ctx, time.Second) // and nothing of it goes on
	state, err := m.Run(ctx, "systemctl", "is-system-running")
	if err != nil || strings.TrimSpace(state.Stdout) != "starting" {
		t.Errorf("%v, %+v", err, state)
	}
	jobs := mustRun(t, ctx, m, "systemctl", "list-jobs", "--no-legend")
	t.Logf("\n%s", jobs)
	for _, part := range waiting {
		if !strings.Contains(jobs, part) {
			t.Errorf("%s does not wait", part)
		}
	}
	mustRun(t, ctx, m, "systemctl", "disable", "--quiet", "wrong.service")
}

func rightForm(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, name string) {
	mustRun(t, ctx, m, "systemctl", "enable", "--quiet", "dependent.service")
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitRunning(ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "the join", 30*time.Second, inPhase(agent.Joined))
	deadline := time.Now().Add(10 * time.Second)
	var state map[string]string
	for state == nil || state["ActiveState"] != "active" && time.Now().Before(deadline) {
		state = unitProps(t, ctx, m, "dependent.service", "ActiveState", "ExecMainStartTimestampMonotonic")
	}
	stamp := func(text string) int { n, _ := strconv.Atoi(text); return n }
	booted := stamp(unitProps(t, ctx, m, "multi-user.target", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
	kubelet := stamp(unitProps(t, ctx, m, "kubelet.service", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
	started := stamp(state["ExecMainStartTimestampMonotonic"])
	if booted == 0 || kubelet < booted || started < kubelet {
		t.Errorf("the boot ended at %d, the kubelet ran at %d, the unit that needs it was started at %d", booted, kubelet, started)
	}
	if out, err := m.ReadFile(ctx, "/run/dependent"); err != nil || out != "started\n" {
		t.Errorf("%q, %v", out, err)
	}
	if got := unitProps(t, ctx, m, joinedTarget, "ActiveState")["ActiveState"]; got != "active" {
		t.Errorf("%s is %s", joinedTarget, got)
	}
	// What the file said is what the node is.
	node, err := c.AwaitNode(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if node.Labels["example.org/rack"] != "r7" {
		t.Errorf("labels: %v", node.Labels)
	}
	wanted := false
	for _, taint := range node.Spec.Taints {
		wanted = wanted || taint.Key == "example.org/lab" && taint.Value == "true" && taint.Effect == corev1.TaintEffectPreferNoSchedule
	}
	if !wanted {
		t.Errorf("taints: %v", node.Spec.Taints)
	}
	if argv := strings.Join(checkOurKubelet(t, ctx, m, ourUnitPath, []string{ourDropInPath}), " "); !strings.Contains(argv, "--v=3") {
		t.Errorf("the kubelet runs as %s", argv)
	}
}

// checkReport makes a report on the machine and looks for what must be in it, and
// for what must not.
func checkReport(t *testing.T, ctx context.Context, m *machine.Machine, secrets []string, wanted ...string) {
	t.Helper()
	const path = "/srv/report.md"
	mustRun(t, ctx, m, "rm", "-f", path)
	began := time.Now()
	result, err := m.Run(ctx, "bootstrap-agent", "report", "-o", path)
	if err != nil || result.Code != 0 || result.Stdout != path+"\n" {
		t.Fatalf("%v, %+v", err, result)
	}
	text, err := m.ReadFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a report of %d bytes in %.1f s; %s", len(text), time.Since(began).Seconds(), result.Stderr)
	if strings.Contains(text, "not whole") || strings.Contains(result.Stderr, "not all of it") {
		t.Errorf("root does not see all: %s", result.Stderr)
	}
	if mode := strings.TrimSpace(mustRun(t, ctx, m, "stat", "--format=%a %u", path)); mode != "600 0" {
		t.Errorf("mode and owner: %s", mode)
	}
	for _, part := range wanted {
		if !strings.Contains(text, part) {
			t.Errorf("the report lacks %q", part)
		}
	}
	for _, secret := range append(secrets, "PRIVATE KEY-----\n") {
		if strings.Contains(text, secret) {
			t.Error("the report shows a secret")
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

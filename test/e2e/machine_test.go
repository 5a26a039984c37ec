//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// machineCheck is what `check --machine -o json` says.
type machineCheck struct {
	OK     bool
	Reason fault.Reason
	Rows   []preflight.Row
	code   int
}

func (c machineCheck) row(name string) preflight.Row {
	i := slices.IndexFunc(c.Rows, func(r preflight.Row) bool { return r.Name == name })
	if i < 0 {
		return preflight.Row{}
	}
	return c.Rows[i]
}

func checkMachine(t *testing.T, ctx context.Context, m *machine.Machine, argv ...string) machineCheck {
	t.Helper()
	result, err := m.Run(ctx, append(argv, "bootstrap-agent", "check", "--machine", "-o", "json", "--endpoint", sharedCluster(t, ctx, cluster.Kubeadm).Endpoint())...)
	if err != nil {
		t.Fatal(err)
	}
	c := machineCheck{code: result.Code}
	if err := json.Unmarshal([]byte(result.Stdout), &c); err != nil {
		t.Fatalf("%v: %+v", err, result)
	}
	return c
}

// A machine is looked at before it joins, a kubelet that is too old gets no
// certificate, and a node that is not Ready says why in its own words.
func TestAMachineIsCheckedRefusedAndWaitedFor(t *testing.T) {
	ctx := scenario(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := newMachine(t, ctx, machine.Options{Name: "checked"})
	mustRun(t, ctx, m, "rm", machine.CNIPath) // it is off: no pod network from the first boot on
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	installAgent(t, ctx, m)
	if err := m.AwaitRunning(ctx); err != nil {
		t.Fatal(err)
	}

	t.Run("a fresh machine passes with warnings", func(t *testing.T) { freshMachine(t, ctx, m) })
	t.Run("a port that is taken", func(t *testing.T) { takenPort(t, ctx, m) })
	t.Run("somebody else's identity", func(t *testing.T) {
		const path = "/var/lib/kubelet/kubeconfig"
		if err := m.WriteFile(ctx, path, "users: [{name: x, user: {token: t}}]\n", 0o600); err != nil {
			t.Fatal(err)
		}
		check := checkMachine(t, ctx, m)
		if row := check.row("identity"); check.code != fault.ExitMachine || check.Reason != fault.ForeignKubelet || !strings.Contains(row.Message, path) {
			t.Errorf("code %d, %+v", check.code, row)
		}
		mustRun(t, ctx, m, "rm", path)
	})
	t.Run("a kubelet that is too old gets no certificate", func(t *testing.T) { tooOld(t, ctx, c, m) })
	t.Run("a node without a pod network says so until it is Ready", func(t *testing.T) { untilReady(t, ctx, m) })
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

func freshMachine(t *testing.T, ctx context.Context, m *machine.Machine) {
	before := treeOf(t, ctx, m, "")
	t.Log("\n" + mustRun(t, ctx, m, "bootstrap-agent", "check", "--machine"))
	check := checkMachine(t, ctx, m)
	for name, text := range map[string]string{
		"kubelet": "v1.36.3 at /usr/bin/kubelet", "API server": "v1.36.3", "clock": "as the API server's", "runtime": "containerd", "identity": "no other",
		"kubelet.service": "not there yet", "swap": "off", "port 10250": "free", "port 10248": "free", "host name": m.Name + ", " + m.Address,
		"disk: kubelet": "free", "disk: images": "/var/lib/containerd", "tools": "mount",
	} {
		if row := check.row(name); row.Verdict != preflight.Pass || !strings.Contains(row.Message, text) {
			t.Errorf("%s: %+v", name, row)
		}
	}
	if !check.OK || check.code != 0 {
		t.Errorf("code %d, %+v", check.code, check)
	}
	plain := checkMachine(t, ctx, m, "runuser", "-u", "nobody", "--")
	if plain.code != 0 || !plain.row("runtime").NeedsRoot || !plain.row("config").NeedsRoot {
		t.Errorf("without root: code %d, %+v", plain.code, plain.Rows)
	}
	for _, name := range []string{"kubelet", "kubelet.service", "swap", "port 10250", "cgroups", "tools"} {
		if row := plain.row(name); row.Verdict != check.row(name).Verdict {
			t.Errorf("without root: %+v, as root %+v", row, check.row(name))
		}
	}
	if after := treeOf(t, ctx, m, ""); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func takenPort(t *testing.T, ctx context.Context, m *machine.Machine) {
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=squatter", "socat", "TCP-LISTEN:10250,bind=127.0.0.1,fork", "EXEC:true")
	var check machineCheck
	for deadline := time.Now().Add(5 * time.Second); check.code == 0 && time.Now().Before(deadline); {
		check = checkMachine(t, ctx, m) // it takes socat a moment to listen
	}
	if row := check.row("port 10250"); check.code != fault.ExitMachine || check.Reason != fault.MachineUnfit || !strings.Contains(row.Message, "socat (PID ") {
		t.Errorf("code %d, %+v", check.code, row)
	}
	plain := checkMachine(t, ctx, m, "runuser", "-u", "nobody", "--")
	if row := plain.row("port 10250"); plain.code != fault.ExitMachine || row.Verdict != preflight.Fail || !row.NeedsRoot {
		t.Errorf("without root: code %d, %+v", plain.code, row)
	}
	mustRun(t, ctx, m, "systemctl", "stop", "squatter.service")
}

func tooOld(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	const wrapper = "/usr/local/bin/kubelet-wrapper"
	script := func(content string) {
		t.Helper()
		if err := m.WriteFile(ctx, wrapper, "#!/bin/sh\n"+content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script("echo Kubernetes v1.29.15\n")
	token := newToken(t, ctx, c)
	configure(t, ctx, m, joinLineOf(c, token))
	appendConfig(t, ctx, m, "kubelet: {binary: "+wrapper+"}\n")
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s := awaitStatus(t, ctx, m, "KubeletTooOld", 20*time.Second, func(s agent.Status) bool { return s.Reason == fault.KubeletTooOld && s.Attempt >= 2 })
	t.Logf("%s -> %s", s.Message, s.Hint)
	if !strings.Contains(s.Message, "v1.29.15") || s.Hint == "" || s.Cluster == nil {
		t.Errorf("%+v", s)
	}
	if names := csrsOf(t, ctx, c, token); len(names) != 0 {
		t.Errorf("requests: %v", names)
	}
	if check := checkMachine(t, ctx, m, "env", "BOOTSTRAP_AGENT_KUBELET_BINARY="+wrapper); check.code != fault.ExitMachine || check.Reason != fault.KubeletTooOld {
		t.Errorf("check: code %d, %s", check.code, check.Reason)
	}
	script("exec /usr/bin/kubelet \"$@\"\n")
	s = awaitStatus(t, ctx, m, "the join", 30*time.Second, inPhase(agent.Joined))
	if names := csrsOf(t, ctx, c, token); len(names) != 1 {
		t.Errorf("requests: %v", names)
	}
	for _, n := range s.Notes {
		t.Logf("note %s: %s", n.Reason, n.Message)
		if n.Reason == fault.MachineUnfit {
			t.Errorf("a kubelet that runs is said not to: %+v", n)
		}
	}
	if row := checkMachine(t, ctx, m, "runuser", "-u", "nobody", "--").row("identity"); !row.NeedsRoot {
		t.Errorf("without root: %+v", row) // what is the agent's own is on a record that only root may read
	}
	if row := checkMachine(t, ctx, m).row("port 10250"); row.Verdict != preflight.Pass || !strings.Contains(row.Message, "kubelet.service") {
		t.Errorf("%+v", row)
	}
}

func untilReady(t *testing.T, ctx context.Context, m *machine.Machine) {
	result, err := m.Run(ctx, "bootstrap-agent", "wait", "--for", "ready", "--timeout", "2s")
	if err != nil || result.Code != fault.ExitTemporary || !strings.Contains(result.Stderr, "not ready in time: Joined, not Ready") ||
		!strings.Contains(result.Stderr, "NetworkPluginNotReady") || !strings.Contains(result.Stderr, "-> ") {
		t.Errorf("%v, %+v", err, result)
	}
	t.Log("\n" + result.Stderr)
	s := awaitStatus(t, ctx, m, "the note", 15*time.Second, func(s agent.Status) bool {
		return slices.ContainsFunc(s.Notes, func(n agent.Note) bool {
			return n.Reason == fault.NodeNotReady && strings.Contains(n.Message, "NetworkPluginNotReady")
		})
	})
	if s.Phase != agent.Joined {
		t.Errorf("phase %s", s.Phase)
	}
	began := time.Now()
	if err := m.WriteFile(ctx, machine.CNIPath, machine.CNIConfig, 0o644); err != nil {
		t.Fatal(err)
	}
	// Without the agent: nobody publishes a status, and the API is asked.
	mustRun(t, ctx, m, "systemctl", "stop", agentUnit)
	result, err = m.Run(ctx, "bootstrap-agent", "wait", "--for", "ready", "--timeout", "45s")
	if err != nil || result.Code != 0 || result.Stdout != m.Name+" is ready\n" {
		t.Errorf("%v, %+v", err, result)
	}
	t.Logf("Ready %.1f s after the pod network; told:\n%s", time.Since(began).Seconds(), result.Stderr)
}

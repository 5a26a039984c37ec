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

// adoptedSerial is the serial number of the certificate that the kubelet's folder holds.
func adoptedSerial(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	return mustRun(t, ctx, m, "openssl", "x509", "-noout", "-serial", "-in", "/var/lib/kubelet/pki/kubelet-client-current.pem")
}

// starts counts how often systemd has started the kubelet in this boot.
func starts(t *testing.T, ctx context.Context, m *machine.Machine) int {
	t.Helper()
	out := mustRun(t, ctx, m, "journalctl", "--boot", "--no-pager", "--output=cat", "_PID=1", "UNIT=kubelet.service", "JOB_TYPE=start", "+", "_PID=1", "UNIT=kubelet.service", "JOB_TYPE=restart")
	return strings.Count(out, "Started ")
}

// digests are those of files that must stay as they are.
func digests(t *testing.T, ctx context.Context, m *machine.Machine, paths ...string) string {
	t.Helper()
	return mustRun(t, ctx, m, append([]string{"sha256sum"}, paths...)...)
}

// A node that the real kubeadm joined, with a process in a pod's cgroup: the agent takes it
// over with the same certificate while that runs on, kubeadm goes on to upgrade
// its configuration, and all of it can be undone.
func TestANodeOfKubeadmsIsTakenOverAndGivenBack(t *testing.T) {
	ctx := scenario(t, 5*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := kubeadmMachine(t, ctx, "adopted")
	kubeadmJoin(t, ctx, c, m)
	before, err := c.AwaitReady(ctx, m.Name)
	if err != nil {
		t.Fatal(err)
	}
	pod := runPod(t, ctx, m)
	installAgent(t, ctx, m)
	kubeadms := []string{"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env", vendorUnitPath, vendorDropInPath}
	files, serial := digests(t, ctx, m, kubeadms...), adoptedSerial(t, ctx, m)
	csrs, err := c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stays := func(what string) {
		t.Helper()
		if now := podProcess(t, ctx, m); now != pod {
			t.Errorf("%s: the pod's process was %s and is %s", what, pod, now)
		}
		if now := adoptedSerial(t, ctx, m); now != serial {
			t.Errorf("%s: the certificate was %s and is %s", what, serial, now)
		}
		node, err := c.AwaitReady(ctx, m.Name)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if node.UID != before.UID {
			t.Errorf("%s: the Node is another one", what)
		}
	}

	t.Run("a dry run changes nothing", func(t *testing.T) {
		tree, runs := treeOf(t, ctx, m, "! -path '/var/lib/kubelet/pods*' ! -path '/var/lib/kubelet/*_state' ! -path '/var/lib/kubelet/plugins*' ! -path '/var/lib/kubelet/device-plugins*' ! -path /var/lib/kubelet"), starts(t, ctx, m)
		out := mustRun(t, ctx, m, "bootstrap-agent", "adopt", "--dry-run")
		for _, want := range []string{"- --kubeconfig=/etc/kubernetes/kubelet.conf", "+ --kubeconfig=/var/lib/kubelet/kubeconfig", "- --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf", c.Pin()} {
			if !strings.Contains(out, want) {
				t.Errorf("it does not show %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, " --config=") {
			t.Errorf("the kubelet's configuration would change:\n%s", out)
		}
		if after := treeOf(t, ctx, m, "! -path '/var/lib/kubelet/pods*' ! -path '/var/lib/kubelet/*_state' ! -path '/var/lib/kubelet/plugins*' ! -path '/var/lib/kubelet/device-plugins*' ! -path /var/lib/kubelet"); after != tree {
			t.Errorf("before:\n%s\nafter:\n%s", tree, after)
		}
		if now := starts(t, ctx, m); now != runs {
			t.Errorf("%d starts of the kubelet", now-runs)
		}
	})

	t.Run("adopt", func(t *testing.T) {
		runs := starts(t, ctx, m)
		began := time.Now()
		t.Log(mustRun(t, ctx, m, "bootstrap-agent", "adopt", "--yes"))
		s := awaitStatus(t, ctx, m, "the node", 60*time.Second, inPhase(agent.Joined))
		t.Logf("joined %.1f s after the command", time.Since(began).Seconds())
		for _, note := range s.Notes {
			if note.Reason == fault.Drifted || note.Reason == fault.ConfigInvalid {
				t.Errorf("%s: %s", note.Reason, note.Message)
			}
		}
		if n := starts(t, ctx, m) - runs; n != 1 {
			t.Errorf("%d starts of the kubelet", n)
		}
		stays("taken over")
		if now := digests(t, ctx, m, kubeadms...); now != files {
			t.Errorf("kubeadm's files were\n%s\nand are\n%s", files, now)
		}
		if now, err := c.CSRs(ctx); err != nil || len(now) != len(csrs) {
			t.Errorf("%d requests, %d before (%v)", len(now), len(csrs), err)
		}
		argv := mustRun(t, ctx, m, "sh", "-c", "tr '\\0' '\\n' < /proc/$(systemctl show --value --property=MainPID kubelet)/cmdline")
		for _, want := range []string{"--kubeconfig=/var/lib/kubelet/kubeconfig", "--config=/var/lib/kubelet/config.yaml", "--hostname-override=" + m.Name} {
			if !strings.Contains(argv, want) {
				t.Errorf("the kubelet runs without %s:\n%s", want, argv)
			}
		}
		if out := mustRun(t, ctx, m, "bootstrap-agent", "adopt", "--yes"); !strings.Contains(out, "already") {
			t.Errorf("a second time: %s", out)
		}
	})

	t.Run("kubeadm upgrades its configuration", func(t *testing.T) {
		mustRun(t, ctx, m, "mkdir", "-p", "/etc/kubernetes/patches")
		if err := m.WriteFile(ctx, "/etc/kubernetes/patches/kubeletconfiguration+merge.yaml", "maxPods: 77\n", 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(mustRun(t, ctx, m, "kubeadm", "upgrade", "node", "phase", "kubelet-config", "--patches", "/etc/kubernetes/patches"))
		if config, err := m.ReadFile(ctx, "/var/lib/kubelet/config.yaml"); err != nil || !strings.Contains(config, "maxPods: 77") {
			t.Fatalf("kubeadm wrote %q, %v", config, err)
		}
		mustRun(t, ctx, m, "systemctl", "restart", "kubelet")
		awaitMaxPods(t, ctx, c, m.Name, 77)
		mustRun(t, ctx, m, "systemctl", "restart", agentUnit) // it looks at everything anew
		s := awaitStatus(t, ctx, m, "the node", 60*time.Second, inPhase(agent.Joined))
		for _, note := range s.Notes {
			if note.Reason == fault.Drifted {
				t.Errorf("%s", note.Message)
			}
		}
		if config, err := m.ReadFile(ctx, "/var/lib/kubelet/config.yaml"); err != nil || !strings.Contains(config, "maxPods: 77") {
			t.Errorf("the agent wrote %q, %v", config, err)
		}
		stays("upgraded")
	})

	t.Run("reset --restore", func(t *testing.T) {
		runs := starts(t, ctx, m)
		t.Log(mustRun(t, ctx, m, "bootstrap-agent", "reset", "--restore", "--yes"))
		if n := starts(t, ctx, m) - runs; n != 1 {
			t.Errorf("%d starts of the kubelet", n)
		}
		argv := mustRun(t, ctx, m, "sh", "-c", "tr '\\0' ' ' < /proc/$(systemctl show --value --property=MainPID kubelet)/cmdline")
		if !strings.Contains(argv, "--kubeconfig=/etc/kubernetes/kubelet.conf") || strings.Contains(argv, "--hostname-override") {
			t.Errorf("the kubelet runs as %s", argv)
		}
		stays("given back")
		left := mustRun(t, ctx, m, "sh", "-c", "find /var/lib/bootstrap-agent /etc/bootstrap-agent /etc/systemd/system/kubelet.service.d -type f ! -name lock 2>/dev/null || true")
		if left != "" {
			t.Errorf("left: %s", left)
		}
		if _, err := m.ReadFile(ctx, "/var/lib/kubelet/kubeconfig"); err == nil {
			t.Error("the agent's kubeconfig is still there")
		}
	})
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

// awaitMaxPods waits until the kubelet has told its limit.
func awaitMaxPods(t *testing.T, ctx context.Context, c *cluster.Cluster, name string, want int64) {
	t.Helper()
	for {
		node, err := c.AwaitReady(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if node.Status.Capacity.Pods().Value() == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the Node holds %d pods", node.Status.Capacity.Pods().Value())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// A node with a unit of its owner's own, whose kubelet did its own TLS bootstrap with
// its kubeconfig where the agent's stands.
func TestANodeJoinedByHandIsTakenOverAndGivenBack(t *testing.T) {
	ctx := scenario(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const kubeconfig, config = "/var/lib/kubelet/kubeconfig", "/etc/kubernetes/kubelet.yaml"
	token, err := c.NewToken(ctx, cluster.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := bootMachine(t, ctx, machine.Options{Name: "by-hand", Files: map[string]machine.File{
		"/etc/kubernetes/bootstrap.kubeconfig": {Content: bootstrapKubeconfig(c, token), Mode: 0o600},
		"/etc/kubernetes/pki/ca.crt":           {Content: string(c.CA())},
		config:                                 {Content: kubeletConfig(t, ctx, c)},
		ourUnitPath: {Content: "[Unit]\nAfter=containerd.service\n[Service]\nExecStart=/usr/bin/kubelet --config=" + config + " --kubeconfig " + kubeconfig +
			" --bootstrap-kubeconfig=/etc/kubernetes/bootstrap.kubeconfig --node-labels=lab=hand --v=3\n[Install]\nWantedBy=multi-user.target\n"},
	}})
	mustRun(t, ctx, m, "systemctl", "enable", "--now", "--quiet", "kubelet.service")
	before, err := c.AwaitReady(ctx, m.Name)
	if err != nil {
		t.Fatal(err)
	}
	installAgent(t, ctx, m)
	theirs, serial, runs := digests(t, ctx, m, kubeconfig, config, ourUnitPath), adoptedSerial(t, ctx, m), starts(t, ctx, m)
	t.Log(mustRun(t, ctx, m, "bootstrap-agent", "adopt", "--yes"))
	awaitStatus(t, ctx, m, "the node", 60*time.Second, inPhase(agent.Joined))
	if now := adoptedSerial(t, ctx, m); now != serial {
		t.Errorf("the certificate was %s and is %s", serial, now)
	}
	argv := mustRun(t, ctx, m, "sh", "-c", "tr '\\0' '\\n' < /proc/$(systemctl show --value --property=MainPID kubelet)/cmdline")
	for _, want := range []string{"--config=" + config, "--node-labels=lab=hand", "--v=3", ourKubeconfig} {
		if !strings.Contains(argv, want) {
			t.Errorf("the kubelet runs without %s:\n%s", want, argv)
		}
	}
	mustRun(t, ctx, m, "bootstrap-agent", "reset", "--restore", "--yes")
	if now := digests(t, ctx, m, kubeconfig, config, ourUnitPath); now != theirs {
		t.Errorf("before:\n%s\nafter:\n%s", theirs, now)
	}
	if n := starts(t, ctx, m) - runs; n != 2 {
		t.Errorf("%d starts of the kubelet for both", n)
	}
	after, err := c.AwaitReady(ctx, m.Name)
	if err != nil || after.UID != before.UID {
		t.Errorf("the Node is %v, %v", after, err)
	}
	// What its owner has left there, and looks to the watch over secrets like ours.
	mustRun(t, ctx, m, "rm", "/etc/kubernetes/bootstrap.kubeconfig")
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

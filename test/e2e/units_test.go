//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The unit of "Kubernetes the hard way", with a preparation of its owner's. The
// kubelet came from a tarball.
const (
	hardWayConfig = "/var/lib/kubelet/kubelet-config.yaml"
	hardWayUnit   = `[Unit]
Description=Kubernetes Kubelet
Documentation=https://github.com/kubernetes/kubernetes
After=containerd.service
Requires=containerd.service

[Service]
ExecStartPre=/bin/mkdir -p /run/hard-way
ExecStart=/opt/bin/kubelet \
  --config=/var/lib/kubelet/kubelet-config.yaml \
  --kubeconfig=/var/lib/kubelet/kubeconfig \
  --v=2
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
`
	hardWayKubeletConfig = cluster.KubeletSettings + `authentication: {anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
maxPods: 17
`
	hardWayTLS = "tlsCertFile: /var/lib/kubelet/kubelet.crt\ntlsPrivateKeyFile: /var/lib/kubelet/kubelet.key\n"
	// One that bootstraps by itself, as guides on TLS bootstrapping have it.
	bootstrapUnit = `[Service]
ExecStart=/usr/local/bin/kubelet --cert-dir=/var/lib/kubelet/ --bootstrap-kubeconfig=/var/lib/kubelet/bootstrap-kubeconfig \
  --kubeconfig=/var/lib/kubelet/kubeconfig --rotate-certificates --runtime-cgroups=/system.slice/containerd.service
[Install]
WantedBy=multi-user.target
`
	// What a second program is in this scenario: the first one by another name.
	secondKubelet = "#!/bin/sh\nexec /usr/local/bin/kubelet \"$@\"\n"
)

// A machine with a kubelet of its own, as people really set them up. What its
// unit, its files or its administrator would lose stops the join before a byte is
// sent, and not a byte is changed; then it joins, with what they have said.
func TestAMachineWithAKubeletUnitOfItsOwn(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	pipe := newPipe(t, ctx, c)
	m := agentMachine(t, ctx, machine.Options{
		Name: "own-unit", Kubelet: elsewhere, Binds: []string{kubelet + ":/usr/local/bin/kubelet"},
		Files: map[string]machine.File{"/opt/bin/kubelet": {Content: secondKubelet, Mode: 0o755}},
	})
	good := settings{endpoints: []string{pipe.Endpoint()}, server: "https://" + c.Endpoint(), pin: c.Pin(), token: newToken(t, ctx, c).String()}
	for _, tt := range []unitRow{
		{
			name: "the hard way's unit with a configuration of its own", files: map[string]string{ourUnitPath: hardWayUnit, hardWayConfig: hardWayKubeletConfig},
			reason: fault.UnitOverridden, says: []string{ourUnitPath, `"--config=` + hardWayConfig + `"`, `"--v=2"`}, hint: []string{"kubelet.configFile for --config", `kubelet.extraArgs: ["--v=2"]`, "kubelet.dropFlags: true"},
		},
		{
			name: "that configuration names a file that is missing", files: map[string]string{ourUnitPath: hardWayUnit, hardWayConfig: hardWayKubeletConfig + hardWayTLS},
			more:   "kubelet: {configFile: " + hardWayConfig + ", extraArgs: [--v=2]}\n",
			reason: fault.ConfigInvalid, says: []string{"kubelet.configFile: tlsCertFile", "/var/lib/kubelet/kubelet.crt", "tlsPrivateKeyFile", "/var/lib/kubelet/kubelet.key"},
		},
		{
			name: "a unit that bootstraps by itself", files: map[string]string{ourUnitPath: bootstrapUnit},
			reason: fault.UnitOverridden, says: []string{`lose: "--runtime-cgroups=/system.slice/containerd.service"`}, hint: []string{`kubelet.extraArgs: ["--runtime-cgroups=/system.slice/containerd.service"]`},
		},
		{
			name: "a unit that runs a shell", files: map[string]string{ourUnitPath: "[Service]\nExecStart=/bin/sh -c 'exec /usr/local/bin/kubelet --v=2'\n"},
			reason: fault.UnitOverridden, says: []string{"/bin/sh -c exec /usr/local/bin/kubelet --v=2"}, hint: []string{"ExecStartPre="},
		},
		{
			name: "a masked unit", links: map[string]string{ourUnitPath: "/dev/null"},
			reason: fault.UnitMasked, says: []string{"kubelet.service is masked"}, hint: []string{"systemctl unmask kubelet.service"},
		},
		{
			name: "another node name in the administrator's file", files: map[string]string{extraArgsPath: "KUBELET_EXTRA_ARGS='--v=3 --hostname-override=other'\n"},
			reason: fault.UnitOverridden, says: []string{"$KUBELET_EXTRA_ARGS", `"--hostname-override=other"`}, hint: []string{extraArgsPath, "nodeName"},
		},
		{
			name: "somebody's configuration where ours would be", files: map[string]string{"/var/lib/kubelet/config.yaml": hardWayKubeletConfig},
			reason: fault.UnitOverridden, says: []string{"/var/lib/kubelet/config.yaml"}, hint: []string{"mv /var/lib/kubelet/config.yaml", "kubelet.configFile"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.isRefused(t, ctx, m, pipe, good) })
	}
	t.Run("the cluster's configuration names files that are missing", func(t *testing.T) {
		clusterConfigNamesMissingFiles(t, ctx, c, m, good)
	})
	t.Run("two kubelets and no unit", func(t *testing.T) { twoKubeletsAndNoUnit(t, ctx, c, m, good) })
	forgetJoin(t, ctx, c, m)
	t.Run("the hard way's unit joins with what its owner has said", func(t *testing.T) { hardWayJoins(t, ctx, c, m, good) })
}

// unitRow is a machine that must not be taken over as it is.
type unitRow struct {
	name         string
	files, links map[string]string
	more         string // of the agent's config
	reason       fault.Reason
	says, hint   []string
}

func (row unitRow) isRefused(t *testing.T, ctx context.Context, m *machine.Machine, pipe *proxy.Pipe, with settings) {
	connections := pipe.Accepted()
	with.more = row.more
	prepare(t, ctx, m, with)
	for path, content := range row.files {
		if err := m.WriteFile(ctx, path, content, 0); err != nil {
			t.Fatal(err)
		}
		defer mustRun(t, ctx, m, "rm", path)
	}
	for path, target := range row.links {
		mustRun(t, ctx, m, "ln", "-s", target, path)
		defer mustRun(t, ctx, m, "rm", path)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	before := treeOf(t, ctx, m, "")
	result, err := m.Run(ctx, "bootstrap-agent", "join", "--timeout", "20s")
	entry, _ := fault.Lookup(row.reason)
	told := flat(result.Stderr)
	if err != nil || result.Code != entry.Exit || !strings.Contains(told, string(row.reason)) {
		t.Errorf("join: %v, %+v", err, result)
	}
	for _, part := range slices.Concat(row.says, row.hint) {
		if !strings.Contains(told, part) {
			t.Errorf("it does not tell %q: %s", part, told)
		}
	}
	if after := treeOf(t, ctx, m, ""); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if n := pipe.Accepted() - connections; n != 0 {
		t.Errorf("%d connections to the API server", n)
	}
}

// clusterConfigNamesMissingFiles leaves the machine with a certificate and
// nothing that a kubelet could start with.
func clusterConfigNamesMissingFiles(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	const path = "/api/v1/namespaces/kube-system/configmaps/kubelet-config"
	var config corev1.ConfigMap
	if err := c.Get(ctx, path, &config); err != nil {
		t.Fatal(err)
	}
	old := config.Data["kubelet"]
	patch := func(text string) {
		t.Helper()
		data, err := json.Marshal(map[string]any{"data": map[string]string{"kubelet": text}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Kubectl(ctx, "patch", "configmap", "-n", "kube-system", "kubelet-config", "--type=merge", "--patch="+string(data)); err != nil {
			t.Fatal(err)
		}
	}
	patch(old + hardWayTLS)
	defer patch(old)
	prepare(t, ctx, m, good)
	result, err := m.Run(ctx, "bootstrap-agent", "join", "--timeout", "30s")
	told := flat(result.Stderr)
	if err != nil || result.Code != fault.ExitConfig {
		t.Errorf("join: %v, %+v", err, result)
	}
	for _, part := range []string{"ConfigMap kube-system/kubelet-config: tlsCertFile", "/var/lib/kubelet/kubelet.crt", "tlsPrivateKeyFile", "kubelet-config in namespace kube-system"} {
		if !strings.Contains(told, part) {
			t.Errorf("it does not tell %q: %s", part, told)
		}
	}
	for _, path := range []string{"/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/config.yaml"} {
		if text, err := m.ReadFile(ctx, path); err == nil {
			t.Errorf("%s was written: %s", path, text)
		}
	}
	if state := unitProps(t, ctx, m, "kubelet.service", "ActiveState")["ActiveState"]; state != "inactive" {
		t.Errorf("kubelet.service is %s", state)
	}
}

// twoKubeletsAndNoUnit goes on where the last one ended: once the ConfigMap is
// mended, the join ends by itself.
func twoKubeletsAndNoUnit(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	requests := len(csrsOf(t, ctx, c, tokenFrom(good)))
	if err := m.WriteFile(ctx, extraArgsPath, "KUBELET_EXTRA_ARGS=\"--v=3 --max-pods=42\"\n", 0); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	joined := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	if step, ok := stepOf(joined, agent.StepUnit); !ok || !strings.Contains(step.Detail, "/usr/local/bin/kubelet is taken, not /opt/bin/kubelet") {
		t.Errorf("which kubelet is taken is not said: %+v", joined.Timeline)
	}
	if n := len(csrsOf(t, ctx, c, tokenFrom(good))); n != requests || n != 1 {
		t.Errorf("%d requests, %d before: the certificate was there", n, requests)
	}
	argv := checkOurKubelet(t, ctx, m, ourUnitPath, []string{ourDropInPath})
	if want := []string{"--v=3", "--max-pods=42"}; argv[0] != "/usr/local/bin/kubelet" || !slices.Equal(argv[len(argv)-2:], want) {
		t.Errorf("the running kubelet: %q, want it to end with %q", argv, want)
	}
	checkPods(t, ctx, c, m.Name, 42)
	if log, err := m.Journal(ctx, "kubelet.service"); err != nil || strings.Contains(log, "unset environment variable") {
		t.Errorf("systemd complains about a variable (%v)", err)
	}
}

// forgetJoin makes the machine new again, but for its agent's package.
func forgetJoin(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	t.Helper()
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path", agentUnit)
	mustRun(t, ctx, m, "systemctl", "disable", "--now", "--quiet", "kubelet.service")
	mustRun(t, ctx, m, "sh", "-c", "rm -rf /var/lib/kubelet/pki /var/lib/kubelet/kubeconfig /var/lib/kubelet/config.yaml "+ourUnitPath+" "+ourUnitPath+".d "+extraArgsPath)
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
}

func hardWayJoins(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	good.more = "kubelet: {configFile: " + hardWayConfig + ", extraArgs: [--v=2]}\n"
	prepare(t, ctx, m, good)
	if err := m.WriteFiles(ctx, map[string]machine.File{
		ourUnitPath: {Content: hardWayUnit}, hardWayConfig: {Content: hardWayKubeletConfig},
		"/etc/sysconfig/kubelet": {Content: "# as Red Hat has it\nKUBELET_EXTRA_ARGS=--v=4\n"},
	}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	mine := func() string {
		return mustRun(t, ctx, m, "stat", "--printf", "%n %A %s %y %z %i\n", ourUnitPath, hardWayConfig) + mustRun(t, ctx, m, "sha256sum", ourUnitPath, hardWayConfig)
	}
	before := mine()
	if state := unitProps(t, ctx, m, "kubelet.service", "UnitFileState")["UnitFileState"]; state != "disabled" {
		t.Errorf("before the join it is %s", state)
	}
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	joined := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	if step, ok := stepOf(joined, agent.StepUnit); !ok || !strings.Contains(step.Detail, "/opt/bin/kubelet is taken, not /usr/local/bin/kubelet") {
		t.Errorf("its own kubelet is not taken: %+v", joined.Timeline)
	}
	if argv := checkOurKubelet(t, ctx, m, ourUnitPath, []string{ourDropInPath}); argv[len(argv)-1] != "--v=4" || argv[len(argv)-2] != "--v=2" {
		t.Errorf("the running kubelet: %q", argv)
	}
	checkPods(t, ctx, c, m.Name, 17)
	if after := mine(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	mustRun(t, ctx, m, "test", "-d", "/run/hard-way")
	for name, want := range map[string]string{"UnitFileState": "enabled", "Restart": "always", "RestartUSec": "10s", "StartLimitIntervalUSec": "0"} {
		if got := unitProps(t, ctx, m, "kubelet.service", name)[name]; got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if got := unitProps(t, ctx, m, "kubelet.service", "Requires")["Requires"]; !strings.Contains(got, "containerd.service") {
		t.Errorf("its Requires= is lost: %s", got)
	}
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

func checkPods(t *testing.T, ctx context.Context, c *cluster.Cluster, name string, want int64) {
	t.Helper()
	node, err := c.AwaitNode(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Status.Capacity.Pods().Value(); got != want {
		t.Errorf("the Node holds %d pods, want %d", got, want)
	}
}

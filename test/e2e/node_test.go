//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// newMachine prepares a machine as a person would for a node: containerd runs, a
// kubelet is installed, a CNI configuration is there. It is off, so that files
// can be put in; shown when the test fails, gone when it ends.
func newMachine(t *testing.T, ctx context.Context, opts machine.Options) *machine.Machine {
	t.Helper()
	opts.Containerd, opts.CNI = true, true
	switch opts.Kubelet {
	case "":
		opts.Kubelet = kubelet
	case elsewhere:
		opts.Kubelet = ""
	}
	var ear ear
	opts.Heard = ear.hear
	m, err := lab.New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showMachine(t, m)
		}
		holdsNoSecret(t, m)
		ear.heardNoSecret(t, m)
		runsAsShipped(t, m)
		if err := m.Close(); err != nil {
			t.Errorf("machine %s: %v", m.Name, err)
		}
	})
	return m
}

// elsewhere, as Options.Kubelet: no kubelet in /usr/bin.
const elsewhere = "elsewhere"

// bootMachine is newMachine, booted.
func bootMachine(t *testing.T, ctx context.Context, opts machine.Options) *machine.Machine {
	t.Helper()
	m := newMachine(t, ctx, opts)
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

// showMachine logs what a person would look at first.
func showMachine(t *testing.T, m *machine.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	out, err := m.Output(ctx, "sh", "-c", `systemctl list-units --failed --no-legend --plain
for unit in bootstrap-agent kubelet containerd; do echo "--- $unit"; journalctl --boot --no-pager --output=short-precise --lines=25 --unit=$unit; done`)
	if err != nil {
		out = err.Error() + "\n" + m.Console()
	}
	t.Logf("machine %s:\n%s", m.Name, out)
}

// mustRun runs a command that must succeed.
func mustRun(t *testing.T, ctx context.Context, m *machine.Machine, argv ...string) string {
	t.Helper()
	out, err := m.Output(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubeletConfig is what the kubelet of a machine gets with --config when nobody
// fetches the cluster's: the cluster's own if it has one, else the lab's.
func kubeletConfig(t *testing.T, ctx context.Context, c *cluster.Cluster) string {
	t.Helper()
	if c.Shape == cluster.ByHand {
		return cluster.KubeletSettings + "authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n" +
			"containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n"
	}
	var config corev1.ConfigMap
	if err := c.Get(ctx, "/api/v1/namespaces/kube-system/configmaps/kubelet-config", &config); err != nil {
		t.Fatal(err)
	}
	return config.Data["kubelet"]
}

// bootstrapKubeconfig is the file with which a kubelet does its own TLS bootstrap.
func bootstrapKubeconfig(c *cluster.Cluster, token cluster.Token) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: token, user: {token: %q}}]
contexts: [{name: lab, context: {cluster: lab, user: token}}]
current-context: lab
`, c.Endpoint(), base64.StdEncoding.EncodeToString(c.CA()), token)
}

// The kubelet package of Kubernetes as it ships for Debian: its unit, and
// kubeadm's drop-in for it. Neither is ours, and both are there on most machines.
const (
	vendorUnitPath = "/usr/lib/systemd/system/kubelet.service"
	vendorUnit     = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`
	vendorDropInPath = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
	vendorDropIn     = `# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generates at runtime, populating the KUBELET_KUBEADM_ARGS variable dynamically
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# This is a file that the user can use for overrides of the kubelet args as a last resort. Preferably, the user should use
# the .NodeRegistration.KubeletExtraArgs object in the configuration files instead. KUBELET_EXTRA_ARGS should be sourced from this file.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`
)

// vendorFiles are the two, for Options.Files.
func vendorFiles() map[string]machine.File {
	return map[string]machine.File{vendorUnitPath: {Content: vendorUnit}, vendorDropInPath: {Content: vendorDropIn}}
}

// kubeadmMachine boots a machine that is ready for kubeadm join: the vendor's
// unit files and kubeadm itself.
func kubeadmMachine(t *testing.T, ctx context.Context, name string) *machine.Machine {
	t.Helper()
	return bootMachine(t, ctx, machine.Options{
		Name: name, Files: vendorFiles(),
		Binds: []string{filepath.Join(filepath.Dir(kubelet), "kubeadm") + ":/usr/bin/kubeadm"},
	})
}

// kubeadmJoin joins the machine as its administrator would, with the line that
// kubeadm prints. The checks before it are for whole machines, not containers.
func kubeadmJoin(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	t.Helper()
	line, err := c.PrintJoinLine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "enable", "--quiet", "kubelet.service")
	mustRun(t, ctx, m, append(strings.Fields(line), "--ignore-preflight-errors=all")...)
}

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// contestant is one way to make a machine a node.
type contestant struct {
	key, title string
	// prepare puts into the machine what is there before the start.
	prepare func(b *bench, ctx context.Context, o *machine.Options) error
	// install is done in the machine once it runs; may be nil.
	install func(b *bench, ctx context.Context, m *machine.Machine) error
	// start is what a person types.
	start func(b *bench) []string
}

const agentKey, certifiedKey = "agent", "certified"

// contestants: the last is what the others are compared with.
func contestants() []contestant {
	startKubelet := func(*bench) []string { return []string{"systemctl", "start", "kubelet.service"} }
	return []contestant{
		{
			key: agentKey, title: "bootstrap-agent",
			prepare: func(*bench, context.Context, *machine.Options) error { return nil },
			install: installAgent,
			start:   func(*bench) []string { return []string{"systemctl", "start", "bootstrap-agent.service"} },
		},
		{
			key: "kubeadm", title: "kubeadm join",
			prepare: func(b *bench, _ context.Context, o *machine.Options) error {
				o.Files = vendorFiles()
				o.Binds = []string{filepath.Join(b.bin, "kubeadm") + ":/usr/bin/kubeadm"}
				return nil
			},
			install: func(_ *bench, ctx context.Context, m *machine.Machine) error {
				if _, err := m.Output(ctx, "systemctl", "enable", "--quiet", "kubelet.service"); err != nil {
					return err
				}
				// What kubeadm asks of every node, and package managers do not set.
				_, err := m.Output(ctx, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1")
				return err
			},
			start: func(b *bench) []string {
				return []string{
					"kubeadm", "join", b.cluster.Endpoint(), "--token", b.token.String(), "--discovery-token-ca-cert-hash", b.cluster.Pin(),
					"--ignore-preflight-errors=" + strings.Join(containerOnly, ","),
				}
			},
		},
		{
			key: "bootstrap", title: "kubelet, its own TLS bootstrap",
			prepare: func(b *bench, ctx context.Context, o *machine.Options) error {
				o.Files = vendorFiles()
				user := fmt.Sprintf("{token: %q}", b.token)
				o.Files["/etc/kubernetes/bootstrap-kubelet.conf"] = machine.File{Content: b.kubeconfig(user), Mode: 0o600}
				return b.addKubeletFiles(ctx, o.Files)
			},
			start: startKubelet,
		},
		{
			key: certifiedKey, title: "kubelet that has its certificate",
			prepare: func(b *bench, ctx context.Context, o *machine.Options) error {
				o.Files = vendorFiles()
				const pair = "/var/lib/kubelet/pki/kubelet-client-current.pem"
				content, err := issueNodePair(b.cluster.Dir, o.Name)
				if err != nil {
					return err
				}
				o.Files[pair] = machine.File{Content: content, Mode: 0o600}
				user := fmt.Sprintf("{client-certificate: %s, client-key: %s}", pair, pair)
				o.Files["/etc/kubernetes/kubelet.conf"] = machine.File{Content: b.kubeconfig(user), Mode: 0o600}
				return b.addKubeletFiles(ctx, o.Files)
			},
			start: startKubelet,
		},
	}
}

// containerOnly are the checks of kubeadm that may fail only because the machine
// is a container: it has the cgroups and the kernel of this host. They run all
// the same, so they take their time.
var containerOnly = []string{"SystemVerification"}

// installAgent installs the package with apt and configures it from the line
// that kubeadm prints. Nothing is started: the path unit, which would start the
// agent as soon as there is a config, is stopped before.
func installAgent(b *bench, ctx context.Context, m *machine.Machine) error {
	if _, err := m.InstallDeb(ctx, b.deb); err != nil {
		return err
	}
	if _, err := m.Output(ctx, "systemctl", "stop", "bootstrap-agent.path"); err != nil {
		return err
	}
	line := fmt.Sprintf("kubeadm join %s --token %s --discovery-token-ca-cert-hash %s\n", b.cluster.Endpoint(), b.token, b.cluster.Pin())
	result, err := m.RunInput(ctx, []byte(line), "bootstrap-agent", "configure", "-")
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("configure ended with %d: %s", result.Code, result.Stderr)
	}
	return err
}

// addKubeletFiles adds what every kubelet needs when nobody fetches it: the
// cluster's own kubelet-config and its CA.
func (b *bench) addKubeletFiles(ctx context.Context, files map[string]machine.File) error {
	var config corev1.ConfigMap
	if err := b.cluster.Get(ctx, "/api/v1/namespaces/kube-system/configmaps/kubelet-config", &config); err != nil {
		return err
	}
	files["/var/lib/kubelet/config.yaml"] = machine.File{Content: config.Data["kubelet"]}
	files["/etc/kubernetes/pki/ca.crt"] = machine.File{Content: string(b.cluster.CA())}
	return nil
}

func (b *bench) kubeconfig(user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: node, user: %s}]
contexts: [{name: lab, context: {cluster: lab, user: node}}]
current-context: lab
`, b.cluster.Endpoint(), base64.StdEncoding.EncodeToString(b.cluster.CA()), user)
}

// vendorFiles are the kubelet's unit and kubeadm's drop-in as the packages of
// Kubernetes for Debian bring them.
func vendorFiles() map[string]machine.File {
	return map[string]machine.File{
		"/usr/lib/systemd/system/kubelet.service": {Content: `[Unit]
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
`},
		"/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": {Content: `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`},
	}
}

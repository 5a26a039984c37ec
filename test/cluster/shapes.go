package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// shape is the two steps in which clusters differ: the keys before the API
// server starts, the objects after it serves.
type shape struct {
	keys, objects func(context.Context, *Cluster) error
}

var shapes = map[Shape]shape{
	Kubeadm: {kubeadmKeys, kubeadmObjects},
	ByHand:  {handKeys, handObjects},
}

// KubeletSettings are what a kubelet needs in a machine of the lab: a container
// on a host that may still have cgroup v1. As YAML of a KubeletConfiguration,
// for a kubelet-config or for a file in the kubelet's --config-dir.
const KubeletSettings = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: ["none"]
failSwapOn: false
`

// kubeadmToken is the one that kubeadm's own phase makes; tests make theirs
// with NewToken.
const kubeadmToken = "lab000.0123456789abcdef"

func kubeadmKeys(ctx context.Context, c *Cluster) error {
	version, err := c.kubeadm(ctx, "version", "-o", "short")
	if err != nil {
		return err
	}
	kubelet := KubeletSettings
	if c.PlainKubeletConfig {
		kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	}
	// kubeadm would write the folder of this cluster's PKI into every node's
	// configuration; real clusters have theirs where nodes have it too.
	kubelet += "authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n"
	// kubeadm refuses to advertise a loopback address, so it gets one that nobody
	// uses, and the endpoint by its other name.
	config := fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{token: %q, ttl: 24h0m0s}]
localAPIEndpoint: {advertiseAddress: "198.18.255.1", bindPort: %s}
nodeRegistration: {name: control-plane, criSocket: "unix:///run/containerd/containerd.sock"}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: %s
clusterName: lab
controlPlaneEndpoint: %q
certificatesDir: %q
networking: {serviceSubnet: 10.96.0.0/16}
apiServer: {certSANs: %s}
---
%s`, kubeadmToken, c.port, strings.TrimSpace(version), c.Endpoint(), filepath.Join(c.Dir, "pki"), mustJSON(c.sans()), kubelet)
	if err := os.WriteFile(filepath.Join(c.Dir, "kubeadm.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	for _, phase := range [][]string{
		{"certs", "ca"}, {"certs", "apiserver"}, {"certs", "apiserver-kubelet-client"}, {"certs", "sa"},
		{"kubeconfig", "admin"}, {"kubeconfig", "super-admin"}, {"kubeconfig", "controller-manager"},
	} {
		args := append([]string{"init", "phase"}, append(phase, "--config", "kubeadm.yaml")...)
		if phase[0] == "kubeconfig" {
			args = append(args, "--kubeconfig-dir", c.Dir)
		}
		if _, err := c.kubeadm(ctx, args...); err != nil {
			return err
		}
	}
	// The one kubeconfig that kubeadm points at the advertised address.
	path := filepath.Join(c.Dir, "controller-manager.conf")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text = serverLine.ReplaceAll(text, []byte("server: https://"+c.Endpoint()))
	return os.WriteFile(path, text, 0o600)
}

var serverLine = regexp.MustCompile(`server: https://\S+`)

func kubeadmObjects(ctx context.Context, c *Cluster) error {
	with := []string{"--config", "kubeadm.yaml", "--kubeconfig", "super-admin.conf"}
	for _, phase := range [][]string{{"upload-config", "all"}, {"bootstrap-token", "--skip-token-print"}} {
		if _, err := c.kubeadm(ctx, append(append([]string{"init", "phase"}, phase...), with...)...); err != nil {
			return err
		}
	}
	// What kubeadm init does by the way, between its phases: admin.conf gets its rights.
	if _, err := c.Kubectl(ctx, "--kubeconfig=super-admin.conf", "create", "clusterrolebinding", "kubeadm:cluster-admins",
		"--clusterrole=cluster-admin", "--group=kubeadm:cluster-admins"); err != nil {
		return err
	}
	if c.NoAutoApproval {
		return c.SetAutoApproval(ctx, false)
	}
	return nil
}

// approvalBinding is what makes the controller-manager approve the CSRs of
// tokens: its name and its group in each shape.
var approvalBinding = map[Shape][2]string{
	Kubeadm: {"kubeadm:node-autoapprove-bootstrap", "system:bootstrappers:kubeadm:default-node-token"},
	ByHand:  {"bootstrap-agent:approve-first-certificates", "system:bootstrappers"},
}

// SetAutoApproval makes or removes the binding that lets CSRs of bootstrap
// tokens be approved by the controller-manager. The authorizer of the API server
// learns of it within moments, not at once.
func (c *Cluster) SetAutoApproval(ctx context.Context, on bool) error {
	name, group := approvalBinding[c.Shape][0], approvalBinding[c.Shape][1]
	args := []string{"delete", "clusterrolebinding", name, "--ignore-not-found"}
	if on {
		args = []string{"create", "clusterrolebinding", name, "--group=" + group,
			"--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
	}
	_, err := c.Kubectl(ctx, args...)
	return err
}

// sans are the names that the API server's certificate holds beyond the usual.
func (c *Cluster) sans() []string {
	return append([]string{c.Address, "127.0.0.1", "localhost"}, c.ExtraSANs...)
}

func (c *Cluster) kubeadm(ctx context.Context, args ...string) (string, error) {
	return c.tool(ctx, "kubeadm", nil, args...)
}

// tool runs kubeadm or kubectl in the scratch folder and returns what it printed
// on stdout; the error holds what it printed on stderr.
func (c *Cluster) tool(ctx context.Context, name string, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Bin, name), args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "HOME="+c.Dir, "KUBECONFIG="+c.AdminKubeconfig(), "NO_PROXY="+c.Address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(stderr.Bytes(), 8))
	}
	return stdout.String(), nil
}

// mustJSON quotes strings and lists of them for YAML; that cannot fail.
func mustJSON(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

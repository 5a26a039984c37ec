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
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// A node that kubeadm joined and that works: the agent sees it before it sends a
// byte, and nothing happens to it.
func TestANodeOfKubeadmsIsLeftAlone(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	pipe := newPipe(t, ctx, c)
	m := kubeadmMachine(t, ctx, "somebody-elses")
	kubeadmJoin(t, ctx, c, m)
	if _, err := c.AwaitReady(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
	installAgent(t, ctx, m)
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path", agentUnit)
	kubeletRun := func() string {
		return mustRun(t, ctx, m, "systemctl", "show", "kubelet.service", "--property=MainPID,ExecMainStartTimestampMonotonic,NRestarts,FragmentPath,DropInPaths,UnitFileState")
	}
	before := kubeletRun()
	// The kubelet runs on and keeps its own books; everything else stays as it is.
	refusesToTouch(t, ctx, c, m, pipe, "/etc/kubernetes/kubelet.conf", "! -path '/var/lib/kubelet/pods*' ! -path '/var/lib/kubelet/*_state' ! -path '/var/lib/kubelet/plugins*' ! -path '/var/lib/kubelet/device-plugins*' ! -path /var/lib/kubelet")
	if after := kubeletRun(); after != before {
		t.Errorf("kubelet.service before:\n%s\nafter:\n%s", before, after)
	}
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

func TestAMachineWithSomebodyElsesIdentityIsLeftAlone(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	pipe := newPipe(t, ctx, c)
	m := agentMachine(t, ctx, machine.Options{Name: "foreign"})
	const kubeconfig = "apiVersion: v1\nkind: Config\nclusters: [{name: theirs, cluster: {server: \"https://192.0.2.1:6443\"}}]\n" +
		"users: [{name: theirs, user: {client-certificate: /etc/theirs.crt, client-key: /etc/theirs.key}}]\n" +
		"contexts: [{name: theirs, context: {cluster: theirs, user: theirs}}]\ncurrent-context: theirs\n"
	const apiServer = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-apiserver, namespace: kube-system}\n" +
		"spec: {containers: [{name: kube-apiserver, image: registry.k8s.io/kube-apiserver:v1.36.3, command: [kube-apiserver, --secure-port=6443]}]}\n"
	for _, tt := range []struct{ name, path, content string }{
		{"a hand-made kubeconfig", "/var/lib/kubelet/kubeconfig", kubeconfig},
		{"a kubeconfig that is not understood", "/var/lib/kubelet/kubeconfig", "{{"},
		{"a control-plane node", "/etc/kubernetes/manifests/kube-apiserver.yaml", apiServer},
		{"a pair in the kubelet's folder", "/var/lib/kubelet/pki/kubelet-client-current.pem", "-----BEGIN CERTIFICATE-----\ntheirs\n-----END CERTIFICATE-----\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := m.WriteFile(ctx, tt.path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			refusesToTouch(t, ctx, c, m, pipe, tt.path, "")
			mustRun(t, ctx, m, "rm", tt.path)
		})
	}
}

// refusesToTouch configures and starts an agent on a machine that is somebody
// else's: ForeignKubelet naming the path, no connection, not a byte changed.
func refusesToTouch(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, pipe *proxy.Pipe, path, except string) {
	t.Helper()
	connections := pipe.Accepted()
	prepare(t, ctx, m, settings{endpoints: []string{pipe.Endpoint()}, pin: c.Pin(), token: newToken(t, ctx, c).String()})
	before := treeOf(t, ctx, m, except)
	if !strings.Contains(before, path+"\n") {
		t.Fatalf("%s is not among what is watched:\n%s", path, before)
	}
	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s := awaitStatus(t, ctx, m, "ForeignKubelet", 20*time.Second, hasReason(fault.ForeignKubelet))
	t.Logf("after %.2f s: %s -> %s", s.Since.Sub(began).Seconds(), s.Message, s.Hint)
	if s.Phase != agent.Blocked || !strings.Contains(s.Message, path) || s.Hint == "" {
		t.Errorf("phase %s, message %q, hint %q", s.Phase, s.Message, s.Hint)
	}
	mustRun(t, ctx, m, "systemctl", "stop", agentUnit)
	result, err := m.Run(ctx, "bootstrap-agent", "join", "--timeout", "20s")
	entry, _ := fault.Lookup(fault.ForeignKubelet)
	if err != nil || result.Code != entry.Exit || !strings.Contains(result.Stderr, "ForeignKubelet") || !strings.Contains(flat(result.Stderr), path) {
		t.Errorf("join: %v, %+v", err, result)
	}
	if n := pipe.Accepted() - connections; n != 0 {
		t.Errorf("%d connections to the API server", n)
	}
	if after := treeOf(t, ctx, m, except); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if out := mustRun(t, ctx, m, "find", "/var/lib/bootstrap-agent", "-type", "f", "!", "-name", "lock"); out != "" {
		t.Errorf("the agent kept: %s", out)
	}
}

// treeOf lists what belongs to a kubelet: mode, owner, time of the last change
// of content and of anything, digest, path.
func treeOf(t *testing.T, ctx context.Context, m *machine.Machine, except string) string {
	t.Helper()
	script := `shopt -s nullglob
mkdir -p /etc/kubernetes
find /var/lib/kubelet /etc/kubernetes /etc/systemd/system /usr/lib/systemd/system/kubelet* ` + except + ` | LC_ALL=C sort | while read -r path; do
  digest=-; if [ -f "$path" ]; then digest=$(sha256sum < "$path" | cut -c1-64); fi
  stat --printf "%A %u:%g %y %z $digest " -- "$path"; echo "$path"
done`
	out, err := m.RunScript(ctx, script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

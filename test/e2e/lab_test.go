//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// This proves the lab, without any code of ours: what a kubelet needs to become
// a Ready node is there, on both shapes, with the vendor's own unit files.
func TestLabKubeletJoinsByItsOwnTLSBootstrap(t *testing.T) {
	for _, shape := range []cluster.Shape{cluster.Kubeadm, cluster.ByHand} {
		t.Run(string(shape), func(t *testing.T) {
			ctx := scenario(t, 2*time.Minute)
			c := sharedCluster(t, ctx, shape)
			name := "tls-bootstrap-" + string(shape)
			token, err := c.NewToken(ctx, cluster.TokenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			files := vendorFiles()
			files["/etc/kubernetes/bootstrap-kubelet.conf"] = machine.File{Content: bootstrapKubeconfig(c, token), Mode: 0o600}
			files["/etc/kubernetes/pki/ca.crt"] = machine.File{Content: string(c.CA())}
			files["/var/lib/kubelet/config.yaml"] = machine.File{Content: kubeletConfig(t, ctx, c)}
			m := bootMachine(t, ctx, machine.Options{Name: name, Files: files})

			began := time.Now()
			mustRun(t, ctx, m, "systemctl", "enable", "--now", "--quiet", "kubelet.service")
			if _, err := c.AwaitNode(ctx, name); err != nil {
				t.Fatal(err)
			}
			seen := time.Since(began)
			node, err := c.AwaitReady(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("node seen %.1f s after the kubelet's start, Ready after %.1f s", seen.Seconds(), time.Since(began).Seconds())
			bootID, err := m.ReadFile(ctx, "/proc/sys/kernel/random/boot_id")
			if err != nil || strings.TrimSpace(bootID) != node.Status.NodeInfo.BootID {
				t.Errorf("the node has boot ID %q, the machine %q (%v)", node.Status.NodeInfo.BootID, bootID, err)
			}
			csr, err := c.AwaitCSR(ctx, cluster.ByToken(token.ID))
			if err != nil || len(csr.Status.Certificate) == 0 {
				t.Errorf("CSR of the token: %v, %v", csr, err)
			}
			out, err := c.Kubectl(ctx, "get", "node", name, "--no-headers")
			if err != nil || !strings.Contains(out, " Ready ") {
				t.Errorf("kubectl: %q, %v", out, err)
			}
			if err := c.DeleteNode(ctx, name); err != nil {
				t.Error(err)
			}
		})
	}
}

// The ways in which an endpoint can be dead or strange, as seen from a machine.
func TestLabProxiesBehaveForAMachine(t *testing.T) {
	ctx := scenario(t, 2*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := bootMachine(t, ctx, machine.Options{Name: "proxies"})

	pipe := newPipe(t, ctx, c)
	front := newFront(t, ctx, c, nil)
	refused, free, err := proxy.Refused(lab.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = free() }() // a port, gone with this process anyway
	dropped, release, err := proxy.Dropped(ctx, lab.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }() // as above

	const couldNotConnect, timedOut = 7, 28 // curl's exit codes
	get := func(endpoint string) int {
		t.Helper()
		result, err := m.Run(ctx, "curl", "--insecure", "--silent", "--show-error", "--output", "/dev/null", "--connect-timeout", "1", "--max-time", "2",
			"https://"+endpoint+"/api/v1/namespaces/kube-public/configmaps/cluster-info")
		if err != nil {
			t.Fatal(err)
		}
		return result.Code
	}
	for _, tt := range []struct {
		name, endpoint string
		want           int
	}{
		{"the API server", c.Endpoint(), 0},
		{"a pipe", pipe.Endpoint(), 0},
		{"a front", front.Endpoint(), 0},
		{"a port that refuses", refused, couldNotConnect},
		{"a port that drops", dropped, timedOut},
	} {
		if code := get(tt.endpoint); code != tt.want {
			t.Errorf("%s: curl ended with %d, want %d", tt.name, code, tt.want)
		}
	}
	if seen := front.Requests(); len(seen) != 1 || seen[0].Status != 200 || seen[0].Authorization {
		t.Errorf("the front saw %+v", seen)
	}
	if err := m.Drop(ctx, c.Endpoint()); err != nil {
		t.Fatal(err)
	}
	if code := get(c.Endpoint()); code != timedOut {
		t.Errorf("with dropped packets: curl ended with %d", code)
	}
	if code := get(pipe.Endpoint()); code != 0 {
		t.Errorf("another endpoint: curl ended with %d", code)
	}
	if err := m.Undrop(ctx); err != nil {
		t.Fatal(err)
	}
	if code := get(c.Endpoint()); code != 0 {
		t.Errorf("no longer dropped: curl ended with %d", code)
	}
}

// A machine that belongs to somebody: kubeadm's own join, with the vendor's unit
// files. Also what a join is measured against.
func TestLabKubeadmJoinsAMachine(t *testing.T) {
	ctx := scenario(t, 2*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := kubeadmMachine(t, ctx, "kubeadm-joined")
	began := time.Now()
	kubeadmJoin(t, ctx, c, m)
	if _, err := c.AwaitReady(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
	t.Logf("Ready %.1f s after kubeadm's start", time.Since(began).Seconds())
	if _, err := m.ReadFile(ctx, "/etc/kubernetes/kubelet.conf"); err != nil {
		t.Error(err)
	}
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "is-enabled", "kubelet.service")
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

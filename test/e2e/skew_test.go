//go:build e2e && skew

package e2e

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The main job between releases: the newest control plane with the newest and
// with an older kubelet, and the older control plane with its own kubelet (a
// kubelet newer than its API server is nothing that Kubernetes supports). The
// approver of each takes our request, which does not ask for key encipherment,
// and the kubelet's own, with which it renews: certificates live three minutes.
//
// It has a build tag of its own because the older release takes long to build:
// `make test-skew`.
func TestSkewAMachineJoinsAndRenewsWithAKubeletNotNewerThanTheControlPlane(t *testing.T) {
	older, err := cluster.BuildOlder(t.Context(), logf)
	if err != nil {
		t.Fatal(err)
	}
	newest := filepath.Dir(kubelet)
	for _, pair := range []struct{ plane, kubelet string }{{newest, newest}, {newest, older}, {older, older}} {
		server, node := releaseOf(t, pair.plane), releaseOf(t, pair.kubelet)
		t.Run("control plane "+server+", kubelet "+node, func(t *testing.T) {
			t.Parallel() // the time goes by until a certificate is old
			ctx := scenario(t, 7*time.Minute)
			c := clusters.get(t, ctx, "skew "+server, cluster.Options{Bin: pair.plane, SigningDuration: 3 * time.Minute})
			var info version.Info
			if err := c.Get(ctx, "/version", &info); err != nil || info.GitVersion != server {
				t.Fatalf("the API server is %s, want %s (%v)", info.GitVersion, server, err)
			}
			name := strings.ReplaceAll("skew-"+server+"-"+node, ".", "-")
			token := newToken(t, ctx, c)
			m := readyMachine(t, ctx, c, machine.Options{Name: name, Kubelet: filepath.Join(pair.kubelet, "kubelet")}, token)
			if err := c.AwaitSignature(ctx, token); err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%s", mustRun(t, ctx, m, "bootstrap-agent", "check", "--cluster"))

			began := time.Now()
			mustRun(t, ctx, m, "systemctl", "enable", "--now", agentUnit)
			joined := awaitStatus(t, ctx, m, "the join", 90*time.Second, inPhase(agent.Joined))
			ready, err := c.AwaitReady(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("Ready %.1f s after systemctl start", time.Since(began).Seconds())
			if ready.Status.NodeInfo.KubeletVersion != node {
				t.Errorf("the node runs kubelet %s, want %s", ready.Status.NodeInfo.KubeletVersion, node)
			}
			wantAutoApproval(t, "ours", requestsBy(t, c, "system:bootstrap:"+token.ID))
			checkIdentity(t, ctx, c, m, name)

			awaitRotation(t, ctx, m, pairTarget(t, ctx, m))
			t.Logf("renewed %.0f s after the certificate was issued", time.Since(joined.Certificate.NotBefore.Add(backdated)).Seconds())
			wantAutoApproval(t, "the kubelet's", requestsBy(t, c, "system:node:"+name))
			checkIdentity(t, ctx, c, m, name)
			if last, err := statusOf(ctx, m); err != nil || last.Phase != agent.Joined {
				t.Errorf("after the renewal: phase %s, reason %s, %v", last.Phase, last.Reason, err)
			}
			if err := c.DeleteNode(ctx, name); err != nil {
				t.Error(err)
			}
		})
	}
}

// releaseOf asks the kubelet in a folder of components for its version.
func releaseOf(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "kubelet"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "Kubernetes ")
}

// requestsBy are the requests for client certificates of nodes that user made.
func requestsBy(t *testing.T, c *cluster.Cluster, user string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	all, err := c.CSRs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(csr certificatesv1.CertificateSigningRequest) bool {
		return csr.Spec.Username != user || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName
	})
}

// wantAutoApproval wants at least one request, each approved by the
// controller-manager and none with key encipherment.
func wantAutoApproval(t *testing.T, whose string, requests []certificatesv1.CertificateSigningRequest) {
	t.Helper()
	if len(requests) == 0 {
		t.Errorf("%s: no request", whose)
	}
	for _, csr := range requests {
		if !slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == certificatesv1.CertificateApproved && c.Reason == "AutoApproved"
		}) || len(csr.Status.Certificate) == 0 {
			t.Errorf("%s: %s has conditions %+v", whose, csr.Name, csr.Status.Conditions)
		}
		if slices.Contains(csr.Spec.Usages, certificatesv1.UsageKeyEncipherment) {
			t.Errorf("%s: %s asks for %q", whose, csr.Name, csr.Spec.Usages)
		}
	}
}

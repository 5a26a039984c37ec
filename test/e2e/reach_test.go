//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// proxied asks a kubelet through the API server, which is the way of kubectl
// logs and exec.
func proxied(ctx context.Context, c *cluster.Cluster, node string) error {
	_, err := c.Kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/healthz")
	return err
}

// reaches checks that the API server gets an answer from the kubelet. The
// addresses of a node are known a moment after the node.
func reaches(t *testing.T, ctx context.Context, c *cluster.Cluster, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := await.Until(ctx, "the kubelet's answer through the API server", 100*time.Millisecond, func(ctx context.Context) error {
		return proxied(ctx, c, node)
	})
	if err != nil {
		t.Error(err)
	}
}

// reachesNot checks that it does not, for this reason.
func reachesNot(t *testing.T, ctx context.Context, c *cluster.Cluster, node, because string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := await.Until(ctx, "the API server to fail because of "+because, 100*time.Millisecond, func(ctx context.Context) error {
		err := proxied(ctx, c, node)
		if err != nil && strings.Contains(err.Error(), because) {
			return nil
		}
		return fmt.Errorf("it got: %w", err)
	})
	if err != nil {
		t.Error(err)
	}
}

// servingRequest waits for the kubelet's request for its serving certificate.
func servingRequest(t *testing.T, ctx context.Context, c *cluster.Cluster, node string) string {
	t.Helper()
	request, err := c.AwaitCSR(ctx, func(csr *certificatesv1.CertificateSigningRequest) bool {
		return csr.Spec.SignerName == certificatesv1.KubeletServingSignerName && csr.Spec.Username == "system:node:"+node && len(csr.Status.Conditions) == 0
	})
	if err != nil {
		t.Fatal(err)
	}
	return request.Name
}

func withNote(r fault.Reason, parts ...string) func(agent.Status) bool {
	return func(s agent.Status) bool {
		for _, n := range s.Notes {
			found := n.Reason == r
			for _, part := range parts {
				found = found && strings.Contains(n.Message+" "+n.Hint, part)
			}
			if found {
				return true
			}
		}
		return false
	}
}

// One CA in cluster-info, another for clients, an intermediate between, one that
// was retired: a machine joins all the same, and what it cannot know by itself
// is said before anybody misses the logs of a Pod.
func TestAClusterWithSeveralCAsIsJoinedAndReachesItsKubelets(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := severalCAs(t, ctx)
	const clientCA = "/etc/kubernetes/pki/client-ca.crt"
	files := handMadeSettings()
	files[clientCA] = machine.File{Content: string(c.ClientCA())}
	m := agentMachine(t, ctx, machine.Options{Name: "reached", Files: files})
	token := newToken(t, ctx, c)
	if err := c.AwaitSignature(ctx, token); err != nil {
		t.Fatal(err)
	}
	with := func(pins, more string) settings {
		return settings{
			endpoints: []string{c.Endpoint()}, pin: pins, token: token.String(),
			more: "kubelet: {configDir: " + handMadeConfigDir + ", servingCertificate: cluster" + more + "}\n",
		}
	}
	one, both := c.Pin(), c.Pin()+", "+c.ClientPin()

	t.Run("check says which CAs are there and which one a kubelet lacks", func(t *testing.T) {
		result, err := m.RunInput(ctx, []byte(token.String()), "bootstrap-agent", "check", "--cluster", "--endpoint", c.Endpoint(), "--ca-cert-hash", one, "--token-file", "-")
		out := flat(result.Stdout)
		if err != nil || result.Code != 0 {
			t.Fatalf("%v, %+v", err, result)
		}
		for _, part := range []string{c.Pin(), c.ClientPin(), "by-hand-retired-ca", `"CN=by-hand-client-ca"`, "kubelet.clientCAFile"} {
			if !strings.Contains(out, part) {
				t.Errorf("check lacks %q:\n%s", part, result.Stdout)
			}
		}
		result, err = m.RunInput(ctx, []byte(token.String()), "bootstrap-agent", "check", "--cluster", "--endpoint", c.Endpoint(),
			"--ca-cert-hash", c.Pin(), "--ca-cert-hash", c.ClientPin(), "--token-file", "-")
		if err != nil || result.Code != 0 || strings.Contains(result.Stdout, "kubelet.clientCAFile") {
			t.Errorf("with both pins: %v, %+v", err, result)
		}
		if chain := chainOf(t, c); chain != 2 {
			t.Errorf("the API server shows %d certificates: there is no intermediate", chain)
		}
	})
	t.Run("the CA of the server alone", func(t *testing.T) {
		prepare(t, ctx, m, with(one, ""))
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		awaitStatus(t, ctx, m, "the join", 30*time.Second, inPhase(agent.Joined))
		awaitStatus(t, ctx, m, "the note about the client CA", 5*time.Second, withNote(fault.ClientCAMissing, "by-hand-client-ca", "kubelet.clientCAFile"))
		csr := servingRequest(t, ctx, c, m.Name)
		reachesNot(t, ctx, c, m.Name, "tls: internal error") // the kubelet has no certificate to show
		approve := "kubectl certificate approve " + csr
		s := awaitStatus(t, ctx, m, "the note about the serving certificate", 20*time.Second, withNote(fault.ServingCertificatePending, csr, approve))
		if s.ServingCSR == nil || s.ServingCSR.Name != csr || s.ServingCSR.Approve != approve {
			t.Errorf("in status: %+v", s.ServingCSR)
		}
		if out := flat(mustRun(t, ctx, m, "bootstrap-agent", "status")); !strings.Contains(out, approve) {
			t.Errorf("status does not show the command: %s", out)
		}
		if err := c.Approve(ctx, csr); err != nil {
			t.Fatal(err)
		}
		// What an administrator gets to read when it is the API server that the
		// kubelet does not let in.
		reachesNot(t, ctx, c, m.Name, "the server has asked for the client to provide credentials")

		// Mended on a node that is there already: a drop-in and a restart, by a person.
		const dropIn = handMadeConfigDir + "/20-client-ca.conf"
		config := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication: {x509: {clientCAFile: " + clientCA + "}}\n"
		if err := m.WriteFile(ctx, dropIn, config, 0o644); err != nil {
			t.Fatal(err)
		}
		mustRun(t, ctx, m, "systemctl", "restart", "kubelet.service")
		reaches(t, ctx, c, m.Name)
		mustRun(t, ctx, m, "rm", dropIn)
		unjoin(t, ctx, c, m)
	})
	t.Run("with kubelet.clientCAFile", func(t *testing.T) {
		joinsNow(t, ctx, m, with(one, ", clientCAFile: "+clientCA))
		if err := c.Approve(ctx, servingRequest(t, ctx, c, m.Name)); err != nil {
			t.Fatal(err)
		}
		reaches(t, ctx, c, m.Name)
		if s, err := statusOf(ctx, m); err != nil || withNote(fault.ClientCAMissing)(s) {
			t.Errorf("notes %+v, %v", s.Notes, err)
		}
		unjoin(t, ctx, c, m)
	})
	t.Run("with the client CA pinned, too", func(t *testing.T) {
		joinsNow(t, ctx, m, with(both, ""))
		if err := c.Approve(ctx, servingRequest(t, ctx, c, m.Name)); err != nil {
			t.Fatal(err)
		}
		reaches(t, ctx, c, m.Name)
		if text, err := m.ReadFile(ctx, "/var/lib/kubelet/pki/ca.crt"); err != nil || strings.Count(text, "BEGIN") != 2 {
			t.Errorf("of three CAs two are pinned, the file holds:\n%s (%v)", text, err)
		}
		unjoin(t, ctx, c, m)
	})
}

// chainOf is how many certificates the API server shows.
func chainOf(t *testing.T, c *cluster.Cluster) int {
	t.Helper()
	conn, err := tls.Dial("tcp", c.Endpoint(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // nothing was said
	return len(conn.ConnectionState().PeerCertificates)
}

const renewalRole = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"

// A cluster where nobody approves renewals: said on the first day, with the
// binding to make, and again when it becomes urgent, with the request to
// approve. A certificate of 40 seconds, backdated by five minutes, is past 90 %
// of its life 6 seconds after it was issued.
func TestRenewalThatNeedsAPersonIsKnownFromDayOne(t *testing.T) {
	ctx := scenario(t, 2*time.Minute)
	c := severalCAs(t, ctx)
	c.StopControllers()
	if err := errors.Join(c.StartControllers("--cluster-signing-duration=40s"), dropRenewal(ctx, c)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.StopControllers()
		_, err := c.Kubectl(context.WithoutCancel(ctx), "create", "clusterrolebinding", "bootstrap-agent:approve-renewals", "--clusterrole="+renewalRole, "--group=system:nodes")
		if err := errors.Join(err, c.StartControllers()); err != nil {
			t.Error(err)
		}
	})
	token := newToken(t, ctx, c)
	if err := c.AwaitSignature(ctx, token); err != nil { // the controllers are at work again
		t.Fatal(err)
	}
	m := joinMachine(t, ctx, c, machine.Options{Name: "renewed-by-hand"}, token)
	const bind = "kubectl create clusterrolebinding bootstrap-agent:approve-renewals --clusterrole=" + renewalRole + " --group=system:nodes"
	awaitStatus(t, ctx, m, "the note about the binding", 5*time.Second, withNote(fault.RenewalNotAutomatic, bind))
	pair := pairTarget(t, ctx, m)

	s := awaitStatus(t, ctx, m, "the note about the overdue renewal", 20*time.Second, withNote(fault.RenewalOverdue, "kubectl certificate approve csr-"))
	var approve string
	for _, n := range s.Notes {
		if n.Reason == fault.RenewalOverdue {
			approve = n.Hint
		}
	}
	words := strings.Fields(approve)
	if _, err := c.Kubectl(ctx, words[1:]...); err != nil {
		t.Fatalf("the command that was shown does not work: %v", err)
	}
	awaitRotation(t, ctx, m, pair)
	if err := c.Do(ctx, http.MethodGet, "/api/v1/nodes/"+m.Name, nil, nil); err != nil {
		t.Error(err)
	}
}

func dropRenewal(ctx context.Context, c *cluster.Cluster) error {
	_, err := c.Kubectl(ctx, "delete", "clusterrolebinding", "bootstrap-agent:approve-renewals")
	return err
}

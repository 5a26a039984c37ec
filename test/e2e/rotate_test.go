//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// follower is a node whose agent looks often, so that what takes an hour in a
// cluster takes seconds. Its waits are those of the shipped one, only shorter.
type follower struct {
	c      *cluster.Cluster
	m      *machine.Machine
	cursor string
	ca     []byte // of the cluster, after the rotation
}

// rotationPace: a look at the API every two to three seconds, a server is dead
// after ten.
var rotationPace = labSettings{Pace: map[string]string{
	"LocalCheck": "1s", "APICheck": "2s", "EagerFirst": "1s", "ServerDead": "10s", "ChangeGap": "2s", "UnauthorizedGap": "2s", "Slow": "2s",
}}

// The CA of a cluster is replaced while its node runs, step by step as
// docs/operations.md has it; then its API server moves. The config holds the pin
// of the first CA, and no token is valid any more from the join on.
func TestANodeFollowsItsClusterToAnotherCAAndAnotherServer(t *testing.T) {
	ctx := aside(t, 6*time.Minute)
	c := ownCluster(t, cluster.Options{})
	token := newToken(t, ctx, c)
	m := readyMachine(t, ctx, c, machine.Options{Name: "follows"}, token)
	labAgent(t, ctx, m, rotationPace)
	appendConfig(t, ctx, m, "restartSplay: 1s\n")
	mustRun(t, ctx, m, "systemctl", "enable", "--now", agentUnit)
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	if _, err := c.AwaitReady(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteToken(ctx, token); err != nil {
		t.Fatal(err)
	}
	f := &follower{c: c, m: m}
	t.Run("another CA", func(t *testing.T) { f.rotate(t, ctx) })
	t.Run("another server", func(t *testing.T) { f.move(t, ctx) })
	if requests := requestsFor(t, ctx, c, m.Name); len(requests) > 1 {
		t.Errorf("more requests of the token: %q", requests)
	}
}

// mark begins to count the kubelet's starts.
func (f *follower) mark(t *testing.T, ctx context.Context) { f.cursor = cursorOf(t, ctx, f.m) }

// starts counts how often systemd has started the kubelet since then.
func (f *follower) starts(t *testing.T, ctx context.Context) (n int) {
	t.Helper()
	for _, line := range journalSince(t, ctx, f.m, f.cursor, "_PID=1", "UNIT=kubelet.service") {
		if strings.HasPrefix(line, "Started ") {
			n++
		}
	}
	return n
}

func (f *follower) wantStarts(t *testing.T, ctx context.Context, want int, why string) {
	t.Helper()
	if n := f.starts(t, ctx); n != want {
		t.Errorf("%s: the kubelet was started %d times, want %d", why, n, want)
	}
}

// wantWell: the node is Ready and kubectl reaches its kubelet.
func (f *follower) wantWell(t *testing.T, ctx context.Context, why string) {
	t.Helper()
	awaitStatus(t, ctx, f.m, why+": a Ready node", 60*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Node.Ready != nil && *s.Node.Ready
	})
	if _, err := f.c.AwaitReady(ctx, f.m.Name); err != nil {
		t.Fatalf("%s: %v", why, err)
	}
	reaches(t, ctx, f.c, f.m.Name)
}

// wantHeartbeat: besides, the kubelet has been heard of since now.
func (f *follower) wantHeartbeat(t *testing.T, ctx context.Context, why string) {
	t.Helper()
	began := time.Now()
	f.wantWell(t, ctx, why)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if lease := leaseOf(t, ctx, f.c, f.m.Name); lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(began) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the Lease is not renewed", why)
		}
	}
}

func (f *follower) awaitCAs(t *testing.T, ctx context.Context, what string, pins ...string) agent.Status {
	t.Helper()
	slices.Sort(pins)
	return awaitStatus(t, ctx, f.m, what, 60*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Cluster != nil && slices.Equal(s.Cluster.CAPins, pins) && s.Node.Ready != nil && *s.Node.Ready
	})
}

func (f *follower) rotate(t *testing.T, ctx context.Context) {
	c := f.c
	oldCA, oldPin := slices.Clone(c.CA()), c.Pin()
	next, err := cluster.NewAuthority("kubernetes-next")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err := statusOf(ctx, f.m)
	must(err)

	f.mark(t, ctx)
	must(c.ShowClusterInfo(ctx, "", oldCA, next.CertPEM))
	s := f.awaitCAs(t, ctx, "both CAs", oldPin, next.Pin())
	if s.Cluster.CATaken == nil || withNote(fault.CAOffered)(s) {
		t.Errorf("%+v, notes %v", s.Cluster, s.Notes)
	}
	f.wantStarts(t, ctx, 1, "old and new in cluster-info")
	f.wantWell(t, ctx, "old and new in cluster-info")

	f.mark(t, ctx)
	must(c.ServeWith(ctx, next, oldCA, next.CertPEM))
	f.wantHeartbeat(t, ctx, "another serving certificate")
	must(c.SignWith(next))
	f.wantWell(t, ctx, "another signer")
	f.wantStarts(t, ctx, 0, "another serving certificate and signer")

	f.mark(t, ctx)
	must(c.ShowClusterInfo(ctx, "", next.CertPEM))
	f.awaitCAs(t, ctx, "the new CA alone", next.Pin())
	s = awaitStatus(t, ctx, f.m, "a certificate of the new signer", 60*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Certificate != nil && s.Certificate.Serial != first.Certificate.Serial
	})
	f.wantWell(t, ctx, "new alone in cluster-info")
	var trust struct {
		FormerCA, TokenID string
		Pins              []string
	}
	text, err := f.m.ReadFile(ctx, "/var/lib/bootstrap-agent/trust.json")
	must(err)
	must(json.Unmarshal([]byte(text), &trust))
	if !strings.Contains(trust.FormerCA, "BEGIN CERTIFICATE") || !slices.Equal(trust.Pins, []string{oldPin}) || trust.TokenID == "" {
		t.Errorf("record: %+v", trust)
	}
	// One for the bundle, and one for the pair; both in one where they meet.
	if n := f.starts(t, ctx); n < 1 || n > 2 {
		t.Errorf("new alone: the kubelet was started %d times", n)
	}

	f.mark(t, ctx)
	must(c.ServeWith(ctx, next, next.CertPEM))
	f.wantHeartbeat(t, ctx, "the old client CA is gone")
	f.wantStarts(t, ctx, 0, "the old client CA is gone")
	if again, err := statusOf(ctx, f.m); err != nil || again.Certificate.Serial != s.Certificate.Serial {
		t.Errorf("%v, certificate %+v, before %+v", err, again.Certificate, s.Certificate)
	}
	metrics, err := f.m.ReadFile(ctx, "/run/bootstrap-agent/metrics.prom")
	must(err)
	for _, line := range []string{"bootstrap_agent_ca_offered 0\n", "bootstrap_agent_trusted_cas 1\n", fmt.Sprintf("bootstrap_agent_trusted_ca_info{hash=%q} 1\n", next.Pin())} {
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics lack %q", line)
		}
	}
	f.ca = next.CertPEM
}

func (f *follower) move(t *testing.T, ctx context.Context) {
	c := f.c
	show := func(server string) {
		t.Helper()
		if err := c.ShowClusterInfo(ctx, server, f.ca); err != nil {
			t.Fatal(err)
		}
	}
	at := func(server string) func(agent.Status) bool {
		return func(s agent.Status) bool {
			return s.Phase == agent.Joined && s.Cluster != nil && s.Cluster.Server == "https://"+server
		}
	}
	vip, other := newPipe(t, ctx, c), newPipe(t, ctx, c)

	f.mark(t, ctx)
	show(vip.Endpoint())
	awaitStatus(t, ctx, f.m, "the move to the server that cluster-info names", 60*time.Second, at(vip.Endpoint()))
	f.wantWell(t, ctx, "cluster-info names another server")
	f.wantStarts(t, ctx, 1, "cluster-info names another server")
	if text, err := f.m.ReadFile(ctx, "/var/lib/kubelet/kubeconfig"); err != nil || !strings.Contains(text, vip.Endpoint()) {
		t.Errorf("kubeconfig: %s, %v", text, err)
	}

	// Five seconds: nothing comes of it.
	f.mark(t, ctx)
	vip.Set(proxy.Cut)
	<-time.After(5 * time.Second)
	vip.Set(proxy.Pass)
	f.wantWell(t, ctx, "a blip")
	if s, err := statusOf(ctx, f.m); err != nil || !at(vip.Endpoint())(s) {
		t.Errorf("%v, %+v", err, s.Cluster)
	}

	// It dies, nobody corrects cluster-info, and the operator names another endpoint.
	config, err := f.m.ReadFile(ctx, "/etc/bootstrap-agent/config.yaml")
	if err != nil || !strings.Contains(config, c.Endpoint()) {
		t.Fatalf("config: %s, %v", config, err)
	}
	if err := f.m.WriteFile(ctx, "/etc/bootstrap-agent/config.yaml", strings.ReplaceAll(config, c.Endpoint(), other.Endpoint()), 0o600); err != nil {
		t.Fatal(err)
	}
	f.wantWell(t, ctx, "another endpoint in the config")
	f.wantStarts(t, ctx, 0, "a blip, and another endpoint in the config")
	vip.Set(proxy.Cut)
	s := awaitStatus(t, ctx, f.m, "the move to the endpoint", 90*time.Second, at(other.Endpoint()))
	if !s.Cluster.Provisional {
		t.Errorf("%+v", s.Cluster)
	}
	f.wantHeartbeat(t, ctx, "a dead server")
	f.wantStarts(t, ctx, 1, "a dead server")
	show(other.Endpoint())
	awaitStatus(t, ctx, f.m, "the endpoint for good", 30*time.Second, func(s agent.Status) bool { return at(other.Endpoint())(s) && !s.Cluster.Provisional })
	f.wantStarts(t, ctx, 1, "the endpoint for good")
}

//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The kubelet renews its certificate by itself, through the files that the agent
// made; it is restarted by a person; it is killed and systemd starts it again.
// None of this is the agent's business: it starts nothing, asks for nothing and
// is Joined in the end. A certificate of three minutes, backdated by five, is
// renewed 36 to 132 seconds after it was issued.
func TestTheAgentLeavesAKubeletThatRotatesRestartsOrDiesAlone(t *testing.T) {
	ctx := aside(t, 6*time.Minute)
	c := ownCluster(t, cluster.Options{SigningDuration: 3 * time.Minute})
	const name = "rotates"
	token := newToken(t, ctx, c)
	m := joinMachine(t, ctx, c, machine.Options{Name: name}, token)
	first, err := statusOf(ctx, m)
	if err != nil || first.Certificate == nil {
		t.Fatalf("%v, %+v", err, first)
	}
	pair := pairTarget(t, ctx, m)
	run := kubeletRun(t, ctx, m)
	began := cursorOf(t, ctx, m)

	// 1. It rotates.
	now := awaitRotation(t, ctx, m, pair)
	t.Logf("rotated %.0f s after the certificate was issued", time.Since(first.Certificate.NotBefore).Seconds()-backdated.Seconds())
	if files := strings.Fields(mustRun(t, ctx, m, "find", "/var/lib/kubelet/pki", "-name", "kubelet-client-2*.pem")); !slices.Contains(files, pair) || !slices.Contains(files, now) {
		t.Errorf("files of pairs: %q", files)
	}
	serial := serialOf(t, ctx, m, now)
	if old := serialOf(t, ctx, m, pair); serial == old || old != strings.TrimLeft(first.Certificate.Serial, "0") {
		t.Errorf("serial of the first pair %s, in status %s, of the second %s", old, first.Certificate.Serial, serial)
	}
	if again := kubeletRun(t, ctx, m); again != run {
		t.Errorf("the kubelet before the rotation: %v, after it: %v", run, again)
	}
	checkIdentity(t, ctx, c, m, name)

	// 2. A person restarts it. (That also makes the agent look, which it does once
	// a minute otherwise: if the rotation meant anything to it, it would show now.)
	restarted := time.Now()
	mustRun(t, ctx, m, "systemctl", "restart", "kubelet.service")
	byHand := kubeletRun(t, ctx, m)
	if byHand.InvocationID == run.InvocationID {
		t.Error("systemctl restart did not restart the kubelet")
	}
	seen := awaitStatus(t, ctx, m, "the node after the restart", 60*time.Second, joinedWithKubelet(byHand.MainPID))
	if seen.Certificate == nil || seen.Certificate.Serial == first.Certificate.Serial {
		t.Errorf("the certificate in status: %+v, the first one was %s", seen.Certificate, first.Certificate.Serial)
	}
	checkLease(t, ctx, c, name, restarted)
	if again := kubeletRun(t, ctx, m); again != byHand {
		t.Errorf("the kubelet after the restart: %v, a while later: %v", byHand, again)
	}

	// 3. It is killed, and systemd's Restart= does the rest.
	killed := time.Now()
	mustRun(t, ctx, m, "sh", "-c", "kill -KILL "+byHand.MainPID)
	awaitProps(t, ctx, m, "kubelet.service", "systemd to start the killed kubelet", func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["MainPID"] != byHand.MainPID
	})
	bySystemd := kubeletRun(t, ctx, m)
	if bySystemd.NRestarts != "1" {
		t.Errorf("NRestarts=%s after one kill", bySystemd.NRestarts)
	}
	awaitStatus(t, ctx, m, "the node after the kill", 60*time.Second, joinedWithKubelet(bySystemd.MainPID))
	checkLease(t, ctx, c, name, killed)
	if again := kubeletRun(t, ctx, m); again != bySystemd {
		t.Errorf("the kubelet after the kill: %v, a while later: %v", bySystemd, again)
	}

	// In the journal: one start by a person's job, one by Restart=, no word of an
	// act of the agent.
	starts := 0
	for _, line := range journalSince(t, ctx, m, began, "_PID=1", "UNIT=kubelet.service") {
		if strings.HasPrefix(line, "Started ") {
			starts++
		}
	}
	if starts != 2 {
		t.Errorf("systemd started the kubelet %d times since the join, want 2", starts)
	}
	for _, line := range journalSince(t, ctx, m, began, "_COMM=bootstrap-agent") {
		for _, act := range []string{"kubelet started", "kubelet restarts", "kubelet stopped", "files written", "certificate"} {
			if strings.Contains(line, act) {
				t.Errorf("the agent acted: %s", line)
			}
		}
	}
	if made := csrsOf(t, ctx, c, token); len(made) != 1 {
		t.Errorf("requests of the token: %q", made)
	}
	last, err := statusOf(ctx, m)
	if err != nil || last.Phase != agent.Joined {
		t.Fatalf("%v, %+v", err, last)
	}
	count := 0
	for _, step := range last.Timeline {
		if step.Name == agent.StepStart || step.Name == agent.StepUnit || step.Name == agent.StepRequest {
			count++
		}
	}
	if count != 3 {
		t.Errorf("the timeline shows more than the join: %+v", last.Timeline)
	}
}

// backdated is by how much the controller-manager backdates certificates.
const backdated = 5 * time.Minute

// awaitRotation waits until the kubelet's symlink names another file and returns
// its path. The kubelet removes the link for a moment when it rotates.
func awaitRotation(t *testing.T, ctx context.Context, m *machine.Machine, old string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 150*time.Second)
	defer cancel()
	for {
		result, err := m.Run(ctx, "readlink", "/var/lib/kubelet/pki/kubelet-client-current.pem")
		if now := strings.TrimSpace(result.Stdout); err == nil && now != "" && now != old {
			return now
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the kubelet did not rotate; its pair is still %s", old)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// serialOf is the serial number of the first certificate in a file.
func serialOf(t *testing.T, ctx context.Context, m *machine.Machine, path string) string {
	t.Helper()
	text, err := m.ReadFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("%s holds no PEM", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.SerialNumber.Text(16)
}

// oneRun tells one run of the kubelet from another.
type oneRun struct{ MainPID, InvocationID, NRestarts string }

func kubeletRun(t *testing.T, ctx context.Context, m *machine.Machine) oneRun {
	t.Helper()
	p := unitProps(t, ctx, m, "kubelet.service", "MainPID", "InvocationID", "NRestarts")
	return oneRun{p["MainPID"], p["InvocationID"], p["NRestarts"]}
}

// joinedWithKubelet accepts a status that was made while this kubelet ran.
func joinedWithKubelet(pid string) func(agent.Status) bool {
	return func(s agent.Status) bool { return s.Phase == agent.Joined && fmt.Sprint(s.Kubelet.MainPID) == pid }
}

// checkLease shows that the node has been heard of since: the agent may not say
// Joined before.
func checkLease(t *testing.T, ctx context.Context, c *cluster.Cluster, node string, since time.Time) {
	t.Helper()
	lease := leaseOf(t, ctx, c, node)
	if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Before(&metav1.MicroTime{Time: since}) {
		t.Errorf("the Lease was renewed at %v, not since %s", lease.Spec.RenewTime, since)
	}
}

// cursorOf is the end of the machine's journal as it is now.
func cursorOf(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	out := mustRun(t, ctx, m, "journalctl", "--no-pager", "--lines=0", "--show-cursor")
	_, cursor, ok := strings.Cut(strings.TrimSpace(out), "-- cursor: ")
	if !ok {
		t.Fatalf("the journal shows no cursor: %q", out)
	}
	return cursor
}

// journalSince returns the messages after a cursor that match.
func journalSince(t *testing.T, ctx context.Context, m *machine.Machine, cursor string, match ...string) []string {
	t.Helper()
	result, err := m.Run(ctx, append([]string{"journalctl", "--no-pager", "--quiet", "--output=cat", "--after-cursor=" + cursor}, match...)...)
	if err != nil || result.Code != 0 {
		t.Fatalf("%v, %+v", err, result)
	}
	return strings.FieldsFunc(result.Stdout, func(r rune) bool { return r == '\n' })
}

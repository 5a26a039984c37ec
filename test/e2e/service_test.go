//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// stopWithin is how long a stop may take, in every phase.
const stopWithin = 2 * time.Second

// waitingToken makes a token that may ask for a certificate, which nobody
// approves by himself: its group has one right of the two.
func waitingToken(t *testing.T, ctx context.Context, c *cluster.Cluster) cluster.Token {
	t.Helper()
	const group = "system:bootstrappers:lab:patient"
	name := "lab-patient-" + strings.ToLower(rand.Text()[:8]) // others may wait beside
	if _, err := c.Kubectl(ctx, "create", "clusterrolebinding", name, "--clusterrole=system:node-bootstrapper", "--group="+group); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, err := c.Kubectl(ctx, "delete", "clusterrolebinding", name); err != nil {
			t.Error(err)
		}
	})
	token, err := c.NewToken(ctx, cluster.TokenOptions{Groups: []string{group}})
	if err == nil {
		err = c.AwaitSignature(ctx, token)
	}
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func waitsForApproval(s agent.Status) bool {
	return s.Phase == agent.RequestingCertificate && s.CSR != nil && s.CSR.Approve != ""
}

func notesConfigInvalid(s agent.Status) bool {
	return slices.ContainsFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.ConfigInvalid })
}

// What systemd and a person with systemctl may do to the agent, phase by phase,
// on one machine: each part begins with settings of its own.
func TestTheLifeOfTheAgentsUnit(t *testing.T) {
	ctx := aside(t, 7*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	patient := waitingToken(t, ctx, c)
	m := agentMachine(t, ctx, machine.Options{Name: "service"})
	good := settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: patient.String()}
	parts := []struct {
		name string
		run  func(*testing.T, context.Context, *cluster.Cluster, *machine.Machine, settings)
	}{
		{"a bad config ends it once, and a repaired one starts it", badConfigEndsItOnce},
		{"a token file that others may read is refused by name until its mode is mended", tokenFileOfOthers},
		{"a token that is set ends the wait for one", tokenSetEndsTheWait},
		{"a reload with a bad config leaves the last good one in use", reloadWithABadConfig},
		{"a second agent is turned away", secondAgent},
		{"the status of an earlier run is not shown as that of this one", noOldStatus},
		{"it stops at once while it waits for approval, and says so", stopsWhileWaiting},
		{"all its stacks, told while it holds the token, do not tell it", stacksHoldNoSecret},
		{"the watchdog is fed while it waits, in the sandbox that was shipped", watchdogIsFed},
		{"it stops at once when it has joined, and starts again as joined", stopsWhenJoined},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { part.run(t, ctx, c, m, good) })
	}
}

// begin starts the agent with these settings and waits for a status.
func begin(t *testing.T, ctx context.Context, m *machine.Machine, s settings, what string, want func(agent.Status) bool) agent.Status {
	t.Helper()
	prepare(t, ctx, m, s)
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	return awaitStatus(t, ctx, m, what, 30*time.Second, want)
}

func badConfigEndsItOnce(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	bad := good
	bad.more = "nodNames: sEcReTvAlUe\n"
	prepare(t, ctx, m, bad)
	result, err := m.Run(ctx, "systemctl", "start", agentUnit)
	if err != nil || result.Code == 0 {
		t.Fatalf("a start with a bad config: %v, %+v", err, result)
	}
	// Longer than RestartSec=5.
	pause(t, ctx, 7*time.Second)
	show := propertiesOf(t, ctx, m)
	if show["ActiveState"] != "failed" || show["Result"] != "exit-code" || show["ExecMainStatus"] != "78" || show["NRestarts"] != "0" {
		t.Errorf("ActiveState=%s Result=%s ExecMainStatus=%s NRestarts=%s", show["ActiveState"], show["Result"], show["ExecMainStatus"], show["NRestarts"])
	}
	journal, err := m.Journal(ctx, agentUnit)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(journal, configPath+":4: nodNames") || strings.Contains(journal, "sEcReTvAlUe") {
		t.Errorf("the journal names not file, line and key, or shows the value:\n%s", journal)
	}
	// Nobody calls systemctl: the path unit sees the repaired file.
	if err := m.WriteFile(ctx, configPath, good.config(), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "a start after the repair", 20*time.Second, waitsForApproval)
}

func tokenFileOfOthers(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	pipe := newPipe(t, ctx, c)
	good.endpoints = []string{pipe.Endpoint()}
	prepare(t, ctx, m, good)
	mustRun(t, ctx, m, "chmod", "0640", tokenPath)
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s := awaitStatus(t, ctx, m, "the refusal", 20*time.Second, hasReason(fault.ConfigInvalid))
	if s.Phase != agent.Blocked || !strings.Contains(s.Message, tokenPath) || !strings.Contains(s.Message, "0640") || !strings.Contains(s.Hint, "chmod 0600 "+tokenPath) {
		t.Errorf("phase %s, message %q, hint %q", s.Phase, s.Message, s.Hint)
	}
	if n := pipe.Accepted(); n != 0 {
		t.Errorf("%d connections with a token that is not to be used", n)
	}
	mended := time.Now()
	mustRun(t, ctx, m, "chmod", "0600", tokenPath)
	s = awaitStatus(t, ctx, m, "the mended mode to be seen", 20*time.Second, waitsForApproval)
	within(t, "the mended mode was used", 2*time.Second, mended, firstStep(t, s, agent.StepDiscover))
}

func tokenSetEndsTheWait(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	without := good
	without.token = ""
	s := begin(t, ctx, m, without, "TokenMissing", hasReason(fault.TokenMissing))
	if s.Phase != agent.Blocked || !strings.Contains(s.Hint, "bootstrap-agent token set") {
		t.Errorf("phase %s, hint %q", s.Phase, s.Hint)
	}
	pid := propertiesOf(t, ctx, m)["MainPID"]
	set := time.Now()
	result, err := m.RunInput(ctx, []byte(good.token+"\n"), "bootstrap-agent", "token", "set")
	if err != nil || result.Code != 0 || strings.Contains(result.Stdout+result.Stderr, good.token) {
		t.Fatalf("token set: %v, %+v", err, result)
	}
	s = awaitStatus(t, ctx, m, "the new token to be used", 20*time.Second, waitsForApproval)
	within(t, "the new token was used", 2*time.Second, set, firstStep(t, s, agent.StepDiscover))
	if now := propertiesOf(t, ctx, m)["MainPID"]; now != pid {
		t.Errorf("the agent was another process before: %s, now %s", pid, now)
	}
}

func reloadWithABadConfig(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	s := begin(t, ctx, m, good, "a request", waitsForApproval)
	request, pid := s.CSR.Name, propertiesOf(t, ctx, m)["MainPID"]
	runsOn := func(when string) {
		t.Helper()
		if show := propertiesOf(t, ctx, m); show["MainPID"] != pid || show["ActiveState"] != "active" || show["NRestarts"] != "0" {
			t.Errorf("%s: MainPID=%s (was %s) ActiveState=%s", when, show["MainPID"], pid, show["ActiveState"])
		}
	}
	for _, round := range []string{"first", "second"} {
		bad := good
		bad.more = "nodNames: other\n"
		if err := m.WriteFile(ctx, configPath, bad.config(), 0o600); err != nil {
			t.Fatal(err)
		}
		mustRun(t, ctx, m, "systemctl", "reload", agentUnit)
		s = awaitStatus(t, ctx, m, "ConfigInvalid", 20*time.Second, func(s agent.Status) bool { return notesConfigInvalid(s) && waitsForApproval(s) })
		if s.CSR.Name != request || !strings.Contains(fmt.Sprint(s.Notes), "nodNames") {
			t.Errorf("request %s (was %s), notes %v", s.CSR.Name, request, s.Notes)
		}
		runsOn(round + " bad config")
		if err := m.WriteFile(ctx, configPath, good.config(), 0o600); err != nil {
			t.Fatal(err)
		}
		mustRun(t, ctx, m, "systemctl", "reload", agentUnit)
		s = awaitStatus(t, ctx, m, "recovery", 20*time.Second, func(s agent.Status) bool { return !notesConfigInvalid(s) && waitsForApproval(s) })
		if s.CSR.Name != request {
			t.Errorf("another request after the reload: %s, was %s", s.CSR.Name, request)
		}
		runsOn(round + " good config")
	}
}

func secondAgent(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	begin(t, ctx, m, good, "a request", waitsForApproval)
	before := propertiesOf(t, ctx, m)
	entry, _ := fault.Lookup(fault.Locked)
	for _, command := range []string{"join", "run"} {
		began := time.Now()
		result, err := m.Run(ctx, "timeout", "20", "bootstrap-agent", command)
		if err != nil || result.Code != entry.Exit || !strings.Contains(result.Stderr, "Locked") || !strings.Contains(result.Stderr, before["MainPID"]) {
			t.Errorf("%s beside the service: %v, %+v", command, err, result)
		}
		within(t, command+" gave up", 2*time.Second, began, time.Now())
	}
	if after := propertiesOf(t, ctx, m); after["MainPID"] != before["MainPID"] || after["ActiveState"] != "active" {
		t.Errorf("the service after that: MainPID=%s ActiveState=%s", after["MainPID"], after["ActiveState"])
	}
	if s, err := statusOf(ctx, m); err != nil || !waitsForApproval(s) {
		t.Errorf("status after that: %+v, %v", s, err)
	}
}

func noOldStatus(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	without := good
	without.token = ""
	begin(t, ctx, m, without, "TokenMissing", hasReason(fault.TokenMissing))
	for range 5 {
		prepare(t, ctx, m, good)
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		s, err := statusOf(ctx, m)
		if err != nil || s.Reason == fault.TokenMissing {
			t.Fatalf("right after the start: %s, %v", s.Reason, err)
		}
		begin(t, ctx, m, without, "TokenMissing", hasReason(fault.TokenMissing))
	}
}

func stopsWhileWaiting(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	s := begin(t, ctx, m, good, "a request", waitsForApproval)
	stopsInTime(t, ctx, m)
	if names := csrsOf(t, ctx, c, tokenFrom(good)); !slices.Contains(names, s.CSR.Name) {
		t.Errorf("the request %s is gone: %v", s.CSR.Name, names)
	}
	// The same key, the same request.
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	again := awaitStatus(t, ctx, m, "the request again", 20*time.Second, waitsForApproval)
	if again.CSR.Name != s.CSR.Name || !again.CSR.Adopted {
		t.Errorf("after a stop the request is %+v, was %s", again.CSR, s.CSR.Name)
	}
}

// SIGQUIT is what a person sends who wants to know, and what the watchdog's SIGABRT
// does as well: all stacks into the journal, with the arguments of each call. The
// token is in memory then, for the request that waits.
func stacksHoldNoSecret(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	begin(t, ctx, m, good, "the wait for approval", waitsForApproval)
	props := propertiesOf(t, ctx, m)
	if limit := mustRun(t, ctx, m, "grep", "-c", "-E", "^Max core file size +0 +0 ", "/proc/"+props["MainPID"]+"/limits"); strings.TrimSpace(limit) != "1" {
		t.Errorf("a core file may be written: %q", limit)
	}
	mustRun(t, ctx, m, "systemctl", "kill", "--signal=QUIT", agentUnit)
	var said string
	eventually(t, ctx, "the stacks in the journal", func(ctx context.Context) (err error) {
		said, err = m.Output(ctx, "journalctl", "--no-pager", "--output=cat", "_PID="+props["MainPID"])
		return holds(said, err)("SIGQUIT: quit", "goroutine 1 ", "csr.(*Requester)", "main.main()")
	})
	mustRun(t, ctx, m, "systemctl", "stop", agentUnit)
	secret := tokenFrom(good).Secret
	for _, form := range append(inWords(secret), secret) {
		if strings.Contains(said, form) {
			t.Errorf("the stacks tell the token, as %d characters", len(form))
		}
	}
	t.Logf("%d bytes of stacks", len(said))
	holdsNoSecret(t, m)
}

func watchdogIsFed(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	begin(t, ctx, m, good, "a request", waitsForApproval)
	before := propertiesOf(t, ctx, m)
	// Only what the package put there: nothing of this scenario's.
	shipped := func(paths string) bool {
		for _, path := range strings.Fields(paths) {
			if !strings.HasPrefix(strings.TrimPrefix(path, "/usr"), "/lib/systemd/system/") {
				return false
			}
		}
		return true
	}
	for property, good := range map[string]bool{
		"WatchdogUSec": before["WatchdogUSec"] == "1min", "CapabilityBoundingSet": before["CapabilityBoundingSet"] == "",
		"NoNewPrivileges": before["NoNewPrivileges"] == "yes", "ProtectSystem": before["ProtectSystem"] == "strict",
		"FragmentPath": shipped(before["FragmentPath"]), "DropInPaths": shipped(before["DropInPaths"]),
	} {
		if _, there := before[property]; !there || !good {
			t.Errorf("%s=%s", property, before[property])
		}
	}
	process := mustRun(t, ctx, m, "cat", "/proc/"+before["MainPID"]+"/status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(process, want+"\n") {
			t.Errorf("the process lacks %q:\n%s", want, process)
		}
	}
	pause(t, ctx, 70*time.Second)
	after := propertiesOf(t, ctx, m)
	if after["MainPID"] != before["MainPID"] || after["ActiveState"] != "active" || after["NRestarts"] != "0" {
		t.Errorf("after 70 s: MainPID=%s (was %s) ActiveState=%s NRestarts=%s", after["MainPID"], before["MainPID"], after["ActiveState"], after["NRestarts"])
	}
	if after["WatchdogTimestampMonotonic"] == before["WatchdogTimestampMonotonic"] {
		t.Error("no watchdog message came in 70 s")
	}
	s, err := statusOf(ctx, m)
	if err != nil || s.Reason != fault.CSRPending || !strings.Contains(after["StatusText"], "kubectl certificate approve "+s.CSR.Name) {
		t.Errorf("after 70 s: %s, %v, STATUS=%s", s.Reason, err, after["StatusText"])
	}
}

func stopsWhenJoined(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine, good settings) {
	s := begin(t, ctx, m, good, "a request", waitsForApproval)
	if err := c.Approve(ctx, s.CSR.Name); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	kubeletPID := mustRun(t, ctx, m, "systemctl", "show", "kubelet.service", "--property=MainPID,NRestarts,ExecMainStartTimestampMonotonic")
	// The kubelet makes its first Lease up to ten seconds after its Node. Only with
	// one does an agent that was not there believe that the kubelet is well.
	if err := await.Until(ctx, "the Lease", 250*time.Millisecond, func(ctx context.Context) error {
		return c.Get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+m.Name, nil)
	}); err != nil {
		t.Fatal(err)
	}
	stopsInTime(t, ctx, m)
	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s = awaitStatus(t, ctx, m, "joined again", 20*time.Second, inPhase(agent.Joined))
	within(t, "known as joined again", 5*time.Second, began, s.Since)
	if now := mustRun(t, ctx, m, "systemctl", "show", "kubelet.service", "--property=MainPID,NRestarts,ExecMainStartTimestampMonotonic"); now != kubeletPID {
		t.Errorf("the kubelet felt it: before %s, after %s", kubeletPID, now)
	}
	// A node with a bad config is still watched over.
	bad := good
	bad.more = "nodNames: other\n"
	if err := m.WriteFile(ctx, configPath, bad.config(), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "restart", agentUnit)
	awaitStatus(t, ctx, m, "joined with ConfigInvalid", 20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && notesConfigInvalid(s) })
	if err := m.WriteFile(ctx, configPath, good.config(), 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "joined with the repaired config", 20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && !notesConfigInvalid(s) })
	stopsInTime(t, ctx, m)
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

// stopsInTime stops the agent's unit: in time, in order, and announced, which
// systemd writes into its own log when that is loud.
func stopsInTime(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	pid := propertiesOf(t, ctx, m)["MainPID"]
	mustRun(t, ctx, m, "systemctl", "log-level", "debug")
	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "stop", agentUnit)
	took := time.Since(began)
	mustRun(t, ctx, m, "systemctl", "log-level", "info")
	if took >= stopWithin {
		t.Errorf("the stop took %.2f s", took.Seconds())
	} else {
		t.Logf("stopped in %.3f s", took.Seconds())
	}
	if show := propertiesOf(t, ctx, m); show["ActiveState"] != "inactive" || show["Result"] != "success" || show["ExecMainStatus"] != "0" {
		t.Errorf("ActiveState=%s Result=%s ExecMainStatus=%s", show["ActiveState"], show["Result"], show["ExecMainStatus"])
	}
	log := mustRun(t, ctx, m, "journalctl", "--no-pager", "--output=cat", "_PID=1", "--since=-1min")
	if !strings.Contains(log, "PID "+pid+" (STOPPING=1)") {
		t.Errorf("systemd was not told STOPPING=1 by process %s", pid)
	}
	if s, err := m.Run(ctx, "bootstrap-agent", "status", "-o", "json"); err != nil || !strings.Contains(s.Stdout, `"running": false`) {
		t.Errorf("status of a stopped agent: %v, %+v", err, s)
	}
}

func tokenFrom(s settings) cluster.Token {
	id, secret, _ := strings.Cut(s.token, ".")
	return cluster.Token{ID: id, Secret: secret}
}

// firstStep is when a step of the timeline began for the first time.
func firstStep(t *testing.T, s agent.Status, name string) time.Time {
	t.Helper()
	step, ok := stepOf(s, name)
	if !ok {
		t.Fatalf("no step %q in %+v", name, s.Timeline)
	}
	return step.Start
}

func within(t *testing.T, what string, limit time.Duration, from, to time.Time) {
	t.Helper()
	if took := to.Sub(from); took >= limit {
		t.Errorf("%s after %.2f s, want less than %s", what, took.Seconds(), limit)
	} else {
		t.Logf("%s after %.3f s", what, took.Seconds())
	}
}

// pause lets time pass in which something must not happen.
func pause(t *testing.T, ctx context.Context, d time.Duration) {
	t.Helper()
	select {
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	case <-time.After(d):
	}
}

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	// backstop is the pause between the GETs that stand behind the watch.
	backstop = 30 * time.Second
	// prompt is how soon a start job follows an approval that the watch delivers:
	// signing, the check of the name, files, units and all. A backstop would come
	// half a minute later.
	prompt = 2 * time.Second
)

// A cluster that approves nobody by itself: who looks at the unit sees which
// request waits, for how long, and the command that ends the wait. The approval
// is seen at once by the watch, not by the next of the GETs behind it.
func TestARequestThatNobodyApprovesSaysSoAndIsServedAtOnceWhenApproved(t *testing.T) {
	ctx := scenario(t, 4*time.Minute)
	c := ownCluster(t, cluster.Options{NoAutoApproval: true})
	const name = "approved-by-hand"
	token := newToken(t, ctx, c)
	m := readyMachine(t, ctx, c, machine.Options{Name: name}, token)
	mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")

	waiting := awaitStatus(t, ctx, m, "the wait for approval", 60*time.Second, hasReason(fault.CSRPending))
	csr := waiting.CSR
	if csr == nil || csr.WillBeApproved == nil || *csr.WillBeApproved {
		t.Fatalf("the status does not say that nobody will approve: %+v", csr)
	}
	if made := csrsOf(t, ctx, c, token); len(made) != 1 || made[0] != csr.Name {
		t.Fatalf("requests of the token: %q, in status %q", made, csr.Name)
	}
	if waiting.Phase != agent.RequestingCertificate {
		t.Errorf("phase %s", waiting.Phase)
	}
	approve := "kubectl certificate approve " + csr.Name
	bind := "kubectl create clusterrolebinding bootstrap-agent:approve-first-certificates:kubeadm:default-node-token" +
		" --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient --group=system:bootstrappers:kubeadm:default-node-token"
	if csr.Approve != approve || csr.Bind != bind || !strings.HasPrefix(waiting.Hint, approve+"; ") || !strings.HasSuffix(waiting.Hint, " "+bind) {
		t.Errorf("the commands: %q and %q, the hint: %q, want %q and %q", csr.Approve, csr.Bind, waiting.Hint, approve, bind)
	}
	checkWaitingLine(t, unitProps(t, ctx, m, "bootstrap-agent.service", "StatusText")["StatusText"], csr.Name)

	// Past the first backstop, so that the next one is half a minute away.
	passed := awaitStatus(t, ctx, m, "the first backstop", backstop+30*time.Second, func(s agent.Status) bool {
		return s.CSR != nil && s.CSR.BackstopGets >= 1
	})
	lastGet := passed.Time // the status is made when the GET is sent
	line := unitProps(t, ctx, m, "bootstrap-agent.service", "StatusText")["StatusText"]
	t.Logf("STATUS: %s", line)
	if age := checkWaitingLine(t, line, csr.Name); age < backstop-5*time.Second || age > time.Since(csr.Created)+time.Second {
		t.Errorf("the age in the line is %s, the request was made %s ago", age, time.Since(csr.Created))
	}
	if out := mustRun(t, ctx, m, "bootstrap-agent", "status"); !strings.Contains(out, approve) {
		t.Errorf("status does not show the command:\n%s", out)
	}

	asked := time.Now()
	if err := c.Approve(ctx, csr.Name); err != nil {
		t.Fatal(err)
	}
	answered := time.Now()
	joined := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	started, ok := stepOf(joined, agent.StepStart)
	if !ok {
		t.Fatalf("no start of the kubelet in the timeline: %+v", joined.Timeline)
	}
	t.Logf("last backstop %s, approval between %s and %s, start job sent %s", clockOf(lastGet), clockOf(asked), clockOf(answered), clockOf(started.Start))
	if started.Start.Before(asked) || started.Start.Sub(answered) > prompt {
		t.Errorf("the start job was sent %.2f s after the approval", started.Start.Sub(answered).Seconds())
	}
	if started.Start.Sub(lastGet) >= backstop {
		t.Errorf("the start job was sent %.1f s after the last backstop: the next one may have helped", started.Start.Sub(lastGet).Seconds())
	}
	if joined.CSR == nil || joined.CSR.BackstopGets != passed.CSR.BackstopGets || joined.CSR.Name != csr.Name {
		t.Errorf("the request in the end: %+v", joined.CSR)
	}
	if joined.CSR != nil && joined.CSR.Approve+joined.CSR.Bind != "" {
		t.Errorf("the commands are still shown: %+v", joined.CSR)
	}
	if made := csrsOf(t, ctx, c, token); len(made) != 1 {
		t.Errorf("requests of the token: %q", made)
	}
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Error(err)
	}
}

// The agent dies again and again while its request waits, also a moment after
// systemd has started it anew. Every one of its lives asks with the same key
// under the same name, so there is one request, and its approval is enough.
func TestAnAgentKilledWhileItsRequestWaitsMakesNoSecondOne(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := ownCluster(t, cluster.Options{NoAutoApproval: true})
	const name = "killed-while-waiting"
	token := newToken(t, ctx, c)
	m := readyMachine(t, ctx, c, machine.Options{Name: name}, token)
	mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")

	// Between create and approval, as early as can be seen from outside.
	request, err := c.AwaitCSR(ctx, cluster.ByToken(token.ID))
	if err != nil {
		t.Fatal(err)
	}
	// How long each further life lasts, from the moment systemd shows its PID: from
	// "has hardly read its files" to "has found the request that is there".
	lives := []time.Duration{0, 15 * time.Millisecond, 40 * time.Millisecond, 120 * time.Millisecond, 600 * time.Millisecond}
	killAgent(t, ctx, m, 0)
	for _, life := range lives {
		killAgent(t, ctx, m, life)
	}
	want := len(lives) + 1
	props := awaitProps(t, ctx, m, "bootstrap-agent.service", "the agent to be started again", func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["NRestarts"] == strconv.Itoa(want)
	})
	if props["Restart"] != "on-failure" {
		t.Errorf("Restart=%s", props["Restart"])
	}
	waiting := awaitStatus(t, ctx, m, "the wait for approval", 60*time.Second, hasReason(fault.CSRPending))
	if waiting.CSR == nil || waiting.CSR.Name != request.Name || !waiting.CSR.Adopted {
		t.Errorf("the request in status: %+v, the first one: %s", waiting.CSR, request.Name)
	}
	oneRequest := func(when string) {
		t.Helper()
		all, err := c.CSRs(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			if all[i].UID != request.UID {
				t.Errorf("%s: there is another request %s of %s", when, all[i].Name, all[i].Spec.Username)
			}
		}
		if len(all) == 0 {
			t.Errorf("%s: the request is gone", when)
		}
	}
	oneRequest(fmt.Sprintf("after %d kills", want))
	if err := c.Approve(ctx, request.Name); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	oneRequest("joined")
	checkIdentity(t, ctx, c, m, name)
}

// killAgent sends SIGKILL to the agent that long after its PID shows, and waits
// until systemd knows that it is dead.
func killAgent(t *testing.T, ctx context.Context, m *machine.Machine, life time.Duration) {
	t.Helper()
	out, err := m.RunScript(ctx, fmt.Sprintf(`pid() { systemctl show --property=MainPID --value bootstrap-agent.service; }
for i in $(seq 1500); do victim=$(pid); if [ "$victim" != 0 ]; then break; fi; sleep 0.01; done
sleep %.3f
kill -KILL "$victim"
for i in $(seq 500); do if [ "$(pid)" != "$victim" ]; then echo killed; exit; fi; sleep 0.01; done
`, life.Seconds()))
	if err != nil || strings.TrimSpace(out) != "killed" {
		t.Fatalf("cannot kill the agent: %q, %v", out, err)
	}
}

// checkWaitingLine checks the one line that systemctl shows while a request
// waits and returns the age in it.
func checkWaitingLine(t *testing.T, line, csr string) (age time.Duration) {
	t.Helper()
	for _, part := range []string{csr, string(fault.CSRPending), "; kubectl certificate approve " + csr} {
		if !strings.Contains(line, part) {
			t.Errorf("StatusText holds no %q: %s", part, line)
		}
	}
	_, rest, _ := strings.Cut(line, ", age ")
	text, _, _ := strings.Cut(rest, ";")
	age, err := time.ParseDuration(text)
	if err != nil {
		t.Errorf("StatusText holds no age: %s", line)
	}
	return age
}

// unitProps asks systemd for properties of a unit.
func unitProps(t *testing.T, ctx context.Context, m *machine.Machine, unit string, names ...string) map[string]string {
	t.Helper()
	out := mustRun(t, ctx, m, "systemctl", "show", "--property="+strings.Join(names, ","), unit)
	props := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			props[name] = value
		}
	}
	return props
}

// awaitProps asks until the properties that tell one run of a unit from another
// are as wanted.
func awaitProps(t *testing.T, ctx context.Context, m *machine.Machine, unit, what string, want func(map[string]string) bool) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		props := unitProps(t, ctx, m, unit, "ActiveState", "SubState", "MainPID", "InvocationID", "NRestarts", "Restart", "Result")
		if want(props) {
			return props
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not in time: %v", what, props)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func clockOf(at time.Time) string { return at.UTC().Format("15:04:05.000") }

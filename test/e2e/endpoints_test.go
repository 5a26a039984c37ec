//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// Two of three endpoints are dead in the two ways there are. The order is drawn
// anew at each start, so the agent is started until both adverse ones were
// drawn: neither costs more than its due.
func TestTwoDeadEndpointsOfThreeDoNotHoldAJoinUp(t *testing.T) {
	const (
		stagger = 500 * time.Millisecond // before the next endpoint is asked too
		dial    = 5 * time.Second        // what an endpoint that drops packets may cost at most
	)
	ctx := scenario(t, 5*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
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
	m := agentMachine(t, ctx, machine.Options{Name: "endpoints"})
	with := settings{endpoints: []string{dropped, refused, c.Endpoint()}, pin: c.Pin(), more: "log: {level: debug}\n"}

	// A token without groups is believed and may not ask for a certificate: the
	// agent discovers, and comes no further.
	token, err := c.NewToken(ctx, cluster.TokenOptions{Groups: []string{}})
	if err == nil {
		err = c.AwaitSignature(ctx, token)
	}
	if err != nil {
		t.Fatal(err)
	}
	with.token = token.String()
	var afterDropped, afterRefused time.Duration
	const most = 30
	for i := 1; afterDropped == 0 || afterRefused == 0; i++ {
		if i > most {
			t.Fatalf("in %d starts the dead endpoints did not come first (dropped %s, refused %s)", most, afterDropped, afterRefused)
		}
		prepare(t, ctx, m, with)
		since := time.Now().Format("2006-01-02 15:04:05.000000")
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		s := awaitStatus(t, ctx, m, "discovery", 20*time.Second, hasReason(fault.CSRForbidden))
		step, ok := stepOf(s, agent.StepDiscover)
		if !ok || step.Seconds == nil || !strings.Contains(step.Detail, c.Endpoint()) {
			t.Fatalf("timeline %+v", s.Timeline)
		}
		took := time.Duration(*step.Seconds * float64(time.Second))
		log := mustRun(t, ctx, m, "journalctl", "--no-pager", "--output=cat", "--unit="+agentUnit, "--since="+since)
		hitRefused := strings.Contains(log, "endpoint="+refused) || strings.Contains(log, `endpoint="`+refused)
		switch {
		case took >= dial:
			t.Errorf("start %d: discovery took %.2f s", i, took.Seconds())
		case took >= stagger:
			afterDropped = took
		case hitRefused:
			afterRefused = took
		}
		t.Logf("start %d: discovery %.3f s, the refusing endpoint was asked: %v", i, took.Seconds(), hitRefused)
	}
	if afterDropped > 2*stagger+time.Second {
		t.Errorf("with a dropping endpoint before the good one discovery took %.2f s", afterDropped.Seconds())
	}

	with.token = newToken(t, ctx, c).String()
	prepare(t, ctx, m, with)
	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	if took := s.Since.Sub(began); took >= dial {
		t.Errorf("joined %.2f s after the start: not before an endpoint that drops packets is given up", took.Seconds())
	} else {
		t.Logf("joined %.2f s after the start", took.Seconds())
	}
	if _, err := c.Node(ctx, m.Name); err != nil {
		t.Error(err)
	}
	for _, step := range s.Timeline {
		if step.Seconds != nil {
			t.Logf("%7.3f s  %s", *step.Seconds, step.Name)
		}
	}
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

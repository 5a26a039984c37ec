//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// handMadeConfigDir holds what a kubelet in such a machine needs on a cluster
// that gives it no kubelet-config: settings of the lab, not of the agent.
const handMadeConfigDir = "/etc/kubernetes/kubelet.d"

// installAgent installs the built package with apt, as a person would.
func installAgent(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	path := os.Getenv("BOOTSTRAP_AGENT_DEB")
	if path == "" {
		t.Fatal("BOOTSTRAP_AGENT_DEB does not name the built package; make e2e sets it")
	}
	if out, err := m.InstallDeb(ctx, path); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// configure feeds kubeadm's printed join line to `bootstrap-agent configure -`.
// The unit that watches for a config is stopped before, else it would start the
// agent right then: the scenario says when (and that starts the watch again).
func configure(t *testing.T, ctx context.Context, m *machine.Machine, joinLine string, args ...string) {
	t.Helper()
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path")
	result, err := m.RunInput(ctx, []byte(joinLine+"\n"), append([]string{"bootstrap-agent", "configure", "-"}, args...)...)
	if err != nil || result.Code != 0 {
		t.Fatalf("configure: %v, %+v", err, result)
	}
}

// joinLineOf is what kubeadm would print for this cluster and token.
func joinLineOf(c *cluster.Cluster, token cluster.Token) string {
	return fmt.Sprintf("kubeadm join %s --token %s --discovery-token-ca-cert-hash %s", c.Endpoint(), token, c.Pin())
}

// handMadeSettings are the files for a machine on a cluster made by hand.
func handMadeSettings() map[string]machine.File {
	return map[string]machine.File{handMadeConfigDir + "/10-lab.conf": {Content: cluster.KubeletSettings}}
}

// statusOf asks the agent itself.
func statusOf(ctx context.Context, m *machine.Machine) (agent.Status, error) {
	var s agent.Status
	result, err := m.Run(ctx, "bootstrap-agent", "status", "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(result.Stdout), &s); err != nil {
		return s, fmt.Errorf("status is no JSON: %w: %+v", err, result)
	}
	return s, nil
}

// awaitStatus polls the agent's status until it is as wanted or ctx ends.
func awaitStatus(t *testing.T, ctx context.Context, m *machine.Machine, what string, within time.Duration, want func(agent.Status) bool) agent.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last agent.Status
	var lastErr error
	for {
		s, err := statusOf(ctx, m)
		if err == nil {
			if want(s) {
				return s
			}
			last = s
		} else if ctx.Err() == nil {
			lastErr = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s; last status: phase %s, reason %s, message %q, notes %v (%v)", what, within, last.Phase, last.Reason, last.Message, last.Notes, lastErr)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func inPhase(p agent.Phase) func(agent.Status) bool {
	return func(s agent.Status) bool { return s.Phase == p }
}

func hasReason(r fault.Reason) func(agent.Status) bool {
	return func(s agent.Status) bool { return s.Reason == r }
}

func stepOf(s agent.Status, name string) (agent.Step, bool) {
	i := slices.IndexFunc(s.Timeline, func(step agent.Step) bool { return step.Name == name })
	if i < 0 {
		return agent.Step{}, false
	}
	return s.Timeline[i], true
}

// joinMachine boots a machine with the agent installed and configured for c,
// starts the agent and waits for the join.
func joinMachine(t *testing.T, ctx context.Context, c *cluster.Cluster, opts machine.Options, token cluster.Token) *machine.Machine {
	t.Helper()
	m := readyMachine(t, ctx, c, opts, token)
	mustRun(t, ctx, m, "systemctl", "enable", "--now", "bootstrap-agent.service")
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	return m
}

// readyMachine is joinMachine without the start.
func readyMachine(t *testing.T, ctx context.Context, c *cluster.Cluster, opts machine.Options, token cluster.Token) *machine.Machine {
	t.Helper()
	args := []string{}
	if c.Shape == cluster.ByHand {
		if opts.Files == nil {
			opts.Files = map[string]machine.File{}
		}
		for path, file := range handMadeSettings() {
			opts.Files[path] = file
		}
	}
	m := bootMachine(t, ctx, opts)
	installAgent(t, ctx, m)
	configure(t, ctx, m, joinLineOf(c, token), args...)
	if c.Shape == cluster.ByHand {
		appendConfig(t, ctx, m, "kubelet: {configDir: "+handMadeConfigDir+"}\n")
	}
	return m
}

// appendConfig adds lines to the agent's config file.
func appendConfig(t *testing.T, ctx context.Context, m *machine.Machine, lines string) {
	t.Helper()
	const path = "/etc/bootstrap-agent/config.yaml"
	old, err := m.ReadFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFile(ctx, path, strings.TrimRight(old, "\n")+"\n"+lines, 0o600); err != nil {
		t.Fatal(err)
	}
}

// csrsOf lists the CSRs made with this token.
func csrsOf(t *testing.T, ctx context.Context, c *cluster.Cluster, token cluster.Token) []string {
	t.Helper()
	all, err := c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range all {
		if cluster.ByToken(token.ID)(&all[i]) {
			names = append(names, all[i].Name)
		}
	}
	return names
}

func newToken(t *testing.T, ctx context.Context, c *cluster.Cluster) cluster.Token {
	t.Helper()
	token, err := c.NewToken(ctx, cluster.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

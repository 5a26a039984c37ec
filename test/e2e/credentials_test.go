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
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// A token that lies on the disk only encrypted joins a machine inside the shipped
// sandbox, a stale one beside it does no harm, and a token file is removed once
// it is spent, where that is asked for.
func TestATokenIsAnEncryptedCredentialOrIsRemovedOnceSpent(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)

	t.Run("an encrypted credential beside a plain one that is stale", func(t *testing.T) {
		token := newToken(t, ctx, c)
		m := agentMachine(t, ctx, machine.Options{Name: "sealed"})
		prepare(t, ctx, m, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin()})
		if err := m.WriteFile(ctx, "/etc/credstore/bootstrap-token", cluster.RandomToken().String(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := m.RunInput(ctx, []byte(token.String()+"\n"), "bootstrap-agent", "token", "set", "--encrypt")
		if err != nil || out.Code != 0 {
			t.Fatalf("%v, %+v", err, out)
		}
		const sealed = "/etc/credstore.encrypted/bootstrap-token-encrypted"
		if text, err := m.ReadFile(ctx, sealed); err != nil || text == "" || strings.Contains(text, token.Secret) {
			t.Errorf("the credential: %d bytes, %v", len(text), err)
		}
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		awaitStatus(t, ctx, m, "the join", 30*time.Second, inPhase(agent.Joined))
		if trust, err := m.ReadFile(ctx, "/var/lib/bootstrap-agent/trust.json"); err != nil || !strings.Contains(trust, token.ID) {
			t.Errorf("joined by another token: %s, %v", trust, err)
		}
		found := mustRun(t, ctx, m, "sh", "-c", "grep -rlF "+token.Secret+" /etc /var/lib /run /tmp 2>/dev/null | grep -v '^/run/credentials/' || true")
		if found != "" {
			t.Errorf("the secret lies in %s", found)
		}
		// All goroutines in the journal, as the watchdog would have them: what the
		// search at the end finds nothing in.
		before := unitProps(t, ctx, m, agentUnit, "MainPID")["MainPID"]
		if limit := mustRun(t, ctx, m, "grep", "-E", "^Max core file size +0 +0 ", "/proc/"+before+"/limits"); limit == "" {
			t.Error("a core file may be written")
		}
		mustRun(t, ctx, m, "systemctl", "kill", "--signal=QUIT", agentUnit)
		eventually(t, ctx, "the stacks in the journal", func(ctx context.Context) error {
			return holds(m.Journal(ctx, agentUnit))("SIGQUIT: quit", "goroutine 1 ")
		})
		awaitProps(t, ctx, m, agentUnit, "another process", func(p map[string]string) bool {
			return p["ActiveState"] == "active" && p["MainPID"] != before
		})
		nextSource(t, ctx, c, m)
	})

	t.Run("a token file that is removed as soon as it can be", func(t *testing.T) {
		token := newToken(t, ctx, c)
		m := agentMachine(t, ctx, machine.Options{Name: "spent"})
		labAgent(t, ctx, m, labSettings{Pace: map[string]string{"LocalCheck": "500ms"}})
		prepare(t, ctx, m, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: token.String(), more: "removeTokenAfterJoin: true\n"})
		// What is mounted there cannot be unlinked, by nobody.
		mustRun(t, ctx, m, "mount", "--bind", tokenPath, tokenPath)
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		withTold := func(s agent.Status) bool {
			for _, n := range s.Notes {
				if n.Reason == fault.TokenLeftBehind && strings.Contains(n.Hint, "rm "+tokenPath) {
					return s.Phase == agent.Joined
				}
			}
			return false
		}
		awaitStatus(t, ctx, m, "the note that it cannot be removed", 30*time.Second, withTold)
		mustRun(t, ctx, m, "umount", tokenPath)
		awaitStatus(t, ctx, m, "the end of the note", 15*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && !withTold(s) })
		if tokenFileIsThere(t, ctx, m) {
			t.Error("the token file is still there")
		}
		if err := c.DeleteNode(ctx, m.Name); err != nil {
			t.Error(err)
		}
	})
}

// nextSource joins the machine anew by a plain credential of /etc/credstore, after
// the cluster has refused the token of the file; then a fresh file beats the
// credential that has become stale meanwhile.
func nextSource(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	by := func(what string, file, credential, want cluster.Token) {
		t.Helper()
		unjoin(t, ctx, c, m)
		prepare(t, ctx, m, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: file.String()})
		if err := m.WriteFile(ctx, "/etc/credstore/bootstrap-token", credential.String(), 0o600); err != nil {
			t.Fatal(err)
		}
		mustRun(t, ctx, m, "systemctl", "start", agentUnit)
		awaitStatus(t, ctx, m, what, 30*time.Second, inPhase(agent.Joined))
		if trust, err := m.ReadFile(ctx, "/var/lib/bootstrap-agent/trust.json"); err != nil || !strings.Contains(trust, want.ID) {
			t.Errorf("%s: joined by another token: %s, %v", what, trust, err)
		}
	}
	mustRun(t, ctx, m, "rm", "/etc/credstore.encrypted/bootstrap-token-encrypted")
	plain, fresh := newToken(t, ctx, c), newToken(t, ctx, c)
	by("the join by a plain credential after a file that is refused", cluster.RandomToken(), plain, plain)
	by("the join by a fresh file beside a stale credential", fresh, cluster.RandomToken(), fresh)
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

func tokenFileIsThere(t *testing.T, ctx context.Context, m *machine.Machine) bool {
	t.Helper()
	result, err := m.Run(ctx, "test", "-e", tokenPath)
	if err != nil {
		t.Fatal(err)
	}
	return result.Code == 0
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	kubeadmGroup = "system:bootstrappers:kubeadm:default-node-token"
	createCSRs   = "kubectl create clusterrolebinding bootstrap-agent:create-csrs"
	approveFirst = "kubectl create clusterrolebinding bootstrap-agent:approve-first-certificates"
)

// joinNow puts settings in place and joins in the foreground.
func joinNow(t *testing.T, ctx context.Context, m *machine.Machine, with settings, timeout string) machine.Result {
	t.Helper()
	prepare(t, ctx, m, with)
	result, err := m.Run(ctx, "bootstrap-agent", "join", "--timeout", timeout)
	if err != nil {
		t.Fatal(err)
	}
	if _, secret, ok := strings.Cut(with.token, "."); ok && strings.Contains(result.Stdout+result.Stderr, secret) {
		t.Errorf("join shows the secret:\n%s", result.Stderr)
	}
	return result
}

// joinsNow is joinNow where it must work.
func joinsNow(t *testing.T, ctx context.Context, m *machine.Machine, with settings) {
	t.Helper()
	if result := joinNow(t, ctx, m, with, "30s"); result.Code != 0 {
		t.Fatalf("join ended with %d:\n%s", result.Code, result.Stderr)
	}
}

// refused expects a reason in the foreground, with its code and every part of
// what a person needs; it returns what was said, on one line.
func refused(t *testing.T, ctx context.Context, m *machine.Machine, with settings, timeout string, want fault.Reason, parts ...string) string {
	t.Helper()
	entry, ok := fault.Lookup(want)
	if !ok {
		t.Fatalf("no reason %s", want)
	}
	result := joinNow(t, ctx, m, with, timeout)
	said := flat(result.Stderr)
	if result.Code != entry.Exit || !strings.Contains(said, string(want)) {
		t.Errorf("join ended with %d, want %d by %s:\n%s", result.Code, entry.Exit, want, result.Stderr)
	}
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("join lacks %q:\n%s", part, result.Stderr)
		}
	}
	return said
}

// pasted runs the command that begins so in what was said to a person, as that
// person would, and takes it back when the test ends.
func pasted(t *testing.T, ctx context.Context, c *cluster.Cluster, said, begins string) {
	t.Helper()
	at := strings.Index(said, begins)
	if at < 0 {
		t.Fatalf("no command %q in: %s", begins, said)
	}
	words := strings.Fields(said[at:])
	words = words[:6] // kubectl create clusterrolebinding NAME --clusterrole=R --group=G
	words[5] = strings.TrimRight(words[5], ";.`")
	t.Logf("pasted: %s", strings.Join(words, " "))
	if _, err := c.Kubectl(ctx, words[1:]...); err != nil {
		t.Fatalf("the command that was shown does not work: %v", err)
	}
	t.Cleanup(func() {
		if _, err := c.Kubectl(context.WithoutCancel(ctx), "delete", "clusterrolebinding", words[3]); err != nil {
			t.Error(err)
		}
	})
	awaitRights(t, ctx, c, words[4], words[5])
}

// awaitRights waits until the API server's authorizer has heard of a binding.
func awaitRights(t *testing.T, ctx context.Context, c *cluster.Cluster, role, group string) {
	t.Helper()
	resource := "certificatesigningrequests"
	if _, sub, ok := strings.Cut(role, ":certificatesigningrequests:"); ok {
		resource += "/" + sub
	}
	group = strings.TrimPrefix(group, "--group=")
	err := await.Until(ctx, "the binding", 50*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "auth", "can-i", "create", resource, "--as=somebody", "--as-group="+group)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unjoin makes a machine what it was before its join.
func unjoin(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	t.Helper()
	if _, err := m.RunScript(ctx, `systemctl stop bootstrap-agent.path bootstrap-agent.service kubelet.service 2>/dev/null
systemctl disable --quiet kubelet.service 2>/dev/null
rm -rf /var/lib/bootstrap-agent/* /var/lib/kubelet/* /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d
systemctl daemon-reload
systemctl reset-failed
`); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
}

// Tokens as people make them: which of them work, and for each of the others the
// binding or the field to mend, in a form that can be pasted.
func TestTokensOfEveryMakeJoinOrSayWhatTheyLack(t *testing.T) {
	ctx := scenario(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := agentMachine(t, ctx, machine.Options{Name: "tokens"})
	mint := func(t *testing.T, opts cluster.TokenOptions, signs bool) (cluster.Token, settings) {
		t.Helper()
		token, err := c.NewToken(ctx, opts)
		if err == nil && signs {
			err = c.AwaitSignature(ctx, token)
		}
		if err != nil {
			t.Fatal(err)
		}
		return token, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: token.String()}
	}
	const short = "1s"

	t.Run("the group of all tokens alone, where kubeadm binds another", func(t *testing.T) {
		_, with := mint(t, cluster.TokenOptions{Groups: []string{}}, true)
		refused(t, ctx, m, with, short, fault.CSRForbidden, `its groups: "system:bootstrappers"`,
			createCSRs+" --clusterrole=system:node-bootstrapper --group=system:bootstrappers;", "kubeadm token create")
	})
	t.Run("a group that nobody has bound, then one binding after the other", func(t *testing.T) {
		token, with := mint(t, cluster.TokenOptions{Groups: []string{"system:bootstrappers:default-node-token"}}, true)
		said := refused(t, ctx, m, with, short, fault.CSRForbidden, `"system:bootstrappers:default-node-token"`)
		pasted(t, ctx, c, said, createCSRs)
		// It may ask now, and nobody approves: said after 3 s.
		said = refused(t, ctx, m, with, "4s", fault.CSRPending, "kubectl certificate approve node-csr-", approveFirst+":default-node-token ")
		if made := csrsOf(t, ctx, c, token); len(made) != 1 || !strings.Contains(said, "kubectl certificate approve "+made[0]) {
			t.Errorf("requests %q, said: %s", made, said)
		}
		pasted(t, ctx, c, said, approveFirst)
		joinsNow(t, ctx, m, with)
		unjoin(t, ctx, c, m)
	})
	t.Run("two groups, and an end in another time zone", func(t *testing.T) {
		// By its digits it has ended an hour ago.
		end := time.Now().UTC().Add(-time.Hour).Format("2006-01-02T15:04:05") + "-02:00"
		_, with := mint(t, cluster.TokenOptions{Groups: []string{"system:bootstrappers:eu", kubeadmGroup}, Expiration: end}, true)
		joinsNow(t, ctx, m, with)
		// The usual case: one CA, a kubelet that signs for itself, and the API server
		// does not check that.
		reaches(t, ctx, c, m.Name)
		unjoin(t, ctx, c, m)
	})
	t.Run("an end in another time zone that has passed", func(t *testing.T) {
		// By its digits it ends in an hour.
		end := time.Now().UTC().Add(time.Hour).Format("2006-01-02T15:04:05") + "+02:00"
		token, with := mint(t, cluster.TokenOptions{Expiration: end}, false)
		refused(t, ctx, m, with, short, fault.TokenUnknown, "get secret bootstrap-token-"+token.ID, "not be expired")
	})
	t.Run("without usage-bootstrap-signing", func(t *testing.T) {
		token, with := mint(t, cluster.TokenOptions{Usages: []string{"authentication"}}, false)
		refused(t, ctx, m, with, short, fault.TokenUnknown, "get secret bootstrap-token-"+token.ID, `usage-bootstrap-signing: "true"`)
	})
	t.Run("without usage-bootstrap-authentication", func(t *testing.T) {
		token, with := mint(t, cluster.TokenOptions{Usages: []string{"signing"}}, true)
		refused(t, ctx, m, with, short, fault.TokenRejected, "get secret bootstrap-token-"+token.ID, `usage-bootstrap-authentication: "true"`)
	})
	t.Run("deleted between discovery and request", func(t *testing.T) {
		token, with := mint(t, cluster.TokenOptions{}, true)
		front := newFront(t, ctx, c, nil)
		front.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost {
				revoke(t, ctx, c, token)
			}
			return false
		})
		with.endpoints, with.server = []string{front.Endpoint()}, "https://"+front.Endpoint()
		// First the token is refused, then cluster-info has no signature of it any more.
		said := refused(t, ctx, m, with, "4s", fault.TokenUnknown, string(fault.TokenRejected), "get secret bootstrap-token-"+token.ID)
		if strings.Index(said, string(fault.TokenRejected)) > strings.Index(said, string(fault.TokenUnknown)) {
			t.Errorf("in another order: %s", said)
		}
	})
}

// revoke deletes a token, if it is there, and waits until the API server refuses it.
func revoke(t *testing.T, ctx context.Context, c *cluster.Cluster, token cluster.Token) {
	if err := c.DeleteToken(ctx, token); err != nil && !cluster.IsStatus(err, http.StatusNotFound) {
		t.Error(err)
	}
	awaitRefusal(t, ctx, c, token)
}

// awaitRefusal waits until the API server answers 401 to a token.
func awaitRefusal(t *testing.T, ctx context.Context, c *cluster.Cluster, token cluster.Token) {
	err := await.Until(ctx, "the token to be refused", 25*time.Millisecond, func(ctx context.Context) error {
		return c.Refuses(ctx, token)
	})
	if err != nil {
		t.Error(err)
	}
}

// The signer does not run, or not any more: cluster-info still vouches for
// tokens that the API server has forgotten, and does not vouch for new ones.
func TestASignatureThatOutlivedItsTokenIsTold(t *testing.T) {
	ctx := scenario(t, 2*time.Minute)
	c := severalCAs(t, ctx)
	m := agentMachine(t, ctx, machine.Options{Name: "stale"})
	const life = 4 * time.Second // as long as the signer needs, and a little more
	deleted, replaced := newToken(t, ctx, c), newToken(t, ctx, c)
	err := errors.Join(c.AwaitSignature(ctx, deleted), c.AwaitSignature(ctx, replaced)) // so the signer is at work
	var ended cluster.Token
	if err == nil {
		ended, err = c.NewToken(ctx, cluster.TokenOptions{Expiry: life})
	}
	if err == nil {
		err = c.AwaitSignature(ctx, ended)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.StopControllers()
	t.Cleanup(func() {
		if err := c.StartControllers(); err != nil {
			t.Error(err)
		}
	})
	revoke(t, ctx, c, deleted)
	revoke(t, ctx, c, replaced)
	successor, err := c.NewToken(ctx, cluster.TokenOptions{ID: replaced.ID})
	if err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, ctx, c, ended)
	with := func(token cluster.Token) settings {
		return settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: token.String()}
	}
	for name, token := range map[string]cluster.Token{"its Secret was deleted": deleted, "its Secret was replaced": replaced, "it has ended and no tokencleaner runs": ended} {
		t.Run(name, func(t *testing.T) {
			refused(t, ctx, m, with(token), "1s", fault.TokenRejected, "get secret bootstrap-token-"+token.ID, "not be expired", "hold this very secret")
		})
	}
	t.Run("the token that replaced it", func(t *testing.T) {
		refused(t, ctx, m, with(successor), "1s", fault.SignatureMismatch, "get secret bootstrap-token-"+successor.ID, "a stale one", "bootstrapsigner")
	})
}

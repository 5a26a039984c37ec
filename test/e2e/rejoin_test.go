//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// offForLong is one machine and what becomes of its identity in a cluster whose
// signer for nodes can be replaced.
type offForLong struct {
	c      *cluster.Cluster
	m      *machine.Machine
	signer *cluster.Authority
	token  cluster.Token
}

const (
	currentPair = "/var/lib/kubelet/pki/kubelet-client-current.pem"
)

// quick is the pace of these scenarios. The pause of a blocked fault stays five
// minutes: a fresh token must not wait for it.
var quick = map[string]string{"LocalCheck": "2s", "APICheck": "4s", "UnauthorizedGap": "1s", "VanishGrace": "2s", "EagerFirst": "2s"}

// A node whose identity is lost, in each way in which that happens, on a real
// kubelet and against the real approver and signer: with a token it is back by
// itself, without one it says what it needs and goes on once it has it, and while
// its certificate is still accepted it needs none.
func TestANodeThatLostItsIdentityComesBack(t *testing.T) {
	ctx := aside(t, 6*time.Minute)
	o := &offForLong{c: ownCluster(t, cluster.Options{Shape: cluster.ByHand, Authorities: cluster.Authorities{Clients: true}})}
	o.newSigner(t, ctx)
	o.token = newToken(t, ctx, o.c)
	o.m = readyMachine(t, ctx, o.c, machine.Options{Name: "off-for-long"}, o.token)
	appendConfig(t, ctx, o.m, "restartSplay: 0s\n")
	labAgent(t, ctx, o.m, labSettings{Pace: quick})
	mustRun(t, ctx, o.m, "systemctl", "enable", "--now", "bootstrap-agent.service")
	awaitStatus(t, ctx, o.m, "the join", 60*time.Second, inPhase(agent.Joined))
	for _, row := range []struct {
		name string
		run  func(*testing.T, context.Context)
	}{
		{"files that somebody else owns are made anew, and a pipe holds nothing up", o.filesOfOthers},
		{"the pair is deleted under a running kubelet", o.pairDeleted},
		{"the pair is of another name", o.otherName},
		{"the identity is wiped", o.wiped},
		{"nearly over while the kubelet is stopped: renewed with itself, no token at all", o.reissued},
		{"the signer is replaced and the API answers 401", o.signerReplaced},
		{"expired while the machine was off, with a token", o.expiredWithToken},
		{"expired while the machine was off, without one", o.expiredWithoutToken},
		{"14 months off and everything wrong at once", o.everythingWrong},
	} {
		began := time.Now()
		if !t.Run(row.name, func(t *testing.T) { row.run(t, ctx) }) {
			return // each begins with the node that the one before left
		}
		t.Logf("%5.1f s  %s", time.Since(began).Seconds(), row.name)
	}
}

func (o *offForLong) newSigner(t *testing.T, ctx context.Context) {
	t.Helper()
	signer, err := cluster.NewAuthority(fmt.Sprintf("nodes-ca-%d", time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.c.SignNodesWith(ctx, signer); err != nil {
		t.Fatal(err)
	}
	o.signer = signer
}

// serial is that of the pair in use; "" while there is none.
func (o *offForLong) serial(ctx context.Context) string {
	s, err := statusOf(ctx, o.m)
	if err != nil || s.Certificate == nil {
		return ""
	}
	return s.Certificate.Serial
}

// back waits for the node with another certificate, and looks at what it cost.
func (o *offForLong) back(t *testing.T, ctx context.Context, old string, run oneRun) agent.Status {
	t.Helper()
	s := awaitStatus(t, ctx, o.m, "the node back", 60*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Certificate != nil && s.Certificate.Serial != old
	})
	now := kubeletRun(t, ctx, o.m)
	if now.InvocationID == run.InvocationID {
		t.Error("the kubelet runs on with the pair that is gone")
	}
	checkIdentity(t, ctx, o.c, o.m, o.m.Name)
	checkLease(t, ctx, o.c, o.m.Name, time.Now().Add(-time.Minute))
	return s
}

// starts counts the starts of the kubelet since a place in the journal.
func (o *offForLong) starts(t *testing.T, ctx context.Context, since string) int {
	t.Helper()
	return strings.Count(strings.Join(journalSince(t, ctx, o.m, since, "_PID=1", "UNIT=kubelet.service"), "\n"), "Started ")
}

// replacePair puts a pair in place of the node's, as the kubelet's store has it.
func (o *offForLong) replacePair(t *testing.T, ctx context.Context, user string, notBefore, notAfter time.Time) {
	t.Helper()
	cert, key, err := o.signer.ClientDated(notBefore, notAfter, user, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	path := "/var/lib/kubelet/pki/kubelet-client-" + notBefore.Local().Format("2006-01-02-15-04-05") + ".pem"
	if err := o.m.WriteFile(ctx, path, string(cert)+string(key), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, o.m, "ln", "-sfn", path, currentPair)
}

func (o *offForLong) pairDeleted(t *testing.T, ctx context.Context) {
	old, run, since := o.serial(ctx), kubeletRun(t, ctx, o.m), cursorOf(t, ctx, o.m)
	mustRun(t, ctx, o.m, "rm", currentPair)
	o.back(t, ctx, old, run)
	if n := o.starts(t, ctx, since); n != 1 {
		t.Errorf("the kubelet was started %d times", n)
	}
	if made := csrsOf(t, ctx, o.c, o.token); len(made) != 2 {
		t.Errorf("requests of the token: %q", made)
	}
}

func (o *offForLong) otherName(t *testing.T, ctx context.Context) {
	run, since := kubeletRun(t, ctx, o.m), cursorOf(t, ctx, o.m)
	o.replacePair(t, ctx, "system:node:somebody-else", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	awaitStatus(t, ctx, o.m, "the re-join to begin", 20*time.Second, func(s agent.Status) bool { return s.Phase != agent.Joined })
	o.back(t, ctx, "", run)
	if n := o.starts(t, ctx, since); n != 1 {
		t.Errorf("the kubelet was started %d times", n)
	}
}

func (o *offForLong) wiped(t *testing.T, ctx context.Context) {
	old, run := o.serial(ctx), kubeletRun(t, ctx, o.m)
	mustRun(t, ctx, o.m, "sh", "-c", "rm -rf /var/lib/kubelet/pki /var/lib/kubelet/kubeconfig /var/lib/bootstrap-agent/*")
	o.back(t, ctx, old, run)
	for _, path := range []string{"trust.json", "manifest.json", "lock"} {
		mustRun(t, ctx, o.m, "test", "-s", "/var/lib/bootstrap-agent/"+path)
	}
}

// forgetToken leaves neither a token here nor one in the cluster.
func (o *offForLong) forgetToken(t *testing.T, ctx context.Context) {
	t.Helper()
	mustRun(t, ctx, o.m, "rm", "-f", tokenPath)
	if err := o.c.DeleteToken(ctx, o.token); err != nil {
		t.Fatal(err)
	}
}

// freshToken gives the machine a token as the hint says.
func (o *offForLong) freshToken(t *testing.T, ctx context.Context) {
	t.Helper()
	o.token = newToken(t, ctx, o.c)
	result, err := o.m.RunInput(ctx, []byte(o.token.String()+"\n"), "bootstrap-agent", "token", "set")
	if err != nil || result.Code != 0 {
		t.Fatalf("%v, %+v", err, result)
	}
}

func (o *offForLong) reissued(t *testing.T, ctx context.Context) {
	o.forgetToken(t, ctx)
	before := o.serial(ctx)
	mustRun(t, ctx, o.m, "systemctl", "stop", "kubelet.service")
	o.replacePair(t, ctx, "system:node:"+o.m.Name, time.Now().Add(-100*time.Hour), time.Now().Add(time.Hour))
	near := serialOf(t, ctx, o.m, currentPair)
	s := awaitStatus(t, ctx, o.m, "another certificate", 30*time.Second, func(s agent.Status) bool {
		return s.Certificate != nil && s.Certificate.Serial != near && s.Certificate.Serial != before
	})
	if !slices.ContainsFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.KubeletStopped }) {
		t.Errorf("notes %v", s.Notes)
	}
	if p := unitProps(t, ctx, o.m, "kubelet.service", "ActiveState"); p["ActiveState"] != "inactive" {
		t.Errorf("what a person stopped is %s", p["ActiveState"])
	}
	all, err := o.c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, csr := range all {
		if csr.Spec.Username == "system:node:"+o.m.Name && len(csr.Status.Certificate) > 0 {
			made++
			if message := fmt.Sprint(csr.Status.Conditions); !strings.Contains(message, "Auto approving self kubelet client certificate") {
				t.Errorf("approved by somebody else: %s", message)
			}
		}
	}
	if made != 1 {
		t.Errorf("%d requests of the node itself", made)
	}
	mustRun(t, ctx, o.m, "systemctl", "start", "kubelet.service")
	awaitStatus(t, ctx, o.m, "the node", 60*time.Second, inPhase(agent.Joined))
	checkIdentity(t, ctx, o.c, o.m, o.m.Name)
}

// needsToken waits for the stop that names what happened and both sides' commands.
func (o *offForLong) needsToken(t *testing.T, ctx context.Context, says string) {
	t.Helper()
	s := awaitStatus(t, ctx, o.m, "TokenMissing", 60*time.Second, hasReason(fault.TokenMissing))
	if s.Phase != agent.Blocked || !strings.Contains(s.Message, says) ||
		!strings.Contains(s.Hint, "kubeadm token create") || !strings.Contains(s.Hint, "bootstrap-agent token set") {
		t.Errorf("%s: %s -> %s", s.Phase, s.Message, s.Hint)
	}
	if s.NextRetry == nil || time.Until(*s.NextRetry) < time.Minute {
		t.Errorf("asked again at %v: then what follows proves nothing", s.NextRetry)
	}
	t.Logf("%s -> %s", s.Message, s.Hint)
}

// signerReplaced: the agent asks the API once an hour here, so what tells it is the
// kubelet's own complaint.
func (o *offForLong) signerReplaced(t *testing.T, ctx context.Context) {
	setLab(t, ctx, o.m, labSettings{Pace: map[string]string{"LocalCheck": "5s", "APICheck": "1h", "UnauthorizedGap": "1s", "EagerFirst": "2s"}})
	mustRun(t, ctx, o.m, "systemctl", "restart", "bootstrap-agent.service")
	awaitStatus(t, ctx, o.m, "a node that is Ready and is not asked about again", 60*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && s.Node.Ready != nil && *s.Node.Ready
	})
	defer setLab(t, ctx, o.m, labSettings{Pace: quick})
	old, run, since := o.serial(ctx), kubeletRun(t, ctx, o.m), cursorOf(t, ctx, o.m)
	o.newSigner(t, ctx)
	o.needsToken(t, ctx, "is refused by the API server")
	if again := kubeletRun(t, ctx, o.m); again != run {
		t.Errorf("the kubelet was touched: %v, %v", run, again)
	}
	o.freshToken(t, ctx)
	o.back(t, ctx, old, run)
	if n := o.starts(t, ctx, since); n != 1 {
		t.Errorf("the kubelet was started %d times", n)
	}
}

// off is the machine off for long: what it had ended two months ago.
func (o *offForLong) off(t *testing.T, ctx context.Context) (serial string) {
	t.Helper()
	if err := o.m.Poweroff(ctx); err != nil {
		t.Fatal(err)
	}
	o.replacePair(t, ctx, "system:node:"+o.m.Name, time.Now().AddDate(0, -14, 0), time.Now().AddDate(0, -2, 0))
	renewed := fmt.Sprintf(`{"spec": {"renewTime": %q}}`, time.Now().AddDate(0, -14, 0).UTC().Format("2006-01-02T15:04:05.000000Z"))
	if _, err := o.c.Kubectl(ctx, "--namespace=kube-node-lease", "patch", "lease", o.m.Name, "--type=merge", "--patch="+renewed); err != nil {
		t.Fatal(err)
	}
	return serialOf(t, ctx, o.m, currentPair)
}

func (o *offForLong) boot(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := o.m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
}

func (o *offForLong) expiredWithToken(t *testing.T, ctx context.Context) {
	old := o.off(t, ctx)
	o.boot(t, ctx)
	o.back(t, ctx, old, oneRun{})
}

func (o *offForLong) expiredWithoutToken(t *testing.T, ctx context.Context) {
	old := o.off(t, ctx)
	o.forgetToken(t, ctx)
	o.boot(t, ctx)
	o.needsToken(t, ctx, "has expired at")
	o.freshToken(t, ctx)
	o.back(t, ctx, old, oneRun{})
}

func (o *offForLong) everythingWrong(t *testing.T, ctx context.Context) {
	old := o.off(t, ctx)
	if err := o.c.DeleteToken(ctx, o.token); err != nil { // its file stays: stale
		t.Fatal(err)
	}
	// Others have joined meanwhile, with tokens of their own.
	if err := o.c.AwaitSignature(ctx, newToken(t, ctx, o.c)); err != nil {
		t.Fatal(err)
	}
	former, err := cluster.NewAuthority("the-ca-of-14-months-ago")
	if err != nil {
		t.Fatal(err)
	}
	// The cluster has another CA by now: pin, trust record and ca.crt are of the old one.
	const config = "/etc/bootstrap-agent/config.yaml"
	for _, path := range []string{config, "/var/lib/bootstrap-agent/trust.json"} {
		text, err := o.m.ReadFile(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		text = strings.ReplaceAll(text, o.c.Pin(), former.Pin())
		text = strings.ReplaceAll(text, strings.ReplaceAll(string(o.c.CA()), "\n", `\n`), strings.ReplaceAll(string(former.CertPEM), "\n", `\n`))
		if !strings.Contains(text, former.Pin()) {
			t.Fatalf("%s has no pin", path)
		}
		if err := o.m.WriteFile(ctx, path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.m.WriteFile(ctx, "/var/lib/kubelet/pki/ca.crt", string(former.CertPEM), 0o644); err != nil {
		t.Fatal(err)
	}
	// A power cut has emptied the kubelet's configuration: it crashes in a loop. (An
	// expired certificate alone does not end a kubelet.)
	mustRun(t, ctx, o.m, "truncate", "--size=0", "/var/lib/kubelet/config.yaml")
	setLab(t, ctx, o.m, labSettings{Pace: quick, ClockOffset: "-48h"})
	o.boot(t, ctx)

	named := func(what string, want fault.Reason, parts ...string) {
		t.Helper()
		s := awaitStatus(t, ctx, o.m, what, 60*time.Second, hasReason(want))
		t.Logf("%s: %s -> %s", want, s.Message, s.Hint)
		for _, part := range append(parts, "has expired at") {
			if !strings.Contains(s.Message+s.Hint, part) {
				t.Errorf("%s lacks %q: %s -> %s", want, part, s.Message, s.Hint)
			}
		}
	}
	named("the token's fault", fault.TokenUnknown, "kubeadm token create", "bootstrap-agent token set")
	awaitProps(t, ctx, o.m, "kubelet.service", "a kubelet that crashes", func(p map[string]string) bool { return p["SubState"] == "auto-restart" || p["NRestarts"] != "0" })
	o.freshToken(t, ctx)
	named("the pin's fault", fault.CAPinMismatch, o.c.Pin())
	text, err := o.m.ReadFile(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.m.WriteFile(ctx, config, strings.ReplaceAll(text, former.Pin(), o.c.Pin()), 0o600); err != nil {
		t.Fatal(err)
	}
	named("the clock's fault", fault.ClockSkew)
	setLab(t, ctx, o.m, labSettings{Pace: quick})
	o.back(t, ctx, old, oneRun{})
	if _, err := o.c.AwaitReady(ctx, o.m.Name); err != nil {
		t.Error(err)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	configPath  = "/etc/bootstrap-agent/config.yaml"
	tokenPath   = "/etc/bootstrap-agent/token"
	agentUnit   = "bootstrap-agent.service"
	clusterInfo = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
)

// settings are what a machine's administrator gave to the agent.
type settings struct {
	endpoints []string
	pin       string
	server    string
	token     string // of the token file; none if empty
	more      string // further lines of the config
}

func (s settings) config() string {
	var out strings.Builder
	fmt.Fprintf(&out, "apiVersion: bootstrap-agent/v1\nendpoints: [%s]\n", strings.Join(s.endpoints, ", "))
	if s.pin != "" {
		fmt.Fprintf(&out, "caCertHashes: [%s]\n", s.pin)
	}
	if s.server != "" {
		fmt.Fprintf(&out, "server: %s\n", s.server)
	}
	return out.String() + s.more
}

// agentMachine boots a machine with the agent installed and nothing of it
// running, not even what watches for a config: the scenario says when.
func agentMachine(t *testing.T, ctx context.Context, opts machine.Options) *machine.Machine {
	t.Helper()
	m := bootMachine(t, ctx, opts)
	installAgent(t, ctx, m)
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path", agentUnit)
	return m
}

// prepare stops the agent, lets the machine forget what the agent wrote into
// its own folder and puts new settings there. It does not start it.
func prepare(t *testing.T, ctx context.Context, m *machine.Machine, s settings) {
	t.Helper()
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path", agentUnit)
	mustRun(t, ctx, m, "systemctl", "reset-failed")
	mustRun(t, ctx, m, "sh", "-c", "rm -rf /var/lib/bootstrap-agent/* "+tokenPath)
	files := map[string]machine.File{configPath: {Content: s.config(), Mode: 0o600}}
	if s.token != "" {
		files[tokenPath] = machine.File{Content: s.token + "\n", Mode: 0o600}
	}
	if err := m.WriteFiles(ctx, files); err != nil {
		t.Fatal(err)
	}
}

// wire keeps every request that came out of a front's TLS, head and body.
type wire struct {
	mu    sync.Mutex
	dumps []string
}

// tap records what clients send to the front.
func tap(front *proxy.Front) *wire {
	w := &wire{}
	front.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		dump, err := httputil.DumpRequest(r, true)
		if err != nil {
			dump = []byte(err.Error())
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dumps = append(w.dumps, string(dump))
		return false
	})
	return w
}

// take returns what was recorded since it was called last.
func (w *wire) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.dumps
	w.dumps = nil
	return out
}

// propertiesOf reads the properties of the agent's unit, empty ones too.
func propertiesOf(t *testing.T, ctx context.Context, m *machine.Machine) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(mustRun(t, ctx, m, "systemctl", "show", "--all", agentUnit)) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			out[name] = value
		}
	}
	return out
}

// faultRow is one way in which a machine cannot be joined.
type faultRow struct {
	name   string
	with   settings
	via    *wire // of the endpoint
	reason fault.Reason
	hint   string // part of what a person is told to do
	says   string // part of the message
}

// What is wrong is said by its own name within seconds, by status and by the
// exit code of join, and the token stays at home: nothing that was not proven to
// be the cluster gets to see it.
func TestEachWrongTokenPinOrServerShowsItsOwnReason(t *testing.T) {
	ctx := scenario(t, 6*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	// The signer does not run here: a token signs nothing. Also "another cluster".
	unsigned := ownCluster(t, cluster.Options{Shape: cluster.ByHand, Controllers: []string{"*"}})

	front := newFront(t, ctx, c, nil)
	frontOfUnsigned := newFront(t, ctx, unsigned, nil)
	authority, err := cluster.NewAuthority("impostor")
	if err != nil {
		t.Fatal(err)
	}
	impostor := newFront(t, ctx, c, authority)
	honest, unsignedWire, lying := tap(front), tap(frontOfUnsigned), tap(impostor)

	good := newToken(t, ctx, c)
	if err := c.AwaitSignature(ctx, good); err != nil {
		t.Fatal(err)
	}
	expired, err := c.NewToken(ctx, cluster.TokenOptions{Expiry: -time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	foreign := newToken(t, ctx, unsigned)
	wrongSecret := cluster.Token{ID: good.ID, Secret: cluster.RandomToken().Secret}
	unknown := cluster.RandomToken()

	on := func(front *proxy.Front, pin string, token cluster.Token) settings {
		return settings{endpoints: []string{front.Endpoint()}, pin: pin, token: token.String()}
	}
	rows := []faultRow{
		{"wrong secret", on(front, c.Pin(), wrongSecret), honest, fault.SignatureMismatch, "kubeadm token list", wrongSecret.ID},
		{"unknown token id", on(front, c.Pin(), unknown), honest, fault.TokenUnknown, "bootstrap-agent token set", unknown.ID},
		{"expired token", on(front, c.Pin(), expired), honest, fault.TokenUnknown, "kubeadm token create", expired.ID},
		{"token of another cluster", on(front, c.Pin(), foreign), honest, fault.TokenUnknown, "kubeadm token create", foreign.ID},
		{"signer switched off", on(frontOfUnsigned, unsigned.Pin(), foreign), unsignedWire, fault.NoSignatures, "bootstrapsigner", "no signature"},
		{"wrong pin", on(front, authority.Pin(), good), honest, fault.CAPinMismatch, "caCertHashes", c.Pin()},
		{"no pin", on(front, "", good), honest, fault.PinRequired, c.Pin(), c.Pin()},
		{"impostor with a certificate of its own", on(impostor, c.Pin(), good), lying, fault.ServerCertificateInvalid, "--apiserver-cert-extra-sans", impostor.Endpoint()},
	}
	m := agentMachine(t, ctx, machine.Options{Name: "faults"})
	secrets := []string{}
	for _, row := range rows {
		_, secret, _ := strings.Cut(row.with.token, ".")
		secrets = append(secrets, secret)
		t.Run(row.name, func(t *testing.T) {
			row.via.take()
			showsItsReason(t, ctx, m, row)
			joinEndsWithItsCode(t, ctx, m, row)
			seen := row.via.take()
			if len(seen) == 0 {
				t.Error("the recording server saw nothing: it proves nothing")
			}
			for _, dump := range seen {
				if !strings.HasPrefix(dump, "GET "+clusterInfo+" ") || strings.Contains(strings.ToLower(dump), "authorization") || strings.Contains(dump, secret) {
					t.Errorf("sent to a server that was not verified:\n%s", dump)
				}
			}
			if out := mustRun(t, ctx, m, "sh", "-c", "find /var/lib/kubelet /var/lib/bootstrap-agent /etc/systemd/system/kubelet* -type f ! -name lock 2>/dev/null || true"); out != "" {
				t.Errorf("a join that never found its cluster wrote:\n%s", out)
			}
		})
	}
	t.Run("a server that is not the cluster gets no token", func(t *testing.T) {
		with := on(front, c.Pin(), good)
		with.server = "https://" + impostor.Endpoint()
		row := faultRow{"", with, honest, fault.ServerCertificateInvalid, "--apiserver-cert-extra-sans", impostor.Endpoint()}
		showsItsReason(t, ctx, m, row)
		joinEndsWithItsCode(t, ctx, m, row)
		if seen := lying.take(); len(seen) > 0 {
			t.Errorf("the impostor was sent:\n%s", strings.Join(seen, "\n"))
		}
	})
	t.Run("only the verified server sees the token", func(t *testing.T) {
		honest.take()
		// It signs, and does not authenticate: the request for a certificate ends with 401.
		signing, err := c.NewToken(ctx, cluster.TokenOptions{Usages: []string{"signing"}})
		if err == nil {
			err = c.AwaitSignature(ctx, signing)
		}
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, signing.Secret)
		with := on(front, c.Pin(), signing)
		with.server = "https://" + front.Endpoint()
		row := faultRow{"", with, honest, fault.TokenRejected, "kubeadm token create", "401"}
		showsItsReason(t, ctx, m, row)
		joinEndsWithItsCode(t, ctx, m, row)
		asked, sent := 0, 0
		for _, dump := range honest.take() {
			withToken := strings.Contains(dump, signing.Secret)
			switch {
			case strings.HasPrefix(dump, "GET "+clusterInfo+" ") && withToken:
				t.Errorf("cluster-info was read with the token:\n%s", dump)
			case strings.HasPrefix(dump, "GET "+clusterInfo+" "):
				asked++
			case withToken:
				sent++
			}
		}
		if asked == 0 || sent == 0 {
			t.Errorf("the recording server saw %d anonymous reads and %d requests with the token: it proves nothing", asked, sent)
		}
		t.Logf("%d anonymous reads of cluster-info, %d requests with the token", asked, sent)
	})
	leaksNothing(t, ctx, m, secrets)
}

// showsItsReason starts the agent: reason and remedy stand in its status within
// 5 s by its own clock, and no secret beside them.
func showsItsReason(t *testing.T, ctx context.Context, m *machine.Machine, row faultRow) {
	t.Helper()
	entry, ok := fault.Lookup(row.reason)
	if !ok {
		t.Fatalf("no reason %s", row.reason)
	}
	_, secret, _ := strings.Cut(row.with.token, ".")
	prepare(t, ctx, m, row.with)
	began := time.Now()
	mustRun(t, ctx, m, "systemctl", "start", agentUnit)
	s := awaitStatus(t, ctx, m, string(row.reason), 20*time.Second, hasReason(row.reason))
	if took := s.Since.Sub(began); took > 5*time.Second {
		t.Errorf("%s stood in the status %.2f s after systemctl start", row.reason, took.Seconds())
	} else {
		t.Logf("%s after %.2f s: %s", row.reason, took.Seconds(), s.Message)
	}
	if blocked := s.Phase == agent.Blocked; blocked != (entry.Class == fault.Blocked) {
		t.Errorf("phase %s with a reason of class %s", s.Phase, entry.Class)
	}
	if !strings.Contains(s.Hint, row.hint) || !strings.Contains(s.Message, row.says) || s.NextRetry == nil || s.Attempt == 0 {
		t.Errorf("message %q lacks %q, or hint %q lacks %q, or attempt %d and next retry %v do not tell", s.Message, row.says, s.Hint, row.hint, s.Attempt, s.NextRetry)
	}
	show := propertiesOf(t, ctx, m)
	if !strings.Contains(show["StatusText"], string(row.reason)) {
		t.Errorf("systemctl status shows %q", show["StatusText"])
	}
	for what, text := range map[string]string{
		"the status for people": mustRun(t, ctx, m, "bootstrap-agent", "status"),
		"status.json":           mustRun(t, ctx, m, "cat", "/run/bootstrap-agent/status.json"),
		"unit properties":       fmt.Sprint(show),
		"command line":          mustRun(t, ctx, m, "cat", "/proc/"+show["MainPID"]+"/cmdline"),
		"environment":           mustRun(t, ctx, m, "cat", "/proc/"+show["MainPID"]+"/environ"),
	} {
		if text == "" || strings.Contains(text, secret) {
			t.Errorf("%s is empty or holds the secret: %q", what, text)
		}
		if what == "the status for people" && (!strings.Contains(text, string(row.reason)) || !strings.Contains(flat(text), row.hint)) {
			t.Errorf("%s lacks %s or %q:\n%s", what, row.reason, row.hint, text)
		}
	}
	mustRun(t, ctx, m, "systemctl", "stop", agentUnit)
}

// flat undoes line breaks that only serve the screen.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }

// joinEndsWithItsCode does the same in the foreground.
func joinEndsWithItsCode(t *testing.T, ctx context.Context, m *machine.Machine, row faultRow) {
	t.Helper()
	entry, _ := fault.Lookup(row.reason)
	_, secret, _ := strings.Cut(row.with.token, ".")
	prepare(t, ctx, m, row.with)
	began := time.Now()
	result, err := m.Run(ctx, "bootstrap-agent", "join", "--timeout", "5s")
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if result.Code != entry.Exit {
		t.Errorf("join ended with %d, want %d:\n%s", result.Code, entry.Exit, result.Stderr)
	}
	// One second for a busy host, beside the time it was given.
	if took > 6*time.Second || entry.Class == fault.Blocked && took > 5*time.Second {
		t.Errorf("join took %.2f s", took.Seconds())
	}
	out := flat(result.Stderr)
	if !strings.Contains(out, string(row.reason)) || !strings.Contains(out, row.hint) || strings.Contains(result.Stdout+result.Stderr, secret) {
		t.Errorf("join said (stdout %q):\n%s", result.Stdout, result.Stderr)
	}
}

// leaksNothing looks for secrets wherever the agent writes: the token file of
// the administrator is the one place where one may be.
func leaksNothing(t *testing.T, ctx context.Context, m *machine.Machine, secrets []string) {
	t.Helper()
	slices.Sort(secrets)
	secrets = slices.Compact(secrets)
	patterns := strings.Join(secrets, "\n") + "\n"
	result, err := m.RunInput(ctx, []byte(patterns), "grep", "-rlaF", "-f", "-", "/etc", "/run", "/var/lib/bootstrap-agent", "/var/lib/kubelet", "/var/log", "/tmp", "/var/tmp")
	if err != nil || strings.TrimSpace(result.Stdout) != tokenPath {
		t.Errorf("secrets stand in (the token file alone may hold one): %q, %v", result.Stdout, err)
	}
	journal := mustRun(t, ctx, m, "journalctl", "--no-pager", "--output=export")
	for line := range strings.Lines(journal) {
		for _, secret := range secrets {
			if strings.Contains(line, secret) {
				t.Errorf("the journal holds a secret: %s", strings.ReplaceAll(line, secret, "<the secret>"))
			}
		}
	}
	if !strings.Contains(journal, string(fault.SignatureMismatch)) {
		t.Error("the journal does not hold the reasons either: this proves nothing")
	}
}

//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	discoveryFile = "/etc/bootstrap-agent/cluster.kubeconfig"
	// staticToken stands in the API server's --token-auth-file. It has not the
	// form of a bootstrap token.
	staticToken = "a-static-token-as-people-make-them"
	staticUser  = "kubelet-bootstrap"
)

// A cluster made by hand where nobody reads anything anonymously: cluster-info
// cannot be discovered, so the machine is given a kubeconfig.
func TestAMachineJoinsByADiscoveryFile(t *testing.T) {
	asides.beside(t, 4*time.Minute)
	tokens := filepath.Join(t.TempDir(), "tokens.csv")
	if err := os.WriteFile(tokens, []byte(staticToken+","+staticUser+",10001,system:bootstrappers\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := ownCluster(t, cluster.Options{
		Shape: cluster.ByHand, APIServerFlags: []string{"--anonymous-auth=false", "--token-auth-file=" + tokens},
	})
	// F12, kubernetes/kubeadm#663: what others call "Unauthorized" is explained.
	t.Run("without one it is told to take one", func(t *testing.T) {
		h := newHostAgent(t, scenario(t, time.Minute), c, "file-none", newToken(t, t.Context(), c))
		h.start()
		if s := h.fails(fault.ClusterInfoForbidden, 10*time.Second); !strings.Contains(s.Hint, "discoveryFile") || s.Attempt == 0 {
			t.Errorf("hint %q", s.Hint)
		}
	})
	t.Run("with server and CA, and a bootstrap token of its own", func(t *testing.T) {
		ctx := scenario(t, time.Minute)
		token := newToken(t, ctx, c)
		m := fileMachine(t, ctx, c, "file-token", "https://"+c.Endpoint(), "", map[string]machine.File{
			"/etc/bootstrap-agent/token": {Content: token.String() + "\n", Mode: 0o600},
		})
		t.Logf("\n%s", mustRun(t, ctx, m, "bootstrap-agent", "check", "--cluster"))
		mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
		s := awaitStatus(t, ctx, m, "the join", 30*time.Second, inPhase(agent.Joined))
		if s.Cluster.DiscoveryFile != discoveryFile || !slices.Equal(s.Cluster.CAPins, []string{c.Pin()}) {
			t.Errorf("%+v", s.Cluster)
		}
		for _, note := range s.Notes {
			if note.Reason == fault.CARefreshUnavailable || note.Reason == fault.TokenLeftBehind {
				t.Errorf("a note without a reason: %+v", note)
			}
		}
		checkIdentity(t, ctx, c, m, m.Name)
	})
	t.Run("through a balancer of the node that comes up later", func(t *testing.T) {
		ctx := scenario(t, time.Minute)
		m := fileMachine(t, ctx, c, "file-balancer", "https://127.0.0.1:6443", staticToken, nil)
		mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
		s := awaitStatus(t, ctx, m, "the wait", 20*time.Second, hasReason(fault.EndpointUnreachable))
		if s.Phase != agent.Discovering || s.NextRetry == nil || !strings.Contains(s.Hint, "127.0.0.1:6443 of this machine yet") {
			t.Errorf("phase %s, hint %q", s.Phase, s.Hint)
		}
		mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=balancer", "socat", "TCP-LISTEN:6443,bind=127.0.0.1,reuseaddr,fork", "TCP:"+c.Endpoint())
		s = awaitStatus(t, ctx, m, "the join", 40*time.Second, inPhase(agent.Joined))
		if s.Cluster.Server != "https://127.0.0.1:6443" || s.Cluster.Provisional {
			t.Errorf("%+v", s.Cluster)
		}
		if text, err := m.ReadFile(ctx, "/var/lib/kubelet/kubeconfig"); err != nil || !strings.Contains(text, "https://127.0.0.1:6443") {
			t.Errorf("the kubelet goes elsewhere: %s, %v", text, err)
		}
	})
	t.Run("with a whole bootstrap-kubeconfig and its static token", func(t *testing.T) {
		ctx := scenario(t, 90*time.Second)
		if err := c.SetAutoApproval(ctx, false); err != nil {
			t.Fatal(err)
		}
		m := fileMachine(t, ctx, c, "file-static", "https://"+c.Endpoint(), staticToken, nil)
		mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
		waiting := func(s agent.Status) bool { return s.CSR != nil && s.CSR.Approve != "" }
		name := awaitStatus(t, ctx, m, "the request", 30*time.Second, waiting).CSR.Name
		// The server alone knows who we are; a restart finds the request again.
		mustRun(t, ctx, m, "systemctl", "restart", "bootstrap-agent.service")
		again := awaitStatus(t, ctx, m, "the same request", 30*time.Second, func(s agent.Status) bool { return waiting(s) && s.CSR.Adopted }).CSR
		if made := requestsFor(t, ctx, c, m.Name); again.Name != name || !slices.Equal(made, []string{name}) {
			t.Errorf("first %s, then %s; %q are there", name, again.Name, made)
		}
		if err := c.Approve(ctx, name); err != nil {
			t.Fatal(err)
		}
		left := func(s agent.Status) bool {
			return slices.ContainsFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.TokenLeftBehind })
		}
		s := awaitStatus(t, ctx, m, "the join", 30*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && left(s) })
		if out := mustRun(t, ctx, m, "bootstrap-agent", "check", "--config"); !strings.Contains(out, "warning: "+discoveryFile+" still holds a token") {
			t.Errorf("check --config does not tell: %s", out)
		}
		// The remedy is literal, and it works.
		i := slices.IndexFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.TokenLeftBehind })
		remedy, _, _ := strings.Cut(s.Notes[i].Hint, " (")
		mustRun(t, ctx, m, "sh", "-c", remedy)
		awaitStatus(t, ctx, m, "no token any more", 20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && !left(s) })
		if out := mustRun(t, ctx, m, "bootstrap-agent", "check", "--cluster"); !strings.Contains(out, "A machine could join") {
			t.Errorf("without its token: %s", out)
		}
		journal, err := m.Journal(ctx, "bootstrap-agent.service")
		if err != nil || strings.Contains(journal, staticToken) {
			t.Errorf("the journal shows the token (%v)", err)
		}
	})
}

// fileMachine boots a machine with the agent installed and told to join by a
// discovery file.
func fileMachine(t *testing.T, ctx context.Context, c *cluster.Cluster, name, server, token string, more map[string]machine.File) *machine.Machine {
	t.Helper()
	m := bootMachine(t, ctx, machine.Options{Name: name, Files: handMadeSettings()})
	installAgent(t, ctx, m)
	mustRun(t, ctx, m, "systemctl", "stop", "bootstrap-agent.path") // the scenario says when
	text := "apiVersion: v1\nkind: Config\nclusters:\n- name: lab\n  cluster:\n    server: " + server +
		"\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(c.CA()) + "\n"
	if token != "" {
		text += "users:\n- name: " + staticUser + "\n  user:\n    token: " + token +
			"\ncontexts:\n- name: default\n  context: {cluster: lab, user: " + staticUser + "}\ncurrent-context: default\n"
	}
	files := map[string]machine.File{
		discoveryFile:                      {Content: text, Mode: 0o600},
		"/etc/bootstrap-agent/config.yaml": {Content: "apiVersion: bootstrap-agent/v1\ndiscoveryFile: " + discoveryFile + "\nkubelet: {configDir: " + handMadeConfigDir + "}\n", Mode: 0o600},
	}
	for path, file := range more {
		files[path] = file
	}
	if err := m.WriteFiles(ctx, files); err != nil {
		t.Fatal(err)
	}
	return m
}

// requestsFor lists the requests for a node of this name, whoever made them.
func requestsFor(t *testing.T, ctx context.Context, c *cluster.Cluster, node string) []string {
	t.Helper()
	all, err := c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, csr := range all {
		if csr.Spec.Username == staticUser && csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && strings.Contains(subjectOf(t, csr.Spec.Request), node) {
			names = append(names, csr.Name)
		}
	}
	return names
}

// subjectOf is the subject that a request asks for.
func subjectOf(t *testing.T, request []byte) string {
	t.Helper()
	block, _ := pem.Decode(request)
	if block == nil {
		t.Fatal("a request without PEM")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Subject.CommonName
}

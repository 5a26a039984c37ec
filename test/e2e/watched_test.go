//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	metricsPath = "/run/bootstrap-agent/metrics.prom"
	metricsPort = "127.0.0.1:9464"
)

// The rules for Prometheus are judged by Prometheus' own tool: each alert fires
// when it should, and none when it should not.
func TestTheAlertRulesFireWhenTheyShould(t *testing.T) {
	ctx := scenario(t, time.Minute)
	rules := "../../packaging/alerts/bootstrap-agent.rules"
	t.Log(promtool(t, ctx, "", "check", "rules", rules+".yaml"))
	t.Log(promtool(t, ctx, "", "test", "rules", rules+".test.yaml"))
}

// promtool runs Prometheus' own tool; what it finds wrong is an error.
func promtool(t *testing.T, ctx context.Context, stdin string, args ...string) string {
	t.Helper()
	folder, err := machine.Prometheus(ctx, logf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(folder, "promtool"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.HasPrefix(args[0]+" "+args[1], "check metrics") && len(out) > 0 {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// A machine that waits, joins and is a node, seen with the tools that people have
// for that: Prometheus, kubectl, journalctl.
func TestAMachineCanBeWatchedWithOrdinaryTools(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	token := waitingToken(t, ctx, c)
	folder, err := machine.Prometheus(ctx, logf)
	if err != nil {
		t.Fatal(err)
	}
	m := readyMachine(t, ctx, c, machine.Options{Name: "watched", Binds: []string{folder + ":/opt/prometheus"}}, token)
	appendConfig(t, ctx, m, "metricsAddress: \""+metricsPort+"\"\n")
	t.Run("a port that is taken is a note", func(t *testing.T) { portIsTaken(t, ctx, m) })
	s := awaitStatus(t, ctx, m, "a request that waits", 30*time.Second, hasReason(fault.CSRPending))
	t.Run("journalctl -x explains a request that waits", func(t *testing.T) { catalogExplains(t, ctx, m, s) })
	t.Run("file and port tell Prometheus why it is no node", func(t *testing.T) {
		eventually(t, ctx, "the reason in the file", func(ctx context.Context) error {
			return holds(m.ReadFile(ctx, metricsPath))("bootstrap_agent_joined 0", `bootstrap_agent_phase{phase="RequestingCertificate"} 1`,
				`bootstrap_agent_reason_info{reason="CSRPending",class="slow"} 1`)
		})
		metricsAreClean(t, ctx, m)
	})
	if _, err := c.Kubectl(ctx, "certificate", "approve", s.CSR.Name); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	t.Run("file and port tell Prometheus what the node is", func(t *testing.T) { nodeIsInTheMetrics(t, ctx, c, m) })
	t.Run("kubectl shows it in the fleet", func(t *testing.T) { nodeIsInTheFleet(t, ctx, c, m) })
	t.Run("journalctl -u kubelet shows who started it", func(t *testing.T) { kubeletsJournal(t, ctx, m) })
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

// eventually tries until it works, for as long as such things may take.
func eventually(t *testing.T, ctx context.Context, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := await.Until(ctx, what, 50*time.Millisecond, try); err != nil {
		t.Fatal(err)
	}
}

// holds says which of these a text lacks.
func holds(text string, err error) func(parts ...string) error {
	return func(parts ...string) error {
		for _, part := range parts {
			if err == nil && !strings.Contains(text, part) {
				err = fmt.Errorf("%q is not in:\n%s", part, text)
			}
		}
		return err
	}
}

// catalogExplains: systemd takes the catalog without a word, and its text below
// the entry has the remedy of this very case.
func catalogExplains(t *testing.T, ctx context.Context, m *machine.Machine, s agent.Status) {
	result, err := m.Run(ctx, "journalctl", "--update-catalog")
	if err != nil || result.Code != 0 || result.Stderr != "" {
		t.Fatalf("%v: %+v", err, result)
	}
	if out := mustRun(t, ctx, m, "journalctl", "--list-catalog"); strings.Count(out, "bootstrap-agent: ") != len(fault.All())+len(fault.Events()) {
		t.Errorf("systemd knows these of ours:\n%s", out)
	}
	eventually(t, ctx, "the entry", func(ctx context.Context) error {
		text, err := m.Output(ctx, "journalctl", "--no-pager", "--boot", "--unit=bootstrap-agent", "--catalog", "BOOTSTRAP_AGENT_REASON=CSRPending")
		if err := holds(text, err)("Subject: CSRPending", "Defined-By: bootstrap-agent", "Documentation: man:bootstrap-agent(8)",
			"The certificate signing request waits for approval.",
			"What was seen: request "+s.CSR.Name+" waits for approval", "What to do: kubectl certificate approve "+s.CSR.Name); err != nil {
			return err
		}
		if strings.Contains(text, "@BOOTSTRAP") {
			return fmt.Errorf("a field is not put in:\n%s", text)
		}
		t.Logf("\n%s", text)
		return nil
	})
}

// metricsAreClean: promtool has nothing to say of file and port, which agree.
func metricsAreClean(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	var file, port string
	eventually(t, ctx, "file and port that agree", func(ctx context.Context) (err error) {
		if port, err = m.Output(ctx, "curl", "--silent", "--show-error", "--fail", "http://"+metricsPort+"/metrics"); err != nil {
			return err
		}
		if file, err = m.ReadFile(ctx, metricsPath); err == nil && file != port {
			err = fmt.Errorf("the file says\n%s\nthe port\n%s", file, port) // one is newer by a moment
		}
		return err
	})
	for _, text := range []string{file, port} {
		promtool(t, ctx, text, "check", "metrics")
	}
	if mode := mustRun(t, ctx, m, "stat", "--format=%a", metricsPath); mode != "644\n" {
		t.Errorf("mode %s", mode)
	}
	return port
}

func nodeIsInTheMetrics(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	eventually(t, ctx, "the join in the file", func(ctx context.Context) error {
		return holds(m.ReadFile(ctx, metricsPath))("\nbootstrap_agent_joined 1\n") // not the line of its help
	})
	text := metricsAreClean(t, ctx, m)
	if err := holds(text, nil)(`bootstrap_agent_trusted_ca_info{hash="`+c.Pin()+`"} 1`, "bootstrap_agent_renewal_automatic 1", "bootstrap_agent_client_cert_not_after_seconds ",
		"bootstrap_agent_drifted_files 0", `bootstrap_agent_kubelet_restarts_total{cause="elsewhere"} 0`); err != nil {
		t.Error(err)
	}
	if skew := regexp.MustCompile(`(?m)^bootstrap_agent_clock_skew_seconds (0|1|-1)$`).FindString(text); skew == "" {
		t.Errorf("this machine has the clock of the API server:\n%s", text)
	}
	// What people run: Debian's node_exporter, with the documented flag.
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=exporter", "--property=User=nobody", "/opt/prometheus/prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory=/run/bootstrap-agent", "--web.listen-address=127.0.0.1:9100")
	eventually(t, ctx, "node_exporter", func(ctx context.Context) error {
		return holds(m.Output(ctx, "curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:9100/metrics"))("\nbootstrap_agent_joined 1\n", "node_textfile_scrape_error 0")
	})
	if result, err := m.Run(ctx, "curl", "--silent", "--max-time", "2", "http://"+m.Address+":9464/metrics"); err != nil || result.Code == 0 {
		t.Errorf("the port answers on another address than the one named: %v %+v", err, result)
	}
	usage := mustRun(t, ctx, m, "sh", "-c", "grep -E '^(VmRSS|Threads)' /proc/$(systemctl show --value --property=MainPID bootstrap-agent)/status")
	t.Logf("with the port open: %q", usage)
}

func nodeIsInTheFleet(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) {
	s, err := statusOf(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^` + m.Name + ` +` + regexp.QuoteMeta(s.Version) + ` +Joined +(\S+) +` + s.Certificate.Serial + ` +` + regexp.QuoteMeta(c.Pin()) + `$`)
	eventually(t, ctx, "the documented command to show the machine", func(ctx context.Context) error {
		out, err := c.RunPage(ctx, "docs/operations.md", "fleet")
		if err == nil && !line.MatchString(out) {
			err = fmt.Errorf("no line of it in:\n%s", out)
		}
		if err == nil {
			t.Logf("\n%s", out)
		}
		return err
	})
	// By whom: the node itself, which may write to no other.
	node, err := c.Kubectl(ctx, "get", "node", m.Name, "--show-managed-fields", "--output=jsonpath={.metadata.managedFields[?(@.manager==\"bootstrap-agent\")].fieldsV1}")
	if err != nil || !strings.Contains(node, "f:bootstrap-agent.github.io/phase") || strings.Contains(node, "f:spec") || strings.Contains(node, "f:labels") {
		t.Errorf("what bootstrap-agent has written: %v, %s", err, node)
	}
	identity := mirror(t, ctx, m)
	if _, err := c.KubectlInput(ctx, `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "watched-other"}}`, "create", "--filename=-"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(ctx, "--kubeconfig", identity, "annotate", "node", "watched-other", "bootstrap-agent.github.io/phase=Joined"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("a node may annotate another: %v", err)
	}
	if err := c.DeleteNode(ctx, "watched-other"); err != nil {
		t.Error(err)
	}
}

func kubeletsJournal(t *testing.T, ctx context.Context, m *machine.Machine) {
	eventually(t, ctx, "the entries", func(ctx context.Context) error {
		text, err := m.Output(ctx, "journalctl", "--no-pager", "--boot", "--unit=kubelet", "--catalog")
		return holds(text, err)("bootstrap-agent[", "kubelet started", "bootstrap-agent has started the kubelet", "certificate installed", "A client certificate was installed for the kubelet")
	})
	// The same entries are in the agent's own journal, under the names that stay.
	for _, event := range []fault.Event{fault.EventJoined, fault.EventCertificateInstalled, fault.EventKubeletStarted} {
		if out := mustRun(t, ctx, m, "journalctl", "--no-pager", "--boot", "--unit=bootstrap-agent", "--output=cat", "MESSAGE_ID="+event.MessageID()); strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %q", event, out)
		}
	}
}

// portIsTaken begins the join while somebody else has the port, which goes on all
// the same, and gives it back.
func portIsTaken(t *testing.T, ctx context.Context, m *machine.Machine) {
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=occupant", "/opt/prometheus/prometheus-node-exporter", "--collector.disable-defaults", "--web.listen-address="+metricsPort)
	eventually(t, ctx, "the occupant", func(ctx context.Context) error {
		_, err := m.Output(ctx, "curl", "--silent", "--fail", "http://"+metricsPort+"/metrics")
		return err
	})
	mustRun(t, ctx, m, "systemctl", "enable", "--now", "bootstrap-agent.service")
	noted := func(s agent.Status) (note agent.Note, is bool) {
		for _, n := range s.Notes {
			if n.Reason == fault.MetricsUnavailable {
				return n, true
			}
		}
		return note, false
	}
	s := awaitStatus(t, ctx, m, "a request that waits, with a note", 30*time.Second, func(s agent.Status) bool { _, is := noted(s); return is && waitsForApproval(s) })
	if n, _ := noted(s); !strings.Contains(n.Message, "address already in use") {
		t.Errorf("%+v", n)
	}
	mustRun(t, ctx, m, "systemctl", "stop", "occupant.service")
	mustRun(t, ctx, m, "systemctl", "reload", "bootstrap-agent.service")
	awaitStatus(t, ctx, m, "that the note is gone", 30*time.Second, func(s agent.Status) bool { _, is := noted(s); return !is && waitsForApproval(s) })
	eventually(t, ctx, "the port", func(ctx context.Context) error {
		return holds(m.Output(ctx, "curl", "--silent", "--fail", "http://"+metricsPort+"/metrics"))("bootstrap_agent_joined 0")
	})
}

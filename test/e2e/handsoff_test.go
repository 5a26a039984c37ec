//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	ourKubeletConfig = "/var/lib/kubelet/config.yaml"
	replacedFolder   = "/var/lib/bootstrap-agent/replaced/"
	kubeletUnit      = "kubelet.service"
)

// hands is one node that a person does things to.
type hands struct {
	c     *cluster.Cluster
	m     *machine.Machine
	token cluster.Token
	uid   string // of its Node
	csrs  []string
	newer func() ([]byte, error) // an agent with another template
}

// What a person does to a joined node is reported within the minute (half a second of
// the lab's), left alone, and no drift any more when it is undone; `apply` and
// `repair: true` bring it back with one restart of the kubelet; observe and exit
// do what they say. Nothing of it starts what a person holds back, or registers
// or certifies the machine anew.
func TestThePersonActsAndTheAgentStaysOutOfTheWay(t *testing.T) {
	ctx := aside(t, 5*time.Minute)
	newer := make(chan struct{})
	h := &hands{c: ownCluster(t, cluster.Options{})} // its kubelet-config is edited
	var program []byte
	var buildErr error
	go func() {
		defer close(newer)
		program, buildErr = overlaidLabProgram(ctx, "../../systemd/render.go", `line("RestartSec=10")`, `line("RestartSec=11")`)
	}()
	t.Cleanup(func() { <-newer })
	h.newer = func() ([]byte, error) { <-newer; return program, buildErr }

	h.token = newToken(t, ctx, h.c)
	h.m = readyMachine(t, ctx, h.c, machine.Options{Name: "hands-off"}, h.token)
	labAgent(t, ctx, h.m, labSettings{Pace: map[string]string{"LocalCheck": "500ms", "APICheck": "3s", "EagerFirst": "1s"}})
	appendConfig(t, ctx, h.m, "restartSplay: 0s\n")
	mustRun(t, ctx, h.m, "systemctl", "enable", "--quiet", "--now", agentUnit)
	s := awaitStatus(t, ctx, h.m, "the join", 60*time.Second, inPhase(agent.Joined))
	h.uid, h.csrs = s.Node.UID, requestsOf(t, ctx, h.c, h.token, h.m.Name)

	for _, part := range []struct {
		name string
		run  func(*hands, *testing.T, context.Context)
	}{
		{"stopped, disabled or masked, the kubelet stays so", (*hands).heldBack},
		{"an edited file is reported, left alone, and no drift any more when it is as before", (*hands).edited},
		{"the cluster's kubelet-config is not followed", (*hands).clusterEdited},
		{"apply shows, asks, and brings all of it back with one restart", (*hands).applied},
		{"apply writes for a kubelet that is stopped, and does not start it", (*hands).appliedStopped},
		{"a config that has become bad is named, and the node stays joined", (*hands).badConfig},
		{"an agent with another template reports, and repairs where it may", (*hands).upgraded},
		{"repair puts back, gives way to who writes again, and starts nothing", (*hands).repaired},
		{"a deleted Node is not registered again", (*hands).deleted},
		{"observe reports and changes nothing", (*hands).observed},
		{"exit ends, stays ended, and ends again after a reboot", (*hands).exited},
	} {
		if !t.Run(part.name, func(t *testing.T) {
			began := time.Now()
			part.run(h, t, ctx)
			t.Logf("%.1f s", time.Since(began).Seconds())
		}) {
			t.FailNow() // the rest builds upon it
		}
	}
	if now := requestsOf(t, ctx, h.c, h.token, h.m.Name); !slices.Equal(now, h.csrs) {
		t.Errorf("requests %v, were %v", now, h.csrs)
	}
	if err := h.c.DeleteNode(ctx, h.m.Name); err != nil {
		t.Error(err)
	}
}

// looks is long enough for the agent to have looked twice.
const looks = 1200 * time.Millisecond

func (h *hands) await(t *testing.T, ctx context.Context, what string, want func(agent.Status) bool) agent.Status {
	t.Helper()
	return awaitStatus(t, ctx, h.m, what, 30*time.Second, want)
}

func joinedWithout(r fault.Reason) func(agent.Status) bool {
	return func(s agent.Status) bool { return s.Phase == agent.Joined && !withNote(r)(s) }
}

// without is joinedWithout while the first Lease of a kubelet may still be awaited.
func without(r fault.Reason) func(agent.Status) bool {
	return func(s agent.Status) bool { return !withNote(r)(s) }
}

func (h *hands) run(t *testing.T, ctx context.Context) oneRun { return kubeletRun(t, ctx, h.m) }

// awaitRepair waits until another run of the kubelet is joined, and nothing drifted.
func (h *hands) awaitRepair(t *testing.T, ctx context.Context, before oneRun) {
	t.Helper()
	h.await(t, ctx, "the repair", func(s agent.Status) bool {
		now := h.run(t, ctx)
		return now.InvocationID != before.InvocationID && joinedWithKubelet(now.MainPID)(s) && joinedWithout(fault.Drifted)(s)
	})
}

// wantRun shows that the kubelet was neither started nor restarted since.
func (h *hands) wantRun(t *testing.T, ctx context.Context, before oneRun) {
	t.Helper()
	if now := h.run(t, ctx); now != before {
		t.Errorf("the kubelet is %+v, was %+v", now, before)
	}
}

// wantOneRestart shows that it was restarted once: the journal has all starts.
func (h *hands) wantOneRestart(t *testing.T, ctx context.Context, cursor string) {
	t.Helper()
	mustRun(t, ctx, h.m, "journalctl", "--sync")
	started := 0
	out := mustRun(t, ctx, h.m, "journalctl", "--no-pager", "--output=cat", "--after-cursor="+cursor, "_PID=1", "UNIT="+kubeletUnit)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Started ") {
			started++
		}
	}
	if started != 1 {
		t.Errorf("%d starts of the kubelet:\n%s", started, out)
	}
}

func (h *hands) wantSameNode(t *testing.T, ctx context.Context) {
	t.Helper()
	node, err := h.c.Node(ctx, h.m.Name)
	if err != nil || string(node.UID) != h.uid {
		t.Errorf("the Node is %v, its UID was %s: %v", node, h.uid, err)
	}
}

func (h *hands) edit(t *testing.T, ctx context.Context, path, line string) {
	t.Helper()
	mustRun(t, ctx, h.m, "sh", "-ec", `printf '%s\n' "$2" >> "$1"`, "sh", path, line)
}

func (h *hands) heldBack(t *testing.T, ctx context.Context) {
	for _, row := range []struct {
		name, act, undo, says string
		runs                  bool
	}{
		{"stop", "systemctl stop kubelet", "systemctl start kubelet", "stopped", false},
		{"disable", "systemctl disable --quiet kubelet", "systemctl enable --quiet kubelet", "disabled", true},
		{"disable --now", "systemctl disable --quiet --now kubelet", "systemctl enable --quiet --now kubelet", "disabled", false},
		// systemctl mask refuses while a unit file of ours lies there.
		{"mask", "systemctl stop kubelet; mv /etc/systemd/system/kubelet.service /srv; systemctl mask --quiet kubelet",
			"systemctl unmask --quiet kubelet; mv /srv/kubelet.service /etc/systemd/system; systemctl daemon-reload; systemctl enable --quiet --now kubelet", "masked", false},
	} {
		before := h.run(t, ctx)
		mustRun(t, ctx, h.m, "sh", "-ec", row.act)
		h.await(t, ctx, row.name, withNote(fault.KubeletStopped, row.says))
		pause(t, ctx, looks)
		now := h.run(t, ctx)
		if row.runs && now != before || !row.runs && now.MainPID != "0" {
			t.Errorf("%s: the kubelet is %+v, was %+v", row.name, now, before)
		}
		if row.says == "masked" {
			if said := h.apply(t, ctx, 0, "--dry-run").Stderr; !strings.Contains(said, "masked") {
				t.Errorf("apply says nothing of it: %s", said)
			}
		}
		mustRun(t, ctx, h.m, "sh", "-ec", row.undo)
		h.await(t, ctx, row.name+", undone", without(fault.KubeletStopped))
	}
	h.wantSameNode(t, ctx)
}

func (h *hands) edited(t *testing.T, ctx context.Context) {
	h.await(t, ctx, "rest", joinedWithout(fault.KubeletStopped))
	pause(t, ctx, time.Second)
	before := h.run(t, ctx)
	for path, line := range map[string]string{
		ourUnitPath: "# mine", ourDropInPath: "# mine", ourKubeletConfig: "maxPods: 42", "/var/lib/kubelet/pki/ca.crt": "# mine",
	} {
		mustRun(t, ctx, h.m, "cp", "-p", path, "/srv/as-it-was")
		h.edit(t, ctx, path, line)
		h.await(t, ctx, "the note on "+path, withNote(fault.Drifted, path))
		pause(t, ctx, time.Second)
		if got, err := h.m.ReadFile(ctx, path); err != nil || !strings.HasSuffix(got, line+"\n") {
			t.Errorf("%s was touched: %v", path, err)
		}
		if path == ourUnitPath && unitProps(t, ctx, h.m, kubeletUnit, "NeedDaemonReload")["NeedDaemonReload"] != "yes" {
			t.Error("systemd was made to read a unit that a person has edited and not told it of")
		}
		mustRun(t, ctx, h.m, "cp", "-p", "/srv/as-it-was", path)
		h.await(t, ctx, path+" as it was", joinedWithout(fault.Drifted))
	}
	mustRun(t, ctx, h.m, "systemctl", "daemon-reload")
	h.wantRun(t, ctx, before)
}

func (h *hands) kubeletConfig(t *testing.T, ctx context.Context) string {
	t.Helper()
	var m corev1.ConfigMap
	if err := h.c.Get(ctx, "/api/v1/namespaces/kube-system/configmaps/kubelet-config", &m); err != nil {
		t.Fatal(err)
	}
	return m.Data["kubelet"]
}

func (h *hands) setKubeletConfig(t *testing.T, ctx context.Context, text string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"data": map[string]string{"kubelet": text}})
	if err == nil {
		_, err = h.c.Kubectl(ctx, "patch", "configmap", "--namespace=kube-system", "kubelet-config", "--type=merge", "--patch="+string(patch))
	}
	if err != nil {
		t.Error(err)
	}
}

func (h *hands) clusterEdited(t *testing.T, ctx context.Context) {
	before := h.run(t, ctx)
	config := mustRun(t, ctx, h.m, "cat", ourKubeletConfig)
	h.setKubeletConfig(t, ctx, h.kubeletConfig(t, ctx)+"\nmaxPods: 77\n")
	since := time.Now()
	s := h.await(t, ctx, "another look at the API", func(s agent.Status) bool { return s.Node.Asked != nil && s.Node.Asked.After(since) })
	if withNote(fault.Drifted)(s) || mustRun(t, ctx, h.m, "cat", ourKubeletConfig) != config {
		t.Errorf("it was followed, or reported: %v", s.Notes)
	}
	h.wantRun(t, ctx, before)
}

func (h *hands) apply(t *testing.T, ctx context.Context, code int, args ...string) machine.Result {
	t.Helper()
	result, err := h.m.Run(ctx, append([]string{"bootstrap-agent", "apply"}, args...)...)
	if err != nil || result.Code != code {
		t.Fatalf("apply %v: %v, %+v", args, err, result)
	}
	return result
}

func (h *hands) applied(t *testing.T, ctx context.Context) {
	unit, dropIn := mustRun(t, ctx, h.m, "cat", ourUnitPath), mustRun(t, ctx, h.m, "cat", ourDropInPath)
	h.edit(t, ctx, ourUnitPath, "[Service]\nEnvironment=API_KEY=t0p-secret")
	h.edit(t, ctx, ourDropInPath, "# mine")
	h.edit(t, ctx, ourKubeletConfig, "podPidsLimit: 99")
	mustRun(t, ctx, h.m, "systemctl", "daemon-reload")
	h.await(t, ctx, "the notes", withNote(fault.Drifted, ourKubeletConfig))
	before, files := h.run(t, ctx), mustRun(t, ctx, h.m, "sh", "-c", "cat /etc/systemd/system/kubelet.service* /etc/systemd/system/kubelet.service.d/* /var/lib/kubelet/config.yaml 2>/dev/null | sha256sum")

	seen := h.apply(t, ctx, 0, "--dry-run")
	for _, part := range []string{"--- " + ourUnitPath, "-# mine", "-podPidsLimit: 99", "+maxPods: 77"} {
		if !strings.Contains(seen.Stdout, part) {
			t.Errorf("the difference lacks %q:\n%s", part, seen.Stdout)
		}
	}
	if strings.Contains(seen.Stdout+seen.Stderr, "t0p-secret") {
		t.Error("a secret is shown")
	}
	h.apply(t, ctx, fault.ExitUsage) // there is no terminal to ask on
	if now := mustRun(t, ctx, h.m, "sh", "-c", "cat /etc/systemd/system/kubelet.service* /etc/systemd/system/kubelet.service.d/* /var/lib/kubelet/config.yaml 2>/dev/null | sha256sum"); now != files {
		t.Error("to look has changed something")
	}
	h.wantRun(t, ctx, before)

	cursor := cursorOf(t, ctx, h.m)
	began := time.Now()
	done := h.apply(t, ctx, 0, "--yes")
	t.Logf("applied in %.1f s: %s", time.Since(began).Seconds(), done.Stderr)
	if !strings.Contains(done.Stderr, "kubelet restarted") {
		t.Errorf("it says %s", done.Stderr)
	}
	if mustRun(t, ctx, h.m, "cat", ourUnitPath) != unit || mustRun(t, ctx, h.m, "cat", ourDropInPath) != dropIn {
		t.Error("unit or drop-in are not as they were")
	}
	if config := mustRun(t, ctx, h.m, "cat", ourKubeletConfig); !strings.Contains(config, "maxPods: 77") || strings.Contains(config, "podPidsLimit") {
		t.Errorf("the kubelet's config is\n%s", config)
	}
	kept := mustRun(t, ctx, h.m, "sh", "-ec", "cd "+replacedFolder+"; stat --format='%a %n' .; stat --format='%a %n' *; cat *")
	for _, part := range []string{"700 .", "600 var_lib_kubelet_config.yaml", "podPidsLimit: 99", "t0p-secret"} {
		if !strings.Contains(kept, part) {
			t.Errorf("what was replaced lacks %q:\n%s", part, kept)
		}
	}
	s := h.await(t, ctx, "the end of the notes", joinedWithout(fault.Drifted))
	h.wantOneRestart(t, ctx, cursor)
	h.wantSameNode(t, ctx)
	checkLease(t, ctx, h.c, h.m.Name, began)
	if again := h.apply(t, ctx, 0, "--yes"); again.Stdout != "" || !strings.Contains(again.Stderr, "nothing to apply") || s.Kubelet.MainPID == 0 {
		t.Errorf("%+v", again)
	}
}

func (h *hands) appliedStopped(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, h.m, "systemctl", "stop", "kubelet")
	h.await(t, ctx, "the note", withNote(fault.KubeletStopped))
	h.edit(t, ctx, ourKubeletConfig, "podPidsLimit: 99")
	if done := h.apply(t, ctx, 0, "--yes"); !strings.Contains(done.Stderr, "kubelet.service is stopped: it is neither started nor restarted") {
		t.Errorf("it says %s", done.Stderr)
	}
	if config := mustRun(t, ctx, h.m, "cat", ourKubeletConfig); strings.Contains(config, "podPidsLimit") {
		t.Error("the file was not written")
	}
	pause(t, ctx, looks)
	if now := h.run(t, ctx); now.MainPID != "0" {
		t.Errorf("the kubelet was started: %+v", now)
	}
	mustRun(t, ctx, h.m, "systemctl", "start", "kubelet")
	h.await(t, ctx, "the end of the note", without(fault.KubeletStopped))
}

func (h *hands) badConfig(t *testing.T, ctx context.Context) {
	before, agentRun := h.run(t, ctx), propertiesOf(t, ctx, h.m)["MainPID"]
	good, err := h.m.ReadFile(ctx, configPath)
	if err != nil {
		t.Fatal(err)
	}
	h.edit(t, ctx, configPath, "nodNames: x")
	h.await(t, ctx, "the note", withNote(fault.ConfigInvalid, "nodNames"))
	if said := h.apply(t, ctx, fault.ExitConfig, "--dry-run").Stderr; !strings.Contains(said, "nodNames") {
		t.Errorf("apply says %s", said)
	}
	if err := h.m.WriteFile(ctx, configPath, good, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await(t, ctx, "its end", joinedWithout(fault.ConfigInvalid))
	if now := propertiesOf(t, ctx, h.m)["MainPID"]; now != agentRun {
		t.Errorf("the agent is process %s, was %s", now, agentRun)
	}
	h.wantRun(t, ctx, before)
}

func (h *hands) upgraded(t *testing.T, ctx context.Context) {
	program, err := h.newer()
	if err != nil {
		t.Fatal(err)
	}
	before := h.run(t, ctx)
	if err := h.m.WriteFile(ctx, agentPath+".new", string(program), 0o755); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, h.m, "mv", agentPath+".new", agentPath)
	mustRun(t, ctx, h.m, "systemctl", "restart", agentUnit)
	h.await(t, ctx, "the notes", func(s agent.Status) bool {
		return s.Phase == agent.Joined && withNote(fault.Drifted, ourUnitPath, "would be written differently")(s) && withNote(fault.Drifted, ourDropInPath)(s)
	})
	pause(t, ctx, looks)
	h.wantRun(t, ctx, before)
	cursor := cursorOf(t, ctx, h.m)
	appendConfig(t, ctx, h.m, "repair: true\n")
	h.awaitRepair(t, ctx, before)
	if pauseOf := unitProps(t, ctx, h.m, kubeletUnit, "RestartUSec")["RestartUSec"]; pauseOf != "11s" {
		t.Errorf("RestartSec is %s", pauseOf)
	}
	pause(t, ctx, looks)
	h.wantOneRestart(t, ctx, cursor)
	h.wantSameNode(t, ctx)
}

func (h *hands) repaired(t *testing.T, ctx context.Context) {
	config := mustRun(t, ctx, h.m, "cat", ourKubeletConfig)
	h.setKubeletConfig(t, ctx, h.kubeletConfig(t, ctx)+"\nmaxOpenFiles: 4242\n") // not to be followed
	cursor, before := cursorOf(t, ctx, h.m), h.run(t, ctx)
	h.edit(t, ctx, ourKubeletConfig, "podPidsLimit: 99")
	h.awaitRepair(t, ctx, before)
	if now := mustRun(t, ctx, h.m, "cat", ourKubeletConfig); now != config {
		t.Errorf("the kubelet's config is\n%s\nand was\n%s", now, config)
	}
	h.wantOneRestart(t, ctx, cursor)

	// Whoever writes it again is given way to.
	before = h.run(t, ctx)
	h.edit(t, ctx, ourKubeletConfig, "podPidsLimit: 99")
	h.await(t, ctx, "the surrender", withNote(fault.Drifted, ourKubeletConfig, "changed again within the hour"))
	h.wantRun(t, ctx, before)

	// Another file, of a kubelet that a person has stopped.
	mustRun(t, ctx, h.m, "systemctl", "stop", "kubelet")
	h.await(t, ctx, "the note", withNote(fault.KubeletStopped))
	h.edit(t, ctx, ourDropInPath, "# mine")
	eventually(t, ctx, "the repair of the drop-in", func(ctx context.Context) error {
		if text, err := h.m.ReadFile(ctx, ourDropInPath); err != nil || strings.HasSuffix(text, "# mine\n") {
			return fmt.Errorf("it is not repaired: %w", err)
		}
		return nil
	})
	pause(t, ctx, looks)
	if now := h.run(t, ctx); now.MainPID != "0" {
		t.Errorf("the kubelet was started: %+v", now)
	}
	mustRun(t, ctx, h.m, "systemctl", "start", "kubelet")
	h.await(t, ctx, "the join", inPhase(agent.Joined))
	h.apply(t, ctx, 0, "--yes")
	h.await(t, ctx, "the end of it", joinedWithout(fault.Drifted))
	h.wantSameNode(t, ctx)
}

func (h *hands) deleted(t *testing.T, ctx context.Context) {
	before := h.run(t, ctx)
	if err := h.c.DeleteNode(ctx, h.m.Name); err != nil {
		t.Fatal(err)
	}
	h.await(t, ctx, "the note", withNote(fault.NodeDeleted))
	pause(t, ctx, looks)
	if node, err := h.c.Node(ctx, h.m.Name); err == nil {
		t.Errorf("the Node is there again: %s", node.UID)
	}
	h.wantRun(t, ctx, before)
	mustRun(t, ctx, h.m, "systemctl", "restart", "kubelet") // as the note says
	s := h.await(t, ctx, "the Node", func(s agent.Status) bool { return joinedWithout(fault.NodeDeleted)(s) && s.Node.UID != h.uid })
	h.uid = s.Node.UID
	h.wantSameNode(t, ctx)
}

func (h *hands) observed(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, h.m, "sed", "-i", "s/^repair: true/repair: true\\nafterJoin: observe/", configPath)
	pause(t, ctx, looks) // it is loaded by now
	h.edit(t, ctx, ourDropInPath, "# mine")
	before := h.run(t, ctx)
	h.await(t, ctx, "the note", withNote(fault.Drifted, ourDropInPath, "it is left as it is"))
	if _, err := h.c.Kubectl(ctx, "annotate", "node", h.m.Name, "bootstrap-agent.github.io/phase-"); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	h.await(t, ctx, "another look at the API", func(s agent.Status) bool { return s.Node.Asked != nil && s.Node.Asked.After(since) })
	mustRun(t, ctx, h.m, "mv", "/var/lib/kubelet/kubeconfig", "/srv")
	h.await(t, ctx, "the word", func(s agent.Status) bool {
		return s.Phase == agent.ConfiguringKubelet && strings.Contains(s.Message, "/var/lib/kubelet/kubeconfig")
	})
	pause(t, ctx, looks)
	mustRun(t, ctx, h.m, "sh", "-ec", "! test -e /var/lib/kubelet/kubeconfig; grep -q '# mine' "+ourDropInPath)
	h.wantRun(t, ctx, before)
	if node, err := h.c.Node(ctx, h.m.Name); err != nil || node.Annotations["bootstrap-agent.github.io/phase"] != "" {
		t.Errorf("the Node was written to: %v", err)
	}
	mustRun(t, ctx, h.m, "mv", "/srv/kubeconfig", "/var/lib/kubelet/kubeconfig")
	h.await(t, ctx, "the join", inPhase(agent.Joined))
	// A person's word counts here, too.
	if done := h.apply(t, ctx, 0, "--yes"); !strings.Contains(done.Stderr, "kubelet restarted") {
		t.Errorf("it says %s", done.Stderr)
	}
	h.await(t, ctx, "the end of the note", without(fault.Drifted))
}

func (h *hands) exited(t *testing.T, ctx context.Context) {
	before := h.run(t, ctx)
	mustRun(t, ctx, h.m, "sed", "-i", "s/^afterJoin: observe/afterJoin: exit/", configPath)
	ended := func(p map[string]string) bool {
		return p["ActiveState"] == "inactive" && p["SubState"] == "dead" && p["Result"] == "success" && p["NRestarts"] == "0" && p["InvocationID"] != ""
	}
	awaitProps(t, ctx, h.m, agentUnit, "the end of the agent", ended)
	if code := unitProps(t, ctx, h.m, agentUnit, "ExecMainStatus")["ExecMainStatus"]; code != "0" {
		t.Errorf("it ended with %s", code)
	}
	h.wantRun(t, ctx, before)
	// Nobody is at work: the command does it by itself.
	h.edit(t, ctx, ourKubeletConfig, "podPidsLimit: 99")
	cursor := cursorOf(t, ctx, h.m)
	if done := h.apply(t, ctx, 0, "--yes"); !strings.Contains(done.Stderr, "wrote "+ourKubeletConfig) {
		t.Errorf("it says %s", done.Stderr)
	}
	h.wantOneRestart(t, ctx, cursor)

	if err := h.m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.m.AwaitRunning(ctx); err != nil {
		t.Fatal(err)
	}
	awaitProps(t, ctx, h.m, agentUnit, "its end after a boot", ended)
	if p := unitProps(t, ctx, h.m, kubeletUnit, "ActiveState", "UnitFileState", "NRestarts"); p["ActiveState"] != "active" || p["UnitFileState"] != "enabled" || p["NRestarts"] != "0" {
		t.Errorf("the kubelet: %v", p)
	}
	if enabled := strings.TrimSpace(mustRun(t, ctx, h.m, "systemctl", "is-enabled", agentUnit)); enabled != "enabled" {
		t.Errorf("the agent is %s", enabled)
	}
	s, err := statusOf(ctx, h.m)
	if err != nil || s.Phase != agent.Joined {
		t.Errorf("phase %s, %v", s.Phase, err)
	}
	h.wantSameNode(t, ctx)
}

// overlaidLabProgram is a lab build of an agent that differs in one place.
func overlaidLabProgram(ctx context.Context, path, from, to string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "bootstrap-agent-lab")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if strings.Count(string(source), from) != 1 {
		return nil, fmt.Errorf("%s does not hold %q once", path, from)
	}
	real, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	other, overlay := filepath.Join(dir, "other.go"), filepath.Join(dir, "overlay.json")
	table, err := json.Marshal(map[string]any{"Replace": map[string]string{real: other}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(other, []byte(strings.Replace(string(source), from, to, 1)), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, table, 0o600); err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "bootstrap-agent")
	if out, err := tryOnHost(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-overlay", overlay, "-trimpath", "-buildvcs=false", "-tags", "lab", "-o", program, "../../cmd/bootstrap-agent"); err != nil {
		return nil, fmt.Errorf("cannot build the newer agent: %w\n%s", err, out)
	}
	return os.ReadFile(program)
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/crash"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// notSynced are the files for which the agent leaves the usual way (temporary
// file, fsync, rename, fsync of the folder), each with the reason.
func notSynced(p agent.Paths) map[string]string {
	return map[string]string{
		p.LockFile():    "the lock is the kernel's, the number in the file only serves a message; made once, written in place, never removed",
		p.PendingKey():  "removed without a sync: should it come back after a power cut, the pair that was made with it goes before it",
		p.NewPair():     "removed without a sync: should it come back, it is the installed pair once more, and is installed again",
		p.MetricsFile(): "removed without a sync: /run is empty after a power cut",
	}
}

// orderOf is what has to be on the disk before what, on the way of a first join.
// start, enable: how systemd is asked.
func orderOf(p agent.Paths, port string, enable, start crash.Event) []crash.Rule {
	pki := filepath.Join(p.Kubelet, "pki")
	current, kubeconfig := filepath.Join(pki, "kubelet-client-current.pem"), filepath.Join(p.Kubelet, "kubeconfig")
	unit := filepath.Join(p.Units, "kubelet.service")
	return []crash.Rule{
		{Why: "the grounds on which the token is sent", Files: []string{p.TrustFile()}, Before: crash.Dials(port, 2)},
		{Why: "a request whose key is lost can never be used", Files: []string{p.PendingKey()}, Before: crash.Dials(port, 2)},
		{Why: "the pair goes before its key", Files: []string{p.NewPair()}, Before: crash.Removed(p.PendingKey())},
		{Why: "a file of ours must not look like somebody else's", Files: []string{p.ManifestFile()}, Before: crash.Appears(pki)},
		{Why: "the link goes before what it was made from", Files: []string{current}, Before: crash.Removed(p.NewPair())},
		{
			Why:   "the kubeconfig is the commit point",
			Files: []string{p.ManifestFile(), current, filepath.Join(pki, "ca.crt"), filepath.Join(p.Kubelet, "config.yaml")}, Before: crash.Appears(kubeconfig),
		},
		{Why: "systemd reads whole units", Files: []string{unit, filepath.Join(unit+".d", "90-bootstrap-agent.conf")}, Before: enable},
		{Why: "a kubelet runs on files that stay", Files: []string{kubeconfig, unit, filepath.Join(unit+".d", "90-bootstrap-agent.conf")}, Before: start},
	}
}

// needStrace installs it where it is missing.
func needStrace(t *testing.T, ctx context.Context) {
	t.Helper()
	if out, err := hostCommand(ctx, "../../internal/tools/need.sh", "strace:strace"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// scratchNode is a machine in a folder, with an API server of its own.
func scratchNode(t *testing.T) (*crash.Machine, *testapi.Server) {
	t.Helper()
	api, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	m, err := crash.New("scratch", crash.Cluster{Endpoint: api.Host(), Pin: api.Pin(), Token: api.Token()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.Register = func() error {
		api.RegisterNode(m.Spec.NodeName, corev1.NodeSystemInfo{BootID: m.Spec.BootID})
		api.RenewLease(m.Spec.NodeName)
		return nil
	}
	return m, api
}

// traced joins a machine in a folder under strace.
func traced(t *testing.T, m *crash.Machine) crash.Trace {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trace")
	life, err := m.Start(crash.Strace(file)...)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := life.Await(30*time.Second, inPhase(agent.Joined))
	if code := life.Stop(); !ok || code != 0 {
		t.Fatalf("%s: %s: %s (%d)\n%s", s.Phase, s.Reason, s.Message, code, life.Log())
	}
	trace, err := crash.ReadTrace(file)
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

// TestAPowerCutAtAnyInstantIsSurvived is F29: strace sees a whole join of an agent
// in a process of its own, and from what it saw all disks are computed that a cut
// of the power could have left. On none of them is a managed file empty or half,
// or a kubeconfig without its key; and an agent that is started on such a disk
// joins, with one request more at most.
func TestAPowerCutAtAnyInstantIsSurvived(t *testing.T) {
	ctx := aside(t, 10*time.Minute)
	needStrace(t, ctx)
	m, api := scratchNode(t)
	trace := traced(t, m)
	p, folders := m.Spec.Paths, m.Folders()
	_, port, _ := strings.Cut(m.Spec.Endpoint, ":")
	for _, f := range append(trace.Faults(folders, notSynced(p)), trace.Broken(orderOf(p, port, crash.Says("op:install"), crash.Says("op:start")))...) {
		t.Error(f)
	}
	if t.Failed() {
		return
	}
	written := trace.Written(folders)
	kubeletStarts, _, _ := crash.Says("op:start")(trace)
	cuts := trace.PowerCuts(folders, []string{p.Units}, []string{p.Run, p.LockFile()})
	for _, cut := range cuts {
		for path, e := range cut.Disk {
			if !e.Mode.IsDir() && !strings.Contains(path, "-tmp-") && path != p.LockFile() && !slices.Contains(written[path], e) {
				t.Errorf("line %d, %s lost: %s holds what was never written to it (%d bytes)", cut.After, cut.Lost, path, len(e.Data))
			}
		}
	}
	t.Logf("%d disks that a power cut could leave", len(cuts))
	if len(cuts) < 15 {
		t.Error("so few prove nothing")
	}
	for _, cut := range cuts {
		if err := afterPowerCut(m, api, cut, cut.After > kubeletStarts); err != nil {
			t.Errorf("line %d, lost: %s: %v", cut.After, cut.Lost, err)
		}
	}
}

// afterPowerCut lets an agent find the disk that a power cut left.
func afterPowerCut(m *crash.Machine, api *testapi.Server, cut crash.PowerCut, hadStarted bool) error {
	if err := cut.Disk.Put(m.Folders()); err != nil {
		return err
	}
	if err := os.MkdirAll(m.Spec.Paths.Units, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(m.Files().Kubeconfig()); err == nil && !m.PairUsable() {
		return errors.New("a kubeconfig whose key is missing")
	}
	m.Reboot()
	if _, unit := cut.Disk[filepath.Join(m.Spec.Paths.Units, "kubelet.service")]; !unit {
		m.Wipe()
	}
	if !hadStarted {
		api.DeleteNode(m.Spec.NodeName)
		api.DeleteLease(m.Spec.NodeName)
	}
	before := len(api.CSRs())
	life, err := m.Start()
	if err != nil {
		return err
	}
	s, ok := life.Await(20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined || s.Phase == agent.Blocked })
	stale := m.Stale()
	life.Kill()
	switch {
	case !ok || s.Phase != agent.Joined:
		return fmt.Errorf("ends in %s: %s: %s; the kubelet said %q\n%s", s.Phase, s.Reason, s.Message, m.Failures(), life.Log())
	case stale:
		return fmt.Errorf("the kubelet runs on other files than those that lie there\n%s", life.Log())
	case len(api.CSRs()) > before+1:
		return fmt.Errorf("%d requests more\n%s", len(api.CSRs())-before, life.Log())
	}
	_, err = crash.LoadKubeconfig(m.Files().Kubeconfig())
	return err
}

// TestOnAMachineEveryFileIsDurableBeforeWhatDependsOnIt watches the packaged agent
// in its own unit and sandbox with strace, from outside the machine, while it joins
// the real control plane and talks to the real systemd (F28, F29).
func TestOnAMachineEveryFileIsDurableBeforeWhatDependsOnIt(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	needStrace(t, ctx)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := readyMachine(t, ctx, c, machine.Options{Name: "traced"}, newToken(t, ctx, c))
	file := filepath.Join(t.TempDir(), "trace")
	detach := startUnderStrace(t, ctx, m, crash.Strace(file)...)
	awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	detach()
	trace, err := crash.ReadTrace(file)
	if err != nil {
		t.Fatal(err)
	}
	p := agent.DefaultPaths()
	_, port, _ := strings.Cut(c.Endpoint(), ":")
	folders := []string{p.State, p.Run, p.Kubelet, p.Units}
	faults := append(trace.Faults(folders, notSynced(p)), trace.Broken(orderOf(p, port, crash.Says("EnableUnitFiles"), crash.Says("StartUnit", "kubelet.service")))...)
	for _, f := range faults {
		t.Error(f)
	}
	t.Logf("%d calls, %d files appeared", len(trace), len(trace.Versions("", folders...)))
	if err := c.DeleteNode(ctx, m.Name); err != nil {
		t.Error(err)
	}
}

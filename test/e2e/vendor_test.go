//go:build e2e

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const (
	ourUnitPath   = "/etc/systemd/system/kubelet.service"
	ourDropInPath = "/etc/systemd/system/kubelet.service.d/90-bootstrap-agent.conf"
	ourKubeconfig = "--kubeconfig=/var/lib/kubelet/kubeconfig"
	extraArgsPath = "/etc/default/kubelet"
)

// The vendor's kubelet package is installed, enabled, and its kubelet dies every
// few seconds as it does until kubeadm comes. The agent joins with its own
// kubeconfig, the vendor's files stay as they are, and what the administrator
// wrote into /etc/default/kubelet still reaches the kubelet.
func TestOurKubeconfigWinsOverAVendorsUnitThatIsThereBefore(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name = "vendor-before"
	files := vendorFiles()
	files[extraArgsPath] = machine.File{Content: "KUBELET_EXTRA_ARGS=\"--v=3 --max-pods=42\"\n"}
	m := readyMachine(t, ctx, c, machine.Options{Name: name, Files: files}, newToken(t, ctx, c))
	mustRun(t, ctx, m, "systemctl", "enable", "--now", "--quiet", "kubelet.service")
	awaitProps(t, ctx, m, "kubelet.service", "the vendor's kubelet to die", func(p map[string]string) bool {
		return p["SubState"] == "auto-restart"
	})
	mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
	joined := awaitStatus(t, ctx, m, "the join", 60*time.Second, inPhase(agent.Joined))
	// systemd would keep a start job until the vendor's RestartSec=10 is over.
	if start, ok := stepOf(joined, agent.StepStart); !ok || start.Seconds == nil || *start.Seconds > 5 {
		t.Errorf("the start of the kubelet: %+v", joined.Timeline)
	}
	node, err := c.AwaitReady(ctx, name)
	if err != nil {
		t.Fatal(err)
	}

	argv := checkOurKubelet(t, ctx, m, vendorUnitPath, []string{vendorDropInPath, ourDropInPath})
	if want := []string{"--v=3", "--max-pods=42"}; !slices.Equal(argv[len(argv)-2:], want) {
		t.Errorf("KUBELET_EXTRA_ARGS is not at the end of %q", argv)
	}
	if pods := node.Status.Capacity.Pods().Value(); pods != 42 {
		t.Errorf("the Node holds %d pods, /etc/default/kubelet says 42", pods)
	}
	if _, err := m.ReadFile(ctx, ourUnitPath); err == nil {
		t.Errorf("%s was written although there is a unit", ourUnitPath)
	}
	checkVendorFiles(t, ctx, m)
	checkIdentity(t, ctx, c, m, name)

	// What a person does to the unit of a node is seen at once, told, and left so.
	for _, by := range []struct{ what, undo []string }{
		{[]string{"disable"}, []string{"enable"}},
		{[]string{"mask", "--now"}, []string{"unmask"}},
	} {
		mustRun(t, ctx, m, slices.Concat([]string{"systemctl"}, by.what, []string{"--quiet", "kubelet.service"})...)
		awaitStatus(t, ctx, m, by.what[0]+" to be told", 10*time.Second, notesStopped(by.what[0]))
		mustRun(t, ctx, m, slices.Concat([]string{"systemctl"}, by.undo, []string{"--quiet", "kubelet.service"})...)
	}
	// Unmasked, it is still stopped: nobody but a person starts it.
	awaitStatus(t, ctx, m, "the stop to be told", 10*time.Second, notesStopped("stop"))
	if state := unitProps(t, ctx, m, "kubelet.service", "ActiveState")["ActiveState"]; state != "inactive" {
		t.Errorf("kubelet.service is %s", state)
	}
	checkVendorFiles(t, ctx, m)
}

func notesStopped(how string) func(agent.Status) bool {
	return func(s agent.Status) bool {
		return slices.ContainsFunc(s.Notes, func(n agent.Note) bool {
			return n.Reason == fault.KubeletStopped && strings.Contains(n.Message, how)
		})
	}
}

// The same package installed after the join, as an upgrade by hand would: the
// kubelet runs on, and after a restart by hand it is the same kubelet, with what
// the administrator wrote into the package's file in the meantime.
func TestOurKubeconfigWinsOverAVendorsUnitThatComesLater(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name = "vendor-after"
	m := joinMachine(t, ctx, c, machine.Options{Name: name}, newToken(t, ctx, c))
	if _, err := c.AwaitReady(ctx, name); err != nil {
		t.Fatal(err)
	}
	before := checkOurKubelet(t, ctx, m, ourUnitPath, []string{ourDropInPath})
	joined := unitProps(t, ctx, m, "kubelet.service", "MainPID", "InvocationID")
	files := vendorFiles()
	files[extraArgsPath] = machine.File{Content: "KUBELET_EXTRA_ARGS=\"--v=3\"\n"}
	if err := m.WriteFiles(ctx, files); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	checkOurKubelet(t, ctx, m, ourUnitPath, []string{vendorDropInPath, ourDropInPath})
	if now := unitProps(t, ctx, m, "kubelet.service", "MainPID", "InvocationID"); now["InvocationID"] != joined["InvocationID"] || now["MainPID"] != joined["MainPID"] {
		t.Errorf("before the package came %v, after it %v: something restarted the kubelet", joined, now)
	}

	restarted := time.Now()
	mustRun(t, ctx, m, "systemctl", "restart", "kubelet.service")
	after := checkOurKubelet(t, ctx, m, ourUnitPath, []string{vendorDropInPath, ourDropInPath})
	if want := append(before, "--v=3"); !slices.Equal(want, after) {
		t.Errorf("before %q, after %q", before, after)
	}
	pid := unitProps(t, ctx, m, "kubelet.service", "MainPID")["MainPID"]
	awaitStatus(t, ctx, m, "the node to be seen again", 60*time.Second, joinedWithKubelet(pid))
	checkLease(t, ctx, c, name, restarted)
	checkVendorFiles(t, ctx, m)
	checkIdentity(t, ctx, c, m, name)
}

// checkOurKubelet shows what systemd would run, what it read that from, and what
// really runs; it returns the arguments of the running kubelet.
func checkOurKubelet(t *testing.T, ctx context.Context, m *machine.Machine, unit string, dropIns []string) []string {
	t.Helper()
	props := unitProps(t, ctx, m, "kubelet.service", "ExecStart", "FragmentPath", "DropInPaths", "MainPID", "Type", "NeedDaemonReload")
	// Where /lib is a link to /usr/lib systemd may name either.
	if fragment := props["FragmentPath"]; fragment != unit && "/usr"+fragment != unit || props["DropInPaths"] != strings.Join(dropIns, " ") {
		t.Errorf("systemd reads %s and %s", props["FragmentPath"], props["DropInPaths"])
	}
	if strings.Count(props["ExecStart"], "argv[]=") != 1 || !strings.Contains(props["ExecStart"], " "+ourKubeconfig+" ") || strings.Contains(props["ExecStart"], "KUBELET_KUBECONFIG_ARGS") {
		t.Errorf("effective ExecStart: %s", props["ExecStart"])
	}
	if props["Type"] != "notify" || props["NeedDaemonReload"] != "no" {
		t.Errorf("Type=%s, NeedDaemonReload=%s", props["Type"], props["NeedDaemonReload"])
	}
	line, err := m.ReadFile(ctx, "/proc/"+props["MainPID"]+"/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	argv := strings.Split(strings.TrimSuffix(line, "\x00"), "\x00")
	if !slices.Contains(argv, ourKubeconfig) {
		t.Errorf("the running kubelet: %q", argv)
	}
	for _, arg := range argv {
		if arg != ourKubeconfig && (strings.HasPrefix(arg, "--kubeconfig") || strings.HasPrefix(arg, "--bootstrap-kubeconfig")) {
			t.Errorf("the running kubelet has %s: %q", arg, argv)
		}
	}
	return argv
}

// checkVendorFiles shows that the vendor's files are as they were.
func checkVendorFiles(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	for path, file := range vendorFiles() {
		if text, err := m.ReadFile(ctx, path); err != nil || text != file.Content {
			t.Errorf("%s was changed (%v):\n%s", path, err, text)
		}
	}
}

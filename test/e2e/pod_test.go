//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The lab's machines cannot run a container (their cgroups are read-only, and runc
// ends there), so what stands for a pod is what of it the host sees: a process in a
// cgroup named as the kubelet names a pod's, and a volume mounted below its folder.
// That a kubelet's restart spares both is systemd's doing and the kubelet's, and is
// shown; what a runtime does with its containers meanwhile is not.
const (
	podUID    = "0f8fad5b-d9cb-469f-a165-70867728950e"
	podUnit   = "cri-containerd-probe.service"
	podVolume = "/var/lib/kubelet/pods/" + podUID + "/volumes/kubernetes.io~empty-dir/memory"
)

// runPod starts it and returns which process it is.
func runPod(t *testing.T, ctx context.Context, m *machine.Machine) (process string) {
	t.Helper()
	slice := "kubepods-besteffort-pod" + strings.ReplaceAll(podUID, "-", "_") + ".slice"
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit="+podUnit, "--slice="+slice, "sleep", "infinity")
	mustRun(t, ctx, m, "mkdir", "-p", podVolume)
	mustRun(t, ctx, m, "mount", "-t", "tmpfs", "pod", podVolume)
	return podProcess(t, ctx, m)
}

// podProcess is the process with its start in ticks since the boot.
func podProcess(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	pid := mustRun(t, ctx, m, "systemctl", "show", "--value", "--property=MainPID", podUnit)
	stat := mustRun(t, ctx, m, "cat", "/proc/"+strings.TrimSpace(pid)+"/stat")
	_, rest, _ := strings.Cut(stat, ") ")
	return strings.TrimSpace(pid) + " since " + strings.Fields(rest)[19]
}

// endPod is what a drain does in the end.
func endPod(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	mustRun(t, ctx, m, "systemctl", "stop", podUnit)
	if out, err := m.Output(ctx, "umount", podVolume); err != nil && !strings.Contains(err.Error(), "not mounted") && !strings.Contains(err.Error(), "no mount point") {
		t.Errorf("%s, %v", out, err)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// write puts config and token there, as by a hand or a tool, on or off.
func (l *life) write(t *testing.T, ctx context.Context, s settings) {
	t.Helper()
	if err := l.m.WriteFiles(ctx, map[string]machine.File{
		tokenPath: {Content: s.token + "\n", Mode: 0o600}, configPath: {Content: s.config(), Mode: 0o600},
	}); err != nil {
		t.Fatal(err)
	}
}

// writeConfig puts the good config there, with more lines.
func (l *life) writeConfig(t *testing.T, ctx context.Context, more string) {
	t.Helper()
	s := l.good
	s.more += more
	if err := l.m.WriteFile(ctx, configPath, s.config(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// awaitRequest waits for this version to wait for the approval of the one request.
func (l *life) awaitRequest(t *testing.T, ctx context.Context, version string) {
	t.Helper()
	s := awaitStatus(t, ctx, l.m, "the request of version "+version, 20*time.Second, func(s agent.Status) bool {
		return waitsForApproval(s) && s.Version == plain(version)
	})
	if s.CSR.Name != l.csr || !s.CSR.Adopted {
		t.Errorf("the request is %+v, was %s", s.CSR, l.csr)
	}
}

// awaitJoined waits for a running agent of this version to say that this is a
// node, and what else it is to say. (`status` without a daemon looks by itself.)
func (l *life) awaitJoined(t *testing.T, ctx context.Context, what, version string, also ...func(agent.Status) bool) agent.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var s struct {
		agent.Status
		Running bool `json:"running"`
	}
	if err := await.Until(ctx, what, 100*time.Millisecond, func(ctx context.Context) error {
		out, err := l.m.Output(ctx, "bootstrap-agent", "status", "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return await.Stop(err)
		}
		good := s.Running && s.Phase == agent.Joined && s.Version == plain(version)
		for _, want := range also {
			good = good && want(s.Status)
		}
		if !good {
			return fmt.Errorf("running %t, version %s, phase %s, reason %s, notes %v", s.Running, s.Version, s.Phase, s.Reason, s.Notes)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return s.Status
}

// plain is a package's version without its revision.
func plain(version string) string { return strings.TrimSuffix(version, "-1") }

// wantUnit asks how the agent's unit is, not restarted since it was started.
func (l *life) wantUnit(t *testing.T, ctx context.Context, state, result, code string) {
	t.Helper()
	p := propertiesOf(t, ctx, l.m)
	if p["ActiveState"] != state || p["Result"] != result || p["ExecMainStatus"] != code || p["NRestarts"] != "0" {
		t.Errorf("ActiveState=%s Result=%s ExecMainStatus=%s NRestarts=%s, want %s %s %s 0",
			p["ActiveState"], p["Result"], p["ExecMainStatus"], p["NRestarts"], state, result, code)
	}
}

func (l *life) wantEnabled(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	result, err := l.m.Run(ctx, "systemctl", "is-enabled", agentUnit, pathUnit)
	if err != nil || result.Stdout != want+"\n"+want+"\n" {
		t.Errorf("is-enabled: %v, %q", err, result.Stdout+result.Stderr)
	}
}

func (l *life) wantNothingFailed(t *testing.T, ctx context.Context) {
	t.Helper()
	if out := mustRun(t, ctx, l.m, "systemctl", "list-units", "--failed", "--plain", "--no-legend"); out != "" {
		t.Errorf("failed: %s", out)
	}
}

// wantKubeletUntouched: the same process, from the same files.
func (l *life) wantKubeletUntouched(t *testing.T, ctx context.Context) {
	t.Helper()
	if run := kubeletRun(t, ctx, l.m); run != l.run {
		t.Errorf("the kubelet felt it: %v, was %v", run, l.run)
	}
	if files := l.kubeletFiles(t, ctx); files != l.files {
		t.Errorf("files of the kubelet changed:\n%s\nwere:\n%s", files, l.files)
	}
	if enabled := mustRun(t, ctx, l.m, "systemctl", "is-enabled", "kubelet.service"); enabled != "enabled\n" {
		t.Errorf("kubelet.service is %s", enabled)
	}
}

// kubeletFiles are the files that the agent wrote for the kubelet.
func (l *life) kubeletFiles(t *testing.T, ctx context.Context) string {
	t.Helper()
	return mustRun(t, ctx, l.m, "sh", "-c", "cd /etc/systemd/system; exec sha256sum kubelet.service kubelet.service.d/* "+
		"/var/lib/kubelet/kubeconfig /var/lib/kubelet/config.yaml /var/lib/kubelet/pki/ca.crt /var/lib/kubelet/pki/kubelet-client-current.pem")
}

// starts counts how often systemd began to start the agent since a cursor. (No
// match: with one, journalctl leaves out the first entry after a cursor that does
// not match itself.)
func (l *life) starts(t *testing.T, ctx context.Context, cursor string) int {
	t.Helper()
	n := 0
	for _, line := range journalSince(t, ctx, l.m, cursor) {
		if strings.HasPrefix(line, "Starting "+agentUnit) {
			n++
		}
	}
	return n
}

// allFiles are the paths of the machine's disk and of /run, without what the
// machine itself writes there all the time and what package managers keep.
func (l *life) allFiles(t *testing.T, ctx context.Context) map[string]bool {
	t.Helper()
	const own = "/proc /sys /dev /tmp /var/tmp /var/log /var/cache /var/lib/apt /var/lib/dpkg /var/lib/rpm /var/lib/containerd /var/lib/systemd/timers " +
		"/srv /run/systemd /run/log /run/udev /run/containerd /[^/]+/[.]rpmdb"
	script := "find / -regextype posix-extended -regex '" + strings.ReplaceAll(own, " ", "|") + "' -prune -o -print; find /var/lib/dpkg/info /run/systemd/system -name '*bootstrap-agent*'"
	paths := map[string]bool{}
	for path := range strings.Lines(mustRun(t, ctx, l.m, "sh", "-c", script)) {
		paths[strings.TrimSuffix(path, "\n")] = true
	}
	return paths
}

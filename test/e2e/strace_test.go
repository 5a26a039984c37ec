//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// hostCommand runs a command on this host.
func hostCommand(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// startUnderStrace starts the machine's agent, stopped before its first
// instruction, has strace take hold of it from outside, and lets it run: its unit
// and its sandbox, which would forbid a tracer, stay what they are but for that
// halt. detach lets go of it.
func startUnderStrace(t *testing.T, ctx context.Context, m *machine.Machine, strace ...string) (detach func()) {
	t.Helper()
	if err := m.WriteFile(ctx, "/etc/systemd/system/"+agentUnit+".d/halt.conf",
		"[Service]\nExecStart=\nExecStart=/bin/sh -c 'kill -STOP $$$$; exec "+agentPath+" run'\n", 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	mustRun(t, ctx, m, "systemctl", "start", "--no-block", agentUnit)
	return holdAgent(t, ctx, m, strace...)
}

// holdAgent waits for the halted agent, has strace take hold of it and lets it go on.
func holdAgent(t *testing.T, ctx context.Context, m *machine.Machine, strace ...string) (detach func()) {
	t.Helper()
	pid := 0
	for pid == 0 {
		if ctx.Err() != nil {
			t.Fatal(context.Cause(ctx))
		}
		pid = haltedAgent(ctx, m)
		<-time.After(20 * time.Millisecond)
	}
	// Not -D: it is the one that is ended here.
	strace = append([]string{strace[0]}, strace[2:]...)
	cmd := exec.CommandContext(ctx, strace[0], append(strace[1:], "-p", strconv.Itoa(pid))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !traces(pid) {
		if ctx.Err() != nil {
			t.Fatalf("%v: %s", context.Cause(ctx), said.String())
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	done := false
	detach = func() {
		if done {
			return
		}
		done = true
		_ = cmd.Process.Signal(syscall.SIGTERM) // it lets go of what it holds
		_ = cmd.Wait()                          // ended by that signal
	}
	t.Cleanup(detach)
	return detach
}

// traces says whether somebody holds the process.
func traces(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err == nil && strings.Contains(string(status), "TracerPid:\t") && !strings.Contains(string(status), "TracerPid:\t0\n")
}

// haltedAgent is this host's number of the shell that becomes the machine's agent
// and has stopped itself; 0 if there is none yet.
func haltedAgent(ctx context.Context, m *machine.Machine) int {
	inside, err := m.Output(ctx, "systemctl", "show", "--property=MainPID", "--value", agentUnit)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(inside))
	if err != nil || pid == 0 {
		return 0
	}
	host := m.HostPID(pid)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", host))
	if err != nil || !strings.Contains(string(status), "State:\tT") {
		return 0
	}
	return host
}

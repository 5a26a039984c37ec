package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"runtime"
)

// live starts a systemd of the test's own: a user instance, whose folders are
// all below one scratch folder, in a mount namespace in which it believes that
// the machine was booted with systemd. It returns a Manager that speaks with it
// over its own socket, and the folder of its units.
func live(t *testing.T) (m *Manager, units string) {
	t.Helper()
	const systemd = "/lib/systemd/systemd"
	if _, err := os.Stat(systemd); err != nil {
		t.Skip("no " + systemd + " on this machine")
	}
	if os.Getuid() != 0 {
		t.Skip("a systemd of the test's own needs root, for a mount namespace")
	}
	dir, err := os.MkdirTemp("", "sd") //nolint:usetesting // t.TempDir is too long for the names of the sockets below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	units = filepath.Join(dir, "config/systemd/user")
	for _, d := range []string{"run", "config/systemd/user"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// What is enabled into a running target is not forgotten when it is stopped.
	write(t, filepath.Join(units, "multi-user.target"), "[Unit]\n")
	write(t, filepath.Join(units, "default.target"), "[Unit]\nWants=multi-user.target\n")
	script := `set -e
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system
mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
exec ` + systemd + ` --user --log-target=null`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + dir, "XDG_RUNTIME_DIR=" + filepath.Join(dir, "run"), "XDG_CONFIG_HOME=" + filepath.Join(dir, "config")}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("no mount namespace here: %v", err)
	}
	gone := make(chan struct{})
	var ended error // to be read when gone is closed
	go func() { ended = cmd.Wait(); close(gone) }()
	m = NewManager(Options{BusAddress: "unix:path=" + filepath.Join(dir, "none"), PrivateSocket: filepath.Join(dir, "run/systemd/private")})
	m.backstop, m.redialAfter, m.absentPause = 250*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond
	t.Cleanup(func() {
		m.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM) // it stops its units first
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-gone
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, err := m.Unit(ctx, KubeletUnit); err == nil {
			return m, units
		}
		select {
		case <-gone:
			t.Skipf("no systemd of the test's own here: %v %s", ended, strings.TrimSpace(out.String()))
		case <-ctx.Done():
			t.Skip("no systemd of the test's own here: it does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kubelet makes this very program the kubelet: told by its environment, it notes
// its arguments and then does one of the things in fakeKubelet. (One process:
// a user instance is not told of the end of a process that is not its child.)
func kubelet(t *testing.T, do string) (s KubeletService, dir string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	probe := exec.Command(program, "-test.run=^$")
	if err := probe.Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("this host's systemd cannot start a program for %s (it runs here in an emulator that the kernel does not know)", runtime.GOARCH)
	}
	dir = t.TempDir()
	env := write(t, filepath.Join(dir, "env"), "FAKE_KUBELET="+do+"\nFAKE_KUBELET_DIR="+dir+"\n")
	return KubeletService{Binary: program, EnvironmentFiles: []string{env}, Condition: filepath.Join(dir, "kubeconfig")}, dir
}

func fakeKubelet(do string) {
	dir := os.Getenv("FAKE_KUBELET_DIR")
	_ = os.WriteFile(filepath.Join(dir, "argv"), []byte(strings.Join(os.Args[1:], "\x00")), 0o600)
	if f, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		_, _ = f.WriteString("x")
		_ = f.Close()
	}
	n, _ := NotifierFromEnv()
	switch do {
	case "fail":
		panic("told to fail")
	case "slow":
		<-time.After(time.Second)
		fallthrough
	default:
		_ = n.Status("fake kubelet")
		_ = n.Ready()
	}
	<-time.After(5 * time.Minute)
}

func brief(u Unit) string {
	u.ExecStart = nil
	return fmt.Sprintf("%+v", u)
}

func TestARealSystemdRunsWhatWeInstall(t *testing.T) {
	m, units := live(t)
	s, dir := kubelet(t, "run")
	s.Args = slices.DeleteFunc(slices.Clone(hostile), func(s string) bool { return len(s) > 1000 })
	many, _ := randomHostile(t, 500) // T17
	s.Args = append(s.Args, many...)
	r := rendered(t, s)
	changed, err := install(t, m, units, r, true)
	if err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	if changed, err = install(t, m, units, r, true); err != nil || changed {
		t.Errorf("the second time: changed %t, %v", changed, err)
	}
	u, err := m.Unit(soon(t), KubeletUnit)
	if err != nil || u.UnitFileState != "enabled" || u.NeedDaemonReload || u.WasActive() {
		t.Errorf("%s, %v", brief(u), err)
	}

	// The link that enables a new unit is known from the next reload on; before it
	// a unit that does not run is forgotten, with the result of its condition.
	if err := m.Reload(soon(t)); err != nil {
		t.Fatal(err)
	}
	var je *JobError
	if u, err = m.Start(soon(t), KubeletUnit); !errors.As(err, &je) || je.Result != ResultCondition || u.ConditionResult || u.WasActive() {
		t.Errorf("with its condition false: %v; condition %t at %d", err, u.ConditionResult, u.ConditionMonotonic)
	}
	write(t, s.Condition, "x")
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	ticks := m.Watch(ctx, KubeletUnit)
	<-ticks
	first, err := m.Start(soon(t), KubeletUnit)
	if err != nil || !first.Running() || !first.ConditionResult || first.InvocationID == "" || first.ExecMainStartMonotonic == 0 {
		t.Fatalf("%s, %v", brief(first), err)
	}
	<-ticks
	got, err := os.ReadFile(filepath.Join(dir, "argv"))
	if got := strings.Split(string(got), "\x00"); err != nil || !slices.Equal(got, s.Args) {
		t.Errorf("the kubelet got %q", got)
	}

	second, err := m.Restart(soon(t), KubeletUnit)
	if err != nil || !second.Running() || second.InvocationID == first.InvocationID || second.ExecMainStartMonotonic <= first.ExecMainStartMonotonic {
		t.Errorf("%s, %v", brief(second), err)
	}
	reexecute(t, m)
	if u, err = m.Unit(soon(t), KubeletUnit); err != nil || u.InvocationID != second.InvocationID {
		t.Errorf("after systemd re-executed itself: %s, %v", brief(u), err)
	}
	if u, err = m.Stop(soon(t), KubeletUnit); err != nil || u.ActiveState != "inactive" || u.Result != "success" || !u.WasActive() || !u.ConditionResult || u.Job != 0 {
		t.Errorf("stopped by a person: %s, %v", brief(u), err)
	}

	mine := write(t, filepath.Join(units, KubeletUnit+".d", "95-mine.conf"), "[Service]\nExecStart=\nExecStart=/bin/true\n")
	if _, err := install(t, m, units, r, true); fault.ReasonOf(err) != fault.UnitOverridden || !strings.Contains(err.Error(), mine) {
		t.Errorf("a later drop-in: %v", err)
	}
}

// reexecute is systemctl daemon-reexec: every connection to systemd dies.
func reexecute(t *testing.T, m *Manager) {
	t.Helper()
	c, err := m.connect(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	c.signals.Object("org.freedesktop.systemd1", objectPath).Go(managerSignal+"Reexecute", dbus.FlagNoReplyExpected, nil)
	select {
	case <-c.life.Done():
	case <-soon(t).Done():
		t.Fatal("the connection has not ended")
	}
}

func TestARealSystemdReexecutesItselfUnderAJob(t *testing.T) {
	m, units := live(t)
	s, dir := kubelet(t, "slow")
	write(t, s.Condition, "x")
	if _, err := install(t, m, units, rendered(t, s), true); err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	ticks := m.Watch(ctx, KubeletUnit)
	done := make(chan error, 1)
	go func() { _, err := m.Restart(ctx, KubeletUnit); done <- err }()
	for {
		select {
		case <-ticks:
		case err := <-done:
			t.Fatalf("it ended before its time: %v", err)
		}
		if u, err := m.Unit(ctx, KubeletUnit); err == nil && u.ActiveState == "activating" && u.Job != 0 {
			break
		}
	}
	reexecute(t, m)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "starts")); len(got) != 1 {
		t.Errorf("the kubelet was started %d times", len(got))
	}
}

func TestARealSystemdTellsHowAKubeletFails(t *testing.T) {
	m, units := live(t)
	s, _ := kubelet(t, "fail")
	write(t, s.Condition, "x")
	// The package's unit is already there, with its drop-in, and is static.
	write(t, filepath.Join(units, KubeletUnit), strings.Replace(testdata(t, "vendor.service"), "[Install]\nWantedBy=multi-user.target\n", "", 1))
	write(t, filepath.Join(units, KubeletUnit+".d", "10-kubeadm.conf"), testdata(t, "10-kubeadm.conf"))
	e, err := m.Existing(soon(t), units)
	if err != nil || e.Owner != OwnerAlien || e.Unit.UnitFileState != "static" {
		t.Fatalf("%s %s, %v", e.Owner, brief(e.Unit), err)
	}
	s.Args, s.Alien = []string{"--config=/var/lib/kubelet/config.yaml", "--kubeconfig=/x"}, true
	if lost := LostFlags(e.Unit.Argv(os.ReadFile, "KUBELET_EXTRA_ARGS"), s.Args); len(lost) != 0 {
		t.Errorf("lost: %q", lost)
	}
	if changed, err := install(t, m, units, rendered(t, s), true); err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	if u, err := m.Unit(soon(t), KubeletUnit); err != nil || u.UnitFileState != "enabled" {
		t.Errorf("a static unit is not enabled by our drop-in: %s, %v", u.UnitFileState, err)
	}
	u, err := m.Start(soon(t), KubeletUnit)
	var je *JobError
	if !errors.As(err, &je) || je.Result != "failed" || u.Result != "protocol" && u.Result != "exit-code" {
		t.Errorf("%s, %v", brief(u), err)
	}
	if err := os.Remove(filepath.Join(units, KubeletUnit)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.DevNull, filepath.Join(units, KubeletUnit)); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(soon(t), KubeletUnit); fault.ReasonOf(err) != fault.UnitMasked {
		t.Errorf("masked: %v", err)
	}
	if u, err := m.Unit(soon(t), KubeletUnit); err != nil || !u.Masked() {
		t.Errorf("masked: %s, %v", brief(u), err)
	}
}

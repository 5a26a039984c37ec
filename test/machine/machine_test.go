//go:build e2e

package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

var lab *Lab

func TestMain(m *testing.M) {
	if err := run(m); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(m *testing.M) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if err := Prepare(ctx, log); err != nil {
		return err
	}
	if lab, err = Open(ctx, log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	m.Run()
	return nil
}

func newMachine(t *testing.T, ctx context.Context, opts Options) *Machine {
	t.Helper()
	m, err := lab.New(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestAMachineBootsAndKeepsItsDiskThroughRebootAndPowerCut(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := newMachine(t, ctx, Options{Name: "disk-1", Files: map[string]File{"/etc/before/boot": {"x", 0o600}}})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitRunning(ctx); err != nil {
		t.Error(err)
	}
	if out, err := m.Output(ctx, "stat", "-c", "%a %U", "/etc/before/boot"); err != nil || out != "600 root\n" {
		t.Errorf("stat: %q, %v", out, err)
	}
	if out, err := m.Output(ctx, "hostname"); err != nil || out != "disk-1\n" {
		t.Errorf("hostname: %q, %v", out, err)
	}
	if err := m.WriteFile(ctx, "/var/lib/kept", "kept\n", 0); err != nil {
		t.Fatal(err)
	}
	firstBoot, err := m.ReadFile(ctx, "/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.KillHard(); err != nil {
		t.Fatal(err)
	}
	if kept, err := m.ReadFile(ctx, "/var/lib/kept"); err != nil || kept != "kept\n" {
		t.Errorf("read while off: %q, %v", kept, err)
	}
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if kept, err := m.ReadFile(ctx, "/var/lib/kept"); err != nil || kept != "kept\n" {
		t.Errorf("read after boot: %q, %v", kept, err)
	}
	if now, err := m.ReadFile(ctx, "/proc/sys/kernel/random/boot_id"); err != nil || now == firstBoot {
		t.Errorf("boot id %q, %v: same as before", now, err)
	}
}

func TestTwoMachinesAreTwo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := map[string]string{}
	var both []*Machine
	for _, name := range []string{"one", "two"} {
		m := newMachine(t, ctx, Options{Name: name})
		if err := m.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		both = append(both, m)
		id, err := m.ReadFile(ctx, "/etc/machine-id")
		if err != nil || seen[id] != "" {
			t.Errorf("machine-id %q of %s is that of %q (%v)", id, name, seen[id], err)
		}
		seen[id] = name
	}
	// A service of one that ends must not take the other's along.
	for _, m := range both {
		if _, err := m.Output(ctx, "systemd-run", "--quiet", "--unit=sleeper", "sleep", "1000"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := both[0].Output(ctx, "systemctl", "stop", "sleeper.service"); err != nil {
		t.Error(err)
	}
	if _, err := both[1].Output(ctx, "systemctl", "is-active", "sleeper.service"); err != nil {
		t.Error(err)
	}
}

func TestAMachineReachesTheLabsAddressAndNothingElse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(lab.Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(conn, "hello ", conn.RemoteAddr().String())
			_ = conn.Close()
		}
	}()
	m := newMachine(t, ctx, Options{Name: "net-1"})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Output(ctx, "socat", "-u", "TCP:"+host+":"+port, "-")
	if err != nil || !strings.HasPrefix(out, "hello "+m.Address+":") {
		t.Errorf("got %q, %v", out, err)
	}
	// 192.0.2.0/24 and 203.0.113.0/24 are nobody's.
	result, err := m.Run(ctx, "timeout", "1", "socat", "-u", "TCP:203.0.113.1:80", "-")
	if err != nil || result.Code == 0 {
		t.Errorf("a way out: %+v, %v", result, err)
	}
}

func TestAnEndedContextEndsTheCommandInTheMachine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := newMachine(t, ctx, Options{Name: "ctx-1"})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if _, err := m.Run(short, "sleep", "12345"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err %v", err)
	}
	if result, err := m.Run(ctx, "pgrep", "-f", "sleep 12345"); err != nil || result.Code == 0 {
		t.Errorf("it still sleeps: %+v, %v", result, err)
	}
	if result, err := m.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 7"); err != nil || result != (Result{"out\n", "err\n", 7}) {
		t.Errorf("got %+v, %v", result, err)
	}
	if _, err := m.ReadFile(ctx, "/no/such/file"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err %v, want not exist", err)
	}
}

func TestCloudInitRunsItsSeedWhenAskedTo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := newMachine(t, ctx, Options{Name: "seeded", CloudInit: true, Files: map[string]File{
		"/var/lib/cloud/seed/nocloud/meta-data": {"instance-id: one\nlocal-hostname: seeded\n", 0},
		"/var/lib/cloud/seed/nocloud/user-data": {"#cloud-config\nlocale: false\nruncmd: [[touch, /var/lib/by-cloud-init]]\n", 0},
	}})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Output(ctx, "cloud-init", "status", "--wait", "--long"); err != nil {
		t.Error(out, err)
	}
	if _, err := m.ReadFile(ctx, "/var/lib/by-cloud-init"); err != nil {
		t.Error(err)
	}
}

func TestABootThatIsGivenUpLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m := newMachine(t, ctx, Options{Name: "given-up"})
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if err := m.Boot(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", m.dir, err)
	}
	if link, err := net.InterfaceByName(m.id); err == nil {
		t.Errorf("%s is still there", link.Name)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/crash"
)

// TestAFileThatCannotBeReadIsSaidAndNotOverwritten is F32: the disk fails (EIO) at
// each read of one file, on the way of a join and on a machine that is a node. The
// agent says WriteFailed, the path and the cause, changes no file of the join, asks
// for no second certificate and starts no kubelet anew; and it goes on when the disk
// reads again.
func TestAFileThatCannotBeReadIsSaidAndNotOverwritten(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	needStrace(t, ctx)
	m, api := scratchNode(t)
	trace := traced(t, m)
	p := m.Spec.Paths
	joined, err := snapshot(m)
	if err != nil {
		t.Fatal(err)
	}
	// The disks on which the pending key and the new pair lie.
	onTheWay := map[string]crash.Disk{}
	for _, cut := range trace.PowerCuts(m.Folders(), []string{p.Units}, []string{p.Run}) {
		_, key := cut.Disk[p.PendingKey()]
		_, pair := cut.Disk[p.NewPair()]
		switch {
		case cut.Lost != "nothing":
		case pair:
			onTheWay[p.NewPair()] = cut.Disk
		case key:
			onTheWay[p.PendingKey()] = cut.Disk
		}
	}
	pair, err := os.Readlink(m.Files().CurrentPair())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		p.PendingKey(), p.NewPair(), p.TrustFile(), p.ManifestFile(), pair, m.Files().CACert(), m.Files().ConfigFile(), m.Files().Kubeconfig(),
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			disk := joined
			if d := onTheWay[path]; d != nil {
				disk = d
				api.DeleteNode(m.Spec.NodeName)
				m.Reboot()
				m.Wipe()
			}
			if _, there := disk[path]; !there {
				t.Fatal("there is no disk with it")
			}
			if err := disk.Put(m.Folders()); err != nil {
				t.Fatal(err)
			}
			unreadable(t, ctx, m, path, len(api.CSRs()), func() int { return len(api.CSRs()) })
		})
	}
}

// unreadable starts the agent while one file cannot be read.
func unreadable(t *testing.T, ctx context.Context, m *crash.Machine, path string, requests int, count func() int) {
	before, err := snapshot(m)
	if err != nil {
		t.Fatal(err)
	}
	starts := len(m.Units.Calls())
	life, err := m.Start("strace", "-D", "-I1", "-f", "-o", os.DevNull, "-P", path, "-e", "trace=read,pread64", "-e", "inject=read,pread64:error=EIO")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { life.Kill() }()
	s, ok := life.Await(15*time.Second, func(s agent.Status) bool { return s.Reason != "" && s.Attempt >= 2 || s.Phase == agent.Joined })
	said := fmt.Sprintf("%s: %s", s.Reason, s.Message)
	ended := false
	select {
	case <-life.Ended(): // a record that cannot be read: systemd starts it again
		ended = true
		lines := strings.Split(strings.TrimSpace(life.Log()), "\n")
		said = lines[len(lines)-1]
	default:
	}
	if (!ok && !ended) || !strings.HasPrefix(said, string(fault.WriteFailed)+": ") || !strings.Contains(said, path) || !strings.Contains(said, "input/output error") {
		t.Errorf("it says %q (phase %s)", said, s.Phase)
	}
	after, err := snapshot(m)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, after) {
		for name := range maps.Keys(after) {
			if before[name] != after[name] {
				t.Errorf("%s was changed", name)
			}
		}
		for name := range before {
			if _, there := after[name]; !there {
				t.Errorf("%s is gone", name)
			}
		}
	}
	if n := count(); n > requests {
		t.Errorf("%d requests more", n-requests)
	}
	if calls := m.Units.Calls()[starts:]; len(calls) > 0 {
		t.Errorf("systemd was asked for %v", calls)
	}
	if ended {
		if life, err = m.Start(); err != nil {
			t.Fatal(err)
		}
	} else if err := untraced(ctx, life.PID()); err != nil {
		t.Fatal(err)
	}
	if s, ok := life.Await(20*time.Second, inPhase(agent.Joined)); !ok {
		life.Kill()
		t.Errorf("readable again: %s: %s: %s\n%s", s.Phase, s.Reason, s.Message, life.Log())
	}
	if n := count(); n > requests {
		t.Errorf("readable again: %d requests more", n-requests)
	}
}

// snapshot is what lies in the machine's folders, but for what is told to others
// (/run) and the number in the lock.
func snapshot(m *crash.Machine) (crash.Disk, error) {
	disk := crash.Disk{}
	p := m.Spec.Paths
	for _, dir := range []string{p.State, p.Kubelet, p.Units} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil || path == p.LockFile() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			e := crash.Entry{Mode: info.Mode()}
			switch {
			case info.Mode()&os.ModeSymlink != 0:
				e.Data, err = os.Readlink(path)
			case info.Mode().IsRegular():
				var data []byte
				data, err = os.ReadFile(path)
				e.Data = string(data)
			}
			disk[path] = e
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return disk, nil
}

// untraced ends the tracer of a process, which lets go of it.
func untraced(ctx context.Context, pid int) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(status), "TracerPid:\t")
	number, _, _ := strings.Cut(rest, "\n")
	tracer, err := strconv.Atoi(number)
	if err != nil || tracer == 0 {
		return fmt.Errorf("nobody traces %d: %w", pid, err)
	}
	if err := syscall.Kill(tracer, syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for traces(pid) {
		if ctx.Err() != nil {
			return fmt.Errorf("the tracer does not let go of %d: %w", pid, context.Cause(ctx))
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil
}

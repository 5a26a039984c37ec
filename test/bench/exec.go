package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// execTrace hears from the kernel when the agent's program is executed. systemd
// stamps a process when it forks it; what follows until the program itself runs
// is the making of the sandbox, which is systemd's work and not the agent's.
//
// It is a trace buffer of its own (Documentation/trace/ftrace.rst, instances),
// on the clock of systemd's monotonic time stamps, and is gone after close.
type execTrace struct{ mount, dir string }

// openExecTrace fails where the kernel has no such trace or does not let us.
func openExecTrace(program string) (t *execTrace, err error) {
	mount, err := os.MkdirTemp("", "bootstrap-agent-trace-")
	if err != nil {
		return nil, err
	}
	t = &execTrace{mount: mount, dir: filepath.Join(mount, "instances", filepath.Base(mount))}
	if err := syscall.Mount("tracefs", mount, "tracefs", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot mount tracefs: %w", err), os.Remove(mount))
	}
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, errors.Join(err, t.close())
	}
	for _, set := range [][2]string{
		{"trace_clock", "mono"},
		{"events/sched/sched_process_exec/filter", fmt.Sprintf("filename ~ %q", program)},
		{"events/sched/sched_process_exec/enable", "1"},
	} {
		if err := os.WriteFile(filepath.Join(t.dir, set[0]), []byte(set[1]), 0o200); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot trace: %w", err), t.close())
		}
	}
	return t, nil
}

func (t *execTrace) close() error {
	if t == nil {
		return nil
	}
	_ = os.Remove(t.dir) // an instance is a folder that rmdir ends
	return errors.Join(syscall.Unmount(t.mount, 0), os.Remove(t.mount))
}

// after returns the first execution after a monotonic time.
func (t *execTrace) after(stamp time.Duration) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(t.dir, "trace"))
	if err != nil {
		return 0, err
	}
	return firstExec(string(text), stamp)
}

// firstExec reads lines like
//
//	bootstrap-agent-1234  [001] .....  7011.123456: sched_process_exec: filename=...
func firstExec(trace string, stamp time.Duration) (time.Duration, error) {
	for line := range strings.Lines(trace) {
		before, _, found := strings.Cut(line, ": sched_process_exec:")
		fields := strings.Fields(before)
		if !found || len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		seconds, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("the trace has no time in %q", line)
		}
		if at := time.Duration(seconds * float64(time.Second)); at >= stamp {
			return at, nil
		}
	}
	return 0, errors.New("the trace has no execution after the start of the process")
}

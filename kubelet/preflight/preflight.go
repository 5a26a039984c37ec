// Package preflight looks whether a kubelet can run on this machine: swap,
// cgroups, ports, the kernel's side of the pod network, disks, tools, host name,
// clock. Each thing that is looked at is one [Row]: pass, warn or fail, with the
// remedy in one line; what could not be looked at is a row as well.
//
// It fails only what would really stop the kubelet; what is merely unusual or
// unsupported is a warning. It never changes anything, never opens a connection
// (what an API server said, and how names resolve, is handed in), and needs root
// for no more than the rows that say so. Everything is read below one root
// folder, so that tests can lay out a machine in a scratch folder.
//
//	/proc, /sys, /etc, kubelet.Settings, kubelet.Version --Machine--> []*Row
package preflight

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Verdict is the judgement on one row.
type Verdict string

// The verdicts. Only Fail would stop the kubelet, or the join before it.
const (
	Pass Verdict = "pass"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
	Skip Verdict = "skip" // it could not be looked at: no verdict
)

// Row is one thing that was looked at. Fields are only ever added. Rows are
// handed on as pointers: as values they would cost 20 KB of code.
type Row struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Message string  `json:"message"`          // one line: what is the case
	Remedy  string  `json:"remedy,omitempty"` // one line: what a person does about it
	// Reason is that of a row that does not pass.
	Reason fault.Reason `json:"reason,omitempty"`
	// NeedsRoot: root could have seen more.
	NeedsRoot bool `json:"needsRoot,omitempty"`
}

// Machine is the machine to look at.
type Machine struct {
	Root   string                           // put before every path; "" is the machine itself
	Statfs func(path string) (Space, error) // nil: the real one
}

// maxRead bounds each file. /proc/net/tcp may be longer on a busy machine, but
// what listens stands first in it.
const maxRead = 1 << 20

func (m Machine) path(p string) string { return filepath.Join("/", m.Root, p) }

// read reads the beginning of a file. It follows links: the files of the kernel
// are reached through some.
func (m Machine) read(path string) ([]byte, error) {
	path = m.path(path)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("is no regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

func (m Machine) exists(path string) bool {
	_, err := os.Stat(m.path(path))
	return err == nil
}

// sysctl reads a setting of the kernel by its path below /proc/sys.
func (m Machine) sysctl(name string) (string, error) {
	data, err := m.read("/proc/sys/" + name)
	return strings.TrimSpace(string(data)), err
}

func pass(name, format string, args ...any) *Row {
	return &Row{Name: name, Verdict: Pass, Message: fmt.Sprintf(format, args...)}
}

func warn(name, remedy, format string, args ...any) *Row {
	return &Row{Name: name, Verdict: Warn, Message: fmt.Sprintf(format, args...), Remedy: remedy, Reason: fault.MachineWarning}
}

func fail(name, remedy, format string, args ...any) *Row {
	return &Row{Name: name, Verdict: Fail, Message: fmt.Sprintf(format, args...), Remedy: remedy, Reason: fault.MachineUnfit}
}

// Of makes a row of something that another room has judged: its error is the
// verdict, with the error's own reason and remedy. Nothing wrong: it passes with
// message. What only root may see is skipped, an error without a reason too.
func Of(name, message string, err error) *Row {
	switch reason := fault.ReasonOf(err); {
	case err == nil:
		return pass(name, "%s", message)
	case errors.Is(err, fs.ErrPermission) || reason == "":
		return unseen(name, err)
	default:
		return &Row{Name: name, Verdict: Fail, Message: oneLine(err.Error()), Remedy: fault.HintOf(err), Reason: reason}
	}
}

// unseen is the row of what could not be looked at.
func unseen(name string, err error) *Row {
	if errors.Is(err, fs.ErrPermission) {
		return &Row{Name: name, Verdict: Skip, Message: "only root can look: " + oneLine(err.Error()), NeedsRoot: true}
	}
	return &Row{Name: name, Verdict: Skip, Message: "cannot be looked at: " + oneLine(err.Error())}
}

// NotSeen is the row of something that was not looked at, and why.
func NotSeen(name, why string) *Row { return &Row{Name: name, Verdict: Skip, Message: why} }

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }

// FirstFailed returns the first row that failed, nil if none did.
func FirstFailed(rows []*Row) *Row {
	for _, r := range rows {
		if r.Verdict == Fail {
			return r
		}
	}
	return nil
}

// Findings are the rows that warn or fail.
func Findings(rows []*Row) []*Row {
	var out []*Row
	for _, r := range rows {
		if r.Verdict == Warn || r.Verdict == Fail {
			out = append(out, r)
		}
	}
	return out
}

package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// lock holds an flock on the state folder's lock file: the kernel releases it
// when the process dies, however it dies.
type lock struct{ file *os.File }

// acquire takes the lock or says who holds it (fault.Locked). The file is made
// when missing and never removed, so that two processes never lock two files.
func acquire(paths Paths) (*lock, error) {
	if err := atomicfile.MkdirAll(paths.State, 0o700); err != nil {
		return nil, err
	}
	path := paths.LockFile()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.WriteFailed, "cannot open lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := holderOf(f)
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Locked, "%s is locked%s", path, holder)
		}
		return nil, fault.New(fault.WriteFailed, "cannot lock %s: %w", path, err)
	}
	// The number is only for the message above; the lock itself is the kernel's.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &lock{file: f}, nil
}

func (l *lock) release() { _ = l.file.Close() }

func holderOf(f *os.File) string {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid <= 0 {
		return ""
	}
	return fmt.Sprintf(" by process %d", pid)
}

// isLocked tells whether an agent is at work here, without disturbing it.
func isLocked(paths Paths) bool {
	f, err := os.OpenFile(paths.LockFile(), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return errors.Is(err, syscall.EWOULDBLOCK)
	}
	return false
}

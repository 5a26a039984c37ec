package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Lock holds an flock on the state folder's lock file: the kernel releases it
// when the process dies, however it dies.
type Lock struct{ file *os.File }

// Whoever only looks whether the lock is held (Holder) holds it for a moment
// himself; an agent that starts in that moment tries again.
const (
	lockTries = 5
	lockPause = 20 * time.Millisecond
)

// Acquire takes the lock or says who holds it (fault.Locked). The file is made
// when missing and never removed, so that two processes never lock two files.
func Acquire(paths Paths) (*Lock, error) {
	if err := atomicfile.MkdirAll(paths.State, 0o700); err != nil {
		return nil, err
	}
	// Whoever may write there decides which cluster is trusted.
	if info, err := os.Stat(paths.State); err != nil {
		return nil, fault.New(fault.WriteFailed, "cannot look at the state folder: %w", err)
	} else if err := atomicfile.Closed(paths.State, info); err != nil {
		return nil, err
	}
	path := paths.LockFile()
	f, err := openLock(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fault.New(fault.WriteFailed, "cannot open lock file: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for range lockTries {
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		<-time.After(lockPause)
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		by := ""
		if pid := holderOf(f); pid > 0 {
			by = fmt.Sprintf(" by process %d", pid)
		}
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Locked, "%s is locked%s", path, by)
		}
		return nil, fault.New(fault.WriteFailed, "cannot lock %s: %w", path, err)
	}
	// The number is for the message above and tells whose the status file is; the
	// lock itself is the kernel's.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Lock{file: f}, nil
}

// openLock opens the lock file itself: no link, and no pipe, whose opening would
// wait for ever for somebody at its other end.
func openLock(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("is no regular file (%s)", info.Mode().Type())}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Release gives the lock back.
func (l *Lock) Release() { _ = l.file.Close() }

// holderOf is who wrote its number into the lock file last; 0 if that is nobody.
func holderOf(f *os.File) int {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return 0
	}
	return max(pid, 0)
}

// Holder tells whether an agent is at work here, without disturbing it, and
// its process number; 0 for the moment in which it has not written that yet.
func Holder(paths Paths) (running bool, pid int) {
	f, err := openLock(paths.LockFile(), os.O_RDONLY)
	if err != nil {
		return false, 0
	}
	defer func() { _ = f.Close() }()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return true, holderOf(f)
	}
	return false, 0
}

// Package cache knows the one folder where the lab keeps what is costly to make
// (the control plane's binaries, the root folder of the machines) and what is
// thrown away (run/). It is never inside the source tree, and never under /tmp:
// a machine's boot may empty that.
//
// A slot is a numbered folder under run/ that one process at a time owns, held
// by a lock that the kernel drops when the process dies. Whoever takes a slot
// finds, and removes, what a killed owner left there.
//
//	LAB_CACHE or a default --Dir--> folder --Take--> Slot{N, Dir} --Release--> gone
package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Slots is how many slots of one kind there are, so how many processes can run
// the lab at the same time.
const Slots = 32

// Dir returns the cache folder: LAB_CACHE if it is set, else
// /var/cache/bootstrap-agent-lab for root, and for others bootstrap-agent-lab
// in XDG_CACHE_HOME or ~/.cache. The folder exists afterwards.
func Dir() (string, error) {
	dir, err := choose(os.Getenv("LAB_CACHE"), os.Geteuid(), os.UserCacheDir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the cache folder: %w", err)
	}
	return dir, nil
}

func choose(fromEnv string, euid int, userCache func() (string, error)) (string, error) {
	switch {
	case fromEnv != "" && !filepath.IsAbs(fromEnv):
		return "", fmt.Errorf("LAB_CACHE is %q: it must be an absolute path", fromEnv)
	case fromEnv != "":
		return filepath.Clean(fromEnv), nil
	case euid == 0:
		return "/var/cache/bootstrap-agent-lab", nil
	}
	parent, err := userCache()
	if err != nil {
		return "", fmt.Errorf("no folder for the cache (set LAB_CACHE): %w", err)
	}
	return filepath.Join(parent, "bootstrap-agent-lab"), nil
}

// Slot is a numbered folder that this process owns.
type Slot struct {
	N    int
	Dir  string
	lock *os.File
}

// Take takes the first free slot of a kind. clean is called for every slot of
// that kind that nobody owns and whose folder is still there: it must undo all
// that a dead owner may have left (the folder itself is removed afterwards).
func Take(kind string, clean func(n int, dir string) error) (*Slot, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	run := filepath.Join(dir, "run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the runs: %w", err)
	}
	var mine *Slot
	for n := range Slots {
		slot := &Slot{N: n, Dir: filepath.Join(run, fmt.Sprintf("%s-%d", kind, n))}
		if mine != nil && !exists(slot.Dir) {
			continue
		}
		free, err := slot.tryLock()
		if err != nil {
			return nil, errors.Join(err, mine.Release())
		}
		if !free {
			continue
		}
		if err := slot.sweep(clean); err != nil {
			return nil, errors.Join(err, slot.unlock(), mine.Release())
		}
		if mine != nil {
			if err := slot.unlock(); err != nil {
				return nil, errors.Join(err, mine.Release())
			}
			continue
		}
		mine = slot
		if err := os.Mkdir(slot.Dir, 0o755); err != nil {
			return nil, errors.Join(err, slot.unlock())
		}
	}
	if mine == nil {
		return nil, fmt.Errorf("all %d slots under %s are in use", Slots, run)
	}
	return mine, nil
}

// Release removes the folder and gives the slot back. Nothing may be mounted
// below it any more. A nil slot is released already.
func (s *Slot) Release() error {
	if s == nil {
		return nil
	}
	return errors.Join(os.RemoveAll(s.Dir), s.unlock())
}

func (s *Slot) tryLock() (bool, error) {
	f, err := os.OpenFile(s.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return false, fmt.Errorf("cannot open a lock of the lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, f.Close()
		}
		return false, errors.Join(fmt.Errorf("cannot lock %s: %w", f.Name(), err), f.Close())
	}
	s.lock = f
	return true, nil
}

// unlock keeps the lock file: to remove it would let two processes lock two
// files of the same name.
func (s *Slot) unlock() error { return s.lock.Close() }

func (s *Slot) sweep(clean func(int, string) error) error {
	if !exists(s.Dir) {
		return nil
	}
	if clean != nil {
		if err := clean(s.N, s.Dir); err != nil {
			return fmt.Errorf("cannot clean what an earlier run left in %s: %w", s.Dir, err)
		}
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("cannot remove what an earlier run left: %w", err)
	}
	return nil
}

// Lock calls work while no other process does so for the
// same name; it blocks until it may. For builds into the cache.
func Lock(name string, work func(dir string) error) error {
	dir, err := Dir()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("cannot open a lock of the lab: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written; closing drops the lock
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot lock %s: %w", f.Name(), err)
		}
		return work(dir)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

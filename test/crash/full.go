package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// pageSize is what a file takes of a tmpfs at least.
const pageSize = 4096

// Volume is a small file system in memory that belongs to this process alone: it
// is mounted nowhere, is reached through this process's descriptor, and is gone
// with it.
type Volume struct {
	fd  int
	Dir string
}

// NewVolume makes one of so many pages and files. Root is needed.
func NewVolume(pages, files int) (*Volume, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount keeps what it needs
	for key, value := range map[string]int{"size": pages * pageSize, "nr_inodes": files} {
		if err := unix.FsconfigSetString(fs, key, strconv.Itoa(value)); err != nil {
			return nil, fmt.Errorf("cannot make a tmpfs with %s=%d: %w", key, value, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("cannot make a tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a tmpfs: %w", err)
	}
	v := &Volume{fd, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)}
	return v, os.Chmod(v.Dir, 0o755)
}

// Close ends it, with all that is on it.
func (v *Volume) Close() error { return unix.Close(v.fd) }

// Fill takes pages and files until so many of both are free; Free gives all back.
func (v *Volume) Fill(pages, files int) error {
	var st unix.Statfs_t
	if err := os.Mkdir(v.filler(), 0o700); err != nil {
		return err
	}
	if err := unix.Statfs(v.Dir, &st); err != nil {
		return err
	}
	for i := 0; i < int(st.Ffree)-files; i++ {
		var content []byte
		if i == 0 {
			content = make([]byte, max(0, int(st.Bavail)-pages)*pageSize)
		}
		if err := os.WriteFile(filepath.Join(v.filler(), strconv.Itoa(i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Free gives back what Fill took.
func (v *Volume) Free() error { return os.RemoveAll(v.filler()) }

func (v *Volume) filler() string { return filepath.Join(v.Dir, "filler") }

// Use moves the folders of a machine on which nothing has happened to the volume.
func (m *Machine) Use(v *Volume) error {
	p := &m.Spec.Paths
	p.State, p.Run, p.Kubelet, p.Units = v.Dir+"/state", v.Dir+"/run", v.Dir+"/kubelet", v.Dir+"/units"
	return os.Mkdir(p.Units, 0o755)
}

package atomicfile

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// folder is a handle of a folder: names in it are looked up there and nowhere
// else, whatever happens to the path that led to it.
// (os.Root does the same for whole trees, at 48 KiB of the program.)
type folder struct {
	handle *os.File
	path   string
}

// folders are those that one call has opened, each once.
type folders []*folder

func (all *folders) open(file string) (*folder, error) {
	for _, dir := range *all {
		if dir.path == filepath.Dir(file) {
			return dir, nil
		}
	}
	dir, err := openFolder(file)
	if err != nil {
		return nil, err
	}
	*all = append(*all, dir)
	return dir, nil
}

func (all folders) close() {
	for _, dir := range all {
		dir.close()
	}
}

// openFolder opens the folder of a file that is about to be written and judges
// it: who may write there can put anything in the file's place.
func openFolder(file string) (*folder, error) {
	dir, err := openDir(filepath.Dir(file))
	if err != nil {
		return nil, failed(file, err)
	}
	info, err := dir.handle.Stat()
	if err != nil {
		dir.close()
		return nil, failed(file, err)
	}
	if err := Closed(dir.path, info); err != nil {
		dir.close()
		return nil, err
	}
	return dir, nil
}

// openDir opens a folder as it is; a link that leads to one is followed. It does
// not hang on a FIFO in its place.
func openDir(path string) (*folder, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &folder{f, path}, nil
}

// Closed says why somebody else than root, or than ourselves, may write in the
// folder of this path, which is this one; nil if nobody may. Its hint is the
// remedy.
func Closed(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fault.New(fault.WriteFailed, "cannot write into %s: others than its owner may write there (mode %04o)", path, mode).
			WithHint("Find out who opened it, then run `chmod go-w %s`.", path)
	}
	if Foreign(info) {
		return fault.New(fault.WriteFailed, "cannot write into %s: it belongs to uid %d", path, info.Sys().(*syscall.Stat_t).Uid). //nolint:forcetypeassert // Foreign has looked
																		WithHint("Find out why, then run `chown root: %s`.", path)
	}
	return nil
}

// Foreign says whether a file belongs to somebody else than root or ourselves.
func Foreign(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid != 0 && int(st.Uid) != os.Geteuid()
}

func (d *folder) close() { _ = d.handle.Close() }

// open opens a name in the folder; never what a link of that name leads to.
func (d *folder) open(name string, flags int) (*os.File, error) {
	path := filepath.Join(d.path, name)
	for {
		fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, unix.EINTR):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func (d *folder) fd() int { return int(d.handle.Fd()) }

// lstat tells what a name in the folder is.
func (d *folder) lstat(name string) (fs.FileInfo, error) {
	f, err := d.open(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Stat()
}

func (d *folder) readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	return string(buf[:max(n, 0)]), err
}

func (d *folder) symlink(target, name string) error { return unix.Symlinkat(target, d.fd(), name) }

// put gives a temporary file its name. A process that begins its work here takes
// the files of others for what a crash has left (CleanTemp): one that is gone
// before it has its name is made once more.
func (d *folder) put(temp, name string, again func() error) error {
	err := unix.Renameat(d.fd(), temp, d.fd(), name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = again(); err == nil {
			err = unix.Renameat(d.fd(), temp, d.fd(), name)
		}
	}
	return err
}

// remove removes a file or a link.
func (d *folder) remove(name string) error { return unix.Unlinkat(d.fd(), name, 0) }

// isSame says whether a file needs no writing, or why it may not be written.
func (d *folder) isSame(f File) (bool, error) {
	name := filepath.Base(f.Path)
	info, err := d.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, failed(f.Path, err)
	}
	if !info.Mode().IsRegular() {
		return false, failed(f.Path, fmt.Errorf("is no regular file (%s), left as it is", info.Mode().Type()))
	}
	if info.Mode().Perm() != f.Mode || info.Size() != int64(len(f.Data)) || Foreign(info) {
		return false, nil
	}
	file, err := d.open(name, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return false, nil //nolint:nilerr // unreadable: write it anew
	}
	old, err := readAll(file, f.Path, info.Size())
	return err == nil && bytes.Equal(old, f.Data), nil
}

// tempName is a name in a folder that nobody else has.
func tempName() (string, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	return tempPrefix + hex.EncodeToString(random), nil
}

// writeTemp makes a file, whole and on the disk, or leaves none.
func (d *folder) writeTemp(name string, data []byte, mode fs.FileMode) error {
	f, err := d.open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = d.remove(name)
	}
	return err
}

// sync makes durable what was made, renamed or removed in the folder.
func (d *folder) sync() error {
	if err := d.handle.Sync(); err != nil {
		return failed(d.path, err)
	}
	return nil
}

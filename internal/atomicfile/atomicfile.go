// Package atomicfile makes a file appear whole and durable, or not at all: a
// temporary file in the same folder (0600, O_EXCL), write, fsync, fchmod,
// rename, fsync of the folder. After a power cut there is the old content or
// the new one, never an empty or half file.
//
// It never follows a symbolic link at the path it writes, never replaces
// something that is neither a regular file nor (for Symlink) a link, and
// rewrites nothing whose bytes and mode are already right: "changed" is
// computed from what is there. Errors carry fault.WriteFailed and the path.
package atomicfile

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// tempPrefix marks our temporary files, so that leftovers of a crash can be
// told and removed (CleanTemp).
const tempPrefix = ".bootstrap-agent-tmp-"

// Write makes path a regular file with exactly this content and mode (an
// explicit mode: the umask does not count). The folder must exist. It returns
// whether anything had to be written.
func Write(path string, data []byte, mode fs.FileMode) (changed bool, err error) {
	same, err := isSame(path, data, mode)
	if err != nil || same {
		return false, err
	}
	if err := replace(path, func(tmp string) error { return writeTemp(tmp, data, mode) }); err != nil {
		return false, err
	}
	return true, nil
}

// File is one file for WriteAll.
type File struct {
	Path string
	Data []byte
	Mode fs.FileMode
}

// WriteAll is Write for several files that do not depend on each other, with the
// waiting for the disk shared: all of them are written and synced side by side,
// then renamed in the order given, then each folder is synced once. Before all
// are on the disk none is replaced, so a full disk leaves every one as it was;
// after a crash each is the old one or the new one, whole. It returns the paths
// that had to be written.
func WriteAll(files ...File) (changed []string, err error) {
	var todo []File
	for _, f := range files {
		same, err := isSame(f.Path, f.Data, f.Mode)
		if err != nil {
			return nil, err
		}
		if !same {
			todo = append(todo, f)
		}
	}
	temps := make([]string, len(todo))
	faults := make([]error, len(todo))
	var writing sync.WaitGroup
	for i, f := range todo {
		if temps[i], err = tempName(f.Path); err != nil {
			return nil, err
		}
	}
	for i, f := range todo {
		writing.Go(func() { faults[i] = writeTemp(temps[i], f.Data, f.Mode) })
	}
	writing.Wait()
	for i, f := range todo {
		if faults[i] == nil {
			continue
		}
		for _, tmp := range temps {
			_ = os.Remove(tmp)
		}
		return nil, failed(f.Path, faults[i])
	}
	var folders []string
	for i, f := range todo {
		if err := os.Rename(temps[i], f.Path); err != nil {
			for _, tmp := range temps[i:] {
				_ = os.Remove(tmp)
			}
			return changed, errors.Join(failed(f.Path, err), syncDirs(folders))
		}
		changed = append(changed, f.Path)
		if dir := filepath.Dir(f.Path); !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	return changed, syncDirs(folders)
}

func syncDirs(dirs []string) error {
	faults := make([]error, len(dirs))
	var syncing sync.WaitGroup
	for i, dir := range dirs {
		syncing.Go(func() { faults[i] = syncDir(dir) })
	}
	syncing.Wait()
	return errors.Join(faults...)
}

// Symlink makes path a symbolic link to target, swapping an older link by
// rename: at no moment is there none. It returns whether anything changed.
func Symlink(target, path string) (changed bool, err error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, failed(path, err)
	case info.Mode()&fs.ModeSymlink == 0:
		return false, failed(path, fmt.Errorf("is no symbolic link (%s), left as it is", info.Mode().Type()))
	default:
		if old, err := os.Readlink(path); err == nil && old == target {
			return false, nil
		}
	}
	if err := replace(path, func(tmp string) error { return os.Symlink(target, tmp) }); err != nil {
		return false, err
	}
	return true, nil
}

// Remove deletes a file or link durably. A path that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return failed(path, err)
	}
	return syncDir(filepath.Dir(path))
}

// Discard deletes a file without waiting for the disk: after a power cut it may
// be there again. For what does no harm then; what must not come back is removed
// with Remove. A path that is not there is no error.
func Discard(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(path, err)
	}
	return nil
}

// MkdirAll makes path and its missing parents, durably. The last folder gets
// exactly this mode when it is made here; one that exists keeps its own.
func MkdirAll(path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.IsDir() {
			return failed(path, errors.New("is no folder"))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return failed(path, err)
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return failed(path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return failed(path, err)
	}
	return syncDir(parent)
}

// CleanTemp removes temporary files that a crash left in a folder. A missing
// folder is no error.
func CleanTemp(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return failed(dir, err)
	}
	for _, path := range left {
		if err := Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// Read reads a regular file of at most limit bytes without following a link at
// its last element and without hanging on a FIFO. A missing file is
// fs.ErrNotExist in the chain.
func Read(path string, limit int64) ([]byte, error) {
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("is no regular file (%s)", info.Mode().Type())}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("is larger than %d bytes", limit)}
	}
	return data, nil
}

func isSame(path string, data []byte, mode fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, failed(path, err)
	}
	if !info.Mode().IsRegular() {
		return false, failed(path, fmt.Errorf("is no regular file (%s), left as it is", info.Mode().Type()))
	}
	if info.Mode().Perm() != mode || info.Size() != int64(len(data)) {
		return false, nil
	}
	old, err := Read(path, info.Size())
	if err != nil {
		return false, nil //nolint:nilerr // unreadable: write it anew
	}
	return bytes.Equal(old, data), nil
}

// replace makes a temporary name beside path, has it filled, and renames it
// over path. On any error the temporary file is gone again.
func replace(path string, fill func(tmp string) error) error {
	tmp, err := tempName(path)
	if err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		_ = os.Remove(tmp)
		return failed(path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return failed(path, err)
	}
	return syncDir(filepath.Dir(path))
}

// tempName is a name beside path that nobody else has.
func tempName(path string) (string, error) {
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return "", failed(path, err)
	}
	return filepath.Join(filepath.Dir(path), tempPrefix+hex.EncodeToString(random)), nil
}

func writeTemp(tmp string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return failed(dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return failed(dir, err)
	}
	return nil
}

func failed(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) && pathErr.Path != path {
		err = pathErr.Err // do not show the temporary name
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		err = linkErr.Err
	}
	f := fault.New(fault.WriteFailed, "cannot write %s: %w", path, err)
	if errors.Is(err, syscall.EROFS) {
		return f.WithHint("Mount it writable (`findmnt --target %s`), then `systemctl restart bootstrap-agent`: a service in a sandbox keeps the mounts of its start.", filepath.Dir(path))
	}
	return f
}

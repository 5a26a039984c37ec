// Package atomicfile makes a file appear whole and durable, or not at all: a
// temporary file in the same folder (0600, O_EXCL), write, fsync, fchmod,
// rename, fsync of the folder. After a power cut there is the old content or
// the new one, never an empty or half file.
//
// All of it happens through a handle of the folder (folder.go): what is checked,
// made, renamed and synced lies in one folder, whoever moves names about
// meanwhile. A folder in which others may write is refused.
//
// It never follows a symbolic link at the path it writes, never replaces
// something that is neither a regular file nor (for Symlink) a link, and
// rewrites nothing whose bytes, mode and owner are already right: "changed" is
// computed from what is there. Errors carry fault.WriteFailed and the path.
package atomicfile

import (
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
	written, err := WriteAll(File{path, data, mode})
	return len(written) > 0, err
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
	var all folders
	defer all.close()
	var todo []pending
	for _, f := range files {
		dir, err := all.open(f.Path)
		if err != nil {
			return nil, err
		}
		same, err := dir.isSame(f)
		if err != nil {
			return nil, err
		}
		if !same {
			todo = append(todo, pending{File: f, dir: dir})
		}
	}
	for i := range todo {
		if todo[i].temp, err = tempName(); err != nil {
			return nil, failed(todo[i].Path, err)
		}
	}
	faults := make([]error, len(todo))
	var writing sync.WaitGroup
	for i, f := range todo {
		writing.Go(func() { faults[i] = f.dir.writeTemp(f.temp, f.Data, f.Mode) })
	}
	writing.Wait()
	for i, f := range todo {
		if faults[i] != nil {
			discard(todo)
			return nil, failed(f.Path, faults[i])
		}
	}
	var renamed []*folder
	for i, f := range todo {
		again := func() error { return f.dir.writeTemp(f.temp, f.Data, f.Mode) }
		if err := f.dir.put(f.temp, filepath.Base(f.Path), again); err != nil {
			discard(todo[i:])
			return changed, errors.Join(failed(f.Path, err), syncAll(renamed))
		}
		changed = append(changed, f.Path)
		if !slices.Contains(renamed, f.dir) {
			renamed = append(renamed, f.dir)
		}
	}
	return changed, syncAll(renamed)
}

// pending is a file that is about to be written under a temporary name.
type pending struct {
	File
	dir  *folder
	temp string
}

func discard(files []pending) {
	for _, f := range files {
		_ = f.dir.remove(f.temp)
	}
}

func syncAll(dirs []*folder) error {
	faults := make([]error, len(dirs))
	var syncing sync.WaitGroup
	for i, dir := range dirs {
		syncing.Go(func() { faults[i] = dir.sync() })
	}
	syncing.Wait()
	return errors.Join(faults...)
}

// Symlink makes path a symbolic link to target, swapping an older link by
// rename: at no moment is there none. It returns whether anything changed.
func Symlink(target, path string) (changed bool, err error) {
	dir, err := openFolder(path)
	if err != nil {
		return false, err
	}
	defer dir.close()
	name := filepath.Base(path)
	info, err := dir.lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, failed(path, err)
	case info.Mode()&fs.ModeSymlink == 0:
		return false, failed(path, fmt.Errorf("is no symbolic link (%s), left as it is", info.Mode().Type()))
	default:
		if old, err := dir.readlink(name); err == nil && old == target {
			return false, nil
		}
	}
	temp, err := tempName()
	again := func() error { return dir.symlink(target, temp) }
	if err == nil {
		err = again()
	}
	if err != nil {
		return false, failed(path, err)
	}
	if err := dir.put(temp, name, again); err != nil {
		_ = dir.remove(temp)
		return false, failed(path, err)
	}
	return true, dir.sync()
}

// Remove deletes a file or link durably. A path that is not there is no error.
func Remove(path string) error {
	dir, err := openDir(filepath.Dir(path)) // also in one that others have opened
	if err == nil {
		defer dir.close()
		err = dir.remove(filepath.Base(path))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return failed(path, err)
	}
	return dir.sync()
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
	if info, err := os.Lstat(path); err == nil && !info.IsDir() {
		return failed(path, errors.New("is a link to where nothing is, or has just been put there"))
	}
	if err := os.Chmod(path, mode); err != nil {
		return failed(path, err)
	}
	dir, err := openDir(parent)
	if err != nil {
		return failed(parent, err)
	}
	defer dir.close()
	return dir.sync()
}

// CleanTemp removes temporary files that a crash left in a folder. A missing
// folder is no error. Another process may be writing there: it makes its file
// once more.
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
	return readAll(f, path, limit)
}

// readAll reads an open file, if it is a regular one, and closes it.
func readAll(f *os.File, path string, limit int64) ([]byte, error) {
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
	if errors.Is(err, syscall.EPERM) {
		return f.WithHint("Most often it, or its folder, is immutable (`lsattr -d %s %s`): `chattr -i` it.", path, filepath.Dir(path))
	}
	if errors.Is(err, syscall.EROFS) {
		return f.WithHint("Mount it writable (`findmnt --target %s`), then `systemctl restart bootstrap-agent`: a service in a sandbox keeps the mounts of its start.", filepath.Dir(path))
	}
	return f
}

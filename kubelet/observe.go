package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

// FileStatus says what is at a path.
type FileStatus string

// Damaged is empty, unparsable, or no regular file. Present says only that it
// parses: whether it is what we would write is a question of bytes.
const (
	FileMissing FileStatus = "Missing"
	FileDamaged FileStatus = "Damaged"
	FilePresent FileStatus = "Present"
)

// FileState is one file as it is on disk.
type FileState struct {
	Status FileStatus
	Detail string // why it counts as damaged
	Mode   fs.FileMode
	// Foreign: it belongs to somebody else than root (or ourselves).
	Foreign bool
	// Data is what was read, nil if it could not be. It may hold a secret (a
	// kubeconfig of somebody else's): it is there to be compared, not shown.
	Data []byte `json:"-"`
}

// KubeconfigState is the kubeconfig as it is on disk.
type KubeconfigState struct {
	FileState
	Kubeconfig
	// OK: it names our CA file and our link, and nothing else.
	OK bool
}

// Observed is everything the kubelet would read, at one moment.
type Observed struct {
	Pair       PairState
	CA         FileState
	Kubeconfig KubeconfigState
	Config     FileState
	// Hashes has the SHA-256 (hexadecimal) of each file that was read, by path;
	// the pair under the path of the link's target.
	Hashes map[string]string
}

// Observe looks at the files, each read once and not changed. An error means
// that something could not be seen (no permission, a failing disk), which is
// not the same as missing: nothing may be rewritten on the strength of it.
func (f Files) Observe(nodeName string) (Observed, error) {
	o := Observed{Hashes: map[string]string{}}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	o.Pair, err = f.observePair(nodeName, o.Hashes)
	note(err)
	o.CA, err = look(f.CACert(), o.Hashes, checkCertificates)
	note(err)
	o.Config, err = look(f.ConfigFile(), o.Hashes, func(data []byte) error { _, err := parseDocument(data); return err })
	note(err)
	o.Kubeconfig.FileState, err = look(f.Layout.Kubeconfig(), o.Hashes, func(data []byte) (err error) {
		o.Kubeconfig.Kubeconfig, err = ParseKubeconfig(data)
		return err
	})
	note(err)
	for _, file := range []*FileState{&o.CA, &o.Config, &o.Kubeconfig.FileState} {
		file.disown()
	}
	o.Kubeconfig.OK = o.Kubeconfig.Status == FilePresent && f.Ours(o.Kubeconfig.Kubeconfig)
	return o, errors.Join(errs...)
}

func (f Files) observePair(nodeName string, hashes map[string]string) (PairState, error) {
	link := f.CurrentPair()
	state := PairState{Status: PairMissing, Link: LinkMissing, Path: link}
	info, updating, err := f.lookAtLinks()
	if err != nil {
		return state, err
	}
	state.Updating = updating
	switch {
	case info == nil:
		state.Detail = "is not there"
		return state, nil
	case info.Mode().IsRegular():
		state.Link = LinkRegular
	case info.Mode()&fs.ModeSymlink == 0:
		state.Status, state.Link, state.Detail = PairDamaged, LinkOther, "is neither a link nor a regular file"
		return state, nil
	default:
		target, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) { // rotated away under our eyes
			state.Detail = "is not there"
			return state, nil
		}
		if err != nil {
			return state, fmt.Errorf("cannot look at %s: %w", link, err)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		state.Link, state.Path = LinkGood, target
	}
	file, err := look(state.Path, hashes, func([]byte) error { return nil })
	if err != nil {
		return state, err
	}
	at := state
	switch file.Status {
	case FileMissing:
		state.Link, state.Detail = LinkDangling, "the link leads to "+state.Path+", which is not there"
		return state, nil
	case FileDamaged:
		state.Status, state.Detail = PairDamaged, file.Detail
		return state, nil
	}
	state = JudgePair(file.Data, nodeName, f.now())
	state.Link, state.Path, state.Updating = at.Link, at.Path, updating
	return state, nil
}

// lookAtLinks returns what stands under the name of the pair (nil for nothing)
// and whether the kubelet is rotating. A rotation makes "updated", removes
// "current" and renames the one to the other: whoever finds neither came in
// between two looks, and finds "current" at the next.
func (f Files) lookAtLinks() (current fs.FileInfo, updating bool, err error) {
	for range 2 {
		current, err = lstat(f.CurrentPair())
		if err != nil {
			return nil, false, err
		}
		updated, err := lstat(f.UpdatedPair())
		if err != nil {
			return nil, false, err
		}
		updating = updated != nil
		if current != nil || updating {
			break
		}
	}
	return current, updating, nil
}

// lstat is os.Lstat with nil for what is not there.
func lstat(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	return info, nil
}

// disown takes a file that somebody else than root owns for damaged: he decides
// what the kubelet reads in it, and that may be a program to run.
func (s *FileState) disown() {
	if s.Foreign && s.Status == FilePresent {
		s.Status, s.Detail = FileDamaged, "belongs to somebody else than root"
	}
}

// look reads one file. Only what a person or a crash can have left there makes
// a status; any other trouble is an error.
func look(path string, hashes map[string]string, check func([]byte) error) (FileState, error) {
	info, err := lstat(path)
	if err != nil {
		return FileState{}, err
	}
	if info == nil {
		return FileState{Status: FileMissing}, nil
	}
	state := FileState{Status: FileDamaged, Mode: info.Mode(), Foreign: atomicfile.Foreign(info)}
	data, err := atomicfile.Read(path, maxFile)
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return FileState{Status: FileMissing}, nil
	case errors.Is(err, syscall.ELOOP):
		state.Detail = "is a symbolic link"
		return state, nil
	case state.Foreign && errors.Is(err, syscall.EACCES):
		// Root without capabilities, as in the sandbox, may not read it.
		state.Detail = "belongs to somebody else than root"
		return state, nil
	case err != nil && errors.As(err, &errno) && errno != syscall.ENXIO:
		return FileState{}, fmt.Errorf("cannot read %s: %w", path, err)
	case err != nil:
		state.Detail = detail(err)
		return state, nil
	}
	sum := sha256.Sum256(data)
	hashes[path] = hex.EncodeToString(sum[:])
	state.Data = data
	if len(data) == 0 {
		state.Detail = "is empty"
	} else if err := check(data); err != nil {
		state.Detail = err.Error()
	} else {
		state.Status = FilePresent
	}
	return state, nil
}

// detail is an error without the path, which stands beside it anyway.
func detail(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return err.Error()
}

package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// Space is what a file system has left.
type Space struct {
	Free      uint64 // bytes that root may use
	Available uint64 // bytes that everybody may use: what the kubelet counts
	Total     uint64
	FreeFiles uint64 // inodes
	Files     uint64 // 0: it does not count them
	ReadOnly  bool
}

// Disk says how much space a folder needs.
type Disk struct {
	Name    string // of its row
	Path    string
	Percent uint64 // below this share of free space the kubelet evicts Pods; 0: it does not look there
	Written bool   // the agent itself writes there
}

// enough is what the files of agent and kubelet need.
const enough = 16 << 20

// Disks are the folders of the agent, the kubelet and the runtime, with the
// kubelet's default thresholds.
func Disks(state, kubeletDir string, r kubelet.Runtime) []Disk {
	images := map[string]string{"containerd": "/var/lib/containerd", "CRI-O": "/var/lib/containers", "cri-dockerd": "/var/lib/docker"}
	disks := []Disk{{"disk: agent", state, 0, true}, {"disk: kubelet", kubeletDir, 10, true}}
	if path := images[r.Name]; path != "" {
		disks = append(disks, Disk{"disk: images", path, 15, false})
	}
	return disks
}

// Disk looks at the space left for a folder, which need not exist yet.
func (m Machine) Disk(d Disk) *Row {
	name := d.Name
	space, err := m.space(d.Path)
	if err != nil {
		return unseen(name, err)
	}
	free := fmt.Sprintf("%s free for %s", size(space.Available), plain(d.Path))
	if space.Total > 0 {
		free = fmt.Sprintf("%s (%d %%) free for %s", size(space.Available), percent(space.Available, space.Total), plain(d.Path))
	}
	unwritable := func(remedy, format string, args ...any) *Row {
		return &Row{Name: name, Verdict: Fail, Message: fmt.Sprintf(format, args...), Remedy: remedy, Reason: fault.WriteFailed}
	}
	const room = "Make room there, or put the folder on a larger file system."
	switch {
	case d.Written && space.ReadOnly:
		return unwritable("Mount it for writing.", "%s lies on a file system that is mounted read-only", plain(d.Path))
	case d.Written && space.Free < enough:
		return unwritable(room, "%s", free)
	case space.Total > 0 && percent(space.Available, space.Total) < d.Percent:
		return warn(name, room, "%s; below %d %% the kubelet evicts Pods, unless its configuration says otherwise", free, d.Percent)
	case d.Percent > 0 && space.Files > 0 && percent(space.FreeFiles, space.Files) < 5:
		return warn(name, "Remove files there, or make the file system with more inodes.",
			"%s, but only %d of its %d inodes; below 5 %% the kubelet evicts Pods", free, space.FreeFiles, space.Files)
	}
	return pass(name, "%s", free)
}

func percent(part, whole uint64) uint64 { return uint64(float64(part) / float64(whole) * 100) }

// space asks the file system that path lies on, or will lie on.
func (m Machine) space(path string) (Space, error) {
	statfs := m.Statfs
	if statfs == nil {
		statfs = Statfs
	}
	for {
		s, err := statfs(m.path(path))
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return s, err
		}
		path = filepath.Dir(path)
	}
}

// Statfs is the real question.
func Statfs(path string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := uint64(max(s.Bsize, 0)) //nolint:unconvert // its type differs between platforms
	return Space{
		Free: s.Bfree * block, Available: s.Bavail * block, Total: s.Blocks * block, FreeFiles: s.Ffree, Files: s.Files,
		ReadOnly: int64(s.Flags)&unix.ST_RDONLY != 0, //nolint:unconvert // likewise
	}, nil
}

func size(bytes uint64) string {
	const unit = 1 << 10
	switch {
	case bytes < 10*unit*unit:
		return fmt.Sprintf("%d KiB", bytes/unit)
	case bytes < 10*unit*unit*unit:
		return fmt.Sprintf("%d MiB", bytes/unit/unit)
	}
	return fmt.Sprintf("%d GiB", bytes/unit/unit/unit)
}

package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Entry is a file, a folder or a link on a disk.
type Entry struct {
	Mode fs.FileMode // with its type
	Data string      // of a link: where it leads
}

// Disk is what lies below some folders: path -> entry.
type Disk map[string]Entry

// PowerCut is a disk that a cut of the power could have left.
type PowerCut struct {
	After int    // line of the trace
	Lost  string // what of the things that were not synced is lost
	Disk  Disk
}

// inode is a file's content: as it is seen, and as it is on the platter.
type inode struct {
	entry, synced Entry
	hasSynced     bool
}

// page is the page cache and the disk behind it.
type page struct {
	folders     []string
	seen, disk  map[string]*inode // names as they are seen, and as a cut leaves them
	beforeRoots map[string]bool   // folders that were there before the trace began
}

// PowerCuts computes the disks that a cut of the power can leave at each call of
// the trace: what was synced is there; of what was not, all may be lost, nothing,
// one folder's names, all but those, or only the contents of files (then they are
// empty, or half). That is more than any one file system would lose: it has to be
// right on all. Disks that differ only in temporary files, or in except, come once.
// there lists the folders that exist when the trace begins.
func (t Trace) PowerCuts(folders, there, except []string) []PowerCut {
	p := newPage(folders, there)
	known := map[string]bool{}
	var cuts []PowerCut
	for _, op := range t {
		if !p.apply(op) {
			continue
		}
		for lost, disk := range p.cuts() {
			key := disk.key(except)
			if known[key] {
				continue
			}
			known[key] = true
			cuts = append(cuts, PowerCut{op.End, lost, disk})
		}
	}
	slices.SortStableFunc(cuts, func(a, b PowerCut) int {
		if a.After != b.After {
			return a.After - b.After
		}
		return strings.Compare(a.Lost, b.Lost)
	})
	return cuts
}

func newPage(folders, there []string) *page {
	p := &page{folders: folders, seen: map[string]*inode{}, disk: map[string]*inode{}, beforeRoots: map[string]bool{}}
	for _, dir := range there {
		p.beforeRoots[dir] = true
		made := &inode{entry: Entry{Mode: fs.ModeDir | 0o755}, synced: Entry{Mode: fs.ModeDir | 0o755}, hasSynced: true}
		p.seen[dir], p.disk[dir] = made, made
	}
	return p
}

// Written lists what each file below the folders was, whole, when it appeared.
func (t Trace) Written(folders []string) map[string][]Entry {
	p := newPage(folders, nil)
	out := map[string][]Entry{}
	for _, op := range t {
		if p.apply(op) && op.Call == "rename" && p.seen[op.To] != nil {
			out[op.To] = append(out[op.To], p.seen[op.To].entry)
		}
	}
	return out
}

// apply does to the page cache what the call did; false: it did nothing to it.
func (p *page) apply(op Op) bool {
	if !below(op.Path, p.folders) && !below(op.To, p.folders) && op.Call != "fsync" {
		return false
	}
	switch op.Call {
	case "open":
		if p.seen[op.Path] != nil || !strings.Contains(op.Flags, "O_CREAT") {
			return false
		}
		p.seen[op.Path] = &inode{entry: Entry{Mode: fs.FileMode(op.Mode)}}
	case "write":
		n := p.seen[op.Path]
		if n == nil {
			return false
		}
		n.entry.Data += op.Data
	case "ftruncate":
		if n := p.seen[op.Path]; n != nil {
			n.entry.Data = ""
		}
	case "chmod":
		if n := p.seen[op.Path]; n != nil {
			n.entry.Mode = n.entry.Mode.Type() | fs.FileMode(op.Mode)
			if n.entry.Mode.IsDir() {
				n.synced = n.entry
			}
		}
	case "symlink":
		n := &inode{entry: Entry{Mode: fs.ModeSymlink | 0o777, Data: op.To}}
		n.synced, n.hasSynced = n.entry, true // a link is in its folder
		p.seen[op.Path] = n
	case "mkdir":
		n := &inode{entry: Entry{Mode: fs.ModeDir | fs.FileMode(op.Mode)}}
		n.synced, n.hasSynced = n.entry, true
		p.seen[op.Path] = n
	case "rename":
		p.seen[op.To] = p.seen[op.Path]
		delete(p.seen, op.Path)
	case "link":
		p.seen[op.To] = p.seen[op.Path]
	case "unlink":
		delete(p.seen, op.Path)
	case "fsync":
		if n := p.seen[op.Path]; n != nil && !n.entry.Mode.IsDir() {
			n.synced, n.hasSynced = n.entry, true
			return true
		}
		p.sync(op.Path)
	default:
		return false
	}
	return true
}

// sync makes the names in a folder durable.
func (p *page) sync(dir string) {
	for path := range p.disk {
		if filepath.Dir(path) == dir && p.seen[path] == nil {
			delete(p.disk, path)
		}
	}
	for path, n := range p.seen {
		if filepath.Dir(path) == dir {
			p.disk[path] = n
		}
	}
}

// dirty lists the folders whose names are not all durable.
func (p *page) dirty() []string {
	dirs := map[string]bool{}
	for path, n := range p.seen {
		if p.disk[path] != n {
			dirs[filepath.Dir(path)] = true
		}
	}
	for path := range p.disk {
		if p.seen[path] == nil {
			dirs[filepath.Dir(path)] = true
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

// cuts are the disks that a cut at this moment can leave.
func (p *page) cuts() map[string]Disk {
	dirty := p.dirty()
	none := func(string) bool { return false }
	all := func(string) bool { return true }
	out := map[string]Disk{
		"all that was not synced":               p.cut(none, 0),
		"nothing":                               p.cut(all, 1),
		"contents that were not synced":         p.cut(all, 0),
		"half of contents that were not synced": p.cut(all, 0.5),
	}
	if len(dirty) > 1 {
		for _, dir := range dirty {
			out["names in "+dir] = p.cut(func(d string) bool { return d != dir }, 1)
			out["names but those in "+dir] = p.cut(func(d string) bool { return d == dir }, 1)
		}
	}
	return out
}

// cut puts a disk together: of folders for which kept holds the names as they are
// seen, else as they are durable; of contents that are not durable this part.
func (p *page) cut(kept func(dir string) bool, part float64) Disk {
	names := map[string]*inode{}
	for path, n := range p.disk {
		if !kept(filepath.Dir(path)) {
			names[path] = n
		}
	}
	for path, n := range p.seen {
		if kept(filepath.Dir(path)) {
			names[path] = n
		}
	}
	disk := Disk{}
	for path, n := range names {
		if !below(path, p.folders) || !p.reachable(path, names) {
			continue
		}
		e := n.entry
		if !n.hasSynced || n.synced.Data != e.Data {
			switch {
			case part == 0 && n.hasSynced:
				e = n.synced
			default:
				e.Data = e.Data[:int(float64(len(e.Data))*part)]
			}
		}
		disk[path] = e
	}
	return disk
}

// reachable says whether all folders above a path are there.
func (p *page) reachable(path string, names map[string]*inode) bool {
	for dir := filepath.Dir(path); below(dir, p.folders); dir = filepath.Dir(dir) {
		if names[dir] == nil && !p.beforeRoots[dir] {
			return false
		}
	}
	return true
}

func (d Disk) key(except []string) string {
	var out strings.Builder
	for _, path := range slices.Sorted(maps.Keys(d)) {
		if !isTemp(path) && !below(path, except) {
			fmt.Fprintf(&out, "%s %s %q\n", path, d[path].Mode, d[path].Data)
		}
	}
	return out.String()
}

// Put makes the folders of a machine what the disk says, and nothing else.
func (d Disk) Put(folders []string) error {
	for _, dir := range folders {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(d)) { // folders come before what is in them
		e := d[path]
		var err error
		switch {
		case e.Mode.IsDir():
			if err = os.Mkdir(path, 0o700); err == nil {
				err = os.Chmod(path, e.Mode.Perm())
			}
		case e.Mode&fs.ModeSymlink != 0:
			err = os.Symlink(e.Data, path)
		default:
			err = os.WriteFile(path, []byte(e.Data), e.Mode.Perm())
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

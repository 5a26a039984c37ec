package crash

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Version is one appearance of a managed path: a temporary file or link that was
// renamed to it.
type Version struct {
	Path    string
	Renamed Op
	// Durable is the end of the first fsync of its folder after the rename; 0 if
	// there is none.
	Durable int
}

// below says whether a path lies in one of the folders, or is one.
func below(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// first returns the first call from event from on that is wanted.
func (t Trace) first(from int, want func(Op) bool) (Op, bool) {
	for _, op := range t {
		if op.Begin >= from && want(op) {
			return op, true
		}
	}
	return Op{}, false
}

// Versions lists what became of a path, in order; all paths in the folders when
// path is "".
func (t Trace) Versions(path string, folders ...string) []Version {
	var out []Version
	for _, op := range t {
		if op.Call != "rename" || path != "" && op.To != path || path == "" && !below(op.To, folders) {
			continue
		}
		v := Version{Path: op.To, Renamed: op}
		if sync, ok := t.first(op.End+1, func(o Op) bool { return o.Call == "fsync" && o.Path == filepath.Dir(op.To) }); ok {
			v.Durable = sync.End
		}
		out = append(out, v)
	}
	return out
}

// Faults says where a file below the folders did not appear as it has to: made
// beside its place, with nobody else's rights and never over something that was
// there; written, synced, renamed, and the folder synced. except names paths, with
// the reason, that may be written in place or removed without a sync.
func (t Trace) Faults(folders []string, except map[string]string) []string {
	var faults []string
	fault := func(op Op, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("line %d: ", op.Begin)+fmt.Sprintf(format, args...))
	}
	for _, op := range t {
		if !below(op.Path, folders) && !below(op.To, folders) {
			continue
		}
		dir := filepath.Dir(op.Path)
		synced := func() bool {
			_, ok := t.first(op.End+1, func(o Op) bool { return o.Call == "fsync" && o.Path == dir })
			return ok
		}
		switch op.Call {
		case "open":
			writes := strings.Contains(op.Flags, "O_WRONLY") || strings.Contains(op.Flags, "O_RDWR") || strings.Contains(op.Flags, "O_CREAT")
			if !writes {
				continue
			}
			if _, ok := except[op.Path]; ok {
				if !strings.Contains(op.Flags, "O_NOFOLLOW") {
					fault(op, "%s is opened through a link", op.Path)
				}
				continue
			}
			if !isTemp(op.Path) {
				fault(op, "%s is written in place", op.Path)
			} else if !strings.Contains(op.Flags, "O_EXCL") || !strings.Contains(op.Flags, "O_CREAT") || op.Mode != 0o600 {
				fault(op, "%s is made with %s, %#o", op.Path, op.Flags, op.Mode)
			}
		case "rename":
			t.renamed(op, fault)
		case "unlink":
			if _, ok := except[op.Path]; !ok && !isTemp(op.Path) && !synced() {
				fault(op, "%s is removed and its folder is not synced", op.Path)
			}
		case "mkdir":
			if !synced() {
				fault(op, "%s is made and %s is not synced", op.Path, dir)
			}
		}
	}
	return faults
}

// renamed checks the way of one file to its place.
func (t Trace) renamed(op Op, fault func(Op, string, ...any)) {
	if !isTemp(op.Path) {
		fault(op, "%s becomes %s: no temporary file", op.Path, op.To)
		return
	}
	if filepath.Dir(op.Path) != filepath.Dir(op.To) {
		fault(op, "%s is made in another folder (%s)", op.To, filepath.Dir(op.Path))
	}
	if v := t.Versions(op.To); v[slices.IndexFunc(v, func(v Version) bool { return v.Renamed == op })].Durable == 0 {
		fault(op, "%s is renamed and its folder is not synced", op.To)
	}
	var made, changed, synced Op
	for _, o := range t {
		if o.Path != op.Path {
			continue
		}
		switch o.Call {
		case "open", "symlink":
			made = o
		case "write", "chmod":
			changed = o
		case "fsync":
			synced = o
		}
	}
	switch {
	case made.Call == "symlink":
	case made.Call == "":
		fault(op, "%s: nobody made %s", op.To, op.Path)
	case synced.Call == "" || synced.Begin < changed.End:
		fault(op, "%s is renamed without an fsync after its last byte and mode", op.To)
	case synced.End > op.Begin:
		fault(op, "%s is renamed before its fsync is over", op.To)
	}
}

// Rule says that the files are durable before something else begins.
type Rule struct {
	Why    string
	Files  []string
	Before Event
}

// Event finds the beginning of something in a trace; ok is false when it did not
// happen.
type Event func(Trace) (at int, what string, ok bool)

// Appears is the rename that makes a file appear; in a folder: any file.
func Appears(path string) Event {
	return func(t Trace) (int, string, bool) {
		op, ok := t.first(0, func(o Op) bool { return o.Call == "rename" && (o.To == path || filepath.Dir(o.To) == path) })
		return op.Begin, "the rename to " + op.To, ok
	}
}

// Removed is the removal of a file.
func Removed(path string) Event {
	return func(t Trace) (int, string, bool) {
		op, ok := t.first(0, func(o Op) bool { return o.Call == "unlink" && o.Path == path })
		return op.Begin, "the removal of " + path, ok
	}
}

// Dials is the n-th connection to a TCP port.
func Dials(port string, n int) Event {
	return func(t Trace) (int, string, bool) {
		for _, op := range t {
			if op.Call != "connect" || !strings.Contains(op.Data, "sin_port=htons("+port+")") {
				continue
			}
			if n--; n == 0 {
				return op.Begin, "a connection to port " + port, true
			}
		}
		return 0, "", false
	}
}

// Says is the first message on a socket, in clear text, that holds these words.
func Says(words ...string) Event {
	return func(t Trace) (int, string, bool) {
		op, ok := t.first(0, func(o Op) bool {
			return (o.Call == "write" || o.Call == "sendmsg") && strings.Contains(o.Path, "socket:") &&
				!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(o.Data, w) })
		})
		return op.Begin, fmt.Sprintf("the call of %q", words), ok
	}
}

// Broken lists the rules that the trace does not keep. What did not happen at all
// is broken, too: a rule about nothing proves nothing.
func (t Trace) Broken(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		at, what, ok := r.Before(t)
		if !ok {
			out = append(out, r.Why+": what comes after did not happen")
			continue
		}
		for _, path := range r.Files {
			versions := t.Versions(path)
			if len(versions) == 0 || versions[0].Durable == 0 || versions[0].Durable > at {
				out = append(out, fmt.Sprintf("%s: %s (%+v) is not durable before %s (line %d)", r.Why, path, versions, what, at))
			}
		}
	}
	return out
}

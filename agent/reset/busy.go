package reset

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Busy is what of pods is still on a machine.
type Busy struct {
	Mounts     []string // mount points below the kubelet's folder
	Pods       []string // pods in whose cgroups processes run
	Containers int      // processes that hold a container for Kubernetes, as containerd-shim and conmon are
}

// Empty says whether there is nothing.
func (b Busy) Empty() bool { return len(b.Mounts) == 0 && len(b.Pods) == 0 && b.Containers == 0 }

// String counts all and names the first ones.
func (b Busy) String() string {
	var parts []string
	if n := len(b.Pods); n > 0 {
		parts = append(parts, fmt.Sprintf("pods with processes: %d (%s)", n, some(b.Pods)))
	}
	if b.Containers > 0 {
		parts = append(parts, fmt.Sprintf("running containers of Kubernetes: %d", b.Containers))
	}
	if n := len(b.Mounts); n > 0 {
		parts = append(parts, fmt.Sprintf("mounts below the kubelet's folder: %d (%s)", n, some(b.Mounts)))
	}
	return strings.Join(parts, ", ")
}

func some(names []string) string {
	const most = 3
	shown := make([]string, 0, most)
	for _, name := range names[:min(most, len(names))] {
		shown = append(shown, fault.Quote(name))
	}
	if len(names) > most {
		return strings.Join(shown, ", ") + ", ..."
	}
	return strings.Join(shown, ", ")
}

func (r *Reset) root(path string) string {
	if r.Root == "" {
		return filepath.Join("/", path)
	}
	return filepath.Join(r.Root, path)
}

// busy looks for what a drain would have ended.
func (r *Reset) busy() (b Busy, err error) {
	data, err := os.ReadFile(r.root("proc/self/mountinfo"))
	if err != nil {
		return b, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	dir := r.Paths.Kubelet
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // mountinfo knows no links
	}
	b.Mounts = mountsBelow(data, dir)
	b.Pods = podsIn(r.root("sys/fs/cgroup"))
	b.Containers = containersIn(r.root("proc"))
	return b, nil
}

// mountsBelow returns the mount points below dir (not dir itself, which may be a
// disk of its own) of a /proc/PID/mountinfo.
func mountsBelow(mountinfo []byte, dir string) []string {
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		if point := unescape(fields[4]); strings.HasPrefix(point, strings.TrimSuffix(dir, "/")+"/") && !slices.Contains(found, point) {
			found = append(found, point)
		}
	}
	return found
}

// unescape undoes the octal escapes of mountinfo: white space and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// podFolder is the cgroup of one pod, as both cgroup drivers name it; systemd's
// writes the dashes of the UID as underscores.
var podFolder = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(\.slice)?$`)

// podsIn returns the UIDs of pods in whose cgroups processes run. With cgroup v1
// a pod is in the tree of each controller, and counts once.
func podsIn(root string) []string {
	var pods []string
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil //nolint:nilerr // cgroups come and go; what cannot be seen holds no process for long
		}
		m := podFolder.FindStringSubmatch(e.Name())
		if m == nil || !strings.Contains(path, "kubepods") {
			return nil
		}
		if uid := strings.ReplaceAll(m[1], "_", "-"); !slices.Contains(pods, uid) && populated(path) {
			pods = append(pods, uid)
		}
		return fs.SkipDir
	})
	slices.Sort(pods)
	return pods
}

var errFound = errors.New("found")

// populated: a process is in that cgroup or in one below it.
func populated(cgroup string) bool {
	err := filepath.WalkDir(cgroup, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() != "cgroup.procs" {
			return nil //nolint:nilerr // as above
		}
		if data, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(data)) > 0 { //nolint:gosec // the kernel's own tree: nobody puts links there
			return errFound
		}
		return nil
	})
	return errors.Is(err, errFound)
}

// containersIn counts the processes that hold a container or pod for Kubernetes:
// they live as long as it does, also where its cgroup has no name of a pod's
// (cgroupsPerQOS: false).
func containersIn(proc string) int {
	paths, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline")) // the pattern is right
	n := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		words := strings.Split(string(data), "\x00")
		switch name := filepath.Base(words[0]); {
		case strings.HasPrefix(name, "containerd-shim"):
			if at := slices.Index(words, "-namespace"); at > 0 && at+1 < len(words) && words[at+1] == "k8s.io" {
				n++
			}
		case name == "conmon" || name == "conmonrs":
			if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, "/crio") }) {
				n++
			}
		}
	}
	return n
}

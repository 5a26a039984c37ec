package kubelet

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

// Host tells what the kubelet's configuration must know of this machine. Root
// is put before every path; "" is the machine itself.
type Host struct{ Root string }

func (h Host) path(p string) string { return filepath.Join("/", h.Root, p) }

// CgroupV2 tells whether the machine has the unified hierarchy only, which is
// what the kubelet calls cgroup v2.
func (h Host) CgroupV2() bool {
	_, err := os.Stat(h.path("/sys/fs/cgroup/cgroup.controllers"))
	return err == nil
}

// resolvedConf is the list of real servers that systemd-resolved keeps.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

// ResolvConf returns the file that Pods should take their servers from when
// /etc/resolv.conf names only systemd-resolved's stub, which listens on a
// loopback address that no Pod can reach; otherwise "", the kubelet's default.
func (h Host) ResolvConf() string {
	if _, err := os.Stat(h.path(resolvedConf)); err != nil {
		return ""
	}
	path := h.path("/etc/resolv.conf")
	if target, err := os.Readlink(path); err == nil {
		// Followed by hand, so that an absolute target stays below Root.
		if !filepath.IsAbs(target) {
			target = filepath.Join("/etc", target)
		}
		path = h.path(target)
	}
	data, err := atomicfile.Read(path, maxFile)
	if err != nil {
		return ""
	}
	stub := false
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if fields[1] != "127.0.0.53" && fields[1] != "127.0.0.54" {
			return ""
		}
		stub = true
	}
	if stub {
		return resolvedConf
	}
	return ""
}

// The two managers of cgroups that a kubelet knows.
const (
	DriverSystemd  = "systemd"
	DriverCgroupfs = "cgroupfs"
)

// CgroupDriver returns the driver that a runtime uses: what it answered when it
// was asked, else what files tell, or "" when they do not:
//
//   - containerd: SystemdCgroup of its default runtime (runc) in
//     /etc/containerd/config.toml; cgroupfs when neither that file nor one it
//     imports can say otherwise, because that is what containerd then does;
//   - CRI-O: systemd, its default, unless a configuration file mentions another;
//   - cri-dockerd: systemd on cgroup v2, cgroupfs on v1, as Docker chooses,
//     unless /etc/docker/daemon.json says something about it.
//
// A kubelet from 1.31 asks the runtime itself where the runtime can answer; so
// this matters for older kubelets, and for the runtimes that cannot, containerd 1
// above all.
func (h Host) CgroupDriver(r Runtime) string {
	if r.CgroupDriver != "" {
		return r.CgroupDriver
	}
	switch r.Name {
	case containerd:
		return h.containerdDriver()
	case crio:
		for _, pattern := range []string{"/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*"} {
			files, _ := filepath.Glob(h.path(pattern))
			for _, file := range files {
				if data, err := atomicfile.Read(file, maxFile); err != nil || setting(string(data), "cgroup_manager") == DriverCgroupfs {
					return ""
				}
			}
		}
		return DriverSystemd
	case criDockerd:
		data, err := follow(h.path("/etc/docker/daemon.json"))
		if err != nil || strings.Contains(string(data), "cgroupdriver") {
			return ""
		}
		if h.CgroupV2() {
			return DriverSystemd
		}
		return DriverCgroupfs
	}
	return ""
}

func (h Host) containerdDriver() string {
	data, err := follow(h.path(containerdConfig))
	if err != nil {
		return ""
	}
	text := string(data)
	if name := setting(text, "default_runtime_name"); name != "" && name != "runc" {
		return ""
	}
	section, driver := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.NewReplacer(`"`, "", "'", "", " ", "").Replace(line)
			continue
		}
		if !strings.HasSuffix(section, ".containerd.runtimes.runc.options]") {
			continue
		}
		switch setting(line, "SystemdCgroup") {
		case "true":
			driver = DriverSystemd
		case "false":
			driver = DriverCgroupfs
		}
	}
	if driver != "" {
		return driver
	}
	if imports := setting(text, "imports"); imports != "" && imports != "[]" {
		return ""
	}
	return DriverCgroupfs
}

// setting finds the last "key = value" of a TOML text, quotes taken off. It is
// no TOML parser: what it cannot read it does not find.
func setting(text, key string) string {
	found := ""
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(name) != key {
			continue
		}
		value, _, _ = strings.Cut(value, "#")
		found = strings.Trim(strings.TrimSpace(value), `"'`)
	}
	return found
}

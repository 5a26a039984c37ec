package preflight

import (
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// firstWithoutV1 is the kubelet 1.x that refuses cgroup v1 by default.
const firstWithoutV1 = 35

// Cgroups looks at the version of the cgroups and at the controllers that the
// kubelet needs. v may be unknown.
func (m Machine) Cgroups(s kubelet.Settings, v kubelet.Version) *Row {
	const name = "cgroups"
	if (kubelet.Host{Root: m.Root}).CgroupV2() {
		data, err := m.read("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return unseen(name, err)
		}
		if missing := without(strings.Fields(string(data)), "cpu", "cpuset", "memory", "pids"); len(missing) > 0 {
			return warn(name, "Take cgroup_disable= out of the kernel's command line (on a Raspberry Pi add cgroup_enable=memory), or give the container more controllers.",
				"v2 without the controllers %s; limits of that kind do not work", strings.Join(missing, ", "))
		}
		return pass(name, "v2")
	}
	data, err := m.read("/proc/self/mounts")
	if err != nil {
		return unseen(name, err)
	}
	const boot = "Boot with systemd.unified_cgroup_hierarchy=1 (cgroup v2), or set failCgroupV1: false in the kubelet's configuration."
	switch missing := without(mountedControllers(data), "cpu", "cpuacct", "cpuset", "memory"); {
	case len(missing) > 0:
		return fail(name, "Mount them, or boot with systemd.unified_cgroup_hierarchy=1 (cgroup v2).", "v1 without %s; the kubelet does not start", strings.Join(missing, ", "))
	case s.FailCgroupV1 != nil && *s.FailCgroupV1:
		return fail(name, boot, "v1, and the kubelet's configuration says failCgroupV1: true")
	case s.FailCgroupV1 != nil:
		return pass(name, "v1, which the kubelet's configuration allows")
	case v.Known() && !v.AtLeast(firstWithoutV1):
		return pass(name, "v1; a kubelet from 1.%d on refuses it", firstWithoutV1)
	case v.Known() && s.Complete:
		return fail(name, boot, "v1, which a kubelet from 1.%d on refuses", firstWithoutV1)
	}
	return warn(name, boot, "v1, which a kubelet from 1.%d on refuses unless its configuration says failCgroupV1: false", firstWithoutV1)
}

// mountedControllers are the controllers of the cgroup v1 hierarchies that are
// mounted: the options of the mounts, as the kubelet finds them.
func mountedControllers(mounts []byte) []string {
	var all []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) >= 4 && fields[2] == "cgroup" {
			all = append(all, strings.Split(fields[3], ",")...)
		}
	}
	return all
}

func without(have []string, want ...string) (missing []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			missing = append(missing, w)
		}
	}
	return missing
}

// firstToAsk is the kubelet 1.x that takes the driver from a runtime that can
// tell it, whatever its configuration says.
const firstToAsk = 31

// CgroupDriver looks whether runtime and kubelet manage cgroups in the same way.
// v may be unknown.
func (m Machine) CgroupDriver(s kubelet.Settings, v kubelet.Version, r kubelet.Runtime) *Row {
	const name = "cgroup driver"
	const agree = "Set the same in both: `SystemdCgroup = true` under the runc options of /etc/containerd/config.toml, or cgroupDriver in the kubelet's configuration."
	if r.Endpoint == "" {
		return NotSeen(name, "no container runtime to look at")
	}
	driver := (kubelet.Host{Root: m.Root}).CgroupDriver(r)
	mine := s.CgroupDriver
	if mine == "" && s.Complete {
		mine = kubelet.DriverCgroupfs
	}
	switch {
	case driver == "":
		return pass(name, "neither %s nor its files tell", r)
	case r.Answer.CgroupDriver != "" && v.AtLeast(firstToAsk):
		return pass(name, "%s, which the kubelet is told by %s", driver, r)
	case mine == driver:
		return pass(name, "%s, in %s and in the kubelet's configuration", driver, r)
	case mine != "":
		return warn(name, agree, "%s uses %s, the kubelet's configuration says %s; Pods are killed again and again", r, driver, plain(mine))
	case driver == kubelet.DriverCgroupfs && m.exists("/run/systemd/system"):
		return warn(name, agree, "%s uses cgroupfs under systemd; most clusters' kubelet-config says systemd", r)
	}
	return pass(name, "%s uses %s; the cluster's kubelet-config has to say the same", r, driver)
}

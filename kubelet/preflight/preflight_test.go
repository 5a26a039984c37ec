package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// files is what a machine has, by path. A path that ends in "/" is a folder: put
// where a file should be, it is a file that cannot be read.
type files map[string]string

// on lays out a machine in a scratch folder.
func on(t *testing.T, f files) Machine {
	t.Helper()
	m := Machine{Root: t.TempDir()}
	for path, data := range f {
		full := m.path(path)
		if strings.HasSuffix(path, "/") {
			must(t, os.MkdirAll(full, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			must(t, os.Symlink(target, full))
			continue
		}
		must(t, os.WriteFile(full, []byte(data), 0o755))
	}
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantRow checks verdict and text, and what every row has to keep to.
func wantRow(t *testing.T, got *Row, verdict Verdict, text string) {
	t.Helper()
	if got.Verdict != verdict || !strings.Contains(got.Message, text) {
		t.Errorf("got %+v, want %s with %q", got, verdict, text)
	}
	bad := got.Verdict == Warn || got.Verdict == Fail
	if got.Name == "" || got.Message == "" || bad != (got.Remedy != "") || bad != (got.Reason != "") {
		t.Errorf("a row lacks something, or has too much: %+v", got)
	}
	if strings.ContainsAny(got.Message+got.Remedy, "\n\x1b") {
		t.Errorf("more than one line, or worse: %+v", got)
	}
	if entry, known := fault.Lookup(got.Reason); got.Verdict == Fail && (!known || entry.Exit == 0) {
		t.Errorf("a failure without an exit code: %+v", got)
	}
}

func yes() *bool { v := true; return &v }
func no() *bool  { v := false; return &v }

const swapHead = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

func TestSwap(t *testing.T) {
	on1 := files{"/proc/swaps": swapHead + "/dev/sda2                               partition\t2097148\t\t0\t\t-2\n"}
	for name, c := range map[string]struct {
		f       files
		s       kubelet.Settings
		verdict Verdict
		text    string
	}{
		"a kernel without swap":                {files{}, kubelet.Settings{}, Pass, "none"},
		"off":                                  {files{"/proc/swaps": swapHead}, kubelet.Settings{Complete: true}, Pass, "off"},
		"on, and the configuration is silent":  {on1, kubelet.Settings{Complete: true}, Fail, "/dev/sda2"},
		"on, and the configuration forbids it": {on1, kubelet.Settings{FailSwapOn: yes()}, Fail, "does not start"},
		"on, and the configuration allows it":  {on1, kubelet.Settings{FailSwapOn: no()}, Pass, "allows"},
		"on, and the cluster decides":          {on1, kubelet.Settings{}, Warn, "unless the cluster's kubelet-config"},
		"an area with a name that bites":       {files{"/proc/swaps": swapHead + "/sw\x1b[2J file 1 0 -2\n"}, kubelet.Settings{Complete: true}, Fail, `\x1b`},
		"a file that cannot be read":           {files{"/proc/swaps/": ""}, kubelet.Settings{Complete: true}, Skip, "cannot be looked at"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, on(t, c.f).Swap(c.s), c.verdict, c.text) })
	}
}

func TestCgroups(t *testing.T) {
	const v1 = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n" +
		"cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
	old, recent := kubelet.Version{Major: 1, Minor: 34, Text: "v1.34.4"}, kubelet.Version{Major: 1, Minor: 36, Text: "v1.36.3"}
	mounts := func(text string) files { return files{"/proc/self/mounts": text} }
	for name, c := range map[string]struct {
		f       files
		s       kubelet.Settings
		v       kubelet.Version
		verdict Verdict
		text    string
	}{
		"v2":                               {files{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory hugetlb pids rdma\n"}, kubelet.Settings{Complete: true}, recent, Pass, "v2"},
		"v2 without memory":                {files{"/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}, kubelet.Settings{}, recent, Warn, "without the controllers memory"},
		"v2 that cannot be read":           {files{"/sys/fs/cgroup/cgroup.controllers/": ""}, kubelet.Settings{}, recent, Skip, "cannot"},
		"v1 under an old kubelet":          {mounts(v1), kubelet.Settings{Complete: true}, old, Pass, "from 1.35"},
		"v1 under a kubelet that refuses":  {mounts(v1), kubelet.Settings{Complete: true}, recent, Fail, "refuses"},
		"v1, and the cluster decides":      {mounts(v1), kubelet.Settings{}, recent, Warn, "unless its configuration says"},
		"v1 under a kubelet not known":     {mounts(v1), kubelet.Settings{Complete: true}, kubelet.Version{}, Warn, "from 1.35"},
		"v1, allowed":                      {mounts(v1), kubelet.Settings{FailCgroupV1: no()}, recent, Pass, "allows"},
		"v1, forbidden to an old kubelet":  {mounts(v1), kubelet.Settings{FailCgroupV1: yes()}, old, Fail, "failCgroupV1: true"},
		"v1 without the memory controller": {mounts(strings.ReplaceAll(v1, "memory", "blkio")), kubelet.Settings{FailCgroupV1: no()}, recent, Fail, "without memory"},
		"no cgroups at all":                {mounts("proc /proc proc rw 0 0\n"), kubelet.Settings{FailCgroupV1: no()}, old, Fail, "without cpu, cpuacct, cpuset, memory"},
		"mounts that cannot be read":       {files{}, kubelet.Settings{}, recent, Skip, "cannot"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, on(t, c.f).Cgroups(c.s, c.v), c.verdict, c.text) })
	}
}

func TestCgroupDriver(t *testing.T) {
	containerd := kubelet.Runtimes()[0]
	tells := containerd
	tells.Answer.CgroupDriver = "systemd"
	old, recent := kubelet.Version{Major: 1, Minor: 30, Text: "v1.30.0"}, kubelet.Version{Major: 1, Minor: 31, Text: "v1.31.0"}
	systemdDriver := "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
	for name, c := range map[string]struct {
		f       files
		s       kubelet.Settings
		v       kubelet.Version
		r       kubelet.Runtime
		verdict Verdict
		text    string
	}{
		"no runtime":                                {files{}, kubelet.Settings{}, old, kubelet.Runtime{}, Skip, "no container runtime"},
		"both systemd":                              {files{"/etc/containerd/config.toml": systemdDriver}, kubelet.Settings{CgroupDriver: "systemd"}, old, containerd, Pass, "systemd"},
		"both cgroupfs by default":                  {files{}, kubelet.Settings{Complete: true}, old, containerd, Pass, "cgroupfs"},
		"they differ":                               {files{}, kubelet.Settings{CgroupDriver: "systemd"}, old, containerd, Warn, "says systemd"},
		"the cluster decides":                       {files{"/etc/containerd/config.toml": systemdDriver}, kubelet.Settings{}, old, containerd, Pass, "has to say the same"},
		"the cluster decides, most likely wrong":    {files{"/run/systemd/system/": ""}, kubelet.Settings{}, old, containerd, Warn, "cgroupfs under systemd"},
		"the runtime's files do not tell":           {files{"/etc/containerd/config.toml": "imports = [\"x\"]\n"}, kubelet.Settings{CgroupDriver: "systemd"}, old, containerd, Pass, "nor its files tell"},
		"a runtime that is not known, not readable": {files{"/etc/containerd/config.toml/": ""}, kubelet.Settings{}, old, kubelet.Runtime{Endpoint: "unix:///x"}, Pass, "nor its files tell"},
		"a runtime that tells a kubelet that asks":  {files{}, kubelet.Settings{CgroupDriver: "cgroupfs"}, recent, tells, Pass, "told by containerd"},
		"a runtime that tells one that does not":    {files{}, kubelet.Settings{CgroupDriver: "cgroupfs"}, old, tells, Warn, "says cgroupfs"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, on(t, c.f).CgroupDriver(c.s, c.v, c.r), c.verdict, c.text) })
	}
}

func TestKernelSideOfThePodNetwork(t *testing.T) {
	forward := func(ip string) func(Machine) *Row { return func(m Machine) *Row { return m.Forwarding(ip) } }
	for name, c := range map[string]struct {
		f       files
		row     func(Machine) *Row
		verdict Verdict
		text    string
	}{
		"forwarding is on":              {files{"/proc/sys/net/ipv4/ip_forward": "1\n"}, forward(""), Pass, "ip_forward is 1"},
		"forwarding is off":             {files{"/proc/sys/net/ipv4/ip_forward": "0\n"}, forward("10.0.0.1"), Warn, "ip_forward is 0"},
		"an IPv6 node asks for IPv6":    {files{"/proc/sys/net/ipv4/ip_forward": "0\n", "/proc/sys/net/ipv6/conf/all/forwarding": "1\n"}, forward("fd00::1"), Pass, "ipv6"},
		"one of two families is off":    {files{"/proc/sys/net/ipv4/ip_forward": "1\n", "/proc/sys/net/ipv6/conf/all/forwarding": "0\n"}, forward("10.0.0.1,fd00::1"), Warn, "ipv6"},
		"forwarding cannot be read":     {files{"/proc/sys/net/ipv4/ip_forward/": ""}, forward(""), Skip, "cannot"},
		"no IPv4 in this kernel":        {files{}, forward(""), Skip, "cannot"},
		"br_netfilter is loaded":        {files{"/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n"}, Machine.BridgeFilter, Pass, "loaded"},
		"br_netfilter is not loaded":    {files{}, Machine.BridgeFilter, Warn, "not loaded"},
		"br_netfilter is switched off":  {files{"/proc/sys/net/bridge/bridge-nf-call-iptables": "0\n"}, Machine.BridgeFilter, Warn, "is 0"},
		"br_netfilter cannot be read":   {files{"/proc/sys/net/bridge/bridge-nf-call-iptables/": ""}, Machine.BridgeFilter, Skip, "cannot"},
		"overlay is loaded":             {files{"/proc/filesystems": "nodev\tproc\nnodev\toverlay\n"}, Machine.Overlay, Pass, "known"},
		"overlayfs is not overlay":      {files{"/proc/filesystems": "nodev\toverlayfs\n"}, Machine.Overlay, Skip, "cannot be told"},
		"overlay is a module":           {files{"/proc/filesystems": "\text4\n", "/proc/sys/kernel/osrelease": "6.1.0-9\n", "/lib/modules/6.1.0-9/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"}, Machine.Overlay, Pass, "module"},
		"overlay is built in":           {files{"/proc/filesystems": "\text4\n", "/proc/sys/kernel/osrelease": "6.1.0-9\n", "/lib/modules/6.1.0-9/modules.builtin": "kernel/fs/overlayfs/overlay.ko\n"}, Machine.Overlay, Pass, "module"},
		"overlay is nowhere":            {files{"/proc/filesystems": "\text4\n", "/proc/sys/kernel/osrelease": "6.1.0-9\n"}, Machine.Overlay, Warn, "no module"},
		"a release that leads astray":   {files{"/proc/filesystems": "\text4\n", "/proc/sys/kernel/osrelease": "../../x\n"}, Machine.Overlay, Skip, "cannot be told"},
		"file systems cannot be read":   {files{}, Machine.Overlay, Skip, "cannot"},
		"defaults are protected":        {defaults(nil), Machine.KernelDefaults, Pass, "protectKernelDefaults"},
		"one default is another":        {defaults(files{"/proc/sys/kernel/panic": "0\n"}), Machine.KernelDefaults, Fail, "kernel.panic=10"},
		"a default that cannot be read": {files{}, Machine.KernelDefaults, Skip, "cannot"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, c.row(on(t, c.f)), c.verdict, c.text) })
	}
}

func defaults(but files) files {
	f := files{}
	for _, d := range kernelDefaults {
		f["/proc/sys/"+d.path] = d.want + "\n"
	}
	for path, value := range but {
		f[path] = value
	}
	return f
}

func TestDisk(t *testing.T) {
	const gib = 1 << 30
	full := Space{Free: 5 * gib, Available: 5 * gib, Total: 100 * gib, FreeFiles: 90, Files: 100}
	roomy := Space{Free: 50 * gib, Available: 50 * gib, Total: 100 * gib, FreeFiles: 90, Files: 100}
	agent, kubeletDisk, images := Disk{"disk: agent", "/a", 0, true}, Disk{"disk: kubelet", "/k", 10, true}, Disk{"disk: images", "/i", 15, false}
	for name, c := range map[string]struct {
		disk    Disk
		space   Space
		verdict Verdict
		text    string
		reason  fault.Reason
	}{
		"room enough":                          {kubeletDisk, roomy, Pass, "50 GiB (50 %) free for /k", ""},
		"little room for Pods":                 {kubeletDisk, full, Warn, "below 10 %", fault.MachineWarning},
		"little room for images":               {images, full, Warn, "below 15 %", fault.MachineWarning},
		"little room, but enough for records":  {agent, full, Pass, "5 %", ""},
		"no room for records":                  {agent, Space{Free: 1 << 20, Available: 1 << 20, Total: 100 * gib}, Fail, "1024 KiB", fault.WriteFailed},
		"room for root alone":                  {kubeletDisk, Space{Free: gib, Total: 20 * gib}, Warn, "0 KiB (0 %)", fault.MachineWarning},
		"no inodes":                            {kubeletDisk, Space{Free: 50 * gib, Available: 50 * gib, Total: 100 * gib, FreeFiles: 1, Files: 1000}, Warn, "1 of its 1000 inodes", fault.MachineWarning},
		"a file system that counts no inodes":  {kubeletDisk, Space{Free: 50 * gib, Available: 50 * gib, Total: 100 * gib}, Pass, "50 %", ""},
		"read-only where the agent writes":     {agent, Space{Free: 50 * gib, Total: 100 * gib, ReadOnly: true}, Fail, "read-only", fault.WriteFailed},
		"read-only as the agent's sandbox has": {images, Space{Free: 50 * gib, Available: 50 * gib, Total: 100 * gib, ReadOnly: true}, Pass, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := Machine{Statfs: func(string) (Space, error) { return c.space, nil }}
			row := m.Disk(c.disk)
			wantRow(t, row, c.verdict, c.text)
			if row.Reason != c.reason || row.Name != c.disk.Name {
				t.Errorf("%+v", row)
			}
		})
	}
	denied := Machine{Statfs: func(path string) (Space, error) {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: fs.ErrPermission}
	}}
	if row := denied.Disk(agent); row.Verdict != Skip || !row.NeedsRoot {
		t.Errorf("%+v", row)
	}
	// The real question, for a folder that is not there yet.
	if space, err := (Machine{Root: t.TempDir()}).space("/var/lib/none"); err != nil || space.Total == 0 || space.Free < space.Available {
		t.Errorf("%+v, %v", space, err)
	}
	if got := Disks("/s", "/k", kubelet.Runtimes()[1]); len(got) != 3 || got[2].Path != "/var/lib/containers" {
		t.Errorf("%+v", got)
	}
	if got := Disks("/s", "/k", kubelet.Runtime{}); len(got) != 2 {
		t.Errorf("%+v", got)
	}
}

func TestTools(t *testing.T) {
	old, recent := kubelet.Version{Major: 1, Minor: 31, Text: "v1.31.0"}, kubelet.Version{Major: 1, Minor: 36, Text: "v1.36.3"}
	for name, c := range map[string]struct {
		f       files
		v       kubelet.Version
		verdict Verdict
		text    string
	}{
		"all":                        {files{"/usr/bin/mount": "x", "/usr/sbin/iptables": "-> /etc/alternatives/iptables", "/usr/sbin/conntrack": "x"}, old, Pass, "mount, iptables, conntrack"},
		"nft will do":                {files{"/usr/bin/mount": "x", "/usr/sbin/nft": "x"}, recent, Pass, "mount, nft"},
		"nothing":                    {files{}, recent, Fail, "mount is missing"},
		"a folder is no program":     {files{"/usr/bin/mount/": ""}, recent, Fail, "mount is missing"},
		"no rules":                   {files{"/bin/mount": "x"}, recent, Warn, "neither iptables nor nft"},
		"conntrack, wanted once":     {files{"/bin/mount": "x", "/sbin/nft": "x"}, old, Warn, "conntrack"},
		"conntrack, nobody knows":    {files{"/bin/mount": "x", "/sbin/nft": "x"}, kubelet.Version{}, Pass, "nft"},
		"conntrack, no longer so":    {files{"/bin/mount": "x", "/sbin/nft": "x"}, recent, Pass, "nft"},
		"in /usr/local as in images": {files{"/usr/local/bin/mount": "x", "/usr/local/sbin/nft": "x"}, recent, Pass, "nft"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, on(t, c.f).Tools(c.v), c.verdict, c.text) })
	}
}

func TestRowsOfOtherRooms(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "/var/lib/bootstrap-agent/manifest.json", Err: fs.ErrPermission}
	for name, c := range map[string]struct {
		err     error
		verdict Verdict
		reason  fault.Reason
		root    bool
	}{
		"nothing wrong":             {nil, Pass, "", false},
		"a fault":                   {fault.New(fault.UnitMasked, "kubelet.service is masked\nby somebody"), Fail, fault.UnitMasked, false},
		"what only root may see":    {fmt.Errorf("cannot look: %w", denied), Skip, "", true},
		"even where it has a fault": {fault.New(fault.WriteFailed, "cannot read: %w", denied), Skip, "", true},
		"no reason, no verdict":     {errors.New("the bus is gone"), Skip, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			row := Of("x", "fine", c.err)
			wantRow(t, row, c.verdict, "")
			if row.Reason != c.reason || row.NeedsRoot != c.root {
				t.Errorf("%+v", row)
			}
		})
	}
	rows := []*Row{pass("a", "x"), warn("b", "r", "x"), NotSeen("c", "x"), fail("d", "r", "x"), fail("e", "r", "x")}
	if first := FirstFailed(rows); first == nil || first.Name != "d" {
		t.Errorf("%+v", first)
	}
	if FirstFailed(rows[:3]) != nil {
		t.Error("warnings count as failures")
	}
	if found := Findings(rows); len(found) != 3 || found[0].Name != "b" {
		t.Errorf("%+v", found)
	}
}

package preflight

import (
	"errors"
	"io/fs"
	"strings"
)

// Forwarding looks whether the kernel passes packets on between Pods and the
// rest. nodeIP is the configured one: it says which families count.
func (m Machine) Forwarding(nodeIP string) *Row {
	const name = "ip forwarding"
	type family struct{ path, key string }
	wanted := []family{}
	first, second, _ := strings.Cut(nodeIP, ",")
	six := strings.Contains(first, ":") || strings.Contains(second, ":")
	if !six || second != "" {
		wanted = append(wanted, family{"net/ipv4/ip_forward", "net.ipv4.ip_forward"})
	}
	if six {
		wanted = append(wanted, family{"net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"})
	}
	var on []string
	for _, f := range wanted {
		value, err := m.sysctl(f.path)
		if err != nil {
			return unseen(name, err)
		}
		if value == "0" {
			return warn(name, "`sysctl -w "+f.key+"=1`, and that line in /etc/sysctl.d/kubernetes.conf to keep it.",
				"%s is 0; Pods reach nothing outside their node", f.key)
		}
		on = append(on, f.key+" is "+plain(value))
	}
	return pass(name, "%s", strings.Join(on, ", "))
}

// BridgeFilter looks whether packets that cross a bridge meet the rules of
// iptables, on which Services depend with most pod networks.
func (m Machine) BridgeFilter() *Row {
	const name = "br_netfilter"
	value, err := m.sysctl("net/bridge/bridge-nf-call-iptables")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warn(name, "`modprobe br_netfilter`, and br_netfilter in /etc/modules-load.d/kubernetes.conf to keep it.",
			"not loaded; pod networks that use a bridge need it (some others do not)")
	case err != nil:
		return unseen(name, err)
	case value == "0":
		return warn(name, "`sysctl -w net.bridge.bridge-nf-call-iptables=1`, and that line in /etc/sysctl.d/kubernetes.conf to keep it.",
			"net.bridge.bridge-nf-call-iptables is 0; pod networks that use a bridge need 1")
	}
	return pass(name, "loaded, bridged packets meet iptables")
}

// Overlay looks whether the file system that images are unpacked on is there.
// It is loaded when it is first mounted, so a module on the disk is enough.
func (m Machine) Overlay() *Row {
	const name = "overlay"
	data, err := m.read("/proc/filesystems")
	if err != nil {
		return unseen(name, err)
	}
	if hasFilesystem(data, "overlay") {
		return pass(name, "known to the kernel")
	}
	release, err := m.sysctl("kernel/osrelease")
	if err != nil || release == "" || strings.Contains(release, "/") {
		return NotSeen(name, "not loaded; which modules there are cannot be told")
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		if data, err := m.read("/lib/modules/" + release + "/" + list); err == nil && strings.Contains(string(data), "/overlay.ko") {
			return pass(name, "a module that is loaded when it is needed")
		}
	}
	return warn(name, "Install the modules of the running kernel ("+plain(release)+"), or reboot into the kernel that is installed: `modprobe overlay`.",
		"not known to this kernel, and no module of it is there; containerd and CRI-O unpack images on it")
}

// hasFilesystem looks for a name in /proc/filesystems.
func hasFilesystem(data []byte, name string) bool {
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
			return true
		}
	}
	return false
}

// kernelDefaults are what a kubelet with protectKernelDefaults insists on.
var kernelDefaults = []struct{ path, want string }{
	{"vm/overcommit_memory", "1"}, {"vm/panic_on_oom", "0"}, {"kernel/panic", "10"}, {"kernel/panic_on_oops", "1"},
	{"kernel/keys/root_maxkeys", "1000000"}, {"kernel/keys/root_maxbytes", "25000000"},
}

// KernelDefaults looks at the kernel settings that a kubelet sets by itself, and
// insists on when its configuration says protectKernelDefaults.
func (m Machine) KernelDefaults() *Row {
	const name = "kernel settings"
	var wrong []string
	for _, d := range kernelDefaults {
		got, err := m.sysctl(d.path)
		if err != nil {
			return unseen(name, err)
		}
		if got != d.want {
			wrong = append(wrong, strings.ReplaceAll(d.path, "/", ".")+"="+d.want)
		}
	}
	if len(wrong) > 0 {
		return fail(name, "Set these in /etc/sysctl.d/kubernetes.conf and run `sysctl --system`.",
			"the kubelet's configuration says protectKernelDefaults, and these are different: %s", strings.Join(wrong, " "))
	}
	return pass(name, "as protectKernelDefaults wants them")
}

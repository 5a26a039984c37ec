package preflight

import (
	"os"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// toolFolders are where a unit of systemd looks for programs.
var toolFolders = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// firstWithoutConntrack is the Kubernetes 1.x whose kube-proxy no longer calls
// the program conntrack.
const firstWithoutConntrack = 32

// Tools looks for the programs that kubelet, kube-proxy and pod network call.
func (m Machine) Tools(v kubelet.Version) *Row {
	const name = "tools"
	switch {
	case !m.has("mount"):
		return fail(name, "Install it: package mount or util-linux.", "the program mount is missing; the kubelet cannot mount the volumes of any Pod")
	case !m.has("iptables") && !m.has("nft"):
		return warn(name, "Install one: `apt install iptables`, or nftables.", "neither iptables nor nft is there; most pod networks and host ports need one")
	case v.Known() && !v.AtLeast(firstWithoutConntrack) && !m.has("conntrack"):
		return warn(name, "Install it: `apt install conntrack`.", "the program conntrack is missing; kube-proxy before 1.%d needs it where it does not run in a container of its own", firstWithoutConntrack)
	}
	var found []string
	for _, tool := range []string{"mount", "iptables", "nft", "conntrack"} {
		if m.has(tool) {
			found = append(found, tool)
		}
	}
	return pass(name, "%s", strings.Join(found, ", "))
}

func (m Machine) has(tool string) bool {
	for _, dir := range toolFolders {
		// A link is enough: Debian's alternatives are absolute, and lead out of a
		// scratch folder.
		if info, err := os.Lstat(m.path(dir + "/" + tool)); err == nil && (info.Mode()&os.ModeSymlink != 0 || info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0) {
			return true
		}
	}
	return false
}

package preflight

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// Swap looks whether swap is on, and whether this kubelet minds.
func (m Machine) Swap(s kubelet.Settings) *Row {
	const name = "swap"
	data, err := m.read("/proc/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return pass(name, "this kernel has none") // as the kubelet takes it
	}
	if err != nil {
		return unseen(name, err)
	}
	areas := parseSwaps(data)
	where := strings.Join(areas, ", ")
	const off = "`swapoff -a`, and take swap out of /etc/fstab and `systemctl list-units --type=swap`; or set failSwapOn: false in the kubelet's configuration."
	switch {
	case len(areas) == 0:
		return pass(name, "off")
	case s.FailSwapOn != nil && !*s.FailSwapOn:
		return pass(name, "on (%s), which the kubelet's configuration allows", where)
	case s.FailSwapOn != nil || s.Complete:
		return fail(name, off, "on (%s); the kubelet does not start with it", where)
	}
	return warn(name, off, "on (%s); the kubelet does not start with it unless the cluster's kubelet-config says failSwapOn: false", where)
}

// parseSwaps lists the areas of /proc/swaps: every line but the first, which is
// what the kubelet counts, too.
func parseSwaps(data []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	var areas []string
	for _, line := range lines[1:] {
		name := ""
		if fields := strings.Fields(line); len(fields) > 0 {
			name = fields[0]
		}
		areas = append(areas, plain(name))
	}
	return areas
}

// plainAtMost is as long as a name may be to be shown as it is.
const plainAtMost = 256

// plain shows a name from the kernel as it is, and quoted (then it is cut, too)
// where it is long or holds anything that a terminal or a log should not see.
func plain(s string) string {
	const harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:@+-"
	if s != "" && len(s) <= plainAtMost && strings.Trim(s, harmless) == "" {
		return s
	}
	return fault.Quote(s)
}

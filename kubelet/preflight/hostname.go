package preflight

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// Lookup resolves a host name; net.DefaultResolver has it.
type Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// lookupTimeout bounds the question to name servers that do not answer.
const lookupTimeout = 3 * time.Second

// HostName looks whether this machine's name can be a node's, and whether it
// resolves. configured is the key nodeName; a nil lookup asks nobody.
func HostName(ctx context.Context, configured, hostname string, lookup Lookup) *Row {
	const name = "host name"
	node, err := kubelet.NodeName(configured, hostname)
	if err != nil {
		return Of(name, "", err)
	}
	if lookup == nil {
		return pass(name, "%s", node)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := lookup(ctx, "ip", node)
	if err != nil || len(found) == 0 {
		return warn(name, "Put it into /etc/hosts or into DNS, or set nodeIP.",
			"%s does not resolve; the kubelet takes the address of the default route", node)
	}
	var list []string
	for _, addr := range found {
		list = append(list, addr.Unmap().String())
	}
	return pass(name, "%s, %s", node, strings.Join(list, ", "))
}

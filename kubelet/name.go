package kubelet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxNodeName is the length of a label's value: the kubelet puts the node's
// name into the label kubernetes.io/hostname when it registers, and the API
// refuses the Node if that is longer. (The name alone could have 253.)
const maxNodeName = validation.LabelValueMaxLength

// NodeName returns the name under which this machine will be a Node: the
// configured one, else the host name, trimmed and in lower case as the kubelet
// does it. The error names key and rule.
func NodeName(configured, hostname string) (string, error) {
	raw, key := configured, "nodeName"
	if configured == "" {
		raw, key = hostname, "host name (set nodeName to choose another)"
	}
	name := strings.ToLower(strings.TrimSpace(raw))
	bad := func(format string, args ...any) (string, error) {
		return "", fault.New(fault.ConfigInvalid, "%s %s: %s", key, fault.Quote(raw), fmt.Sprintf(format, args...)).
			WithHint("Set `nodeName` in the configuration, or the host name with `hostnamectl set-hostname NAME`.")
	}
	if name == "" {
		return bad("is empty")
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return bad("%s", problems[0])
	}
	if len(name) > maxNodeName {
		return bad("must have at most %d characters: the kubelet also puts it into the label kubernetes.io/hostname", maxNodeName)
	}
	switch first, _, _ := strings.Cut(name, "."); first {
	case "localhost", "localhost4", "localhost6", "localhost-live":
		return bad("is no name that tells machines apart")
	}
	return name, nil
}

// NodeIP checks nodeIP: one address or a pair of both families, comma between.
// It returns it in the form that the kubelet's --node-ip takes; "" for "".
func NodeIP(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	bad := func(err error) (string, error) {
		return "", fault.New(fault.ConfigInvalid, "nodeIP %s: %w", fault.Quote(s), err)
	}
	var out []string
	var addrs []netip.Addr
	for part := range strings.SplitSeq(s, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(part))
		switch {
		case err != nil:
			return bad(errors.New("must be an IP address, or one of each family with a comma between"))
		case addr.Zone() != "":
			return bad(errors.New("must have no zone"))
		case addr.Is4In6():
			return bad(errors.New("must be written as plain IPv4"))
		case addr.IsLoopback(), addr.IsMulticast(), addr.IsLinkLocalUnicast():
			return bad(errors.New("must be neither loopback nor multicast nor link-local: the kubelet refuses those"))
		}
		addrs = append(addrs, addr)
		out = append(out, addr.String())
	}
	switch {
	case len(addrs) > 2:
		return bad(errors.New("must be at most two addresses"))
	case len(addrs) == 2 && addrs[0].Is4() == addrs[1].Is4():
		return bad(errors.New("two addresses must be one IPv4 and one IPv6"))
	case len(addrs) == 2 && (addrs[0].IsUnspecified() || addrs[1].IsUnspecified()):
		return bad(errors.New("0.0.0.0 and :: (which only choose a family) stand alone"))
	}
	return strings.Join(out, ","), nil
}

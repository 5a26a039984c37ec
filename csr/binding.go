package csr

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// binding is a ClusterRoleBinding that a cluster may lack, by the names of
// packaging/cluster.
type binding struct{ name, role string }

var (
	mayAsk       = binding{"bootstrap-agent:create-csrs", "system:node-bootstrapper"}
	areApproved  = binding{"bootstrap-agent:approve-first-certificates", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"}
	areRenewed   = binding{"bootstrap-agent:approve-renewals", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"}
	tokensGroup  = "system:bootstrappers"
	everybody    = "system:authenticated"
	tokenUser    = "system:bootstrap:"
	nodesOrUsers = []string{nodesGroup, tokensGroup}
)

// command is the line for a person that gives the role to whoever asked: to the
// narrowest of its groups, because a role that is bound to all tokens cannot be
// taken back from some of them. It names nothing that a shell would read
// otherwise; "" where that leaves nobody to name.
func (b binding) command(user string, groups []string) string {
	name, subject := b.name, ""
	switch group := narrowest(groups); {
	case group != "":
		subject = "--group=" + group
		// Bindings for several groups need several names.
		if !slices.Contains(nodesOrUsers, group) {
			name += ":" + strings.TrimPrefix(strings.ReplaceAll(group, "/", "-"), tokensGroup+":")
		}
	case plainWord(user):
		subject = "--user=" + user
	default:
		return ""
	}
	return fmt.Sprintf("kubectl create clusterrolebinding %s --clusterrole=%s %s", name, b.role, subject)
}

// narrowest chooses a group of a token of its own (auth-extra-groups) before the
// one that all tokens have, and both before any other.
func narrowest(groups []string) string {
	best, rank := "", 0
	for _, g := range groups {
		r := 1
		switch {
		case g == everybody || !plainWord(g):
			continue
		case strings.HasPrefix(g, tokensGroup+":"):
			r = 3
		case slices.Contains(nodesOrUsers, g):
			r = 2
		}
		if r > rank {
			best, rank = g, r
		}
	}
	return best
}

// plainWord says whether a text can stand in a command as it is.
func plainWord(s string) bool {
	const also = ":._@/-"
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(also, r) {
			return false
		}
	}
	return s != "" && len(s) <= 253 && s[0] != '-'
}

// listed shows groups for a message.
func listed(groups []string) string {
	var out []string
	for _, g := range groups {
		if g != everybody {
			out = append(out, fault.Quote(g))
		}
		if len(out) == 8 {
			break
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// secretHint says where to look when a token is refused that has just signed
// cluster-info: "" for who is no bootstrap token.
func secretHint(requester string) string {
	id, ok := strings.CutPrefix(requester, tokenUser)
	if !ok {
		return ""
	}
	return "Look at the token's Secret: `kubectl -n kube-system get secret bootstrap-token-" + id + " -o yaml`. " +
		"It must be there, not be expired, hold this very secret, and have `usage-bootstrap-authentication: \"true\"` " +
		"(and the API server must run with --enable-bootstrap-token-auth). " +
		"Or make a fresh token with `kubeadm token create` and give it to this machine with `bootstrap-agent token set`."
}

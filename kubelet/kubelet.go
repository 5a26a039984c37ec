// Package kubelet knows every file that the kubelet reads: where it lies, its
// mode, its bytes, and what is there now ([Files.Observe]). It also knows what
// the kubelet accepts (node names, labels, taints, arguments), where its binary
// and its container runtime are, whose identity is on the machine already
// ([FindForeign]) and whether it is healthy ([Health]).
//
// It never talks to the Kubernetes API, never starts, stops or configures a
// unit, never removes what it did not write, and never logs: what is worth
// saying comes back as a [Note] or an error, and no private key is ever in one.
//
// Documents of the kubelet pass through as maps, so that no field of the
// operator's is lost, known to us or not, and the kubelet's own types (and with
// them half of Kubernetes) stay out of the binary.
//
//	certificate, CA, server, config --Files.Write*--> /var/lib/kubelet --Files.Observe--> Observed
package kubelet

import (
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// DefaultDir is the kubelet's own folder.
const DefaultDir = "/var/lib/kubelet"

// maxFile bounds every file that is read here. The largest real one, a kubelet
// configuration, has a few kilobytes.
const maxFile = 1 << 20

// Layout gives the path of each file below the kubelet's folder. The zero value
// means DefaultDir.
type Layout struct {
	Dir string
	// Config is the kubelet's --config where that is somebody else's file, on a
	// machine that was taken over. Empty: config.yaml in the kubelet's folder.
	Config string
}

// Root is the kubelet's folder.
func (l Layout) Root() string {
	if l.Dir == "" {
		return DefaultDir
	}
	return filepath.Clean(l.Dir)
}

// PKI is the kubelet's --cert-dir.
func (l Layout) PKI() string { return filepath.Join(l.Root(), "pki") }

// CurrentPair is the symbolic link to the pair in use, as client-go's FileStore
// names it. The kubeconfig points at it for certificate and key, so that it
// never goes stale when the kubelet rotates.
func (l Layout) CurrentPair() string { return filepath.Join(l.PKI(), pairPrefix+"current.pem") }

// UpdatedPair is the link that the kubelet makes for a moment while it rotates.
func (l Layout) UpdatedPair() string { return filepath.Join(l.PKI(), pairPrefix+"updated.pem") }

// ServingCert is the kubelet's own name for the certificate that it serves with
// when nobody gives it another one.
func (l Layout) ServingCert() string { return filepath.Join(l.PKI(), "kubelet.crt") }

// ServingKey is the key of ServingCert.
func (l Layout) ServingKey() string { return filepath.Join(l.PKI(), "kubelet.key") }

// ServerPair is the link to the pair that the kubelet serves with, where the
// cluster signs it. The kubelet alone writes it.
func (l Layout) ServerPair() string { return filepath.Join(l.PKI(), "kubelet-server-current.pem") }

// IsPair says whether a file of that name in the certificate folder is a pair of
// the kubelet's, for its own requests or for those that it serves, a half of one,
// or the key of a request that the kubelet itself has made.
func IsPair(name string) bool {
	switch name {
	case "kubelet.crt", "kubelet.key", "kubelet-client.key.tmp", "kubelet-client.crt", "kubelet-client.key":
		return true
	}
	return (strings.HasPrefix(name, pairPrefix) || strings.HasPrefix(name, "kubelet-server-")) && strings.Contains(name, pemSuffix)
}

// CACert holds the cluster's CA certificates.
func (l Layout) CACert() string { return filepath.Join(l.PKI(), "ca.crt") }

// Kubeconfig is the commit point: it is written last of the files of a join.
func (l Layout) Kubeconfig() string { return filepath.Join(l.Root(), "kubeconfig") }

// ConfigFile is the kubelet's --config.
func (l Layout) ConfigFile() string {
	if l.Config != "" {
		return l.Config
	}
	return filepath.Join(l.Root(), "config.yaml")
}

// EnvironmentFile carries what must not be seen in unit properties: a proxy URL
// may hold a password.
func (l Layout) EnvironmentFile() string { return filepath.Join(l.Root(), "bootstrap-agent.env") }

// Note is something worth telling that stops nothing.
type Note struct {
	Field string // the key it is about, as in resolvConf
	Text  string
}

// String joins both on one line.
func (n Note) String() string { return n.Field + ": " + n.Text }

// joined makes one ConfigInvalid fault of all that was found wrong, one line
// each, so that a person mends everything in one go. nil if there is nothing.
func joined(found []error) error {
	switch len(found) {
	case 0:
		return nil
	case 1:
		return fault.New(fault.ConfigInvalid, "%w", found[0])
	}
	return fault.New(fault.ConfigInvalid, "%w", joinError(found))
}

// joinError is errors.Join with a line break that also reads well in a list.
type joinError []error

func (j joinError) Error() string {
	lines := make([]string, len(j))
	for i, err := range j {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single errors.
func (j joinError) Unwrap() []error { return j }

// control finds the first character that has no place in anything that ends in
// a unit file, an argument or a path: C0 and C1 controls, DEL, and bytes that
// are no UTF-8.
func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool {
		return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\uFFFD'
	})
}

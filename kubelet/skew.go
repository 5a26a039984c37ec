package kubelet

import "fmt"

// MostOlder is how many minor versions a kubelet may be older than the API
// server (Kubernetes' version skew policy).
const MostOlder = 3

// ParseServerVersion reads the gitVersion of an API server, as in v1.36.3 or
// v1.33.4-gke.100.
func ParseServerVersion(gitVersion string) (Version, error) {
	v, err := ParseVersion("Kubernetes " + gitVersion)
	if err != nil {
		return Version{}, fmt.Errorf("no version of an API server: %w", err)
	}
	return v, nil
}

// Known tells a version from the zero value.
func (v Version) Known() bool { return v.Text != "" }

// AtLeast says whether this is minor version 1.minor or a later one.
func (v Version) AtLeast(minor int) bool { return v.Major > 1 || v.Major == 1 && v.Minor >= minor }

// Skew says in words what Kubernetes' version skew policy has against this
// kubelet under that API server; "" if nothing. It is a matter of support: most
// such pairs work, so nothing is refused on the strength of it.
func (v Version) Skew(server Version) string {
	switch {
	case !v.Known() || !server.Known():
		return ""
	case v.Major > server.Major || v.Major == server.Major && v.Minor > server.Minor:
		return fmt.Sprintf("the kubelet (%s) is newer than the API server (%s), which Kubernetes does not support", v.Text, server.Text)
	case v.Major < server.Major || server.Minor-v.Minor > MostOlder:
		return fmt.Sprintf("the kubelet (%s) is more than %d minor versions older than the API server (%s), which Kubernetes does not support", v.Text, MostOlder, server.Text)
	}
	return ""
}

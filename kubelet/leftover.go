package kubelet

import "path/filepath"

// BootstrapKubeconfigs lists where clusters and the tools that make them leave a
// kubeconfig with a token for the kubelet's own TLS bootstrap: below etc
// (/etc/kubernetes) and in the kubelet's folder. Nobody needs it on a machine
// that has joined.
func BootstrapKubeconfigs(etc string, l Layout) []string {
	var paths []string
	for _, name := range []string{"bootstrap-kubelet.conf", "bootstrap-kubeconfig", "bootstrap.kubeconfig", "kubelet-bootstrap.kubeconfig"} {
		paths = append(paths, filepath.Join(etc, "kubernetes", name))
	}
	for _, name := range []string{"bootstrap-kubeconfig", "bootstrap.kubeconfig", "bootstrap-kubelet.conf"} {
		paths = append(paths, filepath.Join(l.Root(), name))
	}
	return paths
}

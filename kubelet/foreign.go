package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// KubeadmKubeconfig is where a kubeadm node has its kubelet's identity.
const KubeadmKubeconfig = "/etc/kubernetes/kubelet.conf"

// ManifestDir is where kubeadm keeps the static pods of a control plane.
const ManifestDir = "/etc/kubernetes/manifests"

// Foreign is a file that shows somebody else's kubelet on this machine.
type Foreign struct {
	Path string
	What string // in words for a person
}

// Search says where to look for somebody else's identity.
type Search struct {
	Layout Layout
	// Kubeconfigs are looked at beside our own path: KubeadmKubeconfig, and the
	// --kubeconfig of a unit that exists.
	Kubeconfigs []string
	// CertDirs are looked into beside our own folder: the --cert-dir of a unit
	// that exists.
	CertDirs []string
	// ManifestDirs are searched for a static pod of kube-apiserver.
	ManifestDirs []string
	// Ours tells whether the agent's own record lists this path.
	Ours func(path string) bool
}

// FindForeign lists the files of somebody else's kubelet, in a stable order.
// Only files that hold or name a client credential count; one that cannot be
// understood counts too, because it may. An error means that something could
// not be read, and then nothing is known.
func FindForeign(s Search) ([]Foreign, error) {
	ours := s.Ours
	if ours == nil {
		ours = func(string) bool { return false }
	}
	var found []Foreign
	var errs []error
	add := func(path, what string, err error) {
		if err != nil {
			errs = append(errs, err)
		} else if what != "" {
			found = append(found, Foreign{path, what})
		}
	}
	seen := map[string]bool{}
	for _, path := range append([]string{s.Layout.Kubeconfig()}, s.Kubeconfigs...) {
		path = filepath.Clean(path)
		if path == "." || seen[path] || ours(path) {
			continue
		}
		seen[path] = true
		what, err := kubeconfigOfOthers(path)
		add(path, what, err)
	}
	// What client-go's FileStore would load from the certificate folders.
	for _, dir := range append([]string{s.Layout.PKI()}, s.CertDirs...) {
		for _, name := range []string{filepath.Base(s.Layout.CurrentPair()), "kubelet-client.crt", "kubelet-client.key"} {
			path := filepath.Join(dir, name)
			if dir == "" || seen[path] || ours(path) {
				continue
			}
			seen[path] = true
			what, err := pairOfOthers(path)
			add(path, what, err)
		}
	}
	for _, dir := range s.ManifestDirs {
		path, err := apiServerManifest(dir)
		what := ""
		if path != "" {
			what = "a static pod of kube-apiserver: this is a control-plane node"
		}
		add(path, what, err)
	}
	return found, errors.Join(errs...)
}

// ForeignFault makes the fault of what FindForeign found; nil if nothing.
func ForeignFault(found []Foreign) error {
	if len(found) == 0 {
		return nil
	}
	texts := make([]string, len(found))
	for i, f := range found {
		texts[i] = fmt.Sprintf("%s (%s)", f.Path, f.What)
	}
	return fault.New(fault.ForeignKubelet, "this machine has a kubelet identity that is not ours: %s", strings.Join(texts, ", "))
}

// follow reads a file, links followed: an identity counts wherever it lies.
// Empty and missing files hold none; folders and the like neither.
func follow(path string) ([]byte, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil
	}
	data, err := atomicfile.Read(real, maxFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return data, nil
}

func kubeconfigOfOthers(path string) (string, error) {
	data, err := follow(path)
	if err != nil || len(data) == 0 {
		return "", err
	}
	k, err := ParseKubeconfig(data)
	if k.Credential != "" {
		return "a kubeconfig with a client credential: " + k.Credential, nil
	}
	if err != nil {
		return "not understood, so it may hold a client credential: it " + err.Error(), nil //nolint:nilerr // that it cannot be understood is the finding
	}
	return "", nil
}

func pairOfOthers(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot look at %s: %w", path, err)
	}
	data, err := follow(path)
	if err != nil || len(data) == 0 {
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return "", nil // leads nowhere: no credential
		}
		return "", err
	}
	return "a client certificate or key of a kubelet", nil
}

// apiServerManifest returns the first file of a manifest folder that runs an
// API server. The kubelet reads every file there that does not begin with a dot.
func apiServerManifest(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot look into %s: %w", dir, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, err := follow(path)
		if err != nil {
			return "", err
		}
		if len(data) > 0 && runsAPIServer(e.Name(), data) {
			return path, nil
		}
	}
	return "", nil
}

func runsAPIServer(name string, data []byte) bool {
	var pod struct {
		Spec struct {
			Containers []struct {
				Name    string   `json:"name"`
				Command []string `json:"command"`
			} `json:"containers"`
		} `json:"spec"`
	}
	doc, err := parseDocument(data)
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(doc); err == nil {
			err = json.Unmarshal(raw, &pod)
		}
	}
	if err != nil {
		return strings.HasPrefix(name, "kube-apiserver")
	}
	for _, c := range pod.Spec.Containers {
		if c.Name == "kube-apiserver" || len(c.Command) > 0 && filepath.Base(c.Command[0]) == "kube-apiserver" {
			return true
		}
	}
	return false
}

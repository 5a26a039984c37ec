package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const apiServerPod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: kube-apiserver, command: [kube-apiserver, --x]}]}\n"

func TestForeignIdentities(t *testing.T) {
	cert, key := issue(t, nil)
	for name, c := range map[string]struct {
		plant func(t *testing.T, s Search, etc string)
		want  string // part of the path; "" for nothing found
	}{
		"fresh machine": {func(*testing.T, Search, string) {}, ""},
		"kubeadm node": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/kubelet.conf", []byte(kubeconfigWith("", "client-certificate: /a, client-key: /a")), 0o600)
		}, "kubelet.conf"},
		"embedded credential": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/kubelet.conf", []byte(kubeconfigWith("", "client-key-data: QQ==")), 0o600)
		}, "kubelet.conf"},
		"at our path": {func(t *testing.T, s Search, _ string) {
			write(t, s.Layout.Kubeconfig(), []byte(kubeconfigWith("", "token: x")), 0o600)
		}, "kubelet/kubeconfig"},
		"behind a link": {func(t *testing.T, s Search, etc string) {
			write(t, etc+"/x", []byte(kubeconfigWith("", "token: x")), 0o600)
			mkdir(t, s.Layout.Root())
			symlink(t, etc+"/x", s.Layout.Kubeconfig())
		}, "kubelet/kubeconfig"},
		"not understood": {func(t *testing.T, s Search, _ string) { write(t, s.Layout.Kubeconfig(), []byte("{{"), 0o600) }, "kubelet/kubeconfig"},
		"without a context": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/kubelet.conf", []byte("users: [{name: a, user: {token: x}}]\n"), 0o600)
		}, "kubelet.conf"},
		"no credential": {func(t *testing.T, s Search, _ string) {
			write(t, s.Layout.Kubeconfig(), []byte(kubeconfigWith("", "")), 0o600)
		}, ""},
		"empty file": {func(t *testing.T, s Search, _ string) { write(t, s.Layout.Kubeconfig(), nil, 0o600) }, ""},
		"link to nowhere": {func(t *testing.T, s Search, _ string) {
			mkdir(t, s.Layout.Root())
			symlink(t, "nowhere", s.Layout.Kubeconfig())
		}, ""},
		"pair of a kubelet": {func(t *testing.T, s Search, _ string) {
			write(t, s.Layout.PKI()+"/a.pem", append(cert, key...), 0o600)
			symlink(t, "a.pem", s.Layout.CurrentPair())
		}, "current.pem"},
		"pair as a file": {func(t *testing.T, s Search, _ string) { write(t, s.Layout.CurrentPair(), append(cert, key...), 0o600) }, "current.pem"},
		"old style pair": {func(t *testing.T, s Search, _ string) { write(t, s.Layout.PKI()+"/kubelet-client.key", key, 0o600) }, "kubelet-client.key"},
		"pair in the folder of their unit": {func(t *testing.T, s Search, _ string) {
			write(t, s.CertDirs[0]+"/kubelet-client-current.pem", append(cert, key...), 0o600)
		}, "theirs/kubelet-client-current.pem"},
		"dangling pair": {func(t *testing.T, s Search, _ string) {
			mkdir(t, s.Layout.PKI())
			symlink(t, "gone.pem", s.Layout.CurrentPair())
		}, ""},
		"serving pair": {func(t *testing.T, s Search, _ string) { write(t, s.Layout.PKI()+"/kubelet.crt", cert, 0o600) }, ""},
		"control plane": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/manifests/kube-apiserver.yaml", []byte(apiServerPod), 0o600)
		}, "kube-apiserver.yaml"},
		"renamed manifest": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/manifests/api.yml", []byte(strings.Replace(apiServerPod, "name: kube-apiserver", "name: x", 1)), 0o600)
		}, "api.yml"},
		"damaged manifest": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/manifests/kube-apiserver.yaml", []byte("{{"), 0o600)
		}, "kube-apiserver.yaml"},
		"hidden manifest": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/manifests/.kube-apiserver.yaml", []byte(apiServerPod), 0o600)
		}, ""},
		"other static pod": {func(t *testing.T, _ Search, etc string) {
			write(t, etc+"/manifests/proxy.yaml", []byte(strings.ReplaceAll(apiServerPod, "kube-apiserver", "haproxy")), 0o600)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			etc := filepath.Join(t.TempDir(), "kubernetes")
			s := Search{Layout: newFiles(t).Layout, Kubeconfigs: []string{etc + "/kubelet.conf", etc + "/kubelet.conf", ""}, ManifestDirs: []string{etc + "/manifests", etc + "/none"}, CertDirs: []string{etc + "/theirs", etc + "/theirs/", ""}}
			c.plant(t, s, etc)
			found, err := FindForeign(s)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" && len(found) > 0 || c.want != "" && (len(found) != 1 || !strings.Contains(found[0].Path, c.want)) {
				t.Errorf("found %v, want %q", found, c.want)
			}
			if err := ForeignFault(found); c.want == "" && err != nil {
				t.Error(err)
			} else if c.want != "" {
				wantFault(t, err, fault.ForeignKubelet, c.want)
			}
			if s.Ours = func(path string) bool { return !strings.Contains(path, "manifests") }; !strings.Contains(c.want, ".y") {
				if found, err := FindForeign(s); err != nil || len(found) > 0 {
					t.Errorf("all is listed as ours, but found %v, %v", found, err)
				}
			}
		})
	}
}

func TestWhatCannotBeReadIsNotTakenForNothing(t *testing.T) {
	f := newFiles(t)
	write(t, f.Root(), []byte("a file where the folder belongs"), 0o600)
	if found, err := FindForeign(Search{Layout: f.Layout}); err == nil {
		t.Errorf("found %v", found)
	}
	s := Search{Layout: newFiles(t).Layout}
	write(t, s.Layout.Kubeconfig(), make([]byte, maxFile+1), 0o600)
	if found, err := FindForeign(s); err == nil {
		t.Errorf("found %v", found)
	}
	s.Layout = newFiles(t).Layout
	mkdir(t, s.Layout.Root())
	symlink(t, s.Layout.Kubeconfig(), s.Layout.Kubeconfig())
	if found, err := FindForeign(s); err == nil {
		t.Errorf("found %v", found)
	}
}

func TestLookingForOthersChangesNothing(t *testing.T) {
	f := joinedFiles(t)
	before := tree(t, f.Root())
	if found, err := FindForeign(Search{Layout: f.Layout}); err != nil || len(found) != 2 {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := f.Observe("worker-1"); err != nil {
		t.Fatal(err)
	}
	if after := tree(t, f.Root()); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// tree lists every file with mode and time of its last change.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		out.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

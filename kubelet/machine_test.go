package kubelet

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestFindBinary(t *testing.T) {
	dir := t.TempDir()
	a, b, plain := dir+"/a/kubelet", dir+"/b/kubelet", dir+"/plain"
	write(t, b, []byte("#!"), 0o755)
	write(t, plain, []byte("#!"), 0o644)
	if got, err := FindBinary("", []string{a, b}); err != nil || got != b {
		t.Errorf("%s, %v", got, err)
	}
	write(t, a, []byte("#!"), 0o755)
	if got, err := FindBinary("", []string{a, b}); err != nil || got != a {
		t.Errorf("%s, %v", got, err)
	}
	symlink(t, b, dir+"/link")
	for _, path := range []string{b, dir + "/link"} {
		if got, err := FindBinary(path, nil); err != nil || got != path {
			t.Errorf("%s, %v", got, err)
		}
	}
	symlink(t, "gone", dir+"/dangling")
	for path, text := range map[string]string{dir + "/none": "no such file", plain: "not executable", dir: "no regular file", dir + "/dangling": "no such file"} {
		_, err := FindBinary(path, []string{a})
		wantFault(t, err, fault.KubeletMissing, "kubelet.binary "+path, text)
	}
	for _, path := range []string{"kubelet", "./kubelet", "/a\n/b"} {
		_, err := FindBinary(path, []string{a})
		wantFault(t, err, fault.ConfigInvalid, "kubelet.binary", "absolute")
	}
	_, err := FindBinary("", []string{dir + "/none", plain})
	wantFault(t, err, fault.KubeletMissing, dir+"/none: no such file", plain+": is not executable")
}

func TestOtherBinariesAreOtherPrograms(t *testing.T) {
	dir := t.TempDir()
	a, b, c, plain := dir+"/a/kubelet", dir+"/b/kubelet", dir+"/c/kubelet", dir+"/plain"
	write(t, a, []byte("#!"), 0o755)
	write(t, b, []byte("#!"), 0o755)
	write(t, plain, []byte("#!"), 0o644)
	mkdir(t, dir+"/c")
	symlink(t, a, c)
	all := []string{a, b, c, plain, dir + "/none", dir, b}
	if got := OtherBinaries(a, all); len(got) != 1 || got[0] != b {
		t.Errorf("beside %s: %q", a, got)
	}
	if got := OtherBinaries(c, []string{a, c}); len(got) != 0 {
		t.Errorf("a link and its target: %q", got)
	}
	if got := OtherBinaries(dir+"/none", all); len(got) != 0 {
		t.Errorf("beside nothing: %q", got)
	}
}

func TestVersion(t *testing.T) {
	for out, want := range map[string]Version{
		"Kubernetes v1.36.3\n":             {1, 36, "v1.36.3"},
		"Kubernetes v1.30.0-rc.1+abc\n":    {1, 30, "v1.30.0-rc.1+abc"},
		"Kubernetes v1.31.4-eks-0f56d01\n": {1, 31, "v1.31.4-eks-0f56d01"},
		"Kubernetes v2.0.0":                {2, 0, "v2.0.0"},
	} {
		if got, err := ParseVersion(out); err != nil || got != want || got.Supported() != nil {
			t.Errorf("%q: %+v, %v, %v", out, got, err, got.Supported())
		}
	}
	for _, out := range []string{"", "v1.36.3", "kubeadm v1.36.3", "Kubernetes 1.36", "Kubernetes v1", "Kubernetes v01.36.3", "Kubernetes v1.36.3\nmore", "Kubernetes v1.99999.0", "Kubernetes v1.36.\x1b[31m"} {
		if got, err := ParseVersion(out); err == nil {
			t.Errorf("%q: %+v", out, got)
		}
	}
	for _, v := range []Version{{1, 29, "v1.29.9"}, {0, 99, "v0.99.0"}} {
		wantFault(t, v.Supported(), fault.KubeletTooOld, v.Text, "1.30")
	}
}

func TestBinaryVersion(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		script string
		reason fault.Reason
	}{
		"good":         {"#!/bin/sh\n[ \"$1\" = --version ] && echo Kubernetes v1.36.3", ""},
		"fails":        {"#!/bin/sh\nexit 3", fault.KubeletMissing},
		"other":        {"#!/bin/sh\necho hello", fault.KubeletMissing},
		"floods":       {"#!/bin/sh\ndd if=/dev/zero bs=100000 count=10 2>/dev/null", fault.KubeletMissing},
		"not a binary": {"\x7fELF", fault.KubeletMissing},
		"environment":  {"#!/bin/sh\n[ -z \"$HUSH\" ] && echo Kubernetes v1.36.3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HUSH", "secret")
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			write(t, path, []byte(c.script), 0o755)
			v, err := BinaryVersion(t.Context(), path, nil)
			if c.reason == "" && (err != nil || v.Text != "v1.36.3") || c.reason != "" && fault.ReasonOf(err) != c.reason {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	run := func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("killed") }
	if _, err := BinaryVersion(ctx, "/kubelet", run); !errors.Is(err, context.Canceled) || fault.ReasonOf(err) != "" {
		t.Errorf("cancelled: %v", err)
	}
}

func TestHost(t *testing.T) {
	servers := func(lines ...string) []byte {
		return []byte("# comment\n" + strings.Join(lines, "\n") + "\nsearch x\n")
	}
	for name, c := range map[string]struct {
		plant func(t *testing.T, root string)
		want  string
	}{
		"no resolved": {func(t *testing.T, root string) {
			write(t, root+"/etc/resolv.conf", servers("nameserver 127.0.0.53"), 0o644)
		}, ""},
		"stub by link": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/run/systemd/resolve/stub-resolv.conf", servers("nameserver 127.0.0.53", "options edns0"), 0o644)
			mkdir(t, root+"/etc")
			symlink(t, "../run/systemd/resolve/stub-resolv.conf", root+"/etc/resolv.conf")
		}, resolvedConf},
		"stub by absolute link": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/usr/lib/systemd/resolv.conf", servers("nameserver 127.0.0.53"), 0o644)
			mkdir(t, root+"/etc")
			symlink(t, "/usr/lib/systemd/resolv.conf", root+"/etc/resolv.conf")
		}, resolvedConf},
		"stub in a file": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/etc/resolv.conf", servers("nameserver 127.0.0.54"), 0o644)
		}, resolvedConf},
		"real servers": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/etc/resolv.conf", servers("nameserver 10.0.0.1"), 0o644)
		}, ""},
		"one real server": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/etc/resolv.conf", servers("nameserver 127.0.0.53", "nameserver 10.0.0.1"), 0o644)
		}, ""},
		"no servers": {func(t *testing.T, root string) {
			write(t, root+resolvedConf, nil, 0o644)
			write(t, root+"/etc/resolv.conf", nil, 0o644)
		}, ""},
		"no resolv.conf": {func(t *testing.T, root string) { write(t, root+resolvedConf, nil, 0o644) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := Host{Root: t.TempDir()}
			c.plant(t, h.Root)
			if got := h.ResolvConf(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	h := Host{Root: t.TempDir()}
	if h.CgroupV2() {
		t.Error("v2 without a sign of it")
	}
	write(t, h.Root+"/sys/fs/cgroup/cgroup.controllers", nil, 0o644)
	if !h.CgroupV2() {
		t.Error("v2 not seen")
	}
}

func TestCgroupDriverOfTheRuntime(t *testing.T) {
	runc := func(value string) string {
		return "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = " + value + " # why\n[other]\n  x = 1\n"
	}
	for name, c := range map[string]struct {
		runtime string
		files   map[string]string
		want    string
	}{
		"containerd without a file":   {containerd, nil, DriverCgroupfs},
		"containerd, empty file":      {containerd, map[string]string{"/etc/containerd/config.toml": "version = 2\n"}, DriverCgroupfs},
		"containerd says systemd":     {containerd, map[string]string{"/etc/containerd/config.toml": runc("true")}, DriverSystemd},
		"containerd says cgroupfs":    {containerd, map[string]string{"/etc/containerd/config.toml": runc("false")}, DriverCgroupfs},
		"containerd 2":                {containerd, map[string]string{"/etc/containerd/config.toml": "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n"}, DriverSystemd},
		"another runtime's option":    {containerd, map[string]string{"/etc/containerd/config.toml": "[plugins.x.containerd.runtimes.nvidia.options]\nSystemdCgroup = true\n"}, DriverCgroupfs},
		"commented out":               {containerd, map[string]string{"/etc/containerd/config.toml": "[plugins.x.containerd.runtimes.runc.options]\n# SystemdCgroup = true\n"}, DriverCgroupfs},
		"another default":             {containerd, map[string]string{"/etc/containerd/config.toml": "default_runtime_name = \"nvidia\"\n" + runc("true")}, ""},
		"imports, nothing said":       {containerd, map[string]string{"/etc/containerd/config.toml": "imports = [\"/etc/containerd/conf.d/*.toml\"]\n"}, ""},
		"no imports, nothing said":    {containerd, map[string]string{"/etc/containerd/config.toml": "imports = []\n"}, DriverCgroupfs},
		"containerd, a folder":        {containerd, map[string]string{"/etc/containerd/config.toml/x": ""}, DriverCgroupfs},
		"containerd, not readable":    {containerd, map[string]string{"/etc/containerd/config.toml": strings.Repeat("x", maxFile+1)}, ""},
		"CRI-O":                       {crio, nil, DriverSystemd},
		"CRI-O says systemd":          {crio, map[string]string{"/etc/crio/crio.conf": "cgroup_manager = \"systemd\"\n"}, DriverSystemd},
		"CRI-O says cgroupfs":         {crio, map[string]string{"/etc/crio/crio.conf.d/10.conf": "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n"}, ""},
		"Docker on v1":                {criDockerd, nil, DriverCgroupfs},
		"Docker on v2":                {criDockerd, map[string]string{"/sys/fs/cgroup/cgroup.controllers": ""}, DriverSystemd},
		"Docker, somebody said so":    {criDockerd, map[string]string{"/etc/docker/daemon.json": `{"exec-opts": ["native.cgroupdriver=systemd"]}`}, ""},
		"Docker, something else said": {criDockerd, map[string]string{"/etc/docker/daemon.json": `{"debug": true}`}, DriverCgroupfs},
		"a runtime of its own":        {"", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := Host{Root: t.TempDir()}
			for path, data := range c.files {
				write(t, h.Root+path, []byte(data), 0o644)
			}
			if got := h.CgroupDriver(Runtime{Name: c.runtime}); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestReadahead(t *testing.T) {
	path := t.TempDir() + "/kubelet"
	write(t, path, make([]byte, 2*readaheadStep+1), 0o755)
	if n, err := Readahead(t.Context(), path); err != nil || n != 2*readaheadStep+1 {
		t.Errorf("%d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := Readahead(ctx, path); !errors.Is(err, context.Canceled) || n != 0 {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	for _, path := range []string{path + ".none", filepath.Dir(path)} {
		if _, err := Readahead(t.Context(), path); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got, err := RenderEnvironment(ProxyVariables(`http://user:p$a"s\s`+"`"+`%n@proxy:3128`, "10.0.0.0/8,.svc"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "environment", got)
	if got, err := RenderEnvironment(ProxyVariables("", "x")); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
	for _, v := range []Variable{{"A B", "x"}, {"", "x"}, {"1A", "x"}, {"A=", "x"}, {"A\nB", "x"}, {"A", "hush\nB=1"}, {"A", "hush\x00"}, {"A", "hush\xff"}} {
		_, err := RenderEnvironment([]Variable{{"OK", "1"}, v})
		wantFault(t, err, fault.ConfigInvalid, "environment of the kubelet")
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("shows the value: %v", err)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// plan is what is there already, and so what the demo will have to make.
type plan struct {
	source  string // top folder of the source tree
	cache   string
	version string
	ready   struct{ packages, kube, root, tools bool }
}

func newPlan(ctx context.Context) (*plan, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask go for the module: %w", err)
	}
	p := &plan{source: filepath.Dir(strings.TrimSpace(string(out)))}
	out, err = exec.CommandContext(ctx, filepath.Join(p.source, "internal/tools/version.sh")).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot tell the version: run this inside the source tree: %w", err)
	}
	p.version = strings.TrimSpace(string(out))
	if p.cache, err = cache.Dir(); err != nil {
		return nil, err
	}
	_, err = cluster.Binaries()
	p.ready.kube = err == nil
	roots, err := filepath.Glob(filepath.Join(p.cache, "root-*", "usr"))
	if err != nil {
		return nil, err
	}
	p.ready.root = len(roots) > 0
	_, err = os.Stat(filepath.Join(p.cache, "tools/nfpm"))
	p.ready.tools = err == nil
	p.ready.packages = len(machine.Missing(true)) == 0
	return p, nil
}

// deb is the path of the package that make builds of this tree.
func (p *plan) deb() string {
	return filepath.Join(p.source, "dist", "bootstrap-agent_"+p.version+"-1_"+runtime.GOARCH+".deb")
}

// announceRehearsal says what happens on every host.
func announceRehearsal(s *screen.Screen) {
	s.Title("bootstrap-agent: a machine becomes a Kubernetes node")
	s.Print(`This happens, in this order:

  1  a rehearsal: the agent's real code against doubles in one process, in a scratch
     folder. A second; nothing of it stays.
`)
}

// announce says what else will happen to this host, before anything does.
func (p *plan) announce(s *screen.Screen) {
	s.Print("  2  the real thing: a Kubernetes control plane and a fresh Debian machine under\n     systemd, joined by the package. Needed for that, made once and kept:\n\n")
	kube := "etcd and Kubernetes (control plane, kubelet, kubeadm, kubectl), built from source"
	if dir := os.Getenv("KUBE_BIN_DIR"); dir != "" {
		kube = "etcd and Kubernetes: the binaries in " + dir
	}
	whole := true
	for _, row := range []struct {
		there      bool
		what, cost string
	}{
		{p.ready.packages, "the packages of this host that machines are made with", "a minute; apt-get installs debootstrap, systemd-container, iproute2, nftables as far as they are missing"},
		{p.ready.kube, kube, "10 to 18 minutes on two cores; 0.4 GB there, and about 5 GB in Go's own caches"},
		{p.ready.root, "a Debian root folder that the machines share", "2 to 4 minutes; 0.6 GB there, from the mirrors of this host's apt"},
		{p.ready.tools, "the tools that check and package", "3 minutes; 0.1 GB there"},
	} {
		if row.there {
			s.Printf("     there    %s", row.what)
			continue
		}
		whole = false
		s.Printf("     TO DO    %s\n              (%s)", row.what, row.cost)
	}
	s.Printf(`
     All but packages is kept in %[1]s; rm -r removes it.

     Changed on this host while it runs, and undone at the end, also after Ctrl-C at any
     moment: one address of 198.18.0.0/15 on lo, one pair of network links, the processes
     etcd, kube-apiserver, kube-controller-manager and those of the machine (in namespaces
     and cgroups of their own), their folders in %[1]s/run.
     Nothing else of this host's network, services or files is touched.
`, p.cache)
	if whole {
		s.Printf("  All in all: under a minute.")
	} else {
		s.Printf("  All in all: up to 25 minutes this once, under a minute the next time.")
	}
}

// build makes the package of this tree, unless BOOTSTRAP_AGENT_DEB names one.
func (p *plan) build(ctx context.Context) (string, error) {
	if path := os.Getenv("BOOTSTRAP_AGENT_DEB"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("BOOTSTRAP_AGENT_DEB: %w", err)
		}
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "package", "VERSION="+p.version)
	cmd.Dir = p.source
	if err := cluster.RunWithProgress(cmd, "make package", nil); err != nil {
		return "", errors.Join(ctx.Err(), err)
	}
	return p.deb(), nil
}

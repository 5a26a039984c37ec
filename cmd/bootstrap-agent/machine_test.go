package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// kernel lays out what a healthy machine's kernel shows, below the scratch root.
func (d *door) kernel() {
	d.t.Helper()
	for path, data := range map[string]string{
		"proc/swaps": "Filename Type Size Used Priority\n", "proc/net/tcp": "  sl  local_address\n", "proc/filesystems": "nodev\toverlay\n",
		"proc/sys/net/ipv4/ip_forward": "1\n", "proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n", "usr/bin/mount": "", "usr/sbin/nft": "",
	} {
		if err := os.MkdirAll(filepath.Dir(d.path(path)), 0o755); err != nil {
			d.t.Fatal(err)
		}
		d.write(path, data, 0o755)
	}
	d.write("kubelet-binary", "#!/bin/sh\necho Kubernetes v1.36.3\n", 0o755)
	d.app.resolve = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.0.0.7")}, nil
	}
	inner := d.app.adapt
	d.app.adapt = func(deps *agent.Deps) {
		inner(deps)
		deps.Host.Statfs = func(string) (preflight.Space, error) {
			return preflight.Space{Free: 50 << 30, Available: 50 << 30, Total: 100 << 30}, nil
		}
	}
}

func TestCheckMachine(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.kernel()
	before := d.files()
	d.wantCode(0, "check", "--machine")
	d.wantText("✓ kubelet", "v1.36.3 at "+d.path("kubelet-binary"), "✓ swap", "✓ port 10250", "worker-9, 10.0.0.7", "This machine can run a kubelet")
	if d.files() != before {
		t.Error("something was written")
	}
	for _, r := range s.Requests() {
		if r.Authorization {
			t.Errorf("%s %s carried a credential", r.Method, r.Path)
		}
	}

	// Warnings are told and end with 0.
	d.write("proc/sys/net/ipv4/ip_forward", "0\n", 0o644)
	d.wantCode(0, "check", "--machine")
	d.wantText("! ip forwarding", "sysctl -w net.ipv4.ip_forward=1", "1 warning")
	d.wantCode(0, "check", "--machine", "-o", "json")
	d.wantText(`"ok": true`, `"warnings": 1`)

	// The first row that fails has the code.
	d.write("kubelet/kubeconfig", "users: [{name: x, user: {token: "+canary+"}}]\n", 0o600)
	d.write("kubelet-binary", "#!/bin/sh\necho Kubernetes v1.29.15\n", 0o755)
	d.wantCode(fault.ExitMachine, "check", "--machine", "-o", "json")
	d.wantNoSecret(canary)
	var got struct {
		OK                        bool
		Reason                    fault.Reason
		Failed, Warnings, Skipped int
		Rows                      []preflight.Row
	}
	if err := json.Unmarshal(d.stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.OK || got.Reason != fault.KubeletTooOld || got.Failed != 2 || got.Warnings != 3 || len(got.Rows) < 15 {
		t.Errorf("%+v", got)
	}
}

func TestCheckMachineNeedsNoConfig(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.kernel()
	if err := os.Remove(d.path("config.yaml")); err != nil {
		t.Fatal(err)
	}
	d.wantCode(0, "check", "--machine", "--container-runtime-endpoint", "unix:///run/x.sock")
	d.wantText("there is no "+d.path("config.yaml"), "no endpoint is known yet")
	d.wantCode(0, "check", "--machine", "--container-runtime-endpoint", "unix:///run/x.sock", "--endpoint", s.Host())
	d.wantText("v1.36", "at "+s.Host(), "as the API server's")
	d.wantCode(fault.ExitConfig, "check", "--machine", "--endpoint", "http://x")
	d.wantText("--endpoint")
	d.wantCode(fault.ExitConfig, "check", "--machine", "--config-file", d.path("none.yaml"))
	d.wantText("there is no config file")
}

func TestCheckMachineWithABadConfigLooksAtTheMachineAllTheSame(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.kernel()
	d.write("config.yaml", "endpoints: 7\nnonsense: "+canary+"\n", 0o600)
	d.wantCode(fault.ExitConfig, "check", "--machine", "--container-runtime-endpoint", "unix:///run/x.sock")
	d.wantText("✗ config", "ConfigInvalid", "✓ kubelet")
	d.wantNoSecret(canary)
}

func TestCheckMachineTellsAProxyOfTheShell(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.kernel()
	if err := os.Remove(d.path("config.yaml")); err != nil {
		t.Fatal(err)
	}
	d.app.environ = append(d.app.environ, "HTTPS_PROXY=http://user:"+canary+"@proxy:3128")
	d.wantCode(0, "check", "--machine", "--container-runtime-endpoint", "unix:///run/x.sock")
	d.wantText("! proxy", "HTTPS_PROXY", "proxyURL")
	d.wantNoSecret(canary)
}

func TestCheckMachineSaysThatANameDoesNotResolve(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.kernel()
	d.app.resolve = func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	d.wantCode(0, "check", "--machine")
	d.wantText("! host name", "worker-9 does not resolve")
	d.app.hostname = func() (string, error) { return "localhost", nil }
	d.wantCode(fault.ExitConfig, "check", "--machine")
	d.wantText("✗ host name", "localhost")
	if !strings.Contains(d.stdout.String(), "✗ config") {
		t.Error("the config without a nodeName is not refused for it")
	}
}

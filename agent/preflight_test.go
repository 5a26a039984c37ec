package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

func (r *rig) preflight() map[string]*preflight.Row {
	r.t.Helper()
	rows := Preflight(r.t.Context(), r.cfg, r.deps, PreflightInput{
		Hostname: "worker-1", Greet: (&discovery.Discoverer{}).Greet,
		Lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.0.0.7")}, nil
		},
	})
	out := map[string]*preflight.Row{}
	for _, row := range rows {
		if _, twice := out[row.Name]; twice {
			r.t.Errorf("two rows are called %q", row.Name)
		}
		out[row.Name] = row
	}
	return out
}

func TestPreflightLooksAtEverythingAndChangesNothing(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, Version: "v1.35.4"})
	r.deps.Host.RunKubelet = answers("v1.36.3")
	root := r.deps.Host.Root
	mustWrite(t, filepath.Join(root, "proc/net/tcp"), "sl\n")
	mustWrite(t, filepath.Join(root, "proc/sys/net/ipv4/ip_forward"), "1\n")
	mustWrite(t, filepath.Join(root, "usr/bin/mount"), "")
	must(0, os.MkdirAll(r.cfg.Paths.Kubelet, 0o700))
	must(0, os.MkdirAll(r.cfg.Paths.State, 0o700))
	before := snapshot(t, r.cfg.Paths)
	rows := r.preflight()
	for name, want := range map[string]preflight.Verdict{
		"kubelet": preflight.Pass, "API server": preflight.Warn, "clock": preflight.Pass, "proxy": preflight.Pass, "identity": preflight.Pass,
		UnitName: preflight.Pass, "runtime": preflight.Pass, "cgroups": preflight.Skip, "cgroup driver": preflight.Pass, "swap": preflight.Pass,
		"port 10250": preflight.Pass, "port 10248": preflight.Pass, "ip forwarding": preflight.Pass, "br_netfilter": preflight.Warn,
		"overlay": preflight.Skip, "disk: agent": preflight.Pass, "host name": preflight.Pass,
	} {
		if rows[name].Verdict != want {
			t.Errorf("%s: %+v, want %s", name, rows[name], want)
		}
	}
	if r := rows["API server"].Reason; r != fault.VersionSkew {
		t.Errorf("a kubelet newer than the API server: %s", r)
	}
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(after, before) {
		t.Errorf("changed: %v, was %v", after, before)
	}
	if calls := r.units.Calls(); len(calls) != 0 {
		t.Errorf("systemd was told to %v", calls)
	}
	for _, req := range r.api.Requests() {
		if req.Authorization || req.Path != "/version" {
			t.Errorf("%s %s, credentials %t", req.Method, req.Path, req.Authorization)
		}
	}
}

func TestPreflightTellsWhatWouldStopAJoin(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*rig)
		row   string
		want  fault.Reason
	}{
		"a kubelet that is too old": {func(r *rig) { r.deps.Host.RunKubelet = answers("v1.29.0") }, "kubelet", fault.KubeletTooOld},
		"no kubelet":                {func(r *rig) { r.deps.Host.Binaries = []string{"/none"} }, "kubelet", fault.KubeletMissing},
		"somebody else's identity": {func(r *rig) {
			mustWrite(r.t, filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig"), "users: [{name: x, user: {token: t}}]\n")
		}, "identity", fault.ForeignKubelet},
		"a unit of somebody else's, with flags": {func(r *rig) {
			r.units.Change(func(u *systemd.Unit) {
				u.LoadState, u.FragmentPath = "loaded", "/usr/lib/systemd/system/kubelet.service"
				u.ExecStart = [][]string{{"/usr/bin/kubelet", "--cloud-provider=external"}}
			})
		}, UnitName, fault.UnitOverridden},
		"a config for the kubelet that names nothing": {func(r *rig) {
			r.cfg.Kubelet.ConfigFile = filepath.Join(r.cfg.Paths.Etc, "k.yaml")
			mustWrite(r.t, r.cfg.Kubelet.ConfigFile, "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\ntlsCertFile: /none\ntlsPrivateKeyFile: /none\n")
		}, "kubelet config", fault.ConfigInvalid},
		"swap, and a config that is silent": {func(r *rig) {
			r.cfg.Kubelet.ConfigFile = filepath.Join(r.cfg.Paths.Etc, "k.yaml")
			mustWrite(r.t, r.cfg.Kubelet.ConfigFile, "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n")
			mustWrite(r.t, filepath.Join(r.deps.Host.Root, "proc/swaps"), "head\n/swapfile file 1 0 -2\n")
		}, "swap", fault.MachineUnfit},
		"a runtime that is not there": {func(r *rig) {
			r.deps.Host.AskRuntime = nil
			r.cfg.Kubelet.RuntimeEndpoint = "unix:///none"
		}, "runtime", fault.RuntimeNotReady},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			tc.spoil(r)
			row := r.preflight()[tc.row]
			if row.Reason != tc.want || (row.Verdict == preflight.Fail) != (tc.want != "") {
				t.Errorf("%+v, want %s", row, tc.want)
			}
		})
	}
}

func TestPreflightOfANodeSaysThatItIsOne(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	if row := r.preflight()["identity"]; row.Verdict != preflight.Pass || !strings.Contains(row.Message, "joined by the agent") {
		t.Errorf("%+v", row)
	}
}

func TestPreflightAsksTheServerOfADiscoveryFile(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true}, "")
	if row := r.preflight()["API server"]; row.Verdict != preflight.Pass || !strings.Contains(row.Message, r.api.Host()) {
		t.Errorf("%+v", row) // it does not tell strangers its version
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if row := r.preflight()["API server"]; row.Verdict != preflight.Skip {
		t.Errorf("%+v", row)
	}
}

func TestAUnitThatSystemdHasNotReadIsNotReadAnewForACheck(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.units.Change(func(u *systemd.Unit) { u.LoadState, u.NeedDaemonReload = "loaded", true })
	if row := r.preflight()[UnitName]; row.Verdict != preflight.Skip || !strings.Contains(row.Message, "daemon-reload") {
		t.Errorf("%+v", row)
	}
	if calls := r.units.Calls(); len(calls) != 0 {
		t.Errorf("systemd was told to %v", calls)
	}
}

func TestTheNodeIsAskedForWithoutADaemon(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	if _, err := AskNode(t.Context(), r.cfg, r.deps); fault.ReasonOf(err) != fault.NodeNotRegistered {
		t.Errorf("before the join: %v", err)
	}
	r.mustJoin()
	cfg := Config{Paths: r.cfg.Paths} // no config is needed
	before := snapshot(t, r.cfg.Paths)
	r.api.SetNodeReady(nodeName, false, "cni plugin not initialized")
	s, err := AskNode(t.Context(), cfg, r.deps)
	if err != nil || s.Ready == nil || *s.Ready || !strings.Contains(s.Message, "cni plugin") || s.Name != nodeName || s.Asked == nil || !s.Seen {
		t.Errorf("%+v, %v", s, err)
	}
	r.api.SetNodeReady(nodeName, true, "")
	if s, err := AskNode(t.Context(), cfg, r.deps); err != nil || s.Ready == nil || !*s.Ready || s.Message != "" {
		t.Errorf("%+v, %v", s, err)
	}
	r.api.DeleteNode(nodeName)
	if s, err := AskNode(t.Context(), cfg, r.deps); err != nil || s.Seen || s.Ready != nil || s.Asked == nil || s.Name != nodeName {
		t.Errorf("deleted: %+v, %v", s, err)
	}
	r.api.RejectCertificates(true)
	if s, err := AskNode(t.Context(), cfg, r.deps); err == nil {
		t.Errorf("refused: %+v", s)
	}
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(after, before) {
		t.Error("something was written")
	}
}

package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// The kubelet of kubeadm's package is enabled and dies every few seconds until
// somebody configures it, so systemd is always at starting it. That start is not
// ours: without one of our own nothing would be on record, and a person's
// `systemctl stop` would look like a kubelet that was never started.
func TestAVendorsKubeletThatKeepsDyingIsStartedByUs(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.units.Change(func(u *systemd.Unit) {
		u.LoadState, u.FragmentPath, u.UnitFileState = "loaded", "/usr/lib/systemd/system/kubelet.service", "enabled"
		u.ActiveState, u.SubState, u.Result = "activating", "auto-restart", "exit-code"
		u.ConditionResult, u.ActiveEnterMonotonic = true, 1
	})
	_, stop := r.start()
	joined := r.await("the join", phase(Joined))
	if calls := r.units.Calls(); !slices.Contains(calls, "start") {
		t.Errorf("calls %v", calls)
	}
	if joined.Attempt != 0 || !slices.ContainsFunc(joined.Timeline, func(s Step) bool { return s.Name == StepStart }) {
		t.Errorf("timeline %+v", joined.Timeline)
	}
	calls := len(r.units.Calls())
	r.units.StopByHand()
	r.await("the note that a person holds it back", func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.KubeletStopped })
	})
	if got := r.units.Calls()[calls:]; len(got) != 0 {
		t.Errorf("after a person stopped it: %v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// theirs puts somebody else's kubelet.service on the machine, with these words
// behind its kubelet.
func (r *rig) theirs(words ...string) {
	r.units.Change(func(u *systemd.Unit) {
		u.LoadState, u.FragmentPath, u.UnitFileState = "loaded", "/usr/lib/systemd/system/kubelet.service", "disabled"
		u.ActiveState, u.SubState = "inactive", "dead"
		u.ExecStart = [][]string{append([]string{"/nonexistent/kubelet"}, words...)}
	})
}

// etc writes a file below the machine's own /etc.
func (r *rig) etc(path, text string) {
	r.t.Helper()
	path = filepath.Join(r.cfg.Paths.Etc, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// theirConfig puts somebody else's configuration where ours would be.
func (r *rig) theirConfig() (path string) {
	r.t.Helper()
	path = filepath.Join(r.cfg.Paths.Kubelet, "config.yaml")
	if err := os.MkdirAll(r.cfg.Paths.Kubelet, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(theirKubeletConfig), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

const theirKubeletConfig = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 42\n"

// runtimes is one container runtime whose socket is there.
func (r *rig) runtimes() []kubelet.Runtime {
	r.t.Helper()
	socket := filepath.Join(r.t.TempDir(), "runtime.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return []kubelet.Runtime{{Name: "lab", Endpoint: "unix://" + socket, Unit: "lab.service"}}
}

func TestTwoSpellingsOfOneSocketAreOne(t *testing.T) {
	for _, same := range []string{"unix:///run/c.sock", "/run/c.sock", "unix:///var/run/c.sock", "/var/run//c.sock"} {
		if socketOf(same) != "/run/c.sock" {
			t.Errorf("%s: %s", same, socketOf(same))
		}
	}
}

func TestWhatAMachineHasOfAKubeletStopsTheJoinBeforeAnyTraffic(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*rig)
		reason  fault.Reason
		says    []string // in the message
		hint    []string
	}{
		"flags of its unit": {
			func(r *rig) {
				r.theirs("--cert-dir=/var/lib/kubelet/", "--bootstrap-kubeconfig=/x", "--rotate-certificates", "--runtime-cgroups=/system.slice", "--v", "2")
			},
			fault.UnitOverridden, []string{"/usr/lib/systemd/system/kubelet.service", `lose: "--runtime-cgroups=/system.slice", "--v=2"`},
			[]string{`kubelet.extraArgs: ["--runtime-cgroups=/system.slice", "--v=2"]`, "kubelet.dropFlags: true"},
		},
		"flags that have a key of their own": {
			func(r *rig) {
				r.cfg.Kubelet.RuntimeEndpoint, r.deps.Host.Runtimes = "", r.runtimes()
				r.theirs("--config=/etc/theirs.yaml", "--node-ip=10.0.0.7", "--node-labels=a=b", "--hostname-override=other", "--container-runtime-endpoint=unix:///run/crio/crio.sock",
					"--register-with-taints=a=b:NoSchedule")
			},
			fault.UnitOverridden, []string{`"--config=/etc/theirs.yaml"`, "--node-ip=10.0.0.7", "--node-labels=a=b", "--hostname-override=other", "crio.sock", "--register-with-taints"},
			[]string{"kubelet.configFile for --config", "nodeIP for --node-ip", "nodeLabels for --node-labels", "nodeName for --hostname-override",
				"kubelet.containerRuntimeEndpoint for --container-runtime-endpoint", "nodeTaints for --register-with-taints"},
		},
		"a shell": {
			func(r *rig) {
				r.theirs()
				r.units.Change(func(u *systemd.Unit) { u.ExecStart = [][]string{{"/bin/sh", "-c", "exec kubelet --v=2"}} })
				r.cfg.Kubelet.ExtraArgs = []string{"--v=2"}
			},
			fault.UnitOverridden, []string{"runs more than a kubelet", "/bin/sh -c exec kubelet --v=2"}, []string{"kubelet.dropFlags: true", "ExecStartPre="},
		},
		"a preparation beside the kubelet": {
			func(r *rig) {
				r.theirs()
				r.units.Change(func(u *systemd.Unit) { u.ExecStart = append([][]string{{"/bin/mkdir", "/x"}}, u.ExecStart...) })
			},
			fault.UnitOverridden, []string{"/bin/mkdir /x"}, []string{"ExecStartPre="},
		},
		"another name for the node in the administrator's file": {
			func(r *rig) { r.etc("default/kubelet", "KUBELET_EXTRA_ARGS=\"--v=2 --hostname-override=other\"\n") },
			fault.UnitOverridden, []string{"$KUBELET_EXTRA_ARGS", `"--hostname-override=other"`}, []string{"/etc/default/kubelet", "nodeName"},
		},
		"the same in Red Hat's file beside a unit": {
			func(r *rig) {
				r.theirs("$KUBELET_EXTRA_ARGS")
				r.etc("sysconfig/kubelet", "KUBELET_EXTRA_ARGS=--kubeconfig=/x\n")
			},
			fault.UnitOverridden, []string{`"--kubeconfig=/x"`}, nil,
		},
		"a configuration where ours would be": {
			func(r *rig) { r.theirConfig() },
			fault.UnitOverridden, []string{"kubelet/config.yaml", "not ours"}, []string{"mv ", "kubelet.configFile", "kubelet.dropFlags: true"},
		},
		"a configuration that would be read from where ours is": {
			func(r *rig) { r.cfg.Kubelet.ConfigFile = r.theirConfig() },
			fault.ConfigInvalid, []string{"kubelet.configFile", "kubelet/config.yaml"}, []string{"mv "},
		},
		"a pair in the folder of its unit": {
			func(r *rig) {
				dir := r.t.TempDir()
				r.theirs("--cert-dir=" + dir)
				if err := os.WriteFile(filepath.Join(dir, "kubelet-client-current.pem"), []byte("theirs"), 0o600); err != nil {
					r.t.Fatal(err)
				}
			},
			fault.ForeignKubelet, []string{"kubelet-client-current.pem"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.StopWhenBlocked = true
			tc.prepare(r)
			err := r.run()
			if fault.ReasonOf(err) != tc.reason {
				t.Fatal(err)
			}
			for _, part := range tc.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %q", part, err)
				}
			}
			for _, part := range tc.hint {
				if hint := fault.HintOf(err); !strings.Contains(hint, part) {
					t.Errorf("%q is not in the hint %q", part, hint)
				}
			}
			if n := len(r.api.Requests()); n != 0 || slices.Contains(r.units.Calls(), "install") {
				t.Errorf("%d requests, calls %v", n, r.units.Calls())
			}
		})
	}
}

// What the hint asks for is enough: each flag by the key that it names.
func TestFlagsThatAreSaidByTheirKeysAreNotLost(t *testing.T) {
	theirs := filepath.Join(t.TempDir(), "theirs.yaml")
	if err := os.WriteFile(theirs, []byte(theirKubeletConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Host.Runtimes = r.runtimes()
	all := []string{"--config=" + theirs, "--node-ip", "10.0.0.7", "--hostname-override=WORKER-1", "--runtime-cgroups=/x", "--bootstrap-kubeconfig=/b", "-v2",
		"--container-runtime-endpoint=" + r.deps.Host.Runtimes[0].Socket(), "$KUBELET_EXTRA_ARGS"}
	for name, set := range map[string]func(*Config){
		"by key": func(c *Config) {
			c.Kubelet.ConfigFile, c.NodeIP, c.Kubelet.ExtraArgs = theirs, "10.0.0.7", []string{"--runtime-cgroups=/x", "--v=2"}
		},
		"by dropFlags": func(c *Config) { c.Kubelet.DropFlags = true },
	} {
		t.Run(name, func(t *testing.T) {
			runtimes := r.deps.Host.Runtimes
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.StopWhenBlocked = true
			r.theirs(all...)
			r.cfg.Kubelet.RuntimeEndpoint, r.deps.Host.Runtimes = "", runtimes
			r.etc("default/kubelet", "KUBELET_EXTRA_ARGS=--max-pods=7\n")
			set(&r.cfg)
			r.mustJoin()
			config, err := os.ReadFile(filepath.Join(r.cfg.Paths.Kubelet, "config.yaml"))
			if taken := strings.Contains(string(config), "maxPods: 42"); err != nil || taken != (r.cfg.Kubelet.ConfigFile != "") {
				t.Errorf("%v\n%s", err, config)
			}
		})
	}
}

// Where there are several kubelets, the one of somebody else's unit is the one
// that its owner means; which one is taken is said.
func TestTheKubeletOfTheirUnitIsTakenAndTheOthersAreNamed(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	own := filepath.Join(t.TempDir(), "kubelet")
	if err := os.WriteFile(own, []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.theirs()
	r.units.Change(func(u *systemd.Unit) { u.ExecStart = [][]string{{own}} })
	var argv []string
	start := r.units.OnStart
	r.units.OnStart = func(words []string) error { argv = words; return start(words) }
	r.mustJoin()
	if len(argv) == 0 || argv[0] != own || argv[len(argv)-1] != "$KUBELET_EXTRA_ARGS" {
		t.Errorf("runs %q", argv)
	}
	s, _ := r.last()
	at := slices.IndexFunc(s.Timeline, func(step Step) bool { return step.Name == StepUnit })
	if want := own + " is taken, not " + r.deps.Host.Binaries[0]; at < 0 || !strings.Contains(s.Timeline[at].Detail, want) {
		t.Errorf("timeline %+v, want %q", s.Timeline, want)
	}

	// It is the one whose version counts, too.
	r = newRig(t, testapi.Options{Quiet: true})
	r.deps.StopWhenBlocked = true
	r.theirs()
	r.units.Change(func(u *systemd.Unit) { u.ExecStart = [][]string{{own}} })
	r.deps.Host.RunKubelet = func(ctx context.Context, path string, args ...string) ([]byte, error) {
		if path == own {
			return answers("v1.29.0")(ctx, path, args...)
		}
		return answers("v1.36.0")(ctx, path, args...)
	}
	_, stop := r.start()
	r.await("the fault of their kubelet", reason(fault.KubeletTooOld))
	_ = stop()

	// One that their unit names and that is not there is not waited for.
	r = newRig(t, testapi.Options{Quiet: true})
	r.theirs()
	r.mustJoin()
}

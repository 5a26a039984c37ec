package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/agent/reset"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// reset makes one for the rig's machine, on which nothing is mounted.
func (r *rig) reset() *reset.Reset {
	r.t.Helper()
	root := r.t.TempDir()
	mustWrite(r.t, filepath.Join(root, "proc/self/mountinfo"), "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
	return &reset.Reset{Paths: r.cfg.Paths, Units: r.units, Root: root}
}

func (r *rig) mustReset(one *reset.Reset) *reset.Plan {
	r.t.Helper()
	plan, err := one.Do(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return plan
}

// nothingLeft: of all that the agent ever writes only the lock is there.
func (r *rig) nothingLeft(what string) {
	r.t.Helper()
	for path, n := range treeOf(r.t, r.dirs()...) {
		if !n.mode.IsDir() && path != r.cfg.Paths.LockFile() {
			r.t.Errorf("%s: %s is still there", what, path)
		}
	}
}

// unjoined: the kubelet neither runs nor would it start.
func (r *rig) unjoined(what string) {
	r.t.Helper()
	u := must(r.units.Unit(r.t.Context(), UnitName))
	if u.Running() || u.UnitFileState == "enabled" || u.FragmentPath != "" {
		r.t.Errorf("%s: the unit is %+v", what, u)
	}
}

func TestAResetAfterACrashAtAnyPointOfAJoinLeavesNothing(t *testing.T) {
	for _, story := range []struct {
		name  string
		begin func(*rig)
	}{{"first join", firstJoin}, {"re-join", rejoin}} {
		r := newRig(t, testapi.Options{Quiet: true})
		story.begin(r)
		points := r.crashAt(0)
		for at := 1; at <= len(points); at++ {
			t.Run(story.name+" "+points[at-1], func(t *testing.T) {
				t.Parallel()
				r := newRig(t, testapi.Options{Quiet: true})
				story.begin(r)
				r.crashAt(at)
				r.mustReset(r.reset())
				r.nothingLeft("once")
				r.unjoined("once")
				before := treeOf(t, r.dirs()...)
				if plan := r.mustReset(r.reset()); !plan.Empty() || plan.Ours || len(plan.Left) > 0 {
					t.Errorf("a second reset would do %+v", plan)
				}
				if after := treeOf(t, r.dirs()...); len(after) != len(before) {
					t.Error("a second reset changed something")
				}
				r.api.DeleteNode(nodeName)
				r.cfg.AfterJoin = AfterJoinExit
				r.mustJoin() // with another key, as any machine
			})
		}
	}
}

var errKilled = errors.New("killed")

// dyingReset fails at the n-th thing that it does to the world, and from then on.
type dyingReset struct {
	reset.Units
	left int
}

func (d *dyingReset) point() error {
	if d.left--; d.left <= 0 {
		return errKilled
	}
	return nil
}

func (d *dyingReset) Stop(ctx context.Context, name string) (systemd.Unit, error) {
	u, err := d.Units.Stop(ctx, name)
	return u, errors.Join(err, d.point())
}

func (d *dyingReset) Disable(ctx context.Context, name string) (bool, error) {
	changed, err := d.Units.Disable(ctx, name)
	return changed, errors.Join(err, d.point())
}

func (d *dyingReset) Reload(ctx context.Context) error {
	return errors.Join(d.point(), d.Units.Reload(ctx))
}

func (d *dyingReset) remove(path string) error {
	return errors.Join(os.RemoveAll(path), d.point())
}

func TestAResetThatIsKilledAnywhereIsEndedByTheNext(t *testing.T) {
	for at := 1; ; at++ {
		r := newRig(t, testapi.Options{Quiet: true})
		r.mustJoin()
		r.awaitLock()
		one := r.reset()
		dying := &dyingReset{r.units, at}
		one.Units, one.Remove = dying, dying.remove
		_, err := one.Do(t.Context())
		if err == nil {
			if at < 10 {
				t.Errorf("only %d points", at)
			}
			return
		}
		r.awaitLock()
		// A machine that is started now has either its whole identity or no kubelet.
		_, kerr := os.Stat(r.files().Kubeconfig())
		if _, perr := os.Stat(r.files().CurrentPair()); kerr == nil && perr != nil {
			t.Errorf("killed at %d: a kubeconfig whose key is gone", at)
		}
		r.mustReset(r.reset())
		r.nothingLeft("after a kill")
		r.unjoined("after a kill")
	}
}

func TestWhatSomebodyElseChangedIsLeftAndNamed(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.awaitLock()
	files := r.files()
	dropIn := filepath.Join(r.cfg.Paths.Units, UnitName+".d", systemd.DropInName)
	edited := []string{files.ConfigFile(), dropIn, files.ServingKey()}
	for _, path := range edited {
		mustWrite(t, path, "# edited\n")
	}
	theirs := []string{filepath.Join(files.PKI(), "their-ca.crt"), filepath.Join(files.Root(), "cpu_manager_state"), filepath.Join(r.cfg.Paths.Units, "their.service")}
	for _, path := range theirs {
		mustWrite(t, path, "theirs\n")
	}
	plan := r.mustReset(r.reset())
	var left []string
	for _, l := range plan.Left {
		left = append(left, l.Path)
		if l.Why == "" {
			t.Errorf("%s is left without a reason", l.Path)
		}
	}
	slices.Sort(left)
	slices.Sort(edited)
	if !slices.Equal(left, edited) {
		t.Errorf("named %q, want %q", left, edited)
	}
	for _, path := range slices.Concat(edited, theirs) {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{files.Kubeconfig(), files.CurrentPair(), files.CACert()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

func TestWithoutAManifestOnlyWhatShowsByItselfThatItIsOursGoes(t *testing.T) {
	for _, damage := range []string{"damaged", "gone"} {
		t.Run(damage, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			r.awaitLock()
			if damage == "damaged" {
				mustWrite(t, r.cfg.Paths.ManifestFile(), "{\"files\": {")
			} else if err := os.Remove(r.cfg.Paths.ManifestFile()); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, r.files().CACert(), "another CA\n")
			plan := r.mustReset(r.reset())
			if said := len(plan.Unsure) > 0; said != (damage == "damaged") {
				t.Errorf("unsure: %q", plan.Unsure)
			}
			if _, err := os.Stat(r.files().CACert()); err != nil {
				t.Error(err)
			}
			if err := os.Remove(r.files().CACert()); err != nil {
				t.Fatal(err)
			}
			r.nothingLeft(damage)
		})
	}
}

func TestAKubeletThatIsNotOursIsNotTouched(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	files := r.files()
	mustWrite(t, files.Kubeconfig(), "apiVersion: v1\nkind: Config\nusers: [{name: a, user: {token: x}}]\n")
	mustWrite(t, filepath.Join(files.PKI(), "kubelet-client-2026-01-01-00-00-00.pem"), "theirs")
	mustWrite(t, files.CurrentPair(), "theirs")
	mustWrite(t, files.ConfigFile(), "kind: KubeletConfiguration\n")
	r.units.Change(func(u *systemd.Unit) {
		*u = systemd.Unit{LoadState: "loaded", ActiveState: "active", MainPID: 7, UnitFileState: "enabled", FragmentPath: "/usr/lib/systemd/system/kubelet.service"}
	})
	r.deps.StopWhenBlocked = true
	if err := r.run(); fault.ReasonOf(err) != fault.ForeignKubelet {
		t.Error(err)
	}
	r.awaitLock()
	before := treeOf(t, r.cfg.Paths.Kubelet, r.cfg.Paths.Units)
	plan := r.mustReset(r.reset())
	if plan.Ours || !plan.Empty() {
		t.Errorf("%+v", plan)
	}
	after := treeOf(t, r.cfg.Paths.Kubelet, r.cfg.Paths.Units)
	for path := range before {
		if after[path] != before[path] {
			t.Errorf("%s was touched", path)
		}
	}
	if u := must(r.units.Unit(t.Context(), UnitName)); !u.Running() || u.UnitFileState != "enabled" {
		t.Errorf("the unit is %+v", u)
	}
}

// The unit of a package stays, with the enablement that it had before us.
func TestAVendorsUnitStaysAsItWasBeforeUs(t *testing.T) {
	for _, before := range []string{"enabled", "disabled"} {
		t.Run(before, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			vendor := filepath.Join(t.TempDir(), "kubelet.service")
			mustWrite(t, vendor, "[Service]\nExecStart=/usr/bin/kubelet\n")
			r.units.Change(func(u *systemd.Unit) {
				*u = systemd.Unit{LoadState: "loaded", ActiveState: "inactive", UnitFileState: before, FragmentPath: vendor, ExecStart: [][]string{{"/usr/bin/kubelet"}}}
			})
			r.mustJoin()
			r.awaitLock()
			if trust := must(record.ReadTrust(r.cfg.Paths)); trust.UnitBefore != before {
				t.Errorf("on record: %q", trust.UnitBefore)
			}
			r.mustReset(r.reset())
			r.nothingLeft(before)
			u := must(r.units.Unit(t.Context(), UnitName))
			if u.Running() || u.UnitFileState != before || u.FragmentPath != vendor {
				t.Errorf("the unit is %+v", u)
			}
		})
	}
}

func TestPodsAndMountsNeedForceAndATemplateRefusesThem(t *testing.T) {
	const uid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	for _, tt := range []struct {
		name string
		make func(t *testing.T, root string, r *rig)
	}{
		{"a mount", func(t *testing.T, root string, r *rig) {
			mustWrite(t, filepath.Join(root, "proc/self/mountinfo"), "1 1 0:1 / / rw - ext4 a rw\n9 1 0:9 / "+r.cfg.Paths.Kubelet+`/pods/x/volumes/with\040space rw - tmpfs b rw`+"\n")
		}},
		{"a pod under cgroup v2", func(t *testing.T, root string, _ *rig) {
			mustWrite(t, filepath.Join(root, "sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"+strings.ReplaceAll(uid, "-", "_")+".slice/cri-1.scope/cgroup.procs"), "4711\n")
		}},
		{"a pod under cgroup v1", func(t *testing.T, root string, _ *rig) {
			mustWrite(t, filepath.Join(root, "sys/fs/cgroup/cpu/kubepods/burstable/pod"+uid+"/1/cgroup.procs"), "4711\n")
		}},
		{"a shim", func(t *testing.T, root string, _ *rig) {
			mustWrite(t, filepath.Join(root, "proc/4711/cmdline"), "/usr/bin/containerd-shim-runc-v2\x00-namespace\x00k8s.io\x00-id\x00abc\x00")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			r.awaitLock()
			one := r.reset()
			tt.make(t, one.Root, r)
			before := treeOf(t, r.dirs()...)
			for _, image := range []bool{false, true} {
				one.Image, one.Force = image, image // not even --force makes a template
				_, err := one.Do(t.Context())
				if fault.ReasonOf(err) != fault.MachineUnfit || !strings.Contains(fault.HintOf(err), "kubectl drain "+nodeName) {
					t.Errorf("image %t: %v -> %s", image, err, fault.HintOf(err))
				}
			}
			if u := must(r.units.Unit(t.Context(), UnitName)); !u.Running() {
				t.Error("the kubelet was stopped")
			}
			if after := treeOf(t, r.dirs()...); len(after) != len(before) {
				t.Error("something was changed")
			}
			one.Image, one.Force = false, true
			r.mustReset(one)
			r.nothingLeft("forced")
		})
	}
}

// Slices without processes, another namespace of containerd, the kubelet's own
// folder as a mount point: none of them is a pod.
func TestWhatIsNoPodNeedsNoForce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.awaitLock()
	one := r.reset()
	mustWrite(t, filepath.Join(one.Root, "proc/self/mountinfo"), "1 1 0:1 / "+r.cfg.Paths.Kubelet+" rw - ext4 a rw\n2 1 0:1 / "+r.cfg.Paths.Kubelet+"-other/x rw - ext4 a rw\nshort\n")
	mustWrite(t, filepath.Join(one.Root, "sys/fs/cgroup/kubepods.slice/kubepods-pod0f8fad5b_d9cb_469f_a165_70867728950e.slice/cgroup.procs"), "\n")
	mustWrite(t, filepath.Join(one.Root, "proc/4711/cmdline"), "/usr/bin/containerd-shim-runc-v2\x00-namespace\x00moby\x00")
	if plan := r.mustReset(one); !plan.Busy.Empty() {
		t.Errorf("%+v", plan.Busy)
	}
	r.nothingLeft("reset")
}

func TestATemplateKeepsTheAgentAndNothingOfOneMachine(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.awaitLock()
	kept := filepath.Join(r.cfg.Paths.Kubelet, "a-persons.conf")
	mustWrite(t, kept, "kept")
	for _, name := range []string{"cpu_manager_state", "checkpoints/x", "pods/u/etc-hosts", "device-plugins/kubelet_internal_checkpoint"} {
		mustWrite(t, filepath.Join(r.cfg.Paths.Kubelet, name), "state")
	}
	one := r.reset()
	one.Image = true
	r.mustReset(one)
	if err := os.Remove(kept); err != nil {
		t.Error(err)
	}
	r.nothingLeft("template")
	r.unjoined("template")
	for _, call := range r.units.Calls() {
		if strings.HasPrefix(call, "disable bootstrap-agent") {
			t.Errorf("%s", call)
		}
	}
}

func TestAResetWaitsForNobodyWhoHoldsTheLock(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.awaitLock()
	held := must(record.Acquire(r.cfg.Paths))
	defer held.Release()
	if _, err := r.reset().Do(t.Context()); fault.ReasonOf(err) != fault.Locked {
		t.Error(err)
	}
	if u := must(r.units.Unit(t.Context(), UnitName)); !u.Running() {
		t.Error("the kubelet was stopped")
	}
}

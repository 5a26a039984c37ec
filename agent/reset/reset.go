// Package reset takes a machine out of its cluster: it stops agent and kubelet and
// removes what the agent has put on this machine, and exactly that. It also makes
// a template for images of it, and undoes a takeover (Restore).
//
// What is ours is told by manifest.json and its hashes; without them only by what
// proves itself: our header in a unit, a kubeconfig that has our bytes. It never
// removes what somebody else has written or changed, never unmounts, never looks
// through a mount point, never speaks to the cluster, and keeps the operator's
// configuration and token.
//
// The order makes every crash harmless: units first, then the kubeconfig (without
// it no kubelet starts), and manifest.json last of all. Whatever was left is done
// by running it again.
//
//	records, files, /proc, cgroups --Look--> Plan --Do--> a machine without us
package reset

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// The agent's own units. The one that watches for a config goes first, or what is
// done here could start the agent again.
const (
	agentPath    = "bootstrap-agent.path"
	agentService = "bootstrap-agent.service"
	agentWait    = "bootstrap-agent-wait.service"
	agentJoined  = "bootstrap-agent-joined.target"
)

// Units is systemd as a reset needs it.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Stop(ctx context.Context, name string) (systemd.Unit, error)
	Restart(ctx context.Context, name string) (systemd.Unit, error)
	Enable(ctx context.Context, name string) (changed bool, err error)
	Disable(ctx context.Context, name string) (changed bool, err error)
	Reload(ctx context.Context) error
}

// Reset is one run. Make it as a literal.
type Reset struct {
	Paths record.Paths
	Units Units
	// Image makes a template: what must not be in two machines goes, too, and the
	// agent stays enabled.
	Image bool
	// Force goes on while pods run or volumes are mounted.
	Force bool
	// Config and Token are the operator's files, which stay.
	Config, Token string
	// Root is the folder with proc and sys; empty: /.
	Root string
	// Say is told each step that was done; nil: nobody listens.
	Say func(format string, args ...any)
	// Remove deletes a file or link durably; nil: atomicfile.Remove.
	Remove func(path string) error
}

// Left is a file that stays, with the reason.
type Left struct {
	Path, Why string
}

// Plan is what a reset would do on this machine.
type Plan struct {
	Node   string   // its name, where it is known
	Ours   bool     // the kubelet of this machine runs by our unit or drop-in
	Remove []string // files, in order
	Clear  []string // folders whose content goes: of a template alone
	Left   []Left   // what stays, and why
	Busy   Busy
	// KubeletStays: the unit is somebody else's and was enabled before us.
	KubeletStays bool
	// Unsure is what cannot be known, because records are missing or damaged.
	Unsure []string
}

// Empty says whether there is nothing to remove.
func (p *Plan) Empty() bool { return len(p.Remove) == 0 && len(p.Clear) == 0 }

func (r *Reset) layout() kubelet.Layout { return kubelet.Layout{Dir: r.Paths.Kubelet} }

func (r *Reset) unitFile() string { return filepath.Join(r.Paths.Units, systemd.KubeletUnit) }

func (r *Reset) dropIn() string {
	return filepath.Join(r.Paths.Units, systemd.KubeletUnit+".d", systemd.DropInName)
}

func (r *Reset) say(format string, args ...any) {
	if r.Say != nil {
		r.Say(format, args...)
	}
}

func (r *Reset) away(path string) error {
	if r.Remove != nil {
		return r.Remove(path)
	}
	return atomicfile.Remove(path)
}

// Writable says, before anything is done, that this process cannot change the
// machine: it runs in the sandbox of the agent's unit, or on a read-only file
// system.
func Writable(paths record.Paths) error {
	for _, dir := range []string{paths.Units, paths.Kubelet, paths.State} {
		if err := unix.Access(dir, unix.W_OK); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.WriteFailed, "%s cannot be written from here: %w", dir, err).
				WithHint("Run it in a root shell on the machine itself, not in a unit with a sandbox of its own.")
		}
	}
	return nil
}

// Do carries a reset out. It looks anew once the agent is stopped, so plan is only
// what was shown before.
func (r *Reset) Do(ctx context.Context) (*Plan, error) {
	plan, err := r.Look(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.admissible(plan); err != nil {
		return plan, err
	}
	if err := stopAgent(ctx, r.Units, r.say); err != nil {
		return plan, err
	}
	held, err := record.Acquire(r.Paths)
	if err != nil {
		return plan, err
	}
	defer held.Release()
	if plan, err = r.Look(ctx); err != nil {
		return plan, err
	}
	if !r.Image {
		for _, name := range []string{agentPath, agentService, agentWait} {
			changed, err := r.Units.Disable(ctx, name)
			if err != nil {
				return plan, err
			}
			if changed {
				r.say("disabled %s", name)
			}
		}
	}
	if err := r.stopKubelet(ctx, plan); err != nil {
		return plan, err
	}
	if r.Image {
		// What the kubelet held until now may be seen only now.
		if plan.Busy, err = r.busy(); err != nil {
			return plan, err
		}
		if err := r.admissible(plan); err != nil {
			return plan, err
		}
	}
	return plan, r.removeAll(ctx, plan)
}

// admissible refuses while pods run here.
func (r *Reset) admissible(p *Plan) error {
	if p.Busy.Empty() || r.Force && !r.Image {
		return nil
	}
	hint := "Drain the node first: `kubectl drain %s --ignore-daemonsets --delete-emptydir-data`; pods of DaemonSets end by `crictl rmp -fa`. Or --force: then the pods run on without a kubelet and the mounts stay."
	if r.Image {
		hint = "Drain the node first: `kubectl drain %s --ignore-daemonsets --delete-emptydir-data`; pods of DaemonSets end by `crictl rmp -fa`. A template with pods or mounts is not made, not even with --force."
	}
	return fault.New(fault.MachineUnfit, "pods are still on this machine: %s", p.Busy).WithHint(hint, p.nodeOr("NODE"))
}

func (p *Plan) nodeOr(placeholder string) string {
	if p.Node == "" {
		return placeholder
	}
	return p.Node
}

// stopAgent stops the agent and what waits for it.
func stopAgent(ctx context.Context, units Units, say func(string, ...any)) error {
	for _, name := range []string{agentPath, agentService, agentWait, agentJoined} {
		unit, err := units.Unit(ctx, name)
		if err != nil {
			return err
		}
		if unit.ActiveState == "" || unit.ActiveState == "inactive" || unit.ActiveState == "failed" {
			continue
		}
		if _, err := units.Stop(ctx, name); err != nil {
			return err
		}
		say("stopped %s", name)
	}
	return nil
}

// stopKubelet stops the kubelet that runs on our files and sees to it that it does
// not start at boot, unless it did so before us. It comes before the files: our
// drop-in has the [Install] section by which some units are enabled at all.
func (r *Reset) stopKubelet(ctx context.Context, p *Plan) error {
	if !p.Ours {
		return nil
	}
	unit, err := r.Units.Unit(ctx, systemd.KubeletUnit)
	if err != nil {
		return err
	}
	if unit.Exists() && unit.ActiveState != "inactive" && unit.ActiveState != "failed" {
		if _, err := r.Units.Stop(ctx, systemd.KubeletUnit); err != nil {
			return err
		}
		r.say("stopped %s", systemd.KubeletUnit)
	}
	if p.KubeletStays {
		return nil
	}
	changed, err := r.Units.Disable(ctx, systemd.KubeletUnit)
	if changed {
		r.say("disabled %s", systemd.KubeletUnit)
	}
	return err
}

func (r *Reset) removeAll(ctx context.Context, p *Plan) error {
	units := false
	for _, path := range p.Remove {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if err := r.away(path); err != nil {
			return err
		}
		r.say("removed %s", path)
		units = units || strings.HasPrefix(path, r.Paths.Units+"/")
	}
	// What a crash left of a file that was being written, then folders that are empty.
	folders := []string{filepath.Dir(r.dropIn()), r.layout().PKI(), r.Paths.Kubelet, r.Paths.Units, r.Paths.Run}
	for i, dir := range folders {
		if err := atomicfile.CleanTemp(dir); err != nil {
			return err
		}
		if i < 2 {
			_ = os.Remove(dir) // fails where something is in it
		}
	}
	unit, err := r.Units.Unit(ctx, systemd.KubeletUnit)
	if err != nil {
		return err
	}
	// Also after a crash between removal and reload.
	if units || unit.NeedDaemonReload || slices.Contains(unit.DropInPaths, r.dropIn()) {
		if err := r.Units.Reload(ctx); err != nil {
			return err
		}
	}
	for _, dir := range p.Clear {
		if err := r.clear(dir); err != nil {
			return err
		}
	}
	return r.forget("")
}

// clear removes a folder of a template whole. Nothing is mounted below it: that
// was looked for, with the kubelet stopped.
func (r *Reset) clear(path string) error {
	if _, err := os.Lstat(path); err != nil {
		return nil //nolint:nilerr // it is not there
	}
	if err := os.RemoveAll(path); err != nil {
		return fault.New(fault.WriteFailed, "cannot remove %s: %w", path, err)
	}
	r.say("removed %s", path)
	return nil
}

// forget empties the agent's own folders. The manifest goes last: while it is
// there, what is left to do can be told; undoing a takeover is told by another
// folder, which goes after it. The lock stays, it is held.
func (r *Reset) forget(folder string) error {
	for _, path := range []string{r.Paths.StatusFile(), r.Paths.MetricsFile()} {
		if err := atomicfile.Discard(path); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(r.Paths.State)
	if err != nil {
		return fault.New(fault.WriteFailed, "cannot look into %s: %w", r.Paths.State, err)
	}
	last := []string{filepath.Base(r.Paths.TrustFile()), filepath.Base(r.Paths.ManifestFile())}
	for _, e := range entries {
		if path := filepath.Join(r.Paths.State, e.Name()); path == folder {
			continue
		} else if e.IsDir() {
			err = os.RemoveAll(path)
		} else if path != r.Paths.LockFile() && !slices.Contains(last, e.Name()) {
			err = r.away(path)
		}
		if err != nil {
			return fmt.Errorf("cannot forget what is on record: %w", err)
		}
	}
	for _, name := range last {
		if err := r.away(filepath.Join(r.Paths.State, name)); err != nil {
			return err
		}
	}
	if folder == "" {
		return nil
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("cannot forget what is on record: %w", err)
	}
	return nil
}

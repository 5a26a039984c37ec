package adopt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// The agent's own units, as they are stopped: what watches for a config goes first,
// because a config is about to appear.
const (
	agentPath    = "bootstrap-agent.path"
	agentService = "bootstrap-agent.service"
)

// Plan is what the takeover makes: what of it comes from the agent's configuration
// the caller has rendered and judged.
type Plan struct {
	Service    systemd.KubeletService
	Trust      *record.Trust
	ConfigFile string // the agent's
	Config     []byte
}

// Rendered is the unit as it will be.
func (p Plan) Rendered(f *Found) (systemd.Rendered, error) {
	service := p.Service
	service.Alien, service.Read = true, f.Existing.Read
	return systemd.Render(service)
}

// Changes are the flags that the kubelet loses ("-") and gets ("+"), and those whose
// value changes (both), in the order of the command line.
func (p Plan) Changes(f *Found, read systemd.Reader) ([]string, error) {
	rendered, err := p.Rendered(f)
	if err != nil {
		return nil, err
	}
	unit := f.Existing.Unit
	unit.ExecStart = [][]string{rendered.ExecStart}
	before, after := flags(f.Argv[1:]), flags(unit.Argv(read)[1:])
	var lines []string
	for _, flag := range before {
		if !slices.Contains(after, flag) {
			lines = append(lines, "- "+flag)
		}
	}
	for _, flag := range after {
		if !slices.Contains(before, flag) {
			lines = append(lines, "+ "+flag)
		}
	}
	return lines, nil
}

// flags puts words into the form --name=value, one an entry.
func flags(words []string) []string {
	var out []string
	for i := 0; i < len(words); i++ {
		name := flagName(words[i])
		_, value, given := strings.Cut(words[i], "=")
		if name != "" && !given && i+1 < len(words) && flagName(words[i+1]) == "" {
			i++
			value, given = words[i], true
		}
		if flag := "--" + name; given {
			out = append(out, flag+"="+value)
		} else {
			out = append(out, flag)
		}
	}
	return out
}

// Do takes the kubelet over.
func (a *Adopt) Do(ctx context.Context, f *Found, p Plan) error {
	rendered, err := p.Rendered(f)
	if err != nil {
		return err
	}
	agentBefore, err := a.Units.Unit(ctx, agentService)
	if err != nil {
		return err
	}
	for _, name := range []string{agentPath, agentService} {
		unit, err := a.Units.Unit(ctx, name)
		if err != nil {
			return err
		}
		if unit.ActiveState == "active" || unit.ActiveState == "activating" || unit.ActiveState == "reloading" {
			if _, err := a.Units.Stop(ctx, name); err != nil {
				return err
			}
		}
	}
	if err := a.underLock(ctx, f, p, rendered, agentBefore.UnitFileState); err != nil {
		return err
	}
	return a.Wake(ctx)
}

// Wake starts the agent, unless it is at work: the last step of Do, and what is left
// to do where the machine is taken over already (Found.Done).
func (a *Adopt) Wake(ctx context.Context) error {
	unit, err := a.Units.Unit(ctx, agentService)
	if err != nil || unit.Running() {
		return err
	}
	if _, err := a.Units.Start(ctx, agentService); err != nil {
		return err
	}
	a.say("started %s", agentService)
	return nil
}

func (a *Adopt) underLock(ctx context.Context, f *Found, p Plan, rendered systemd.Rendered, agentState string) error {
	held, err := record.Acquire(a.Paths)
	if err != nil {
		return err
	}
	defer held.Release()
	files := a.files()
	kubeconfig, err := files.RenderKubeconfig(f.Server)
	if err != nil {
		return err
	}
	if err := a.remember(f, p, rendered, agentState); err != nil {
		return err
	}
	manifest, err := record.ReadManifest(a.Paths)
	if err != nil {
		return err
	}
	if manifest.Adopted == nil {
		manifest.Inputs = record.Moment{BootID: a.Machine.BootID, Monotonic: a.Monotonic()}
	}
	manifest.Adopted = &f.Adopted
	manifest.Expect(files.CurrentPair(), "")
	manifest.Wrote(files.CACert(), f.CA)
	manifest.Wrote(files.Kubeconfig(), kubeconfig)
	if err := manifest.Write(a.Paths); err != nil {
		return err
	}
	if !f.InPlace {
		if _, err := files.WritePair(f.Pair, f.Pair); err != nil {
			return err
		}
		a.say("wrote %s", files.CurrentPair())
	}
	changed, err := files.WriteSet(kubelet.Set{CA: f.CA})
	if err != nil {
		return err
	}
	written, err := files.WriteKubeconfig(f.Server)
	if err != nil {
		return err
	}
	if written {
		changed = append(changed, files.Kubeconfig())
	}
	for _, path := range changed {
		a.say("wrote %s", path)
	}
	p.Trust.NodeUID, p.Trust.UnitBefore = f.NodeUID, a.unitBefore(f)
	if err := p.Trust.Write(a.Paths); err != nil {
		return err
	}
	return a.restart(ctx, p, rendered, manifest)
}

// restart makes the kubelet run on what was written.
func (a *Adopt) restart(ctx context.Context, p Plan, rendered systemd.Rendered, manifest *record.Manifest) error {
	existing, err := a.Units.Existing(ctx, a.Paths.Units)
	if err != nil {
		return err
	}
	if _, err := a.Units.Install(ctx, a.Paths.Units, existing, rendered, true); err != nil {
		return err
	}
	unit, err := a.Units.Unit(ctx, systemd.KubeletUnit)
	if err != nil {
		return err
	}
	// After a crash it may have been restarted already.
	started := time.Duration(unit.ExecMainStartMonotonic) * time.Microsecond
	if !unit.Running() || manifest.Inputs.After(a.Machine.BootID, started) {
		if unit, err = a.Units.Restart(ctx, systemd.KubeletUnit); err != nil {
			return back(err)
		}
		a.say("restarted %s", systemd.KubeletUnit)
	}
	for _, file := range rendered.Files(a.Paths.Units) {
		manifest.Wrote(file.Path, file.Data)
	}
	manifest.Started = record.Moment{BootID: a.Machine.BootID, Monotonic: a.Monotonic()}
	if err := manifest.Write(a.Paths); err != nil {
		return err
	}
	if _, err := a.Units.Enable(ctx, agentService); err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(filepath.Dir(p.ConfigFile), 0o755); err != nil {
		return err
	}
	// Last of all: its appearance may start the agent, and shows that all is done.
	if _, err := atomicfile.Write(p.ConfigFile, p.Config, 0o600); err != nil {
		return err
	}
	a.say("wrote %s", p.ConfigFile)
	return nil
}

func back(err error) error {
	const hint = "As before: `bootstrap-agent reset --restore`. Or mend what its log says and run adopt again: `journalctl -u kubelet.service`."
	if known, ok := fault.As(err); ok {
		return fault.New(known.Reason, "%w", err).WithHint(hint)
	}
	return fault.New(fault.KubeletFailed, "%w", err).WithHint(hint)
}

func (a *Adopt) unitBefore(f *Found) string {
	if begun, err := record.ReadAdoption(a.Paths); err == nil && begun != nil {
		return begun.UnitState
	}
	return f.Existing.Unit.UnitFileState
}

// remember keeps, before anything is changed, what was here: copies first, then
// the record of them. What an earlier run has kept stays.
func (a *Adopt) remember(f *Found, p Plan, rendered systemd.Rendered, agentState string) error {
	begun, err := record.ReadAdoption(a.Paths)
	if err != nil || begun != nil {
		return err
	}
	dir := a.Paths.BeforeAdopt()
	if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := a.files()
	adoption := &record.Adoption{
		Files: map[string]record.Before{}, PairInPlace: f.InPlace, NotAfter: f.NotAfter, ExecStart: f.ExecStart,
		UnitState: f.Existing.Unit.UnitFileState, AgentState: agentState, ConfigFile: p.ConfigFile, ConfigHash: record.HashOf(p.Config),
	}
	paths := []string{files.Kubeconfig(), files.CACert()}
	for _, file := range rendered.Files(a.Paths.Units) {
		paths = append(paths, file.Path)
	}
	var copies []atomicfile.File
	for i, path := range paths {
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			adoption.Files[path] = record.Before{}
			continue
		}
		if err != nil {
			return fault.New(fault.WriteFailed, "cannot look at %s: %w", path, err)
		}
		data, err := atomicfile.Read(path, record.MaxFile)
		if err != nil {
			return refused("%s cannot be kept: %w", path, err)
		}
		name := fmt.Sprintf("%d-%s", i, filepath.Base(path))
		copies = append(copies, atomicfile.File{Path: filepath.Join(dir, name), Data: data, Mode: 0o600})
		adoption.Files[path] = record.Before{Copy: name, Mode: info.Mode().Perm(), Hash: record.HashOf(data)}
	}
	entries, err := os.ReadDir(files.PKI())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.WriteFailed, "cannot look into %s: %w", files.PKI(), err)
	}
	for _, e := range entries {
		if kubelet.IsPair(e.Name()) {
			adoption.Pairs = append(adoption.Pairs, e.Name())
		}
	}
	if _, err := atomicfile.WriteAll(copies...); err != nil {
		return err
	}
	return adoption.Write(a.Paths)
}

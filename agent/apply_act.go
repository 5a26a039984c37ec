package agent

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// perform writes what the plan says, and restarts the kubelet once if it has to
// read any of it. What stood there before is kept first, then all is put on
// record, then it is written: a crash anywhere leaves each file old or new, and a
// kubelet that is seen to be older than its files.
func (a *Agent) perform(ctx context.Context, o *Observation, p *plan) error {
	restart, _ := p.restart(o)
	if err := a.keepPrevious(p); err != nil {
		return err
	}
	a.hands.step()
	before := *a.manifest
	was := map[string]string{}
	for _, c := range p.changes {
		was[c.path] = a.manifest.Files[c.path]
		a.manifest.Wrote(c.path, c.data)
	}
	if p.inputs() {
		a.manifest.Inputs = a.now()
	}
	if len(p.changes) > 0 {
		if err := a.manifest.Write(a.cfg.Paths); err != nil {
			return err
		}
	}
	a.hands.step()
	written, err := a.writeWanted(ctx, o, p)
	if err != nil {
		a.takeBack(p, was, before.Inputs, len(written) > 0)
		return errors.Join(err, a.manifest.Write(a.cfg.Paths))
	}
	for _, path := range p.forget {
		delete(a.manifest.Files, path)
	}
	a.noteRepairs(p)
	if p.inputs() {
		a.manifest.Inputs = a.now()
	}
	if len(p.changes)+len(p.forget) > 0 {
		a.log.WithField("paths", written).WithField("kept", a.cfg.Paths.Replaced()).Info("files brought to what is wanted")
		if err := a.manifest.Write(a.cfg.Paths); err != nil {
			return err
		}
	}
	a.memory.renderDrift, a.memory.lookForDrift = nil, true
	if !restart {
		return nil
	}
	a.hands.step()
	unit, err := a.deps.Units.Restart(ctx, UnitName)
	if err != nil {
		return a.kubeletFailed(ctx, err)
	}
	a.exports.restarted(causeApplied, execStart(unit))
	a.did(fault.EventKubeletRestarted).Info("kubelet restarted: its files were brought to what is wanted")
	return nil
}

// noteRepairs puts on record what the agent has put back by itself. What a person
// has applied is settled.
func (a *Agent) noteRepairs(p *plan) {
	for _, c := range p.changes {
		delete(a.manifest.Repairs, c.path)
		if p.repairs && c.tell.Edited {
			if a.manifest.Repairs == nil {
				a.manifest.Repairs = map[string]record.Repair{}
			}
			a.manifest.Repairs[c.path] = record.Repair{At: a.deps.Clock.Now().UTC()}
		}
	}
}

// takeBack corrects the record of a plan that failed: a file that was not
// written is what it was, and a kubelet that nothing changed for is not older.
func (a *Agent) takeBack(p *plan, was map[string]string, inputs record.Moment, any bool) {
	for _, c := range p.changes {
		data, err := readSmall(c.path)
		if err == nil && c.data != nil && record.HashOf(data) == record.HashOf(c.data) {
			continue
		}
		if a.manifest.Files[c.path] = was[c.path]; was[c.path] == "" {
			delete(a.manifest.Files, c.path)
		}
	}
	if !any {
		a.manifest.Inputs = inputs
	}
}

// keepPrevious copies what will be replaced into the state folder: one
// generation, for root alone.
func (a *Agent) keepPrevious(p *plan) error {
	var files []atomicfile.File
	for i, c := range p.changes {
		if !c.exists || !c.bytesDiffer() {
			continue
		}
		name := strings.ReplaceAll(strings.TrimPrefix(c.path, "/"), "/", "_")
		p.changes[i].tell.Kept = filepath.Join(a.cfg.Paths.Replaced(), name)
		files = append(files, atomicfile.File{Path: p.changes[i].tell.Kept, Data: c.old, Mode: 0o600})
	}
	if len(files) == 0 {
		return nil
	}
	if err := atomicfile.MkdirAll(a.cfg.Paths.Replaced(), 0o700); err != nil {
		return err
	}
	if err := atomicfile.CleanTemp(a.cfg.Paths.Replaced()); err != nil {
		return err
	}
	_, err := atomicfile.WriteAll(files...)
	return err
}

// writeWanted writes the files in their order and returns which it has written.
func (a *Agent) writeWanted(ctx context.Context, o *Observation, p *plan) (written []string, err error) {
	units := false
	for _, c := range p.changes {
		switch {
		case c.unit && units:
			written = append(written, c.path)
			continue // with the first of them
		case c.unit:
			units = true
			if err := a.writeUnit(ctx, o, p); err != nil {
				return written, err
			}
		case c.data == nil:
			err = atomicfile.Remove(c.path)
		default:
			_, err = atomicfile.Write(c.path, c.data, c.mode)
		}
		if err != nil {
			return written, err
		}
		written = append(written, c.path)
		a.hands.step()
	}
	return written, nil
}

// writeUnit has unit and drop-in written and read by systemd. A drop-in of a
// person's that wins over ours is told and let be; and what a person has disabled
// is not enabled.
func (a *Agent) writeUnit(ctx context.Context, o *Observation, p *plan) error {
	existing, err := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if err != nil {
		return err
	}
	_, err = a.deps.Units.Install(ctx, a.cfg.Paths.Units, existing, p.rendered, o.Unit.HeldBack == "")
	if fault.ReasonOf(err) == fault.UnitOverridden && len(p.rendered.Drift(a.cfg.Paths.Units)) == 0 {
		p.notes = append(p.notes, oneLine(err.Error()))
		return nil
	}
	return err
}

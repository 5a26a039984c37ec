package reset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Back is what a Restore does.
type Back struct {
	Restore []string // files that become what they were
	Remove  []string // files that were not there
	Left    []Left
	done    map[string]record.Before
	was     *record.Adoption
}

// ErrNeverAdopted: there is nothing to undo.
var ErrNeverAdopted = errors.New("no takeover is on record here: there is nothing to undo")

// LookBack finds out what undoing the takeover would do. It changes nothing.
func (r *Reset) LookBack(now time.Time) (*Back, error) {
	was, err := record.ReadAdoption(r.Paths)
	if err != nil {
		return nil, err
	}
	if was == nil {
		return nil, ErrNeverAdopted
	}
	if !was.PairInPlace && now.After(was.NotAfter) {
		return nil, fault.New(fault.CertificateInvalid, "the certificate that the kubelet would go back to has ended at %s", was.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("Stay, or leave the cluster: `bootstrap-agent reset`.")
	}
	rec, err := r.records()
	if err != nil {
		return nil, err
	}
	b := &Back{done: map[string]record.Before{}, was: was}
	for _, path := range slices.Sorted(maps.Keys(was.Files)) {
		before := was.Files[path]
		data, err := atomicfile.Read(path, record.MaxFile)
		missing := errors.Is(err, fs.ErrNotExist)
		switch {
		case missing && before.Copy == "":
			continue
		case err == nil && before.Copy != "" && record.HashOf(data) == before.Hash:
			continue // untouched, or put back already
		case err != nil && !missing:
			b.Left = append(b.Left, Left{path, "it cannot be read as a regular file"})
			continue
		case err == nil && record.HashOf(data) != rec.manifest.Files[path] && !r.proven(path, data, rec):
			b.Left = append(b.Left, Left{path, "it was changed since the agent wrote it"})
			continue
		}
		if b.done[path] = before; before.Copy == "" {
			b.Remove = append(b.Remove, path)
		} else {
			b.Restore = append(b.Restore, path)
		}
	}
	if !was.PairInPlace {
		pairs, err := r.newPairs(was)
		if err != nil {
			return nil, err
		}
		b.Remove = append(b.Remove, pairs...)
	}
	if data, err := atomicfile.Read(was.ConfigFile, record.MaxFile); err == nil {
		if record.HashOf(data) == was.ConfigHash {
			b.Remove = append(b.Remove, was.ConfigFile)
		} else {
			b.Left = append(b.Left, Left{was.ConfigFile, "it was changed since adopt wrote it"})
		}
	}
	return b, nil
}

// newPairs are the pairs that came with the takeover, and those that the kubelet
// has made of them since. Where there was one before, they stay.
func (r *Reset) newPairs(was *record.Adoption) ([]string, error) {
	dir := r.layout().PKI()
	if slices.Contains(was.Pairs, filepath.Base(r.layout().CurrentPair())) {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.WriteFailed, "cannot look into %s: %w", dir, err)
	}
	var paths []string
	for _, e := range entries {
		if kubelet.IsPair(e.Name()) && !slices.Contains(was.Pairs, e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// Restore undoes a takeover: the files are what they were, the drop-in goes, the
// kubelet is restarted once, and the records of the takeover go last.
func (r *Reset) Restore(ctx context.Context, now time.Time) (*Back, error) {
	b, err := r.LookBack(now)
	if err != nil {
		return nil, err
	}
	if err := stopAgent(ctx, r.Units, r.say); err != nil {
		return b, err
	}
	held, err := record.Acquire(r.Paths)
	if err != nil {
		return b, err
	}
	defer held.Release()
	if b, err = r.LookBack(now); err != nil {
		return b, err
	}
	if b.was.AgentState != "enabled" {
		for _, name := range []string{agentPath, agentService} {
			if _, err := r.Units.Disable(ctx, name); err != nil {
				return b, err
			}
		}
	}
	if b.was.UnitState != "enabled" {
		// Before the drop-in, by whose [Install] section it may be enabled at all.
		if _, err := r.Units.Disable(ctx, systemd.KubeletUnit); err != nil {
			return b, err
		}
	}
	for _, path := range b.Restore {
		before := b.done[path]
		data, err := atomicfile.Read(filepath.Join(r.Paths.BeforeAdopt(), before.Copy), record.MaxFile)
		if err != nil {
			return b, fault.New(fault.WriteFailed, "cannot read the copy of %s: %w", path, err)
		}
		if _, err := atomicfile.Write(path, data, before.Mode); err != nil {
			return b, err
		}
		r.say("restored %s", path)
	}
	for _, path := range b.Remove {
		if err := r.away(path); err != nil {
			return b, err
		}
		r.say("removed %s", path)
	}
	_ = os.Remove(filepath.Dir(r.dropIn())) // only where nothing is in it
	if err := r.Units.Reload(ctx); err != nil {
		return b, err
	}
	if _, err := r.Units.Restart(ctx, systemd.KubeletUnit); err != nil {
		return b, fmt.Errorf("everything is as it was, but the kubelet does not start: %w", err)
	}
	r.say("restarted %s", systemd.KubeletUnit)
	return b, r.forget(r.Paths.BeforeAdopt())
}

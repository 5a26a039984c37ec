package agent

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// With `repair: true` the agent brings drifted files back by itself. What somebody
// edited on this machine it puts back with the next look; what a newer agent or
// another config would write differently waits for this machine's share of
// restartSplay, because a fleet sees it at once. Somebody who writes his own
// version again within fightWithin is stronger: the file is left to him.

// fightWithin is how soon after a repair another edit of the same file means that
// somebody else manages it.
const fightWithin = time.Hour

// handsOff is what the loop remembers of files that are not as they should be,
// and of what a person asked to be done about them.
type handsOff struct {
	order     *Order // of `apply`, taken and not yet followed
	answered  string // id of the last one that was
	badConfig bool   // the config file in use is not the one that lies there

	edited []string  // at the last look
	due    time.Time // when what would be written differently is repaired
	failed string    // why the last repair did not succeed
	kept   string    // hash of the copy of the kubelet's configuration

	// between is called between any two writes of perform; a test ends there. Nil:
	// nobody does.
	between func()
}

func (h *handsOff) step() {
	if h.between != nil {
		h.between()
	}
}

// noteEdits has the drift looked at anew when another file is edited, or one is
// no longer: what was found before is not what is the case.
func (a *Agent) noteEdits(o Observation) {
	edited := slices.Concat(o.Files.Drifted, o.Unit.Drifted)
	if !slices.Equal(edited, a.hands.edited) {
		a.hands.edited, a.memory.lookForDrift = edited, true
	}
}

// differing lists the files that this agent, with the config of now, would write
// differently: an upgrade, another config, a file that was edited or taken away.
func (a *Agent) differing(ctx context.Context) []string {
	if a.unconfigured() {
		return nil // started with a config that cannot be read: what it asks for is not known
	}
	wanted, err := a.wanted(ctx, &plan{}, false)
	if err != nil {
		a.log.WithError(err).Debug("cannot compare the files")
		return nil
	}
	var paths []string
	for _, w := range wanted {
		if c, _, err := a.compare(w); err == nil && c.bytesDiffer() && !c.textOnly() {
			paths = append(paths, w.path)
		}
	}
	return paths
}

// repairs says whether drift is repaired here at all.
func (a *Agent) repairs() bool { return a.cfg.Repair && a.cfg.AfterJoin == AfterJoinHeal }

// repair brings back what may be brought back now. done: something was, so the
// machine is to be looked at anew.
func (a *Agent) repair(ctx context.Context, o Observation) (done bool) {
	if !a.repairs() || a.manifest.Started.IsZero() || o.Pair != PairUsable || o.Node.Deleted {
		a.hands.due = time.Time{}
		return false
	}
	a.keepConfig(o)
	edited := slices.Concat(o.Files.Drifted, o.Unit.Drifted)
	if err := a.judgeFights(edited); err != nil {
		a.log.WithError(err).Warn("cannot record a repair")
		return false
	}
	edited = slices.DeleteFunc(edited, func(path string) bool { return a.manifest.Repairs[path].Contested })
	now := a.deps.Clock.Now()
	if len(o.Outdated) == 0 {
		a.hands.due = time.Time{}
	} else if a.hands.due.IsZero() {
		a.hands.due = now.Add(splay(a.deps.Machine.MachineID+a.cfg.NodeName, a.cfg.RestartSplay))
	}
	todo := edited
	if len(o.Outdated) > 0 && !now.Before(a.hands.due) {
		todo = slices.Concat(todo, o.Outdated)
	}
	if len(todo) == 0 {
		return false
	}
	p, err := a.plan(ctx, &o, false)
	if err == nil {
		p.only(todo)
		if p.repairs = true; len(p.changes) == 0 {
			return false // what was there is not known, or it is not ours any more
		}
		err = a.perform(ctx, &o, p)
	}
	if ctx.Err() != nil {
		return false
	}
	failed := ""
	if err != nil {
		failed = oneLine(err.Error())
	}
	if failed != "" && failed != a.hands.failed {
		a.log.WithFields(explained(fault.Drifted, failed, fault.HintOf(err))).Warn("cannot repair")
	}
	a.hands.failed = failed
	return err == nil
}

// only leaves of a plan what is to be done now. Unit and drop-in are written
// together: one that has to wait, or is left to somebody else, keeps both; one of
// which only the text is another goes with the other.
func (p *plan) only(paths []string) {
	waits := func(c *change) bool { return !slices.Contains(paths, c.path) }
	kept := slices.ContainsFunc(p.changes, func(c *change) bool { return c.unit && waits(c) && !c.textOnly() })
	due := slices.ContainsFunc(p.changes, func(c *change) bool { return c.unit && !waits(c) })
	p.changes = slices.DeleteFunc(p.changes, func(c *change) bool {
		if c.unit {
			return kept || !due
		}
		return waits(c)
	})
}

// judgeFights finds the files that somebody has changed again soon after they
// were repaired, and those that are as they should be again.
func (a *Agent) judgeFights(edited []string) error {
	changed := false
	now := a.deps.Clock.Now()
	for path, last := range a.manifest.Repairs {
		again := slices.Contains(edited, path)
		contested := again && (last.Contested || now.Sub(last.At).Abs() < fightWithin)
		if contested == last.Contested {
			continue
		}
		if contested {
			a.log.WithField("path", path).Warn("changed again soon after it was repaired: it is left to whoever does that")
		}
		a.manifest.Repairs[path] = record.Repair{At: last.At, Contested: contested}
		changed = true
	}
	if !changed {
		return nil
	}
	return a.manifest.Write(a.cfg.Paths)
}

// keepConfig keeps a copy of the kubelet's configuration as the agent wrote it:
// the cluster's may have changed when it is to be put back, and is not followed.
func (a *Agent) keepConfig(o Observation) {
	path := a.files.ConfigFile()
	hash := a.manifest.Files[path]
	if hash == "" || hash == a.hands.kept || a.cfg.Kubelet.ConfigFile != "" || contains(o.Files.Drifted, path) || contains(o.Files.Damaged, path) {
		return
	}
	data, err := readSmall(path)
	if err == nil && record.HashOf(data) == hash {
		_, err = atomicfile.Write(a.cfg.Paths.KeptConfig(), data, 0o600)
	}
	if err != nil {
		a.log.WithError(err).Warn("cannot keep a copy of the kubelet's configuration")
		return
	}
	a.hands.kept = hash
}

// keptConfig is that copy; nil where it is not of what was written last.
func (a *Agent) keptConfig() []byte {
	data, err := readSmall(a.cfg.Paths.KeptConfig())
	if err != nil || record.HashOf(data) != a.manifest.Files[a.files.ConfigFile()] {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.WithError(err).Debug("cannot read the copy of the kubelet's configuration")
		}
		return nil
	}
	return data
}

// repairNote is what becomes of a drifted file.
func (a *Agent) repairNote(path string, outdated bool) string {
	last := a.manifest.Repairs[path]
	switch {
	case !a.repairs():
		return ""
	case a.memory.node.Deleted:
		return "that waits, because the Node was deleted: a kubelet that is restarted would register it anew"
	case last.Contested:
		return "it was repaired at " + last.At.UTC().Format(time.RFC3339) + " and changed again within the hour: somebody else writes it, so it is left to him"
	case a.hands.failed != "":
		return "it cannot be repaired: " + a.hands.failed
	case (outdated || path == a.unitFile() || path == a.dropIn()) && !a.hands.due.IsZero():
		return "it is repaired at " + a.hands.due.UTC().Format(time.RFC3339)
	case path == a.files.ConfigFile() && a.cfg.Kubelet.ConfigFile == "" && a.keptConfig() == nil:
		return "what it was is not on record, so it is left as it is"
	}
	return ""
}

// rendersOtherwise are the files that would be written differently, without those
// that were edited: of these it is said already.
func (a *Agent) rendersOtherwise(o Observation) []string {
	return slices.DeleteFunc(slices.Clone(a.memory.renderDrift), func(path string) bool {
		return contains(o.Files.Drifted, path) || contains(o.Unit.Drifted, path) || contains(o.Files.Damaged, path)
	})
}

// repairNotes says of each drifted file what becomes of it.
func (a *Agent) repairNotes(o Observation) map[string]string {
	if !a.repairs() {
		return nil
	}
	notes := map[string]string{}
	for _, path := range slices.Concat(o.Files.Drifted, o.Unit.Drifted) {
		notes[path] = a.repairNote(path, false)
	}
	for _, path := range o.Outdated {
		notes[path] = a.repairNote(path, true)
	}
	return notes
}

// observing is what is said under afterJoin: observe of a node on which there
// would be something to do.
func observing(o Observation) string {
	say := "afterJoin is observe: nothing is changed"
	if len(o.Files.Damaged) > 0 {
		say += "; missing or damaged: " + strings.Join(o.Files.Damaged, ", ")
	}
	return say
}

package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// olderText puts another comment at the head of the files, as an older package
// wrote it.
func (r *rig) olderText(paths ...string) {
	r.t.Helper()
	m := must(record.ReadManifest(r.cfg.Paths))
	for _, path := range paths {
		first, rest, _ := strings.Cut(r.read(path), "\n")
		data := first + "\n# What an older package said of it.\n" + rest
		info := must(os.Stat(path))
		if err := os.WriteFile(path, []byte(data), info.Mode().Perm()); err != nil {
			r.t.Fatal(err)
		}
		m.Wrote(path, []byte(data))
	}
	if err := m.Write(r.cfg.Paths); err != nil {
		r.t.Fatal(err)
	}
}

// A package that only says something else about its files has nothing to tell, and
// no reason to restart a fleet's kubelets, whatever repair says.
func TestAnUpgradeThatOnlyChangesACommentIsNoDrift(t *testing.T) {
	for _, repair := range []bool{false, true} {
		r := joinedRig(t, func(r *rig) { r.cfg.Repair = repair })
		r.olderText(r.unitPath(), r.dropInPath())
		was, calls := r.read(r.unitPath()), len(r.units.Calls())
		_, stop := r.start()
		r.await("the node", phase(Joined))
		s := r.awaitLater(40 * time.Minute)
		if !noDrift(s) {
			t.Errorf("repair %t: %+v", repair, s.Notes)
		}
		if r.read(r.unitPath()) != was || len(r.units.Calls()) != calls {
			t.Errorf("repair %t: calls %v", repair, r.units.Calls())
		}
		// Who asks for it gets the new text, without a restart.
		if done := r.looksAndApplies(); done.Restart || len(done.Changes) != 2 {
			t.Errorf("repair %t: %+v", repair, done)
		}
		s = r.awaitLater(5 * time.Minute)
		if r.read(r.unitPath()) == was || !noDrift(s) || slices.Contains(r.units.Calls()[calls:], "restart") {
			t.Errorf("repair %t: %+v, calls %v", repair, s.Notes, r.units.Calls())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		r.awaitLock()
	}
}

// One that renders something else is told, and repaired where that is wanted,
// together with the text.
func TestAnUpgradeThatChangesMoreThanACommentIsDrift(t *testing.T) {
	r := joinedRig(t, func(r *rig) { r.cfg.Repair = true })
	r.olderText(r.unitPath(), r.dropInPath())
	m := must(record.ReadManifest(r.cfg.Paths))
	data := strings.Replace(r.read(r.dropInPath()), "RestartSec=10", "RestartSec=5", 1)
	mustWrite(t, r.dropInPath(), data)
	m.Wrote(r.dropInPath(), []byte(data))
	if err := m.Write(r.cfg.Paths); err != nil {
		t.Fatal(err)
	}
	_, stop := r.start()
	r.await("the repair", func(s Status) bool { return slices.Contains(r.units.Calls(), "restart") && noDrift(s) })
	for _, path := range []string{r.unitPath(), r.dropInPath()} {
		if strings.Contains(r.read(path), "an older package") {
			t.Errorf("%s has the older text", path)
		}
	}
	if s := r.awaitLater(20 * time.Minute); hasNote(s, fault.Drifted) || restarts(r) != 1 {
		t.Errorf("%+v, calls %v", s.Notes, r.units.Calls())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

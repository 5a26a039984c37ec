package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const maxUnitFile = 1 << 20 // systemd reads no longer line; no unit is this long

// Owner says whose a kubelet.service is.
type Owner string

// The owners. A unit without our header is somebody else's, wherever it lies.
const (
	OwnerNone  Owner = "none" // there is no unit
	OwnerOurs  Owner = "ours"
	OwnerAlien Owner = "alien"
)

// Existing is the kubelet.service that is there before Install.
type Existing struct {
	Owner Owner
	Path  string // the unit file; for OwnerNone the path where Install writes it
	Unit  Unit   // as systemd sees it
	// Read are the EnvironmentFile=s of Unit without those of our drop-in.
	Read []string
}

// realName is the name under which the unit can be enabled: systemd refuses that
// for an alias, such as a snap's unit may have.
func (e Existing) realName() string {
	if name := filepath.Base(e.Unit.FragmentPath); e.Owner == OwnerAlien && checkUnitName(name) == nil {
		return name
	}
	return KubeletUnit
}

// ExtraArgs returns the words that $KUBELET_EXTRA_ARGS becomes once Install has
// been there: they come last on the kubelet's command line.
func (e Existing) ExtraArgs(read Reader) []string {
	files := slices.Clone(e.Read)
	for _, path := range extraFiles {
		if !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	return splitWords(e.Unit.environment(files, read)[ExtraArgs])
}

// Existing finds out whose the kubelet's unit is. dir is UnitDir. A masked unit
// is fault.UnitMasked: somebody does not want a kubelet here, and neither unit
// nor drop-in would change that.
func (m *Manager) Existing(ctx context.Context, dir string) (Existing, error) {
	u, err := m.Unit(ctx, KubeletUnit)
	if err != nil {
		return Existing{}, err
	}
	if stale(u) {
		// A package came or went without telling systemd.
		if err := m.Reload(ctx); err != nil {
			return Existing{}, err
		}
		if u, err = m.Unit(ctx, KubeletUnit); err != nil {
			return Existing{}, err
		}
	}
	e := Existing{Owner: OwnerNone, Path: filepath.Join(dir, KubeletUnit), Unit: u, Read: readWithout(u, filepath.Join(dir, KubeletUnit+".d", DropInName))}
	owner, err := ownerOf(e.Path)
	if err != nil {
		return Existing{}, err
	}
	switch {
	case owner != OwnerNone:
		e.Owner = owner
	case u.Masked():
		return e, masked(KubeletUnit)
	case u.FragmentPath != "" && u.FragmentPath != e.Path:
		e.Owner, e.Path = OwnerAlien, u.FragmentPath
	}
	return e, nil
}

// readWithout returns the environment files that u would read without our
// drop-in, so that what Render makes of them does not depend on whether it has
// been there before.
func readWithout(u Unit, dropIn string) []string {
	files := slices.Clone(u.EnvironmentFiles)
	if !slices.Contains(u.DropInPaths, dropIn) {
		return files
	}
	data, err := atomicfile.Read(dropIn, maxUnitFile)
	if err != nil {
		return files
	}
	for line := range strings.Lines(string(data)) {
		path, ours := strings.CutPrefix(strings.TrimSpace(line), "EnvironmentFile=-")
		if !ours {
			continue
		}
		// Ours stand behind those of the unit: the last of its name.
		for i, file := range slices.Backward(files) {
			if file == path {
				files = slices.Delete(files, i, i+1)
				break
			}
		}
	}
	return files
}

// stale says whether systemd holds a unit whose file is gone or changed.
func stale(u Unit) bool {
	if u.NeedDaemonReload {
		return true
	}
	if u.FragmentPath == "" {
		return false
	}
	_, err := os.Lstat(u.FragmentPath)
	return errors.Is(err, fs.ErrNotExist)
}

// ownerOf judges the file at the place where ours would be. A link to /dev/null
// and an empty file are both what systemd takes for a masked unit; any other
// link is a unit that somebody linked there.
func ownerOf(path string) (Owner, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return OwnerNone, nil
	case err != nil:
		return "", fmt.Errorf("cannot look at %s: %w", path, err)
	case info.Mode()&fs.ModeSymlink != 0:
		if target, err := filepath.EvalSymlinks(path); err == nil && target == os.DevNull {
			return "", masked(KubeletUnit)
		}
		return OwnerAlien, nil
	case !info.Mode().IsRegular():
		return "", fault.New(fault.UnitOverridden, "%s is no regular file (%s)", path, info.Mode().Type())
	case info.Size() == 0:
		return "", masked(KubeletUnit)
	}
	data, err := atomicfile.Read(path, maxUnitFile)
	if err != nil {
		return "", fmt.Errorf("cannot read %s: %w", path, err)
	}
	if Ours(data) {
		return OwnerOurs, nil
	}
	return OwnerAlien, nil
}

// Ours says whether this is the content of a unit file or drop-in that this
// package wrote, whatever was changed in it since.
func Ours(data []byte) bool { return bytes.HasPrefix(data, []byte(headerMark)) }

// Drift returns the paths below dir whose content is not what r says, in the
// order of writing. It changes nothing.
func (r Rendered) Drift(dir string) []string {
	var paths []string
	for _, f := range r.Files(dir) {
		data, err := atomicfile.Read(f.Path, maxUnitFile)
		if err != nil || !bytes.Equal(data, f.Data) {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

// Install writes what is not there yet, enables the unit if enable says so,
// makes systemd read it if it holds an older one, and then asks systemd what it
// would really run. e is what Existing saw just before. Where there was no unit
// then, systemd learns of the link that enables it only with the next Reload:
// without it a unit that is stopped is soon forgotten, and with it that it ran in
// this boot. It never starts anything. changed says whether a file or link was
// written. Faults: UnitMasked; UnitOverridden, naming the file that wins;
// WriteFailed.
func (m *Manager) Install(ctx context.Context, dir string, e Existing, r Rendered, enable bool) (changed bool, err error) {
	owner, err := ownerOf(filepath.Join(dir, KubeletUnit))
	if err != nil {
		return false, fmt.Errorf("cannot install %s: %w", KubeletUnit, err)
	}
	came := owner != OwnerNone && owner != e.Owner || owner == OwnerNone && e.Owner == OwnerOurs
	if came || (e.Owner == OwnerAlien) != (r.Unit == nil) {
		return false, fmt.Errorf("cannot install %s: %s (%s) came or went a moment ago", KubeletUnit, e.Path, e.Owner)
	}
	if e.Unit.UnitFileState == "transient" {
		return false, fault.New(fault.UnitOverridden, "cannot install %s: a transient unit of that name is loaded (%s)", KubeletUnit, e.Path).
			WithHint("Somebody started it with systemd-run. Stop it: `systemctl stop %s`.", KubeletUnit)
	}
	if changed, err = writeFiles(dir, r); err != nil {
		return changed, fmt.Errorf("cannot install %s: %w", KubeletUnit, err)
	}
	if enable && e.Unit.UnitFileState != "generated" { // a generator sees to its own start
		linked, err := m.Enable(ctx, e.realName())
		if err != nil {
			return changed, err
		}
		changed = changed || linked
	}
	if e.Owner == OwnerNone && changed {
		// systemd finds a unit that it has never loaded by itself, without being
		// told to read all the others anew; if it did not, Verify says so.
		if err := m.Verify(ctx, dir, r); err == nil {
			return changed, nil
		}
	}
	u := e.Unit
	if !changed { // a crash may have come between the writing and the reload
		if u, err = m.Unit(ctx, KubeletUnit); err != nil {
			return false, err
		}
	}
	if changed || stale(u) {
		if err := m.Reload(ctx); err != nil {
			return changed, err
		}
	}
	return changed, m.Verify(ctx, dir, r)
}

func writeFiles(dir string, r Rendered) (changed bool, err error) {
	files := r.Files(dir)
	dropIn := files[len(files)-1].Path
	if info, err := os.Lstat(dropIn); err == nil && !info.Mode().IsRegular() {
		return false, fault.New(fault.UnitOverridden, "%s is no regular file (%s): somebody took our drop-in away", dropIn, info.Mode().Type()).
			WithHint("Remove it: `rm %s`.", dropIn)
	}
	if err := atomicfile.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		return false, err
	}
	for _, f := range files {
		written, err := atomicfile.Write(f.Path, f.Data, 0o644)
		if err != nil {
			return changed, err
		}
		changed = changed || written
	}
	return changed, nil
}

// Verify asks systemd what it would run as the kubelet and compares that with r.
func (m *Manager) Verify(ctx context.Context, dir string, r Rendered) error {
	u, err := m.Unit(ctx, KubeletUnit)
	if err != nil {
		return err
	}
	if err := r.effective(u, dir); err != nil {
		return fmt.Errorf("cannot trust %s: %w", KubeletUnit, err)
	}
	return nil
}

// effective is Verify without the asking.
func (r Rendered) effective(u Unit, dir string) error {
	files := r.Files(dir)
	dropIn := files[len(files)-1].Path
	at := slices.Index(u.DropInPaths, dropIn)
	switch {
	case u.Masked():
		return masked(KubeletUnit)
	case u.LoadState != "loaded":
		return fault.New(fault.UnitOverridden, "systemd cannot load it (%s): %s", u.LoadState, fault.Quote(u.LoadError))
	case r.Unit != nil && u.FragmentPath != files[0].Path:
		return fault.New(fault.UnitOverridden, "%s wins over %s", u.FragmentPath, files[0].Path).
			WithHint("Remove %s, or move it to %s to keep it; then `systemctl daemon-reload`.", u.FragmentPath, filepath.Dir(dropIn))
	case at < 0:
		return fault.New(fault.UnitOverridden, "systemd does not read %s; it reads %s", dropIn, listed(u.DropInPaths)).
			WithHint("Remove the file of the same name in another folder, then `systemctl daemon-reload`.")
	case len(u.ExecStart) == 1 && slices.Equal(u.ExecStart[0], r.ExecStart):
		return nil
	}
	winners := execStartIn(u.DropInPaths[at+1:])
	if len(winners) == 0 {
		return fault.New(fault.UnitOverridden, "systemd would run %q, not what %s says", flatten(u.ExecStart), dropIn)
	}
	return fault.New(fault.UnitOverridden, "%s changes ExecStart=: systemd would run %q", listed(winners), flatten(u.ExecStart)).
		WithHint("Put those arguments into `kubelet.extraArgs` and remove ExecStart= from %s.", listed(winners))
}

// execStartIn returns those drop-ins that set ExecStart=; all of them if that
// cannot be seen.
func execStartIn(paths []string) []string {
	var found []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			found = append(found, path)
			continue
		}
		for line := range strings.Lines(string(data)) {
			if key, _, ok := strings.Cut(line, "="); ok && strings.TrimSpace(key) == "ExecStart" {
				found = append(found, path)
				break
			}
		}
	}
	return found
}

func flatten(commands [][]string) string {
	lines := make([]string, 0, len(commands))
	for _, argv := range commands {
		lines = append(lines, strings.Join(argv, " "))
	}
	return shorten(strings.Join(lines, "; "))
}

func listed(paths []string) string {
	if len(paths) == 0 {
		return "none"
	}
	return strings.Join(paths, ", ")
}

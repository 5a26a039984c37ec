package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// install looks and installs, as the agent does.
func install(t *testing.T, m *Manager, dir string, r Rendered, enable bool) (bool, error) {
	t.Helper()
	e, err := m.Existing(soon(t), dir)
	if err != nil {
		return false, err
	}
	return m.Install(soon(t), dir, e, r, enable)
}

func TestInstallWhereThereIsNoUnit(t *testing.T) {
	b := startBus(t)
	m, r := b.manager(), rendered(t, service(false))
	e, err := m.Existing(soon(t), b.fake.dir)
	if err != nil || e.Owner != OwnerNone || e.Path != filepath.Join(b.fake.dir, KubeletUnit) {
		t.Fatalf("%+v, %v", e, err)
	}
	changed, err := install(t, m, b.fake.dir, r, true)
	if err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	if got := b.called(); !slices.Equal(got, []string{"enable", "reload"}) {
		t.Errorf("calls %q: files, then enabled, then one reload", got)
	}
	for _, f := range r.Files(b.fake.dir) {
		info, err := os.Stat(f.Path)
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v", f.Path, err)
		}
	}
	if e, err = m.Existing(soon(t), b.fake.dir); err != nil || e.Owner != OwnerOurs {
		t.Errorf("afterwards it is %s, %v", e.Owner, err)
	}
	if changed, err = install(t, m, b.fake.dir, r, true); err != nil || changed {
		t.Errorf("the second time: changed %t, %v", changed, err)
	}
	if got := b.called(); !slices.Equal(got, []string{"enable"}) {
		t.Errorf("calls %q: nothing changed, no reload", got)
	}
	if err := os.RemoveAll(filepath.Join(b.fake.dir, KubeletUnit+".d")); err != nil {
		t.Fatal(err)
	}
	if got := r.Drift(b.fake.dir); len(got) != 1 || filepath.Base(got[0]) != DropInName {
		t.Errorf("drift %q", got)
	}
	if changed, err = install(t, m, b.fake.dir, r, false); err != nil || !changed {
		t.Errorf("a lost drop-in: changed %t, %v", changed, err)
	}
	if got := b.called(); !slices.Equal(got, []string{"reload"}) || len(r.Drift(b.fake.dir)) != 0 {
		t.Errorf("calls %q", got)
	}
}

func TestInstallBesideSomebodyElsesUnit(t *testing.T) {
	vendorText := testdata(t, "vendor.service")
	for name, place := range map[string]func(*testing.T, *bus) string{
		"in /usr/lib": func(t *testing.T, b *bus) string {
			b.found = write(t, filepath.Join(t.TempDir(), KubeletUnit), vendorText)
			return b.found
		},
		"in /etc": func(t *testing.T, b *bus) string {
			return write(t, filepath.Join(b.fake.dir, KubeletUnit), vendorText)
		},
		"linked into /etc": func(t *testing.T, b *bus) string {
			target, link := write(t, filepath.Join(t.TempDir(), "x.service"), vendorText), filepath.Join(b.fake.dir, KubeletUnit)
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			return link
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			path := place(t, b)
			write(t, filepath.Join(b.fake.dir, KubeletUnit+".d", "10-kubeadm.conf"), testdata(t, "10-kubeadm.conf"))
			b.read()
			m := b.manager()
			e, err := m.Existing(soon(t), b.fake.dir)
			if err != nil || e.Owner != OwnerAlien || e.Path != path {
				t.Fatalf("%+v, %v", e, err)
			}
			if _, err := install(t, m, b.fake.dir, rendered(t, service(false)), true); err == nil {
				t.Error("a whole unit was installed over it")
			}
			changed, err := install(t, m, b.fake.dir, rendered(t, service(true)), true)
			if err != nil || !changed {
				t.Fatalf("changed %t, %v", changed, err)
			}
			if got, _ := os.ReadFile(path); string(got) != vendorText {
				t.Error("it was overwritten")
			}
			if !b.isEnabled() {
				t.Error("it was not enabled")
			}
			u, _ := m.Unit(soon(t), KubeletUnit)
			if got := u.ExecStart[0]; got[1] != "--config=/var/lib/kubelet/config.yaml" || got[len(got)-1] != "$KUBELET_EXTRA_ARGS" {
				t.Errorf("systemd would run %q", got)
			}
		})
	}
}

func TestInstallAfterACrashBeforeTheReload(t *testing.T) {
	b := startBus(t)
	r := rendered(t, service(false))
	for _, f := range r.Files(b.fake.dir) {
		write(t, f.Path, string(f.Data))
	}
	changed, err := install(t, b.manager(), b.fake.dir, r, false)
	if fault.ReasonOf(err) != fault.UnitOverridden || changed {
		t.Errorf("a systemd that does not know that it is stale: changed %t, %v", changed, err)
	}
	b.set(map[string]any{"NeedDaemonReload": true})
	if changed, err = install(t, b.manager(), b.fake.dir, r, false); err != nil || changed {
		t.Errorf("changed %t, %v", changed, err)
	}
	if got := b.called(); !slices.Equal(got, []string{"reload"}) {
		t.Errorf("calls %q", got)
	}
}

func TestAPackageLeftWithoutTellingSystemd(t *testing.T) {
	b := startBus(t)
	b.found = write(t, filepath.Join(t.TempDir(), KubeletUnit), testdata(t, "vendor.service"))
	b.read()
	if err := os.Remove(b.found); err != nil {
		t.Fatal(err)
	}
	e, err := b.manager().Existing(soon(t), b.fake.dir)
	if err != nil || e.Owner != OwnerNone {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestInstallRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*testing.T, *bus)
		want    fault.Reason
		part    string // in the message
		written bool   // a file of ours is there afterwards
	}{
		"masked with a link": {func(t *testing.T, b *bus) {
			if err := os.Symlink(os.DevNull, filepath.Join(b.fake.dir, KubeletUnit)); err != nil {
				t.Fatal(err)
			}
		}, fault.UnitMasked, "masked", false},
		"masked with an empty file": {func(t *testing.T, b *bus) { write(t, filepath.Join(b.fake.dir, KubeletUnit), "") }, fault.UnitMasked, "masked", false},
		"masked until the next boot": {func(_ *testing.T, b *bus) {
			b.set(map[string]any{"LoadState": "masked", "UnitFileState": "masked-runtime"})
		}, fault.UnitMasked, "masked", false},
		"a folder in its place": {func(t *testing.T, b *bus) { write(t, filepath.Join(b.fake.dir, KubeletUnit, "x"), "") }, fault.UnitOverridden, "no regular file", false},
		"a transient unit": {func(t *testing.T, b *bus) {
			b.set(map[string]any{"LoadState": "loaded", "UnitFileState": "transient", "FragmentPath": filepath.Join(b.fake.dir, KubeletUnit)})
			b.whenCalled(nil)
			write(t, filepath.Join(b.fake.dir, KubeletUnit), headerMark)
		}, fault.UnitOverridden, "transient", false},
		"our drop-in linked away": {func(t *testing.T, b *bus) {
			write(t, filepath.Join(b.fake.dir, KubeletUnit+".d", "x"), "")
			if err := os.Symlink(os.DevNull, filepath.Join(b.fake.dir, KubeletUnit+".d", DropInName)); err != nil {
				t.Fatal(err)
			}
		}, fault.UnitOverridden, DropInName, false},
		"a later drop-in sets ExecStart": {func(t *testing.T, b *bus) {
			b.extra = []string{write(t, filepath.Join(t.TempDir(), "92-harmless.conf"), "[Service]\nMemoryMax=1G\n"),
				write(t, filepath.Join(t.TempDir(), "95-mine.conf"), "[Service]\nExecStart=\n ExecStart = /usr/bin/kubelet --mine\n")}
		}, fault.UnitOverridden, "95-mine.conf changes ExecStart=: systemd would run \"/usr/bin/kubelet --mine\"", true},
		"a later drop-in adds a command": {func(t *testing.T, b *bus) {
			b.extra = []string{write(t, filepath.Join(t.TempDir(), "99-two.conf"), "[Service]\nExecStart=/bin/true\n")}
		}, fault.UnitOverridden, "99-two.conf", true},
		"the unit cannot be loaded": {func(t *testing.T, b *bus) {
			b.extra = []string{write(t, filepath.Join(t.TempDir(), "95-bad.conf"), "[Service]\nExecStart=\"\n")}
		}, fault.UnitOverridden, "bad-setting", true},
		"systemd cannot reload": {func(_ *testing.T, b *bus) {
			b.whenCalled(func(method string) *dbus.Error {
				if method == "reload" {
					return failure("org.freedesktop.DBus.Error.LimitsExceeded")
				}
				return nil
			})
		}, "", "LimitsExceeded", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBus(t)
			tc.prepare(t, b)
			_, err := install(t, b.manager(), b.fake.dir, rendered(t, service(false)), true)
			if err == nil || fault.ReasonOf(err) != tc.want || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("reason %q: %v", fault.ReasonOf(err), err)
			}
			if fault.ReasonOf(err) != "" && fault.HintOf(err) == "" {
				t.Error("no hint")
			}
			data, rerr := os.ReadFile(filepath.Join(b.fake.dir, KubeletUnit+".d", DropInName))
			if written := len(data) > 0; written != tc.written || rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				t.Errorf("written: %t, %v", written, rerr)
			}
			if got := b.called(); slices.Contains(got, "start") || slices.Contains(got, "restart") {
				t.Errorf("something was started: %q", got)
			}
		})
	}
}

func TestEffectiveNamesTheFragmentThatWins(t *testing.T) {
	r := rendered(t, service(false))
	u := Unit{LoadState: "loaded", FragmentPath: "/run/systemd/transient/kubelet.service", DropInPaths: []string{"/d/kubelet.service.d/" + DropInName}, ExecStart: [][]string{r.ExecStart}}
	if err := r.effective(u, "/d"); fault.ReasonOf(err) != fault.UnitOverridden || !strings.Contains(err.Error(), "/run/systemd/transient/kubelet.service wins") {
		t.Errorf("got %v", err)
	}
	u.FragmentPath, u.DropInPaths = "/d/kubelet.service", []string{"/run/" + DropInName}
	if err := r.effective(u, "/d"); fault.ReasonOf(err) != fault.UnitOverridden || !strings.Contains(err.Error(), "does not read /d/") {
		t.Errorf("got %v", err)
	}
	u.DropInPaths = []string{"/d/kubelet.service.d/" + DropInName}
	if err := r.effective(u, "/d"); err != nil {
		t.Error(err)
	}
	u.ExecStart = [][]string{{"/x"}}
	if err := r.effective(u, "/d"); fault.ReasonOf(err) != fault.UnitOverridden || !strings.Contains(err.Error(), `would run "/x"`) {
		t.Errorf("got %v", err)
	}
}

func TestAGeneratedUnitIsNotEnabled(t *testing.T) {
	b := startBus(t)
	b.found = write(t, filepath.Join(t.TempDir(), KubeletUnit), testdata(t, "vendor.service"))
	b.read()
	b.set(map[string]any{"UnitFileState": "generated"})
	if _, err := install(t, b.manager(), b.fake.dir, rendered(t, service(true)), true); err != nil || b.isEnabled() {
		t.Errorf("enabled %t, %v", b.isEnabled(), err)
	}
}

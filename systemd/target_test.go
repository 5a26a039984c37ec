package systemd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const target = "joined.target"

// dependents makes a target and three units that belong to it, and returns the
// folder in which each notes its start.
func dependents(t *testing.T, units string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(units, target), "[Unit]\nDescription=joined\n")
	for name, text := range map[string]string{
		"once.service":  "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo x >> " + dir + "/once'\n",
		"ended.service": "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo x >> " + dir + "/ended'\n",
		"slow.service":  "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo x >> " + dir + "/slow; exec sleep 300'\n",
	} {
		write(t, filepath.Join(units, name), "[Unit]\nDefaultDependencies=no\n"+text)
		if err := os.MkdirAll(filepath.Join(units, target+".wants"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../"+name, filepath.Join(units, target+".wants", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// awaitFile waits until a unit has noted that many starts.
func awaitFile(t *testing.T, path string, starts int) {
	t.Helper()
	ctx := soon(t)
	for {
		data, _ := os.ReadFile(path)
		if strings.Count(string(data), "x") == starts {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %q, want %d starts", path, data, starts)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestARealSystemdReachesATargetOnce(t *testing.T) {
	m, units := live(t)
	if there, err := m.Reach(soon(t), target); there || err != nil {
		t.Fatalf("not installed: %t, %v", there, err)
	}
	dir := dependents(t, units)
	if err := m.Reload(soon(t)); err != nil {
		t.Fatal(err)
	}
	// It returns although a unit of the target never gets ready.
	began := time.Now()
	if there, err := m.Reach(soon(t), target); !there || err != nil {
		t.Fatalf("%t, %v", there, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it waited %s", took)
	}
	awaitFile(t, filepath.Join(dir, "once"), 1)
	awaitFile(t, filepath.Join(dir, "ended"), 1)
	awaitFile(t, filepath.Join(dir, "slow"), 1)
	// On its way: the slow unit holds it. Reached: once that is gone. Neither is a
	// reason to start again what belongs to it.
	again := func(when string) {
		t.Helper()
		if there, err := m.Reach(soon(t), target); !there || err != nil {
			t.Errorf("%s: %t, %v", when, there, err)
		}
	}
	again("on its way")
	if _, err := m.Stop(soon(t), "slow.service"); err != nil {
		t.Fatal(err)
	}
	ctx := soon(t)
	for {
		u, err := m.Unit(ctx, "once.service")
		if err != nil {
			t.Fatal(err)
		}
		if u.ActiveState == "active" && reachedTarget(t, m) {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("the target is not reached")
		case <-time.After(10 * time.Millisecond):
		}
	}
	again("reached")
	if _, err := m.Stop(soon(t), "once.service"); err != nil {
		t.Fatal(err)
	}
	again("reached, with a unit that a person has stopped")
	for _, name := range []string{"once", "ended", "slow"} {
		awaitFile(t, filepath.Join(dir, name), 1)
	}

	if err := os.Remove(filepath.Join(units, target)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(os.DevNull, filepath.Join(units, target)); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(soon(t)); err != nil {
		t.Fatal(err)
	}
	if there, err := m.Reach(soon(t), target); there || err != nil {
		t.Errorf("masked: %t, %v", there, err)
	}
}

func reachedTarget(t *testing.T, m *Manager) bool {
	t.Helper()
	c, err := m.connect(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	props, err := c.GetUnitPropertiesContext(soon(t), target)
	return err == nil && props["ActiveState"] == "active"
}

func TestATargetIsNotStartedWhenSystemdRefuses(t *testing.T) {
	b := startBus(t)
	b.set(map[string]any{"LoadState": "loaded", "ActiveState": "inactive"})
	b.whenCalled(func(method string) *dbus.Error {
		if method == "start" {
			return failure("org.freedesktop.systemd1.TransactionIsDestructive")
		}
		return nil
	})
	m := b.manager()
	if there, err := m.Reach(soon(t), KubeletUnit); !there || err == nil || !strings.Contains(err.Error(), "TransactionIsDestructive") {
		t.Errorf("%t, %v", there, err)
	}
	b.down()
	if _, err := m.Reach(soon(t), KubeletUnit); err == nil {
		t.Error("without a bus")
	}
}

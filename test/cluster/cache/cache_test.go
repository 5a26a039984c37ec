package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTheCacheFolderIsChosenByWhoRunsTheLab(t *testing.T) {
	home := func() (string, error) { return "/home/x/.cache", nil }
	homeless := func() (string, error) { return "", errors.New("neither $XDG_CACHE_HOME nor $HOME are defined") }
	for _, tt := range []struct {
		name, env string
		euid      int
		cache     func() (string, error)
		want      string
	}{
		{"root", "", 0, homeless, "/var/cache/bootstrap-agent-lab"},
		{"a user", "", 1000, home, "/home/x/.cache/bootstrap-agent-lab"},
		{"set by hand", "/srv/lab/", 0, homeless, "/srv/lab"},
		{"a user without a home", "", 1000, homeless, ""},
		{"a relative path", "lab", 0, homeless, ""},
	} {
		got, err := choose(tt.env, tt.euid, tt.cache)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestTwoOwnersGetTwoSlots(t *testing.T) {
	t.Setenv("LAB_CACHE", t.TempDir())
	first, err := Take("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Take("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.N == second.N || first.Dir == second.Dir {
		t.Errorf("both have slot %d", first.N)
	}
	if err := errors.Join(first.Release(), second.Release()); err != nil {
		t.Error(err)
	}
	if exists(first.Dir) || exists(second.Dir) {
		t.Error("a released slot left its folder")
	}
}

func TestWhatADeadOwnerLeftIsCleanedInEverySlot(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LAB_CACHE", dir)
	for _, left := range []string{"run/x-0/a", "run/x-5/b"} {
		if err := os.MkdirAll(filepath.Join(dir, left), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var cleaned []int
	slot, err := Take("x", func(n int, _ string) error { cleaned = append(cleaned, n); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(cleaned) != 2 || cleaned[0] != 0 || cleaned[1] != 5 {
		t.Errorf("cleaned %v, want 0 and 5", cleaned)
	}
	if slot.N != 0 || exists(filepath.Join(dir, "run/x-5")) || exists(filepath.Join(dir, "run/x-0/a")) {
		t.Errorf("slot %d, or leftovers are still there", slot.N)
	}
	if err := slot.Release(); err != nil {
		t.Error(err)
	}
}

func TestASlotThatCannotBeCleanedIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("LAB_CACHE", dir)
	if err := os.MkdirAll(filepath.Join(dir, "run/x-0"), 0o755); err != nil {
		t.Fatal(err)
	}
	busy := errors.New("still mounted")
	if _, err := Take("x", func(int, string) error { return busy }); !errors.Is(err, busy) {
		t.Errorf("err %v, want %v", err, busy)
	}
}

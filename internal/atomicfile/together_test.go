package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestWriteAllWritesWhatChangedAndNamesIt(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b")
	if err := os.Mkdir(filepath.Dir(b), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		a, b string
		want []string
	}{
		{"one", "two", []string{a, b}},
		{"one", "two", nil},
		{"one", "three", []string{b}},
	} {
		changed, err := WriteAll(File{a, []byte(c.a), 0o600}, File{b, []byte(c.b), 0o644})
		if err != nil || !slices.Equal(changed, c.want) {
			t.Fatalf("step %d: changed %v, err %v", i, changed, err)
		}
		for path, want := range map[string]string{a: c.a, b: c.b} {
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("step %d: %s holds %q, %v", i, path, got, err)
			}
		}
	}
	if info, err := os.Stat(b); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode of b: %v, %v", info, err)
	}
}

func TestWriteAllReplacesNothingWhenOneFileCannotBeWritten(t *testing.T) {
	for name, bad := range map[string]func(dir string) string{
		"a missing folder": func(dir string) string { return filepath.Join(dir, "none", "x") },
		"a link at its place": func(dir string) string {
			path := filepath.Join(dir, "x")
			if err := os.Symlink("/etc/hostname", path); err != nil {
				t.Fatal(err)
			}
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			good := filepath.Join(dir, "good")
			if _, err := Write(good, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			changed, err := WriteAll(File{good, []byte("new"), 0o600}, File{bad(dir), []byte("x"), 0o600})
			if fault.ReasonOf(err) != fault.WriteFailed || len(changed) != 0 {
				t.Fatalf("changed %v, err %v", changed, err)
			}
			if got, _ := os.ReadFile(good); string(got) != "old" {
				t.Errorf("the good one was replaced: %q", got)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

func TestWriteAllOfNothingDoesNothing(t *testing.T) {
	if changed, err := WriteAll(); err != nil || changed != nil {
		t.Errorf("%v, %v", changed, err)
	}
}

func TestDiscardRemovesAndToleratesWhatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if _, err := Write(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Discard(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
}

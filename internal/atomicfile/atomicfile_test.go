package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestWriteReportsChangedFromBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := func(data string, mode fs.FileMode, want bool) {
		t.Helper()
		changed, err := Write(path, []byte(data), mode)
		if err != nil {
			t.Fatal(err)
		}
		if changed != want {
			t.Errorf("changed = %t, want %t", changed, want)
		}
		got, _ := os.ReadFile(path)
		info, _ := os.Stat(path)
		if string(got) != data || info.Mode().Perm() != mode {
			t.Errorf("content %q, mode %o", got, info.Mode().Perm())
		}
	}
	write("one", 0o600, true)
	write("one", 0o600, false)
	write("one", 0o644, true)
	write("two", 0o644, true)
	write("", 0o644, true)
	write("", 0o644, false)
}

func TestWriteKeepsTheInodeOfAnUnchangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for range 2 {
		if _, err := Write(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := inode(t, path)
	if _, err := Write(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if inode(t, path) != before {
		t.Error("an unchanged file was rewritten")
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestWriteRefuses(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"a symbolic link": func(p string) error { return os.Symlink("/etc/hostname", p) },
		"a folder":        func(p string) error { return os.Mkdir(p, 0o755) },
		"a FIFO":          func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x")
			if err := prepare(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.Lstat(path)
			_, err := Write(path, []byte("data"), 0o600)
			if fault.ReasonOf(err) != fault.WriteFailed {
				t.Fatalf("got %v", err)
			}
			after, err := os.Lstat(path)
			if err != nil || before.Mode() != after.Mode() {
				t.Error("it was replaced")
			}
			if left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
	t.Run("a missing folder", func(t *testing.T) {
		_, err := Write(filepath.Join(t.TempDir(), "no", "x"), nil, 0o600)
		if fault.ReasonOf(err) != fault.WriteFailed || !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	for i, want := range []struct {
		target  string
		changed bool
	}{{"a", true}, {"a", false}, {"b", true}} {
		changed, err := Symlink(want.target, link)
		if err != nil || changed != want.changed {
			t.Fatalf("step %d: changed %t, err %v", i, changed, err)
		}
	}
	if got, _ := os.Readlink(link); got != "b" {
		t.Errorf("points to %q", got)
	}
	file := filepath.Join(dir, "file")
	if _, err := Write(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Symlink("a", file); fault.ReasonOf(err) != fault.WriteFailed {
		t.Errorf("a regular file was replaced by a link: %v", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, err := Write(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path, 5); err != nil || string(got) != "12345" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := Read(path, 4); err == nil {
		t.Error("a file over the limit was read")
	}
	if _, err := Read(filepath.Join(dir, "none"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	link, fifo := filepath.Join(dir, "l"), filepath.Join(dir, "p")
	_ = os.Symlink(path, link)
	_ = syscall.Mkfifo(fifo, 0o600)
	for _, p := range []string{link, fifo, dir} {
		if _, err := Read(p, 100); err == nil {
			t.Errorf("%s was read", p)
		}
	}
}

func TestMkdirAllAndCleanTemp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	left := filepath.Join(dir, tempPrefix+"dead")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CleanTemp(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Error("left over")
	}
	if err := Remove(left); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

// F31: what a service in a sandbox sees of its mounts is of its start.
func TestAReadOnlyFileSystemSaysToStartTheAgentAgain(t *testing.T) {
	err := failed("/var/lib/kubelet/config.yaml", &fs.PathError{Op: "open", Path: "/var/lib/kubelet/.tmp", Err: syscall.EROFS})
	if got := err.Error(); got != "cannot write /var/lib/kubelet/config.yaml: read-only file system" {
		t.Error(got)
	}
	if hint := fault.HintOf(err); !strings.Contains(hint, "systemctl restart bootstrap-agent") || !strings.Contains(hint, "/var/lib/kubelet`") {
		t.Error(hint)
	}
}

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

// T19: who may write in a folder can put anything in the place of a file there.
func TestNothingIsWrittenWhereOthersMayWrite(t *testing.T) {
	for name, open := range map[string]func(dir string) error{
		"a folder for a group":       func(dir string) error { return os.Chmod(dir, 0o775) },
		"a folder for everybody":     func(dir string) error { return os.Chmod(dir, 0o777) },
		"a folder like /tmp":         func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"a folder of somebody else":  func(dir string) error { return os.Chown(dir, 12345, -1) },
		"a pipe where it should be":  func(dir string) error { return replaced(dir, syscall.Mkfifo(dir+".p", 0o600)) },
		"a file where it should be":  func(dir string) error { return replaced(dir, os.WriteFile(dir+".p", nil, 0o600)) },
		"a link that leads nowhere":  func(dir string) error { return replaced(dir, os.Symlink("/nowhere", dir+".p")) },
		"a link to a folder of them": func(dir string) error { return replaced(dir, openElsewhere(dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "somebody else") && os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			dir := filepath.Join(t.TempDir(), "dir")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := open(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Write(filepath.Join(dir, "x"), []byte("x"), 0o600); fault.ReasonOf(err) != fault.WriteFailed || !strings.Contains(err.Error(), dir) {
				t.Errorf("written, or for another reason: %v", err)
			}
			if _, err := Symlink("x", filepath.Join(dir, "l")); fault.ReasonOf(err) != fault.WriteFailed {
				t.Errorf("linked, or for another reason: %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left there: %v", left)
			}
		})
	}
}

// replaced puts what was made at dir+".p" in the place of the folder.
func replaced(dir string, err error) error {
	if err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	return os.Rename(dir+".p", dir)
}

func openElsewhere(dir string) error {
	theirs := dir + ".theirs"
	if err := os.Mkdir(theirs, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(theirs, 0o777); err != nil {
		return err
	}
	return os.Symlink(theirs, dir+".p")
}

// Who owns a file can change it later: the right bytes are not enough.
func TestAFileOfSomebodyElseIsReplaced(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := filepath.Join(t.TempDir(), "x")
	if _, err := Write(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	old, err := os.OpenFile(path, os.O_WRONLY, 0) // as its owner holds it open
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	if changed, err := Write(path, []byte("x"), 0o600); err != nil || !changed {
		t.Fatalf("changed %t, %v", changed, err)
	}
	if _, err := old.WriteString("his"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("%v, %v", info, err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
}

// What is under way in a folder ends in that folder, whatever takes its name.
func TestAFolderThatIsSwappedMeanwhileIsNotFollowed(t *testing.T) {
	top := t.TempDir()
	dir, aside := filepath.Join(top, "dir"), filepath.Join(top, "aside")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := openFolder(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.writeTemp("t", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(top, "theirs")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(theirs, dir); err != nil {
		t.Fatal(err)
	}
	if err := d.put("t", "x", nil); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(aside, "x")); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	if left, _ := os.ReadDir(theirs); len(left) > 0 {
		t.Errorf("in the other folder: %v", left)
	}
}

// An agent that starts while a command writes takes the command's file for the
// leftover of a crash.
func TestAFileThatACleanupRemovedBeforeItHadItsNameIsMadeOnceMore(t *testing.T) {
	for name, make := range map[string]func(d *folder, temp string) error{
		"a file": func(d *folder, temp string) error { return d.writeTemp(temp, []byte("content"), 0o600) },
		"a link": func(d *folder, temp string) error { return d.symlink("content", temp) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x")
			d, err := openFolder(path)
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			temp, err := tempName()
			if err != nil {
				t.Fatal(err)
			}
			if err := make(d, temp); err != nil {
				t.Fatal(err)
			}
			if err := CleanTemp(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
			made := 0
			if err := d.put(temp, "x", func() error { made++; return make(d, temp) }); err != nil || made != 1 {
				t.Fatalf("made %d times more, %v", made, err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
			if err := d.put(temp, "y", func() error { return errors.New("disk full") }); err == nil || err.Error() != "disk full" {
				t.Errorf("%v", err)
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(path), "y")); err == nil {
				t.Error("there all the same")
			}
		})
	}
}

// A folder that is gone is no reason to try for ever.
func TestAFolderThatIsRemovedUnderAWriteIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "x")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := openFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := os.Remove(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	err = d.put("temp", "x", func() error { return d.writeTemp("temp", nil, 0o600) })
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

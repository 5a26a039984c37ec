package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// fakeCreds is systemd-creds as far as a command line, an environment and a pipe
// go: it writes down what it was shown and answers with what the test says.
func fakeCreds(t *testing.T, answer string) (seen string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" > " + dir + "/seen\nenv >> " + dir + "/seen\ncat > " + dir + "/stdin\n" + answer + "\n"
	if err := os.WriteFile(filepath.Join(dir, "systemd-creds"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return dir
}

func TestATokenIsEncryptedWithoutBeingShown(t *testing.T) {
	d := newDoor(t)
	seen := fakeCreds(t, "echo SEALED")
	d.app.stdin = strings.NewReader(goodToken + "\n")
	d.wantCode(fault.ExitDone, "token", "set", "--encrypt", "--token-file", d.path("token"))
	d.wantText("id zq7w3k")
	d.wantText("systemctl restart bootstrap-agent")
	d.wantNoSecret("x2m5v8b1n4c6y9ta")
	path := d.path("credstore.encrypted/bootstrap-token-encrypted")
	if data, err := os.ReadFile(path); err != nil || string(data) != "SEALED\n" {
		t.Errorf("the credential holds %q, %v", data, err)
	}
	for path, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(seen, "stdin")); string(data) != goodToken {
		t.Errorf("systemd-creds got %q", data)
	}
	shown, _ := os.ReadFile(filepath.Join(seen, "seen"))
	if !strings.HasPrefix(string(shown), "encrypt --name=bootstrap-token-encrypted - -\n") || strings.Contains(string(shown), "x2m5v8b1n4c6y9ta") {
		t.Errorf("systemd-creds was shown %q", shown)
	}
	if _, err := os.Stat(d.path("token")); err == nil {
		t.Error("a token file was written, too")
	}
	d.write("token", goodToken+"\n", 0o600)
	d.app.stdin = strings.NewReader(goodToken + "\n")
	d.wantCode(fault.ExitDone, "token", "set", "--encrypt", "--token-file", d.path("token"))
	d.wantText("is asked first")
}

func TestATokenThatCannotBeEncryptedLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		answer, stdin, want string
		code                int
	}{
		"systemd-creds fails":                  {"echo no key >&2; exit 1", goodToken, "no key", fault.ExitFailed},
		"it gives back nothing":                {"true", goodToken, "nothing that is encrypted", fault.ExitFailed},
		"it gives back the token itself":       {"echo " + goodToken, goodToken, "nothing that is encrypted", fault.ExitFailed},
		"what comes on stdin is no token":      {"echo SEALED", "nonsense", "bootstrap token", fault.ExitConfig},
		"nothing comes on stdin":               {"echo SEALED", "", "token", fault.ExitConfig},
		"the credential's place is not a file": {"echo SEALED", goodToken, "bootstrap-token-encrypted", fault.ExitMachine},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t)
			fakeCreds(t, tc.answer)
			if tc.code == fault.ExitMachine {
				if err := os.MkdirAll(d.path("credstore.encrypted/bootstrap-token-encrypted"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			before := d.files()
			d.app.stdin = strings.NewReader(tc.stdin)
			d.wantCode(tc.code, "token", "set", "--encrypt")
			d.wantText(tc.want)
			d.wantNoSecret("x2m5v8b1n4c6y9ta")
			if after := d.files(); len(after) != len(before) {
				t.Errorf("files %v became %v", before, after)
			}
		})
	}
}

func TestWithoutSystemdCredsTheOtherWayIsNamed(t *testing.T) {
	d := newDoor(t)
	t.Setenv("PATH", t.TempDir())
	d.app.stdin = strings.NewReader(goodToken)
	d.wantCode(fault.ExitMachine, "token", "set", "--encrypt")
	d.wantText("systemd has it from 250 on")
	d.wantText("bootstrap-agent token set")
}

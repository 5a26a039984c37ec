//go:build e2e

package hostile

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// launchEnv makes this test binary a launcher: it runs its arguments and says on
// descriptor 3 what they used. The kernel's figure for a program begins with the
// memory of the process that started it, which for the tests themselves is a lot.
const launchEnv = "HOSTILE_LAUNCH"

var program, scratch string // the program, and a folder that is removed at the end

func TestMain(m *testing.M) {
	if os.Getenv(launchEnv) != "" {
		os.Exit(launch(os.Args[1:]))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // most of the time is spent waiting
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "hostile-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	scratch = dir
	if program, err = packaged(dir); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// packaged takes the program out of the package; without one it is built as the
// package's is.
func packaged(dir string) (string, error) {
	deb := os.Getenv("BOOTSTRAP_AGENT_DEB")
	_, missing := os.Stat(deb)
	if _, err := exec.LookPath("dpkg-deb"); missing != nil || err != nil {
		if out, err := exec.Command("make", "-C", "../..", "build").CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot build the program: %w: %s", err, out)
		}
		return filepath.Abs("../../bin/bootstrap-agent")
	}
	if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot unpack %s: %w: %s", deb, err, out)
	}
	return filepath.Join(dir, "usr/bin/bootstrap-agent"), nil
}

func launch(args []string) int {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if _, err := fmt.Fprintf(os.NewFile(3, "used"), "%d", used.Maxrss); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	return cmd.ProcessState.ExitCode()
}

// ran is one run of the program.
type ran struct {
	code     int
	stdout   string
	stderr   string
	took     time.Duration
	resident int64 // KiB, the most it ever had
}

// check runs `bootstrap-agent check --cluster`, the token on its stdin.
func check(t *testing.T, s *stage, args ...string) (r ran) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{program, "check", "--cluster", "--endpoint", s.host, "--token-file", "-"}, args...)...)
	cmd.Env = append(os.Environ(), launchEnv+"=1")
	cmd.Stdin = strings.NewReader(tokenID + "." + secret + "\n")
	return measured(t, cmd)
}

// verdict is what `-o json` says.
type verdict struct {
	OK     bool
	Reason string
	Error  string
}

func (r ran) verdict(t *testing.T) (v verdict) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("the program printed no document (exit code %d): %v\n%.500s\n%.500s", r.code, err, r.stdout, r.stderr)
	}
	return v
}

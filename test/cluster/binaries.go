package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
)

// Log gets one line at a time: what is being done and how long it took.
type Log func(format string, args ...any)

// Printf logs a line, or does nothing when there is no log.
func (l Log) Printf(format string, args ...any) {
	if l != nil {
		l(format, args...)
	}
}

var binaries = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubelet", "kubeadm", "kubectl"}

// Binaries returns the folder of the real components: KUBE_BIN_DIR if it is
// set, else the cache's. The error says what is missing there; Build makes it.
func Binaries() (string, error) {
	dir := os.Getenv("KUBE_BIN_DIR")
	if dir == "" {
		parent, err := cache.Dir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(parent, "kube")
	}
	return complete(dir)
}

// complete returns dir if all components are in it.
func complete(dir string) (string, error) {
	for _, name := range binaries {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("no real control plane: %w", err)
		}
		if info.Mode()&0o111 == 0 {
			return "", fmt.Errorf("no real control plane: %s/%s cannot be executed", dir, name)
		}
	}
	return dir, nil
}

// Build makes the binaries in the cache, unless KUBE_BIN_DIR names some or they
// are there and up to date (then it takes a moment). A cold build takes 10 to
// 20 minutes on two cores; a line is logged every half minute.
func Build(ctx context.Context, log Log) (string, error) {
	if os.Getenv("KUBE_BIN_DIR") != "" {
		return Binaries()
	}
	if err := build(ctx, "test/cluster/kube/build.sh", "kube", log); err != nil {
		return "", err
	}
	return Binaries()
}

// older is the release that BuildOlder makes: a module of its own below
// test/cluster/kube, and a folder of its own in the cache.
const older = "1.34"

// BuildOlder is Build for an older release, with the same six components. Only
// what is about versions wants it, so nothing else pays for its build.
// KUBE_OLD_BIN_DIR names a folder to use instead, of any older release.
func BuildOlder(ctx context.Context, log Log) (string, error) {
	if dir := os.Getenv("KUBE_OLD_BIN_DIR"); dir != "" {
		return complete(dir)
	}
	name := "kube-" + older
	if err := build(ctx, "test/cluster/kube/v"+older+"/build.sh", name, log); err != nil {
		return "", err
	}
	dir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	return complete(filepath.Join(dir, name))
}

// build runs a build script for the folder of that name in the cache.
func build(ctx context.Context, script, name string, log Log) error {
	source, err := moduleFolder(ctx)
	if err != nil {
		return err
	}
	err = cache.Lock(name, func(dir string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(source, script), filepath.Join(dir, name))
		cmd.Env = append(os.Environ(), "GOFLAGS=") // ours are for the product's module
		return RunWithProgress(cmd, "building the control plane from source ("+name+")", log)
	})
	if err != nil {
		return fmt.Errorf("cannot build the control plane: %w", err)
	}
	return nil
}

// moduleFolder is the top folder of the product's module, asked from go: the
// build script, the manifests and the docs are in the source tree, wherever this
// program runs inside it.
func moduleFolder(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask go for the module: %w", err)
	}
	gomod := strings.TrimSpace(string(out))
	if filepath.Base(gomod) != "go.mod" {
		return "", errors.New("this works only inside the source tree")
	}
	return filepath.Dir(gomod), nil
}

// RunWithProgress runs a long command: each line that it prints is logged with
// the time since the start, and so is every half minute of silence. The command
// and all its children die with ctx, and with this process.
func RunWithProgress(cmd *exec.Cmd, what string, log Log) error {
	var stderr bytes.Buffer
	began := time.Now()
	lines := &lineWriter{line: func(line string) { log.Printf("%s: %s (%s)", what, line, time.Since(began).Round(time.Second)) }}
	cmd.Stdout, cmd.Stderr = lines, &stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%w\n%s", err, tail(stderr.Bytes(), 30))
			}
			return nil
		case <-tick.C:
			log.Printf("%s: still at it (%s)", what, time.Since(began).Round(time.Second))
		}
	}
}

// lineWriter hands on whole lines.
type lineWriter struct {
	rest []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.rest[:i]))
		w.rest = w.rest[i+1:]
	}
}

// tail returns the last n lines.
func tail(text []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

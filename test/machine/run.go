package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Result is how a command in a machine ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command inside the machine as root, and in the machine's disk when
// it is off (then there is no systemd to talk to, but files and packages are
// there). A code other than 0 is no error.
func (m *Machine) Run(ctx context.Context, argv ...string) (Result, error) {
	return m.RunInput(ctx, nil, argv...)
}

// RunInput is Run with something on stdin.
func (m *Machine) RunInput(ctx context.Context, stdin []byte, argv ...string) (Result, error) {
	cmd := m.Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	result := Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if m.Heard != nil {
		m.Heard(argv, result.Stdout+result.Stderr)
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, fmt.Errorf("%q in machine %s: %w: %s%s", argv, m.Name, context.Cause(ctx), result.Stdout, result.Stderr)
	case errors.As(err, &exit) && exit.Exited():
		return result, nil
	case err != nil:
		return result, fmt.Errorf("%q in machine %s: %w", argv, m.Name, err)
	}
	return result, nil
}

// Command is Run's command, for those who need its pipes or its process. It and
// its children in the machine die when ctx ends.
func (m *Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if m.leader != 0 {
		cmd = exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.leader), "--all", "--"}, argv...)...)
	} else {
		const script = `mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
mount -t proc proc "$2/merged/proc"
merged=$2/merged; shift 2; exec chroot "$merged" "$@"`
		cmd = exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
			"sh", "-ec", script, "sh", m.lab.root, m.dir}, argv...)...)
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// nsenter's child is in the machine's PID namespace, but in our group.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// Output is Run for commands that must succeed: its error holds what they said.
func (m *Machine) Output(ctx context.Context, argv ...string) (string, error) {
	return m.output(m.Run(ctx, argv...))(argv)
}

// RunScript runs a script with bash -euo pipefail; it must succeed.
func (m *Machine) RunScript(ctx context.Context, script string) (string, error) {
	argv := []string{"bash", "-euo", "pipefail", "-s"}
	return m.output(m.RunInput(ctx, []byte(script), argv...))(argv)
}

func (m *Machine) output(result Result, err error) func(argv []string) (string, error) {
	return func(argv []string) (string, error) {
		if err == nil && result.Code != 0 {
			err = fmt.Errorf("%q in machine %s: exit code %d: %s%s", argv, m.Name, result.Code, result.Stdout, result.Stderr)
		}
		return result.Stdout, err
	}
}

// WriteFile puts one file into the machine, on or off, with its folders.
func (m *Machine) WriteFile(ctx context.Context, path, content string, mode os.FileMode) error {
	return m.WriteFiles(ctx, map[string]File{path: {content, mode}})
}

// WriteFiles puts files into the machine, on or off, with their folders.
func (m *Machine) WriteFiles(ctx context.Context, files map[string]File) error {
	packed, err := tarOf(files)
	if err != nil {
		return err
	}
	argv := []string{"tar", "-x", "-C", "/"}
	_, err = m.output(m.RunInput(ctx, packed, argv...))(argv)
	return err
}

// ReadFile reads a file of the machine, on or off. A missing file is
// os.ErrNotExist.
func (m *Machine) ReadFile(ctx context.Context, path string) (string, error) {
	result, err := m.Run(ctx, "cat", "--", path)
	if err != nil {
		return "", err
	}
	if result.Code != 0 {
		if strings.Contains(result.Stderr, "No such file or directory") {
			return "", fmt.Errorf("%s in machine %s: %w", path, m.Name, os.ErrNotExist)
		}
		return "", fmt.Errorf("%s in machine %s: %s", path, m.Name, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, nil
}

// Journal returns what a unit wrote since the machine booted.
func (m *Machine) Journal(ctx context.Context, unit string) (string, error) {
	return m.Output(ctx, "journalctl", "--boot", "--no-pager", "--output=short-precise", "--unit="+unit)
}

// InstallDeb installs a package file of this host as an administrator would,
// with apt-get install ./x.deb. Machines have no way to a mirror: what the
// package depends on must be in the root folder.
func (m *Machine) InstallDeb(ctx context.Context, path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	inside := "/srv/" + filepath.Base(path)
	if err := m.WriteFile(ctx, inside, string(content), 0); err != nil {
		return "", err
	}
	return m.Output(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", inside)
}

// Drop makes the machine's packets to an endpoint disappear, as a firewall on
// the way would; Undrop ends that for all endpoints. Both need the machine on,
// and a reboot ends it too.
func (m *Machine) Drop(ctx context.Context, endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return err
	}
	_, err = m.RunScript(ctx, fmt.Sprintf(`nft add table inet lab
nft add chain inet lab output '{ type filter hook output priority 0; }'
nft add rule inet lab output ip daddr %s tcp dport %s drop
`, host, port))
	return err
}

// Undrop lets all packets through again.
func (m *Machine) Undrop(ctx context.Context) error {
	_, err := m.Output(ctx, "nft", "delete", "table", "inet", "lab")
	return err
}

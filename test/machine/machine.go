package machine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// File is a file to put into a machine. Mode 0 is 0644.
type File struct {
	Content string
	Mode    fs.FileMode
}

// Options of a machine.
type Options struct {
	Name       string          // host name, and so the node's name
	Kubelet    string          // a kubelet of this host to be /usr/bin/kubelet there; none if empty
	Containerd bool            // containerd runs from the first boot on
	CNI        bool            // a network configuration, so that the node becomes Ready
	CloudInit  bool            // cloud-init runs (put its seed into Files)
	Files      map[string]File // put in before the first boot
	Binds      []string        // more --bind-ro= of systemd-nspawn: host path, or host path:path there
	HasConsole bool            // ConsoleLog then holds what systemd says, from its first word on
	// Credentials are systemd's, by name, given to the machine from outside at
	// each of its boots: they are in none of its files.
	Credentials map[string]string
	// Heard is told what each command said that Run ran, from several goroutines;
	// it may be nil.
	Heard func(argv []string, said string)
}

// Machine is one throwaway machine. Its methods may be called by one goroutine
// at a time, Run and what is built on it by several.
type Machine struct {
	Options
	Address string // of its eth0

	lab     *Lab
	k       int
	id      string // its name on the host: link, cgroup
	dir     string
	gateway string
	cmd     *exec.Cmd
	done    chan struct{} // closed when it is off
	leader  int           // the host's number of its first process; 0 when off
}

// CNIConfig makes a node Ready: a pair of links for each pod, addresses counted
// on the machine itself, no route to other nodes.
const CNIConfig = `{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

// CNIPath is where CNIConfig goes.
const CNIPath = "/etc/cni/net.d/10-lab.conflist"

func (m *Machine) prepare(ctx context.Context) error {
	for _, name := range []string{"upper", "work", "merged", "containerd"} {
		if err := os.MkdirAll(filepath.Join(m.dir, name), 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"netns": "", "cgroups": "", "boot.sh": bootScript} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	files := map[string]File{
		// An identity of its own from the start: without one systemd would take
		// this for a first boot and enable every service there is.
		"/etc/machine-id":  {hex.EncodeToString(id) + "\n", 0o444},
		"/etc/hostname":    {m.Name + "\n", 0},
		"/etc/hosts":       {fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", m.Address, m.Name), 0},
		"/etc/resolv.conf": {"# nobody answers there, at once\nnameserver " + m.lab.Address + "\n", 0},
	}
	if m.CNI {
		files[CNIPath] = File{CNIConfig, 0}
	}
	for path, file := range m.Files {
		files[path] = file
	}
	if err := m.WriteFiles(ctx, files); err != nil {
		return err
	}
	for name, secret := range m.Credentials {
		if err := os.WriteFile(m.credential(name), []byte(secret), 0o600); err != nil {
			return err
		}
	}
	if m.Containerd {
		if _, err := m.Output(ctx, "systemctl", "enable", "--quiet", "containerd.service"); err != nil {
			return err
		}
	}
	if m.CloudInit {
		if _, err := m.Output(ctx, "rm", "/etc/cloud/cloud-init.disabled"); err != nil {
			return err
		}
	}
	return nil
}

// Boot boots the machine and returns when basic.target is reached and the bus
// answers; services may still be starting (AwaitRunning).
func (m *Machine) Boot(ctx context.Context) error {
	if m.leader != 0 {
		return fmt.Errorf("machine %s is on already", m.Name)
	}
	began := time.Now()
	if err := m.start(ctx); err != nil {
		return errors.Join(fmt.Errorf("cannot boot machine %s: %w", m.Name, err), m.kill())
	}
	err := await.Until(ctx, "machine "+m.Name+" to boot", 25*time.Millisecond, func(ctx context.Context) error {
		select {
		case <-m.done:
			return await.Stop(fmt.Errorf("it went off:\n%s", m.Console()))
		default:
		}
		if m.leader = m.findLeader(); m.leader == 0 {
			return errors.New("no first process yet")
		}
		result, err := m.Run(ctx, "systemctl", "is-active", "basic.target", "dbus.service")
		if err != nil {
			return err
		}
		if result.Code != 0 {
			return fmt.Errorf("basic.target and dbus.service: %q", strings.Fields(result.Stdout+result.Stderr))
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, m.kill())
	}
	m.lab.log.Printf("machine %s is up after %s", m.Name, time.Since(began).Round(10*time.Millisecond))
	return nil
}

// credential is where a credential lies on this host, beside the machine's disk.
func (m *Machine) credential(name string) string {
	return filepath.Join(m.dir, "credential-"+name)
}

func (m *Machine) start(ctx context.Context) error {
	args := []string{
		"--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", filepath.Join(m.dir, "boot.sh"), m.id, m.dir, m.lab.root, m.Address + "/30", m.gateway,
		"--hostname=" + m.Name, "--bind=" + filepath.Join(m.dir, "containerd") + ":/var/lib/containerd",
	}
	if m.Kubelet != "" {
		args = append(args, "--bind-ro="+m.Kubelet+":/usr/bin/kubelet")
	}
	for _, bind := range m.Binds {
		args = append(args, "--bind-ro="+bind)
	}
	if m.HasConsole {
		args = append(args, "--console=read-only") // the last one counts
	}
	for name := range m.Credentials {
		args = append(args, "--load-credential="+name+":"+m.credential(name))
	}
	name, env := "unshare", os.Environ()
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		// systemd owns the cgroups of this host: it hands us one.
		args = append([]string{"--scope", "--quiet", "--collect", "--slice=system.slice", "--property=Delegate=yes",
			"--unit=" + m.id, "--", "unshare"}, args...)
		name, env = "systemd-run", append(env, "LAB_IN_SCOPE=1")
	}
	console, err := os.OpenFile(filepath.Join(m.dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }() // the child has its own copy
	ready, say, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }() // read once
	cmd := exec.Command(name, args...)   // not bound to ctx: it outlives this call
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = env, console, console, []*os.File{say}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, say.Close())
	}
	err = cmd.Start()
	_ = say.Close() // the child has its own copy
	if err != nil {
		return err
	}
	m.cmd, m.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // that it ended is all there is to know; why is on the console
		close(done)
	}(m.done)

	stop := context.AfterFunc(ctx, func() { _ = ready.Close() }) // ends the read below
	defer stop()
	if line, err := bufio.NewReader(ready).ReadString('\n'); line != "ready\n" {
		return fmt.Errorf("the boot script did not get ready: %w\n%s", err, m.Console())
	}
	if err := m.plugIn(ctx); err != nil {
		return err
	}
	_, err = stdin.Write([]byte("go\n"))
	return errors.Join(err, stdin.Close())
}

// plugIn makes the pair of links. What comes out of the machine is for this
// host only: it is not forwarded, whatever the host does otherwise.
func (m *Machine) plugIn(ctx context.Context) error {
	if err := removeLink(ctx, m.id); err != nil { // of the machine's former boot, if the kernel has not got to it
		return err
	}
	if err := ip(ctx, "link", "add", m.id, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.cmd.Process.Pid)); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+m.id+"/forwarding", []byte("0"), 0o644); err != nil {
		return err
	}
	if err := ip(ctx, "address", "add", m.gateway+"/30", "dev", m.id); err != nil {
		return err
	}
	return ip(ctx, "link", "set", m.id, "up")
}

// findLeader finds the machine's own first process: the one below ours that is
// number 1 in a PID namespace inside that of the boot script.
func (m *Machine) findLeader() int {
	parents, ones := map[int]int{}, []int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	depth := 0
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err != nil {
			continue // gone meanwhile
		}
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "PPid:"); ok {
				parents[pid], _ = strconv.Atoi(strings.TrimSpace(value)) // the kernel's own text
			}
			if value, ok := strings.CutPrefix(line, "NSpid:"); ok {
				numbers := strings.Fields(value)
				if pid == m.cmd.Process.Pid {
					depth = len(numbers) + 2
				}
				if len(numbers) > 2 && numbers[len(numbers)-1] == "1" {
					ones = append(ones, pid, len(numbers))
				}
			}
		}
	}
	for i := 0; i < len(ones); i += 2 {
		if ones[i+1] != depth {
			continue
		}
		for pid := ones[i]; pid > 1; pid = parents[pid] {
			if pid == m.cmd.Process.Pid {
				return ones[i]
			}
		}
	}
	return 0
}

// HostPID is this host's number of a process of the machine; 0 if there is none.
func (m *Machine) HostPID(pid int) int {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.leader))
	if err != nil {
		return 0
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		host, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if theirs, err := os.Readlink(filepath.Join("/proc", entry.Name(), "ns/pid")); err != nil || theirs != ours {
			continue
		}
		status, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "status"))
		if err != nil {
			continue // gone meanwhile
		}
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "NSpid:"); ok && strings.HasSuffix(strings.TrimSpace(value), "\t"+strconv.Itoa(pid)) {
				return host
			}
		}
	}
	return 0
}

// On tells whether the machine is on.
func (m *Machine) On() bool { return m.leader != 0 }

// AwaitRunning waits until no start job is left, and names the units that failed.
func (m *Machine) AwaitRunning(ctx context.Context) error {
	result, err := m.Run(ctx, "systemctl", "is-system-running", "--wait")
	if err != nil || result.Code == 0 {
		return err
	}
	failed, err := m.Run(ctx, "systemctl", "list-units", "--failed", "--no-legend", "--plain")
	if err != nil {
		return err
	}
	return fmt.Errorf("machine %s is %s: %s", m.Name, strings.TrimSpace(result.Stdout), strings.TrimSpace(failed.Stdout))
}

// Poweroff shuts the machine down in order and waits until it is off.
func (m *Machine) Poweroff(ctx context.Context) error {
	if m.leader == 0 {
		return nil
	}
	const poweroff = syscall.Signal(34 + 4) // SIGRTMIN+4, see systemd(1)
	if err := syscall.Kill(m.leader, poweroff); err != nil {
		return fmt.Errorf("cannot power off machine %s: %w", m.Name, err)
	}
	select {
	case <-m.done:
		m.leader = 0
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("machine %s does not power off: %w\n%s", m.Name, context.Cause(ctx), m.Console()), m.kill())
	}
}

// Reboot shuts the machine down in order and boots it again on the same disk.
func (m *Machine) Reboot(ctx context.Context) error {
	if err := m.Poweroff(ctx); err != nil {
		return err
	}
	return m.Boot(ctx)
}

// KillHard ends every process of the machine at once, as a power cut would; what
// was written stays, as the page cache does not die with it.
func (m *Machine) KillHard() error { return m.kill() }

func (m *Machine) kill() error {
	if m.cmd == nil || m.cmd.Process == nil {
		return nil
	}
	if m.leader != 0 {
		_ = syscall.Kill(m.leader, syscall.SIGKILL) // gone already is well; the rest follows it
	} else {
		_ = m.cmd.Process.Kill()
	}
	m.leader = 0
	timer := time.NewTimer(killGrace)
	defer timer.Stop()
	select {
	case <-m.done:
		return nil
	case <-timer.C:
		_ = m.cmd.Process.Kill() // the whole of it, unfinished business and all
		return fmt.Errorf("machine %s did not die within %s", m.Name, killGrace)
	}
}

// Close removes the machine, whatever state it is in. Twice is once.
func (m *Machine) Close() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(m.lab.base, 2*killGrace)
	defer cancel()
	faults := []error{m.kill()}
	if list := filepath.Join(m.dir, "cgroups"); m.cmd != nil {
		faults = append(faults, removeCgroups(ctx, list))
	}
	m.cmd = nil
	faults = append(faults, removeLink(ctx, m.id), os.RemoveAll(m.dir))
	m.lab.forget(m)
	return errors.Join(faults...)
}

// Console returns the last lines of the machine's console.
func (m *Machine) Console() string {
	text, err := m.ConsoleLog()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// ConsoleLog returns all that the machine's console showed, over all its boots.
// What systemd says before there is a journal stands only there, given HasConsole.
func (m *Machine) ConsoleLog() (string, error) {
	text, err := os.ReadFile(filepath.Join(m.dir, "console.log"))
	return string(text), err
}

// tarOf packs files for a tar that unpacks at the root.
func tarOf(files map[string]File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for path, file := range files {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q is not an absolute path", path)
		}
		mode := file.Mode
		if mode == 0 {
			mode = 0o644
		}
		header := &tar.Header{Name: strings.TrimPrefix(filepath.Clean(path), "/"), Mode: int64(mode.Perm()), Size: int64(len(file.Content)), ModTime: time.Now()}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(file.Content)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

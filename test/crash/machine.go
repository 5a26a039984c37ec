// Package crash runs the agent as a process that can really be killed, on a real
// file system, against any API server: the rooms are the shipped ones, put
// together in a child of the test's own program; only systemd and the kubelet are
// doubles, and they live in the parent, so that they survive what they watch. The
// kubelet's double loads the files that lie there with the kubelet's own code.
//
// It also reads what strace saw of such an agent, or of one on a machine: in what
// order files were written, synced and renamed, and what of them a power cut could
// have left (see Trace).
//
// It never decides what is right: the scenarios in test/e2e do. It writes only
// into its scratch folders and leaves none behind.
//
//	Cluster --New--> Machine --Start--> Life (a process: Kill, Await) ; strace --> Trace --> crash states
package crash

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Cluster is what a machine's administrator gave to its agent.
type Cluster struct{ Endpoint, Pin, Token string }

// Machine is a machine in a scratch folder.
type Machine struct {
	Spec  Spec
	Dir   string
	Units *testsystemd.Manager
	// Register is called instead of the registration with a real API server.
	Register func() error

	listener net.Listener
	closed   chan struct{}

	mu       sync.Mutex // guards what follows
	loaded   string     // what the kubelet read when it started last
	failures []string   // of its starts
}

// New makes a machine on which nothing has happened. Close it.
func New(name string, to Cluster) (*Machine, error) {
	dir, err := os.MkdirTemp("", "crash") // short: a socket lies in it
	if err != nil {
		return nil, err
	}
	m := &Machine{Dir: dir, closed: make(chan struct{})}
	m.Spec = Spec{
		Paths: agent.Paths{
			State: dir + "/state", Run: dir + "/run", Kubelet: dir + "/kubelet", Units: dir + "/units", Etc: dir + "/etc",
		},
		Root: dir, Endpoint: to.Endpoint, Pin: to.Pin, TokenFile: dir + "/token", NodeName: name, BootID: newBootID(),
		Kubelet: dir + "/kubelet-binary", Socket: dir + "/systemd",
	}
	m.Units = &testsystemd.Manager{Monotonic: agent.Monotonic, OnStart: m.start}
	faults := []error{
		os.Mkdir(m.Spec.Paths.Units, 0o755),
		os.WriteFile(m.Spec.TokenFile, []byte(to.Token+"\n"), 0o600),
		os.WriteFile(m.Spec.Kubelet, []byte("#!/bin/true\n"), 0o700),
	}
	if err := errors.Join(faults...); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if m.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "unix", m.Spec.Socket); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go m.serve(m.listener)
	return m, nil
}

// Close removes the machine. Its agents are dead already.
func (m *Machine) Close() error {
	close(m.closed)
	return errors.Join(m.listener.Close(), os.RemoveAll(m.Dir))
}

func newBootID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	text := hex.EncodeToString(b)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// Files are the kubelet's.
func (m *Machine) Files() kubelet.Files {
	return kubelet.Files{Layout: kubelet.Layout{Dir: m.Spec.Paths.Kubelet}}
}

// PairUsable tells whether the pair that lies there, through its link, is one that
// the kubelet can use.
func (m *Machine) PairUsable() bool {
	pair, err := os.ReadFile(m.Files().CurrentPair())
	return err == nil && kubelet.JudgePair(pair, m.Spec.NodeName, time.Now()).Status == kubelet.PairUsable
}

// Folders are those that the agent writes into.
func (m *Machine) Folders() []string {
	p := m.Spec.Paths
	return []string{p.State, p.Run, p.Kubelet, p.Units}
}

// Reboot ends the boot: systemd forgets what does not survive it, and starts no
// kubelet by itself, so that what the agent does is seen.
func (m *Machine) Reboot() {
	m.Spec.BootID = newBootID()
	m.Units.Reboot()
}

// Stale tells whether the kubelet that runs was started on other files than those
// that lie there now.
func (m *Machine) Stale() bool {
	now := m.inputs()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loaded != now
}

// Failures are what the kubelet said when it could not start.
func (m *Machine) Failures() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.failures...)
}

func (m *Machine) inputs() string {
	var all strings.Builder
	for _, path := range []string{m.Files().CurrentPair(), m.Files().CACert(), m.Files().Kubeconfig()} {
		data, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %q %v\n", path, data, err)
	}
	return all.String()
}

// Life is one run of the agent's process.
type Life struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
	err    error // of the process; there when ended is closed

	mu      sync.Mutex
	last    agent.Status
	told    int // how many
	changed chan struct{}
}

// Start starts the agent; wrap goes before its command line (strace).
func (m *Machine) Start(wrap ...string) (*Life, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	argv := append(append([]string(nil), wrap...), self)
	spec, err := json.Marshal(m.Spec)
	if err != nil {
		return nil, err
	}
	l := &Life{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{}), changed: make(chan struct{})} //nolint:noctx // it is killed
	l.cmd.Env = append(os.Environ(), childEnv+"=1")
	l.cmd.Stdin, l.cmd.Stderr = bytes.NewReader(spec), &l.stderr
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break // it is dead
			}
			l.note(line)
		}
		l.err = l.cmd.Wait()
		close(l.ended)
	}()
	return l, nil
}

func (l *Life) note(line []byte) {
	var s agent.Status
	if json.Unmarshal(line, &s) != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = s
	l.told++
	close(l.changed)
	l.changed = make(chan struct{})
}

// PID is its number.
func (l *Life) PID() int { return l.cmd.Process.Pid }

// Log is what it wrote.
func (l *Life) Log() string {
	<-l.ended
	return l.stderr.String()
}

// Status is what it told last; false: nothing yet.
func (l *Life) Status() (agent.Status, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.told > 0
}

// Await returns the first status from now on, or the last one told, that is
// wanted. ok is false when the process has ended or the time is over.
func (l *Life) Await(within time.Duration, want func(agent.Status) bool) (s agent.Status, ok bool) {
	over := time.NewTimer(within)
	defer over.Stop()
	for {
		l.mu.Lock()
		s, told, changed := l.last, l.told, l.changed
		l.mu.Unlock()
		if told > 0 && want(s) {
			return s, true
		}
		select {
		case <-changed:
		case <-l.ended:
			s, _ := l.Status()
			return s, want(s)
		case <-over.C:
			return s, false
		}
	}
}

// Ended is closed when the process is gone.
func (l *Life) Ended() <-chan struct{} { return l.ended }

// Kill kills it, as kill -9 does, and waits until it is gone.
func (l *Life) Kill() { l.end(syscall.SIGKILL) }

// Stop ends it in order and returns its exit code.
func (l *Life) Stop() int {
	l.end(syscall.SIGTERM)
	return l.cmd.ProcessState.ExitCode()
}

func (l *Life) end(sig syscall.Signal) {
	_ = l.cmd.Process.Signal(sig) // it may be gone already
	<-l.ended
}

// Managed lists the files and links that lie in the machine's folders now.
func (m *Machine) Managed() ([]string, error) {
	var out []string
	for _, dir := range m.Folders() {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil && !entry.IsDir() {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Wipe forgets the unit, as a fresh disk does. The files are the caller's.
func (m *Machine) Wipe() {
	m.Units.Change(func(u *systemd.Unit) { *u = systemd.Unit{} })
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded, m.failures = "", nil
}

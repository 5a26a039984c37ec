package cluster

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// process is one component: started once, waited for by one goroutine, its
// output in one file.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process is gone
	err  error         // how it ended; read it only after done
}

// start runs a component in a process group of its own (so that a Ctrl-C in the
// terminal reaches us first) that the kernel kills when this process dies.
func (c *Cluster) start(name string, args ...string) (*process, error) {
	path := filepath.Join(c.Dir, name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own copy
	p := &process{name: name, log: path, done: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(c.Bin, name), args...)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ended returns an error with the last words of a process that is gone.
func (p *process) ended() error {
	select {
	case <-p.done:
		text, err := os.ReadFile(p.log)
		if err != nil {
			return fmt.Errorf("%s ended: %w (and its log cannot be read: %w)", p.name, p.err, err)
		}
		return fmt.Errorf("%s ended (%v):\n%s", p.name, p.cmd.ProcessState, tail(text, 12))
	default:
		return nil
	}
}

// stop asks, waits for grace (0: does not ask), kills, and returns only when the
// process is gone: until then its port is in use.
func (p *process) stop(grace time.Duration) {
	if p == nil {
		return
	}
	if grace > 0 {
		p.signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

// signal reaches the whole group; a group that is gone already is no fault.
func (p *process) signal(sig syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, sig) }

// freePorts asks the kernel for ports nobody listens on. All are held until the
// last is known, so they differ.
func freePorts(address string, n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			return nil, fmt.Errorf("no free port on %s: %w", address, err)
		}
		defer func() { _ = l.Close() }() // it accepted nothing
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

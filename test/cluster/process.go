package cluster

import (
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

// ProcessorTime is what a component has used of the processors since it was
// started, itself and the kernel for it.
func (c *Cluster) ProcessorTime(name string) (time.Duration, error) {
	c.mu.Lock()
	p := c.running[name]
	c.mu.Unlock()
	if p == nil {
		return 0, fmt.Errorf("%s does not run", name)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return ParseProcessorTime(string(text))
}

// ClockTick is the unit of times in /proc/PID/stat: USER_HZ, a hundredth of a
// second wherever Linux runs.
const ClockTick = 10 * time.Millisecond

// ParseProcessorTime reads utime + stime of a /proc/PID/stat: fields 14 and 15,
// counted behind the name in brackets.
func ParseProcessorTime(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat has %d fields", len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * ClockTick, nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// started is one measured start.
type started struct {
	seen time.Duration // from the start to the Node in the API
	own  time.Duration // the agent alone: from its process's start to the kubelet's start job
	box  time.Duration // the agent alone: of that, systemd's part, until it executes the program; 0: unknown
	path []agent.Step  // the agent alone

	process time.Time // the agent alone: the start of its process
}

// startLimit bounds one start with all that comes before and after it.
const startLimit = 3 * time.Minute

// start measures one start on a machine that is made for it and gone afterwards.
func (b *bench) start(ctx context.Context, c contestant, name string, cold bool) (s started, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("%s took more than %s", name, startLimit))
	defer cancel()
	m, err := b.boot(ctx, c, name)
	defer func() { err = errors.Join(err, b.remove(m, name)) }()
	if err != nil {
		return s, err
	}
	if s.seen, err = b.time(ctx, c, m, cold); err != nil {
		return s, err
	}
	if c.key == agentKey {
		if err = s.readOwn(ctx, m); err == nil && b.execs != nil {
			s.box, err = b.readSandbox(ctx, m)
		}
	}
	return s, err
}

// boot makes a machine in the state from which everybody starts: it runs,
// nothing is being started any more, containerd is there.
func (b *bench) boot(ctx context.Context, c contestant, name string) (*machine.Machine, error) {
	o := machine.Options{Name: name, Kubelet: b.bin + "/kubelet", Containerd: true, CNI: true}
	if err := c.prepare(b, ctx, &o); err != nil {
		return nil, err
	}
	m, err := b.lab.New(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := m.Boot(ctx); err != nil {
		return m, err
	}
	if err := m.AwaitRunning(ctx); err != nil {
		return m, err
	}
	if _, err := m.Output(ctx, "systemctl", "is-active", "containerd.service"); err != nil {
		return m, err
	}
	if c.install != nil {
		if err := c.install(b, ctx, m); err != nil {
			return m, err
		}
	}
	return m, nil
}

// remove is due after an interrupt, too.
func (b *bench) remove(m *machine.Machine, name string) error {
	err := m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, b.cluster.DeleteNode(ctx, name))
}

// time takes the time from the start to the first event of the Node, as a watch
// on this host sees it that was opened before.
func (b *bench) time(ctx context.Context, c contestant, m *machine.Machine, cold bool) (time.Duration, error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	seen, err := b.api.watchNode(watching, m.Name)
	if err != nil {
		return 0, err
	}
	syscall.Sync() // what installing wrote is not written out meanwhile
	if cold {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200); err != nil {
			return 0, err
		}
	}
	if !awaitQuiet(ctx) {
		b.restless++
	}
	select {
	case <-seen:
		return 0, fmt.Errorf("%s: the node is there before anything was started", m.Name)
	default:
	}
	cmd := m.Command(ctx, c.start(b)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	var failed error // read it only after ended
	go func() {
		defer close(ended)
		failed = cmd.Wait()
	}()
	defer func() {
		_ = cmd.Cancel() // it is not needed any more; it may have ended
		<-ended
	}()
	running := ended
	for {
		select {
		case at, ok := <-seen:
			if !ok {
				return 0, fmt.Errorf("%s: the watch ended before the node was seen: %w", m.Name, context.Cause(ctx))
			}
			return at.Sub(began), nil
		case <-running:
			if failed != nil {
				return 0, fmt.Errorf("%s: %w: %s", m.Name, failed, out.String())
			}
			running = nil // it is done; the node is still to come
		}
	}
}

// awaitQuiet waits until this host has little else to do: at most a tenth of
// its processors' time for half a second. It gives up after ten seconds.
func awaitQuiet(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	busy, all, err := processorTime()
	if err != nil {
		return false
	}
	for range 20 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(500 * time.Millisecond):
		}
		busyNow, allNow, err := processorTime()
		if err != nil {
			return false
		}
		if allNow > all && (busyNow-busy)*10 <= allNow-all {
			return true
		}
		busy, all = busyNow, allNow
	}
	return false
}

// processorTime reads the first line of /proc/stat: user nice system idle iowait ...
func processorTime() (busy, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, word := range strings.Fields(line)[1:] {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		if i >= 8 {
			break // guest time is in user time already
		}
		all += n
		if i != 3 && i != 4 {
			busy += n
		}
	}
	return busy, all, nil
}

// readOwn reads from the agent's own timeline and from systemd how long the
// agent took from the start of its process until it asked for the kubelet.
func (s *started) readOwn(ctx context.Context, m *machine.Machine) error {
	micro, err := stampOf(ctx, m, "ExecMainStartTimestamp")
	if err != nil {
		return err
	}
	s.process = time.UnixMicro(micro)
	return await.Until(ctx, "the agent's timeline", 50*time.Millisecond, func(ctx context.Context) error {
		status, err := readStatus(ctx, m)
		if err != nil {
			return err
		}
		for _, step := range status.Timeline {
			if step.Name == agent.StepStart && step.Seconds != nil {
				s.own, s.path = step.Start.Sub(s.process), status.Timeline
				return nil
			}
		}
		return errors.New("the kubelet has not been started by the agent")
	})
}

// readSandbox takes the time from systemd's stamp of the process, which is that
// of the fork, to the execution of the program.
func (b *bench) readSandbox(ctx context.Context, m *machine.Machine) (time.Duration, error) {
	micro, err := stampOf(ctx, m, "ExecMainStartTimestampMonotonic")
	if err != nil {
		return 0, err
	}
	forked := time.Duration(micro) * time.Microsecond
	executed, err := b.execs.after(forked)
	return executed - forked, err
}

// stampOf reads one of systemd's time stamps of the agent's process, in microseconds.
func stampOf(ctx context.Context, m *machine.Machine, property string) (micro int64, err error) {
	out, err := m.Output(ctx, "busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1/unit/bootstrap_2dagent_2eservice",
		"org.freedesktop.systemd1.Service", property)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(out, "t %d", &micro); err != nil {
		return 0, fmt.Errorf("%s is %q: %w", property, out, err)
	}
	return micro, nil
}

func readStatus(ctx context.Context, m *machine.Machine) (s agent.Status, err error) {
	text, err := m.ReadFile(ctx, agent.DefaultPaths().StatusFile())
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(text), &s)
}

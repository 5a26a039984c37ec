// Package testsystemd is a systemd in one value: as much of one as
// kubelet.service needs. The agent's in-process tests use it, and so does the
// rehearsal of `make demo`, which shows the agent to somebody who is not root.
//
// Units are written to the folder that the agent names and read back from it,
// states and monotonic time stamps move as the real manager moves them; nothing
// is ever executed: instead of a process, OnStart is called. Claims about the
// real systemd are never based on it: those stand in test/e2e.
//
//	agent.Units calls -> Manager{unit state} -> OnStart (the test registers a Node)
package testsystemd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Manager is the fake. The zero value has no kubelet unit at all; set the
// exported fields before it is used.
type Manager struct {
	// Monotonic is the clock of the time stamps; nil: since the Manager was first used.
	Monotonic func() time.Duration
	// OnStart is called when the kubelet is started, with its argv; its error
	// fails the start job. A *systemd.JobError is the end of the job itself: the unit is
	// inactive then.
	OnStart func(argv []string) error
	// OnStop is called when it is stopped.
	OnStop func()

	mu       sync.Mutex
	began    time.Time
	unit     systemd.Unit
	watchers []chan struct{}
	calls    []string
	lines    []string
	searches int
	reached  []string
}

// Calls lists what was asked to change, in order: "install", "start", ...
func (m *Manager) Calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

// Change changes the unit as a person or a crash would, and ticks the watchers.
func (m *Manager) Change(f func(*systemd.Unit)) {
	m.mu.Lock()
	was, stamp := m.unit.Running(), m.unit.ActiveExitMonotonic
	f(&m.unit)
	if was && !m.unit.Running() && m.unit.ActiveExitMonotonic == stamp {
		m.unit.ActiveExitMonotonic = uint64(m.now() / time.Microsecond)
	}
	m.mu.Unlock()
	m.tick()
}

// SetLines sets what LastLines returns and Said searches.
func (m *Manager) SetLines(lines ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = lines
}

// StopByHand is `systemctl stop kubelet`.
func (m *Manager) StopByHand() {
	m.Change(func(u *systemd.Unit) {
		u.ActiveState, u.SubState, u.MainPID, u.Result = "inactive", "dead", 0, "success"
	})
}

// Reboot forgets everything that a boot does not survive.
func (m *Manager) Reboot() {
	m.Change(func(u *systemd.Unit) {
		u.ActiveState, u.SubState, u.MainPID, u.Result = "inactive", "dead", 0, "success"
		u.ActiveEnterMonotonic, u.ExecMainStartMonotonic, u.ActiveExitMonotonic = 0, 0, 0
		u.ConditionResult = false
	})
}

// Unit returns the unit as systemd would show it.
func (m *Manager) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	if err := ctx.Err(); err != nil {
		return systemd.Unit{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.unit
	if name != systemd.KubeletUnit {
		u = systemd.Unit{} // there is no other
	}
	u.Name = name
	if u.LoadState == "" {
		u.LoadState, u.ActiveState, u.SubState = "not-found", "inactive", "dead"
	}
	u.DropInPaths = slices.Clone(u.DropInPaths)
	return u, nil
}

// Existing says whose the unit is: ours once installed, unless Change made
// FragmentPath point elsewhere before.
func (m *Manager) Existing(ctx context.Context, dir string) (systemd.Existing, error) {
	u, err := m.Unit(ctx, systemd.KubeletUnit)
	if err != nil {
		return systemd.Existing{}, err
	}
	path := filepath.Join(dir, systemd.KubeletUnit)
	switch {
	case u.FragmentPath == "":
		return systemd.Existing{Owner: systemd.OwnerNone, Path: path, Unit: u}, nil
	case u.FragmentPath == path:
		return systemd.Existing{Owner: systemd.OwnerOurs, Path: path, Unit: u}, nil
	}
	return systemd.Existing{Owner: systemd.OwnerAlien, Path: u.FragmentPath, Unit: u, Read: slices.Clone(u.EnvironmentFiles)}, nil
}

// Install writes the files below dir and loads them.
func (m *Manager) Install(ctx context.Context, dir string, _ systemd.Existing, r systemd.Rendered, enable bool) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	for _, f := range r.Files(dir) {
		if err := atomicfile.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return changed, err
		}
		written, err := atomicfile.Write(f.Path, f.Data, 0o644)
		if err != nil {
			return changed, err
		}
		changed = changed || written
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, "install")
	u := &m.unit
	u.LoadState = "loaded"
	if u.ActiveState == "" {
		u.ActiveState, u.SubState = "inactive", "dead"
	}
	if u.FragmentPath == "" {
		u.FragmentPath = filepath.Join(dir, systemd.KubeletUnit)
	}
	if enable && u.UnitFileState != "enabled" {
		u.UnitFileState, changed = "enabled", true
	}
	dropIn := filepath.Join(dir, systemd.KubeletUnit+".d", systemd.DropInName)
	if !slices.Contains(u.DropInPaths, dropIn) {
		u.DropInPaths = append(u.DropInPaths, dropIn)
	}
	u.ExecStart = [][]string{r.ExecStart}
	return changed, nil
}

// Reload forgets the unit and the drop-in whose files are gone.
func (m *Manager) Reload(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := &m.unit
	gone := func(path string) bool { _, err := os.Lstat(path); return errors.Is(err, fs.ErrNotExist) }
	u.DropInPaths = slices.DeleteFunc(u.DropInPaths, gone)
	if u.FragmentPath != "" && gone(u.FragmentPath) {
		u.FragmentPath, u.LoadState, u.UnitFileState = "", "not-found", ""
	}
	return ctx.Err()
}

// Enable has the kubelet start at boot.
func (m *Manager) Enable(ctx context.Context, name string) (changed bool, err error) {
	return m.link(ctx, "enable "+name, name, "enabled")
}

// Disable keeps the kubelet from starting at boot.
func (m *Manager) Disable(ctx context.Context, name string) (changed bool, err error) {
	return m.link(ctx, "disable "+name, name, "disabled")
}

func (m *Manager) link(ctx context.Context, call, name, state string) (changed bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
	if name != systemd.KubeletUnit || m.unit.FragmentPath == "" {
		return false, nil
	}
	changed = m.unit.UnitFileState != state
	m.unit.UnitFileState = state
	return changed, nil
}

// Start starts the kubelet, unless it runs.
func (m *Manager) Start(ctx context.Context, name string) (systemd.Unit, error) {
	return m.run(ctx, name, "start")
}

// Restart starts it anew.
func (m *Manager) Restart(ctx context.Context, name string) (systemd.Unit, error) {
	return m.run(ctx, name, "restart")
}

func (m *Manager) run(ctx context.Context, name, op string) (systemd.Unit, error) {
	m.mu.Lock()
	m.calls = append(m.calls, op)
	argv := slices.Concat(m.unit.ExecStart...)
	if name != systemd.KubeletUnit {
		m.calls[len(m.calls)-1] += " " + name
		m.mu.Unlock()
		return m.Unit(ctx, name)
	}
	loaded, running := m.unit.LoadState == "loaded", m.unit.Running()
	m.mu.Unlock()
	if !loaded {
		return systemd.Unit{}, errors.New("unit is not loaded")
	}
	if running && op == "start" {
		return m.Unit(ctx, name)
	}
	// The time stamps come first: what OnStart registers is younger than them.
	m.mu.Lock()
	stamp := uint64(m.now() / time.Microsecond)
	u := &m.unit
	u.ExecMainStartMonotonic, u.ConditionResult = stamp, true
	m.mu.Unlock()
	if m.OnStart != nil {
		if err := m.OnStart(argv); err != nil {
			var job *systemd.JobError
			if errors.As(err, &job) { // what systemd would do to the job, before any process
				m.StopByHand()
				return systemd.Unit{}, job
			}
			m.Change(func(u *systemd.Unit) {
				u.ActiveState, u.SubState, u.MainPID, u.Result = "failed", "failed", 0, "exit-code"
			})
			return systemd.Unit{}, &systemd.JobError{Unit: name, Op: systemd.Op(op), Result: "failed"}
		}
	}
	m.Change(func(u *systemd.Unit) {
		u.ActiveState, u.SubState, u.Result = "active", "running", "success"
		u.MainPID = uint32(os.Getpid())
		u.ActiveEnterMonotonic = stamp
	})
	return m.Unit(ctx, name)
}

// Stop stops it.
func (m *Manager) Stop(ctx context.Context, name string) (systemd.Unit, error) {
	m.mu.Lock()
	m.calls = append(m.calls, "stop")
	m.mu.Unlock()
	if m.OnStop != nil {
		m.OnStop()
	}
	m.StopByHand()
	return m.Unit(ctx, name)
}

// Watch ticks once when it begins, as the real one does (what changed before
// that went unheard), and at every Change until ctx ends.
func (m *Manager) Watch(context.Context, ...string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{}, 1)
	c <- struct{}{}
	m.watchers = append(m.watchers, c)
	return c
}

// LastLines returns what SetLines gave.
func (m *Manager) LastLines(_ context.Context, _ string, n int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines[max(0, len(m.lines)-n):]), nil
}

// Said searches what SetLines gave, as if all of it had just been written.
func (m *Manager) Said(_ context.Context, _, pattern string, _ time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.searches++
	like, err := regexp.Compile(pattern)
	return err == nil && slices.ContainsFunc(m.lines, like.MatchString), err
}

// Searches is how often Said was asked.
func (m *Manager) Searches() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.searches
}

// Reach notes that a target was asked for. Each is there, and is reached at once.
func (m *Manager) Reach(ctx context.Context, target string) (there bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reached = append(m.reached, target)
	return true, nil
}

// Reached lists the targets that were asked for, in order.
func (m *Manager) Reached() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.reached)
}

func (m *Manager) now() time.Duration {
	if m.Monotonic != nil {
		return m.Monotonic()
	}
	if m.began.IsZero() {
		m.began = time.Now()
	}
	return time.Since(m.began) + time.Second
}

func (m *Manager) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

package systemd

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// bus is a private dbus-daemon with a fake systemd on it.
type bus struct {
	t      testing.TB
	dir    string
	daemon *exec.Cmd
	*fake
}

// startBus skips the test where there is no dbus-daemon.
func startBus(t testing.TB) *bus {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("no dbus-daemon on this machine (apt-get install dbus)")
	}
	dir, err := os.MkdirTemp("", "bus") //nolint:usetesting // t.TempDir is too long for the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	b := &bus{t: t, dir: dir, fake: newFake(filepath.Join(t.TempDir(), "system"))}
	config := fmt.Sprintf(`<busconfig><type>session</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`, b.socket())
	if err := os.WriteFile(filepath.Join(b.dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.up()
	t.Cleanup(func() {
		b.jobs.Wait()
		b.down()
		_ = os.RemoveAll(dir)
	})
	if t.Failed() {
		t.FailNow()
	}
	return b
}

func (b *bus) socket() string { return filepath.Join(b.dir, "bus") }

// up starts the daemon and puts the fake on it.
func (b *bus) up() {
	b.t.Helper()
	_ = os.Remove(b.socket())
	b.daemon = exec.Command("dbus-daemon", "--nofork", "--nopidfile", "--print-address", "--config-file="+filepath.Join(b.dir, "config"))
	out, err := b.daemon.StdoutPipe()
	if err == nil {
		err = b.daemon.Start()
	}
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	var conn *dbus.Conn
	if err == nil {
		conn, err = dbus.Connect("unix:path=" + b.socket())
	}
	if err == nil {
		err = b.serve(conn)
	}
	if err != nil {
		b.t.Errorf("no bus: %v", err) // not Fatal: a job may call this
	}
}

// down ends the daemon and with it all connections.
func (b *bus) down() {
	if b.daemon == nil {
		return
	}
	b.fake.leave()
	_ = b.daemon.Process.Kill()
	_ = b.daemon.Wait()
	b.daemon = nil
}

// manager makes a Manager on this bus that looks for itself often.
func (b *bus) manager() *Manager {
	m := NewManager(Options{BusAddress: "unix:path=" + b.socket(), PrivateSocket: filepath.Join(b.dir, "none")})
	m.backstop, m.redialAfter, m.absentPause = 50*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	b.t.Cleanup(m.Close)
	return m
}

// fake is as much of org.freedesktop.systemd1 as this package uses. It reads
// the units below dir as systemd would.
type fake struct {
	dir string

	jobs    sync.WaitGroup
	mu      sync.Mutex
	conn    *dbus.Conn
	props   map[string]any // of kubelet.service
	calls   []string
	nextJob uint32
	// onJob is run for each job, in a goroutine of its own, and ends it (or
	// not). Nil: the unit does what it is told.
	onJob   func(op string, job uint32)
	onCall  func(method string) *dbus.Error // nil answers: go on
	extra   []string                        // drop-ins besides those in dir
	found   string                          // a fragment outside dir
	enabled bool
}

func newFake(dir string) *fake {
	f := &fake{dir: dir, props: map[string]any{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		panic(err)
	}
	f.read()
	return f
}

func (f *fake) serve(conn *dbus.Conn) error {
	f.mu.Lock()
	f.conn = conn
	f.mu.Unlock()
	unit := objectPath + "/unit/" + dbus.ObjectPath(sddbus.PathBusEscape(KubeletUnit))
	for _, err := range []error{
		conn.Export(fakeManager{f}, objectPath, "org.freedesktop.systemd1.Manager"),
		conn.Export(fakeUnit{f}, unit, "org.freedesktop.DBus.Properties"),
	} {
		if err != nil {
			return err
		}
	}
	_, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	return err
}

func (f *fake) leave() {
	f.mu.Lock()
	conn := f.conn
	f.conn = nil
	f.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// set changes properties and tells those who watch.
func (f *fake) set(changes map[string]any) {
	f.mu.Lock()
	variants := map[string]dbus.Variant{}
	for k, v := range changes {
		f.props[k] = v
		variants[k] = dbus.MakeVariant(v)
	}
	conn := f.conn
	f.mu.Unlock()
	if conn != nil {
		path := objectPath + "/unit/" + dbus.ObjectPath(sddbus.PathBusEscape(KubeletUnit))
		_ = conn.Emit(path, changedSignal, "org.freedesktop.systemd1.Unit", variants, []string{})
	}
}

// emit sends a signal of the manager.
func (f *fake) emit(path dbus.ObjectPath, signal string, body ...any) {
	f.mu.Lock()
	conn := f.conn
	f.mu.Unlock()
	if conn != nil {
		_ = conn.Emit(path, signal, body...)
	}
}

// whenCalled and whenJob change what the fake does from now on.
func (f *fake) whenCalled(hook func(method string) *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onCall = hook
}

func (f *fake) whenJob(hook func(op string, job uint32)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onJob = hook
}

func (f *fake) isEnabled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.enabled
}

func (f *fake) did(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
}

// called returns the calls since the last time, those that only read left out.
func (f *fake) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fake) answer(method string) *dbus.Error {
	f.mu.Lock()
	hook := f.onCall
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(method)
}

// read is what a daemon-reload does.
func (f *fake) read() {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.props
	p["LoadState"], p["FragmentPath"], p["UnitFileState"], p["NeedDaemonReload"] = "not-found", "", "", false
	p["DropInPaths"], p["ExecStart"] = []string{}, []command{}
	fragment := filepath.Join(f.dir, KubeletUnit)
	data, err := os.ReadFile(fragment)
	if err != nil && f.found != "" {
		fragment = f.found
		data, err = os.ReadFile(fragment)
	}
	if err == nil {
		p["LoadState"], p["FragmentPath"], p["UnitFileState"] = "loaded", fragment, "disabled"
		if f.enabled {
			p["UnitFileState"] = "enabled"
		}
		if len(data) == 0 {
			p["LoadState"], p["UnitFileState"] = "masked", "masked"
		}
	}
	paths, _ := filepath.Glob(filepath.Join(f.dir, KubeletUnit+".d", "*.conf"))
	paths = append(paths, f.extra...)
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	files := []string{string(data)}
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		files = append(files, string(text))
	}
	p["DropInPaths"] = paths
	var commands []command
	for _, value := range values("Service", "ExecStart", files...) {
		argvs, err := splitExec(value)
		if err != nil {
			p["LoadState"] = "bad-setting"
			continue
		}
		for _, argv := range argvs {
			commands = append(commands, command{Path: argv[0], Argv: argv})
		}
	}
	p["ExecStart"] = commands
}

// command is a(sasbttttuii) as systemd has it.
type command struct {
	Path        string
	Argv        []string
	Ignore      bool
	A, B, C, D  uint64
	PID         uint32
	Code, State int32
}

type jobOf struct {
	ID   uint32
	Path dbus.ObjectPath
}

func jobPath(id uint32) dbus.ObjectPath {
	if id == 0 {
		return "/"
	}
	return dbus.ObjectPath(fmt.Sprintf("%s/job/%d", objectPath, id))
}

// end ends a job with a result, as the last thing it does.
func (f *fake) end(job uint32, result string) {
	f.set(map[string]any{"Job": jobOf{0, "/"}})
	f.emit(objectPath, managerSignal+"JobRemoved", job, jobPath(job), KubeletUnit, result)
}

// runs makes the unit active with a new invocation.
func (f *fake) runs() {
	f.mu.Lock()
	n := f.nextJob
	f.mu.Unlock()
	f.set(map[string]any{"ActiveState": "active", "SubState": "running", "Result": "success", "MainPID": uint32(100) + n, "ConditionResult": true,
		"ConditionTimestampMonotonic": uint64(5), "ActiveEnterTimestampMonotonic": uint64(10 + n), "InvocationID": []byte{byte(n), 1, 2, 3}})
}

func (f *fake) stops(state, result string) {
	f.set(map[string]any{"ActiveState": state, "SubState": "dead", "Result": result, "MainPID": uint32(0)})
}

func (f *fake) job(op string) (dbus.ObjectPath, *dbus.Error) {
	f.did(op)
	if err := f.answer(op); err != nil {
		return "", err
	}
	f.mu.Lock()
	f.nextJob++
	id, hook := f.nextJob, f.onJob
	f.props["Job"] = jobOf{id, jobPath(id)}
	f.mu.Unlock()
	f.jobs.Add(1)
	go func() {
		defer f.jobs.Done()
		switch {
		case hook != nil:
			hook(op, id)
		case op == "stop":
			f.stops("inactive", "success")
			f.end(id, "done")
		default:
			f.runs()
			f.end(id, "done")
		}
	}()
	return jobPath(id), nil
}

// fakeManager and fakeUnit are the exported sides of fake.
type (
	fakeManager struct{ f *fake }
	fakeUnit    struct{ f *fake }
)

func (m fakeManager) StartUnit(_, _ string) (dbus.ObjectPath, *dbus.Error) { return m.f.job("start") }
func (m fakeManager) RestartUnit(_, _ string) (dbus.ObjectPath, *dbus.Error) {
	return m.f.job("restart")
}
func (m fakeManager) StopUnit(_, _ string) (dbus.ObjectPath, *dbus.Error) { return m.f.job("stop") }

func (m fakeManager) Reload() *dbus.Error {
	m.f.did("reload")
	if err := m.f.answer("reload"); err != nil {
		return err
	}
	m.f.read()
	return nil
}

func (m fakeManager) Subscribe() *dbus.Error { return nil }

type change struct{ Type, File, Target string }

func (m fakeManager) EnableUnitFiles(_ []string, _, _ bool) (bool, []change, *dbus.Error) {
	m.f.did("enable")
	if err := m.f.answer("enable"); err != nil {
		return false, nil, err
	}
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if m.f.enabled {
		return true, []change{{"destination-not-present", "/etc/x", "multi-user.target"}}, nil // a remark, no change
	}
	m.f.enabled = true
	return true, []change{{"symlink", "/etc/x", "/etc/y"}}, nil
}

func (m fakeManager) DisableUnitFiles(_ []string, _ bool) ([]change, *dbus.Error) {
	m.f.did("disable")
	if err := m.f.answer("disable"); err != nil {
		return nil, err
	}
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if !m.f.enabled {
		return nil, nil
	}
	m.f.enabled = false
	return []change{{"unlink", "/etc/x", ""}}, nil
}

func (u fakeUnit) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	if err := u.f.answer("properties"); err != nil {
		return nil, err
	}
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	out := map[string]dbus.Variant{}
	for k, v := range u.f.props {
		out[k] = dbus.MakeVariant(v)
	}
	return out, nil
}

func failure(name string) *dbus.Error { return dbus.NewError(name, []any{name + " happened"}) }

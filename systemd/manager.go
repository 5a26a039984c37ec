package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	callTimeout   = 20 * time.Second // one call that only reads or queues
	reloadTimeout = 90 * time.Second // daemon-reload runs every generator first
)

// Options of a Manager. The zero value is right on a real machine.
type Options struct {
	// Log gets one line for each thing done, naming the systemctl command that
	// does the same. Nil: no log.
	Log logrus.FieldLogger
	// BusAddress is the D-Bus address of the bus that systemd is on. Empty: the
	// system bus.
	BusAddress string
	// PrivateSocket is systemd's own socket, used when the bus cannot be
	// reached. Empty: /run/systemd/private.
	PrivateSocket string
	// Journalctl and Systemctl are programs that are run where only people read the
	// answer. Empty: journalctl and systemctl from PATH.
	Journalctl, Systemctl string
	// BootID is the boot whose lines of the journal are meant, as systemd knows it.
	// Empty: what journalctl takes for this boot, which in a container is not it.
	BootID string
}

// Manager is a connection to the service manager that is made when it is first
// needed and made anew when it has died. It may be used from several
// goroutines.
type Manager struct {
	opts Options

	// How often a wait for a job looks for itself, in case the job's signal
	// never comes: systemd may re-execute itself meanwhile.
	backstop time.Duration
	// How long a Watch waits before it dials again, and how long a call that
	// failed because systemd was away waits before its second try.
	redialAfter time.Duration
	absentPause time.Duration

	mu     sync.Mutex
	conn   *conn
	closed bool
}

// conn is one connection (go-systemd makes two: calls and signals). life ends
// when either of them does: that is how a wait hears of a dead bus.
type conn struct {
	*sddbus.Conn
	signals *dbus.Conn
	life    context.Context
	cancel  context.CancelFunc
}

// NewManager makes a Manager; it does not dial yet.
func NewManager(opts Options) *Manager {
	if opts.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		opts.Log = l
	}
	if opts.PrivateSocket == "" {
		opts.PrivateSocket = "/run/systemd/private"
	}
	if opts.Journalctl == "" {
		opts.Journalctl = "journalctl"
	}
	if opts.Systemctl == "" {
		opts.Systemctl = "systemctl"
	}
	return &Manager{opts: opts, backstop: 5 * time.Second, redialAfter: 2 * time.Second, absentPause: 300 * time.Millisecond}
}

// Close ends the connection. Waits end with an error; later calls fail.
func (m *Manager) Close() {
	m.mu.Lock()
	c := m.conn
	m.conn, m.closed = nil, true
	m.mu.Unlock()
	if c != nil {
		c.close()
	}
}

func (c *conn) close() {
	c.cancel()
	c.Conn.Close()
}

var errClosed = errors.New("the connection to systemd was closed by the agent")

// connect returns the living connection, or makes one.
func (m *Manager) connect(ctx context.Context) (*conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	if m.conn != nil && m.conn.life.Err() == nil {
		return m.conn, nil
	}
	if m.conn != nil {
		m.conn.close()
		m.conn = nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, busErr := m.dial(ctx, m.dialBus)
	if busErr != nil {
		var err error
		if c, err = m.dial(ctx, m.dialPrivate); err != nil {
			return nil, fmt.Errorf("cannot reach systemd: on the bus: %w; on its own socket: %w", busErr, err)
		}
	}
	m.conn = c
	return c, nil
}

// drop forgets a connection that is of no use any more.
func (m *Manager) drop(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn == c {
		m.conn = nil
	}
	c.close()
}

// dial makes a connection whose life does not end with ctx, but whose making
// does: a bus that accepts and then says nothing must not hold us.
func (m *Manager) dial(ctx context.Context, one func(context.Context) (*dbus.Conn, error)) (*conn, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	abort := context.AfterFunc(ctx, cancel)
	c := &conn{life: life, cancel: cancel}
	var err error
	both := together(life, one)
	c.Conn, err = sddbus.NewConnection(func() (*dbus.Conn, error) {
		bus, err := both()
		if err != nil {
			return nil, err
		}
		context.AfterFunc(bus.Context(), cancel)
		c.signals = bus // go-systemd makes that for signals last
		return bus, nil
	})
	if err == nil && !abort() {
		c.Conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

// together dials the two connections that go-systemd asks for one after the
// other side by side. One that is not fetched ends with life.
func together(life context.Context, one func(context.Context) (*dbus.Conn, error)) func() (*dbus.Conn, error) {
	type dialled struct {
		bus *dbus.Conn
		err error
	}
	results := make(chan dialled, 2)
	for range 2 {
		go func() {
			bus, err := one(life)
			results <- dialled{bus, err}
		}()
	}
	return func() (*dbus.Conn, error) {
		r := <-results
		return r.bus, r.err
	}
}

func (m *Manager) dialBus(life context.Context) (*dbus.Conn, error) {
	var (
		bus *dbus.Conn
		err error
	)
	if m.opts.BusAddress == "" {
		bus, err = dbus.SystemBusPrivate(dbus.WithContext(life))
	} else {
		bus, err = dbus.Dial(m.opts.BusAddress, dbus.WithContext(life))
	}
	if err != nil {
		return nil, err
	}
	if err := authenticate(bus); err != nil {
		return nil, err
	}
	if err := bus.Hello(); err != nil {
		_ = bus.Close()
		return nil, err
	}
	return bus, nil
}

func (m *Manager) dialPrivate(life context.Context) (*dbus.Conn, error) {
	bus, err := dbus.Dial("unix:path="+m.opts.PrivateSocket, dbus.WithContext(life))
	if err != nil {
		return nil, err
	}
	return bus, authenticate(bus) // no Hello: there is no bus behind it
}

// authenticate uses the number of the user, not its name: looking that up
// would need more of the machine than the sandbox shows.
func authenticate(bus *dbus.Conn) error {
	err := bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err != nil {
		_ = bus.Close()
	}
	return err
}

// call runs f with a connection, and once more with a new one when the first
// has died under it. f must be harmless when it runs twice.
func (m *Manager) call(ctx context.Context, timeout time.Duration, f func(context.Context, *conn) error) error {
	var err error
	for again := range 2 {
		if again > 0 {
			if werr := wait(ctx, m.absentPause); werr != nil {
				return werr
			}
		}
		var c *conn
		if c, err = m.connect(ctx); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, timeout)
		err = f(short, c)
		cancel()
		if err == nil || ctx.Err() != nil || !c.lost(err) {
			return err
		}
		m.drop(c)
	}
	return err
}

// lost says whether err came from the connection, or from systemd not being on
// the bus just now, and not from what was asked.
func (c *conn) lost(err error) bool {
	if c.life.Err() != nil || errors.Is(err, dbus.ErrClosed) || errors.Is(err, io.EOF) {
		return true
	}
	name := errorName(err)
	switch name {
	case "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.ServiceUnknown",
		"org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.Disconnected":
		return true
	}
	return strings.HasPrefix(name, "org.freedesktop.DBus.Error.Spawn.")
}

// errorName is the D-Bus name of an error that the other side answered with.
func errorName(err error) string {
	var e dbus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	var p *dbus.Error
	if errors.As(err, &p) {
		return p.Name
	}
	return ""
}

// wait is a pause that ends with ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unit asks for the state of a unit. A unit that does not exist is no error:
// its LoadState says "not-found".
func (m *Manager) Unit(ctx context.Context, name string) (Unit, error) {
	var u Unit
	err := m.call(ctx, callTimeout, func(ctx context.Context, c *conn) error {
		props, err := c.GetUnitPropertiesContext(ctx, name)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".service") && (props["LoadState"] != "not-found" || props["ActiveState"] != "inactive") {
			// A unit that is not there has no service to ask about: that is the
			// greater half of the answer, and a join waits for it.
			service, err := c.GetUnitTypePropertiesContext(ctx, name, "Service")
			if err != nil {
				return err
			}
			maps.Copy(props, service)
		}
		u = unitOf(name, props)
		return nil
	})
	if err != nil {
		return Unit{}, fmt.Errorf("cannot read the state of %s: %w", name, err)
	}
	return u, nil
}

// Reload makes systemd read its unit files anew.
func (m *Manager) Reload(ctx context.Context) error {
	m.opts.Log.WithField("command", "systemctl daemon-reload").Debug("systemd reads its unit files anew")
	err := m.call(ctx, reloadTimeout, func(ctx context.Context, c *conn) error { return c.ReloadContext(ctx) })
	if err != nil {
		return fmt.Errorf("cannot make systemd read its unit files anew: %w", err)
	}
	return nil
}

// Enable makes a unit start at boot, and returns whether it did not before. The
// links are made at once; the dependency itself is seen after the next Reload,
// which is left to the caller so that several changes need only one.
func (m *Manager) Enable(ctx context.Context, name string) (changed bool, err error) {
	err = m.call(ctx, callTimeout, func(ctx context.Context, c *conn) error {
		_, changes, err := c.EnableUnitFilesContext(ctx, []string{name}, false, false)
		for _, change := range changes { // there are remarks among them, such as of a target that is missing
			changed = changed || change.Type == "symlink" || change.Type == "unlink"
		}
		return err
	})
	switch {
	case err == nil:
	case isMasked(err):
		return false, masked(name)
	default:
		return false, fmt.Errorf("cannot enable %s: %w", name, err)
	}
	if changed {
		m.opts.Log.WithField("command", "systemctl enable "+name).Info("unit enabled")
	}
	return changed, nil
}

// Disable takes away the links by which a unit starts at boot, and returns whether
// there were any. A unit that does not exist is no error, and neither is one that
// is masked. Like Enable it leaves the Reload to the caller.
func (m *Manager) Disable(ctx context.Context, name string) (changed bool, err error) {
	err = m.call(ctx, callTimeout, func(ctx context.Context, c *conn) error {
		changes, err := c.DisableUnitFilesContext(ctx, []string{name}, false)
		for _, change := range changes {
			changed = changed || change.Type == "unlink"
		}
		return err
	})
	switch errorName(err) {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound", "org.freedesktop.systemd1.UnitMasked":
		return changed, nil
	}
	if err != nil {
		return changed, fmt.Errorf("cannot disable %s: %w", name, err)
	}
	if changed {
		m.opts.Log.WithField("command", "systemctl disable "+name).Info("unit disabled")
	}
	return changed, nil
}

func isMasked(err error) bool { return errorName(err) == "org.freedesktop.systemd1.UnitMasked" }

func masked(name string) error {
	return fault.New(fault.UnitMasked, "%s is masked", name)
}

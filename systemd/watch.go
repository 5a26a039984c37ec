package systemd

import (
	"context"
	"fmt"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	objectPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerSignal = "org.freedesktop.systemd1.Manager."
	changedSignal = "org.freedesktop.DBus.Properties.PropertiesChanged"
)

// Watch ticks when one of these units may have changed: a property of it
// changed, unit files were enabled, disabled or masked, systemd read its files
// anew, or the watch itself was blind until now: it begins, or the connection had
// to be made again. Ticks that nobody took yet are one tick. A tick says only
// "look": what is the case comes from Unit. The watch ends with ctx; the
// channel is never closed.
func (m *Manager) Watch(ctx context.Context, names ...string) <-chan struct{} {
	ticks := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := m.watch(ctx, names, ticks); err != nil && ctx.Err() == nil {
				m.opts.Log.WithError(err).Debug("watch of units interrupted")
			}
			m.mu.Lock()
			closed := m.closed
			m.mu.Unlock()
			if closed || wait(ctx, m.redialAfter) != nil {
				return
			}
		}
	}()
	return ticks
}

// watch runs until the connection or ctx ends.
func (m *Manager) watch(ctx context.Context, names []string, ticks chan<- struct{}) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	heard := make(chan *dbus.Signal, 64)
	c.signals.Signal(heard)
	defer c.signals.RemoveSignal(heard)
	units, err := c.subscribe(ctx, names)
	if err != nil {
		m.drop(c)
		return err
	}
	tick(ticks)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.life.Done():
			return dbus.ErrClosed
		case s, ok := <-heard:
			if !ok {
				return dbus.ErrClosed
			}
			if concerns(s, units) {
				tick(ticks)
			}
		}
	}
}

// subscribe asks for the signals of just these units: the changes of every unit
// of the machine would wake the agent for nothing. On systemd's own socket
// there are no matches and every signal comes.
func (c *conn) subscribe(ctx context.Context, names []string) (map[dbus.ObjectPath]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// With the sender named, nobody else on the bus can make us tick.
	const from = "type='signal',sender='org.freedesktop.systemd1',path='%s',"
	matches := []string{
		fmt.Sprintf(from+"interface='org.freedesktop.systemd1.Manager',member='UnitFilesChanged'", objectPath),
		fmt.Sprintf(from+"interface='org.freedesktop.systemd1.Manager',member='Reloading'", objectPath),
	}
	units := make(map[dbus.ObjectPath]bool, len(names))
	for _, name := range names {
		path := objectPath + "/unit/" + dbus.ObjectPath(sddbus.PathBusEscape(name))
		units[path] = true
		matches = append(matches, fmt.Sprintf(from+"interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'", path))
	}
	for _, match := range matches {
		err := c.signals.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.AddMatch", 0, match).Err
		if err != nil && (c.lost(err) || ctx.Err() != nil) && c.hasBus() {
			return nil, fmt.Errorf("cannot subscribe to changes of units: %w", err)
		}
	}
	// systemd sends signals only while somebody has asked for them.
	systemd := c.signals.Object("org.freedesktop.systemd1", objectPath)
	if err := systemd.CallWithContext(ctx, managerSignal+"Subscribe", 0).Err; err != nil && errorName(err) != "org.freedesktop.systemd1.AlreadySubscribed" {
		return nil, fmt.Errorf("cannot subscribe to changes of units: %w", err)
	}
	return units, nil
}

// hasBus says whether a bus daemon is between us and systemd: only that gives
// us a name.
func (c *conn) hasBus() bool { return len(c.signals.Names()) > 0 && c.signals.Names()[0] != "" }

func concerns(s *dbus.Signal, units map[dbus.ObjectPath]bool) bool {
	switch s.Name {
	case changedSignal:
		return units[s.Path]
	case managerSignal + "UnitFilesChanged", managerSignal + "Reloading":
		return s.Path == objectPath
	}
	return false
}

func tick(ticks chan<- struct{}) {
	select {
	case ticks <- struct{}{}:
	default:
	}
}

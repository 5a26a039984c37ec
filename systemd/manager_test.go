package systemd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestUnitStateInAllItsParts(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	u, err := m.Unit(soon(t), KubeletUnit)
	if err != nil || u.Exists() || u.Masked() || u.Running() || u.WasActive() || u.InvocationID != "" {
		t.Errorf("no unit: %+v, %v", u, err)
	}
	b.set(map[string]any{
		"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "start-limit-hit", "UnitFileState": "disabled",
		"FragmentPath": "/f", "DropInPaths": []string{"/d"}, "NeedDaemonReload": true, "ConditionResult": true, "MainPID": uint32(0), "NRestarts": uint32(4),
		"ExecMainStatus": int32(203), "InvocationID": []byte{0xab, 0xcd}, "Environment": []string{"A=b"}, "Job": jobOf{7, jobPath(7)},
		"ExecMainStartTimestampMonotonic": uint64(1), "ActiveEnterTimestampMonotonic": uint64(2), "ActiveExitTimestampMonotonic": uint64(3),
		"InactiveEnterTimestampMonotonic": uint64(4), "ConditionTimestampMonotonic": uint64(5),
		"ExecStart": []command{{Path: "/bin/k", Argv: []string{"kubelet", "--a"}}},
		"EnvironmentFiles": []struct {
			Path   string
			Ignore bool
		}{{"/e", true}},
		"LoadError": struct{ Name, Message string }{"x.y", "bad line"},
	})
	if u, err = m.Unit(soon(t), KubeletUnit); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v", u)
	want := "{Name:kubelet.service LoadState:loaded LoadError:bad line ActiveState:failed SubState:failed Result:start-limit-hit UnitFileState:disabled " +
		"FragmentPath:/f DropInPaths:[/d] NeedDaemonReload:true Job:7 ConditionResult:true MainPID:0 NRestarts:4 ExecMainStatus:203 InvocationID:abcd " +
		"ExecStart:[[/bin/k --a]] Environment:[A=b] EnvironmentFiles:[/e] ConditionMonotonic:5 ActiveEnterMonotonic:2 ActiveExitMonotonic:3 InactiveEnterMonotonic:4 ExecMainStartMonotonic:1}"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !u.Exists() || !u.Disabled() || !u.WasActive() || u.Running() || u.Masked() {
		t.Error("the facts about it")
	}
	for _, state := range []string{"masked", "masked-runtime"} {
		if !(Unit{UnitFileState: state}).Masked() {
			t.Errorf("%s is not masked", state)
		}
	}
}

func TestPropertiesOfAnotherTypeAreNoPanic(t *testing.T) {
	u := unitOf("x", map[string]any{"LoadState": 1, "Job": []any{}, "LoadError": "x", "InvocationID": "x", "ExecStart": [][]any{{}, {1, 2}, {"/x", 3}}, "EnvironmentFiles": [][]any{{}, {1}}, "MainPID": "1"})
	if u.LoadState != "" || u.Job != 0 || u.MainPID != 0 || len(u.EnvironmentFiles) != 0 {
		t.Errorf("%+v", u)
	}
}

func TestTheConnectionIsMadeAgainBetweenCalls(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	for range 2 {
		if _, err := m.Unit(soon(t), KubeletUnit); err != nil {
			t.Fatal(err)
		}
		b.down()
		b.up()
	}
	if err := m.Reload(soon(t)); err != nil {
		t.Fatal(err)
	}
}

func TestSystemdAbsentForAMoment(t *testing.T) {
	b := startBus(t)
	var tries atomic.Int32
	b.whenCalled(func(string) *dbus.Error {
		if tries.Add(1) == 1 {
			return failure("org.freedesktop.DBus.Error.NoReply")
		}
		return nil
	})
	// The second try reads both halves, of the unit and of its service.
	if _, err := b.manager().Unit(soon(t), KubeletUnit); err != nil || tries.Load() != 1+2 {
		t.Errorf("%d questions, %v", tries.Load(), err)
	}
}

func TestARefusalIsNotTriedAgain(t *testing.T) {
	b := startBus(t)
	var tries atomic.Int32
	b.whenCalled(func(string) *dbus.Error { tries.Add(1); return failure("org.freedesktop.DBus.Error.AccessDenied") })
	if _, err := b.manager().Unit(soon(t), KubeletUnit); err == nil || tries.Load() != 1 {
		t.Errorf("%d tries, %v", tries.Load(), err)
	}
}

func TestNoWayToSystemd(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	b.down()
	_, err := m.Unit(soon(t), KubeletUnit)
	if err == nil || !strings.Contains(err.Error(), "cannot read the state of kubelet.service: cannot reach systemd: on the bus:") || !strings.Contains(err.Error(), "on its own socket:") {
		t.Errorf("got %v", err)
	}
	m.Close()
	if _, err := m.Unit(soon(t), KubeletUnit); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// silent accepts connections and never says a word.
func silent(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "silent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return path
}

func TestABusThatSaysNothingDoesNotHoldTheCaller(t *testing.T) {
	path := silent(t)
	m := NewManager(Options{BusAddress: "unix:path=" + path, PrivateSocket: path})
	defer m.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := m.Unit(ctx, KubeletUnit); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutABusSystemdsOwnSocketIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go private(conn, said)
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	m := NewManager(Options{BusAddress: "unix:path=" + filepath.Join(t.TempDir(), "none"), PrivateSocket: path})
	defer m.Close()
	u, err := m.Unit(soon(t), KubeletUnit)
	if err != nil || u.LoadState != "loaded" {
		t.Fatalf("%+v, %v", u, err)
	}
	ctx, cancel := context.WithCancel(soon(t))
	ticks := m.Watch(ctx, KubeletUnit)
	<-ticks
	cancel()
	for range len(said) {
		if call := <-said; call == "Hello" {
			t.Error("a Hello was sent where there is no bus")
		}
	}
}

// private is systemd's end of its own socket, as far as these tests go.
func private(conn net.Conn, said chan<- string) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	_, _ = in.ReadByte() // NUL
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch {
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			_, _ = conn.Write([]byte("OK 0123456789abcdef0123456789abcdef\r\n"))
		case strings.HasPrefix(line, "AUTH"):
			_, _ = conn.Write([]byte("REJECTED EXTERNAL\r\n"))
		case strings.HasPrefix(line, "NEGOTIATE_UNIX_FD"):
			_, _ = conn.Write([]byte("AGREE_UNIX_FD\r\n"))
		}
		if strings.HasPrefix(line, "BEGIN") {
			break
		}
	}
	for {
		msg, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		member, _ := msg.Headers[dbus.FieldMember].Value().(string)
		said <- member
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial())}}
		switch member {
		case "GetAll":
			reply.Body = []any{map[string]dbus.Variant{"LoadState": dbus.MakeVariant("loaded")}}
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		case "Subscribe":
		default:
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.UnknownMethod")
		}
		if err := encode(conn, reply); err != nil {
			return
		}
	}
}

func encode(conn net.Conn, msg *dbus.Message) error {
	var b strings.Builder
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	raw := []byte(b.String())
	binary.LittleEndian.PutUint32(raw[8:], 1) // a serial, which may not be zero
	_, err := conn.Write(raw)
	return err
}

func TestEnable(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	for i, want := range []bool{true, false} {
		if changed, err := m.Enable(soon(t), KubeletUnit); err != nil || changed != want {
			t.Errorf("time %d: changed %t, %v", i, changed, err)
		}
	}
	b.whenCalled(func(string) *dbus.Error { return failure("org.freedesktop.systemd1.UnitMasked") })
	if _, err := m.Enable(soon(t), KubeletUnit); fault.ReasonOf(err) != fault.UnitMasked {
		t.Errorf("masked: %v", err)
	}
	b.whenCalled(func(string) *dbus.Error { return failure("org.freedesktop.DBus.Error.FileNotFound") })
	if _, err := m.Enable(soon(t), KubeletUnit); err == nil || fault.ReasonOf(err) != "" {
		t.Errorf("no unit: %v", err)
	}
}

func TestDisable(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	if _, err := m.Enable(soon(t), KubeletUnit); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if changed, err := m.Disable(soon(t), KubeletUnit); err != nil || changed != want {
			t.Errorf("time %d: changed %t, %v", i, changed, err)
		}
	}
	// What is not there, or cannot start, does not start at boot either.
	for _, name := range []string{"org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound", "org.freedesktop.systemd1.UnitMasked"} {
		b.whenCalled(func(string) *dbus.Error { return failure(name) })
		if changed, err := m.Disable(soon(t), KubeletUnit); err != nil || changed {
			t.Errorf("%s: changed %t, %v", name, changed, err)
		}
	}
	b.whenCalled(func(string) *dbus.Error { return failure("org.freedesktop.DBus.Error.AccessDenied") })
	if _, err := m.Disable(soon(t), KubeletUnit); err == nil || !strings.Contains(err.Error(), "cannot disable "+KubeletUnit) {
		t.Errorf("%v", err)
	}
}

func TestWatchTicks(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	ticks := m.Watch(ctx, KubeletUnit)
	next := func(what string) {
		t.Helper()
		select {
		case <-ticks:
		case <-ctx.Done():
			t.Fatalf("no tick: %s", what)
		}
	}
	quiet := func(what string) {
		t.Helper()
		// A question and its answer on the connection of the signals: what was
		// sent before has arrived when the answer is there.
		if err := m.conn.signals.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
			t.Fatal(err)
		}
		select {
		case <-ticks:
			t.Errorf("a tick: %s", what)
		default:
		}
	}
	next("when the watch begins")
	quiet("nothing happened")
	b.set(map[string]any{"ActiveState": "failed"})
	next("a property changed")
	b.emit("/org/freedesktop/systemd1/unit/other_2eservice", changedSignal, "org.freedesktop.systemd1.Unit", map[string]dbus.Variant{}, []string{})
	quiet("another unit changed")
	b.emit(objectPath, managerSignal+"UnitFilesChanged")
	next("a unit file was enabled, disabled or masked")
	b.emit(objectPath, managerSignal+"Reloading", true)
	next("systemd read its files anew")
	b.down()
	b.up()
	next("the watch was blind")
	b.set(map[string]any{"ActiveState": "active"})
	next("a property changed after the bus was back")
	cancel()
}

func TestWatchEndsWithItsManager(t *testing.T) {
	b := startBus(t)
	m := b.manager()
	<-m.Watch(t.Context(), KubeletUnit)
	m.Close() // goleak sees whether the watch has ended
}

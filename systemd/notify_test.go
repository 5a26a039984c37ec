package systemd

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if do, told := os.LookupEnv("FAKE_KUBELET"); told {
		fakeKubelet(do)
		return
	}
	goleak.VerifyTestMain(m)
}

// listen opens a datagram socket as systemd does; "@" begins an abstract name.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// received reads all that is there. A datagram on a local socket is there when
// the write has returned, so the deadline is never waited out for a message.
func received(t *testing.T, l *net.UnixConn) []string {
	t.Helper()
	var got []string
	buf := make([]byte, 8192)
	for {
		if err := l.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(buf)
		if err != nil {
			return got
		}
		got = append(got, string(buf[:n]))
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestNotifierSpeaksToSystemd(t *testing.T) {
	for name, socket := range map[string]string{
		"socket with a path":            filepath.Join(t.TempDir(), "notify"),
		"socket with an abstract name":  fmt.Sprintf("@bootstrap-agent-test-%d", os.Getpid()),
		"socket with a space in a path": filepath.Join(t.TempDir(), "no tify"),
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, socket)
			n := NewNotifier(socket, time.Minute)
			ok(t, n.Ready())
			ok(t, n.Status("Discovering"))
			ok(t, n.Status("Discovering")) // the same again: not sent
			ok(t, n.Status("two\nlines\r\n\x1b[31mred\u2028 WATCHDOG=1"))
			ok(t, n.Watchdog())
			ok(t, n.Stopping())
			ok(t, n.Status("too late"))
			ok(t, n.Ready())
			ok(t, n.Watchdog())
			ok(t, n.Reloading())
			ok(t, n.Stopping())
			want := []string{"READY=1", "STATUS=Discovering", "STATUS=two lines [31mred WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"}
			if got := received(t, l); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestReloadingCarriesTheMonotonicTime(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l := listen(t, socket)
	ok(t, NewNotifier(socket, 0).Reloading())
	got := received(t, l)
	if len(got) != 1 {
		t.Fatalf("got %q", got)
	}
	usec, found := strings.CutPrefix(got[0], "RELOADING=1\nMONOTONIC_USEC=")
	if v, err := strconv.ParseUint(usec, 10, 64); !found || err != nil || v == 0 {
		t.Errorf("got %q", got[0])
	}
}

func TestNotifierWithoutSocketDoesNothing(t *testing.T) {
	n := NewNotifier("", 0)
	ok(t, n.Ready())
	ok(t, n.Status("x"))
	ok(t, n.Stopping())
	if n.Enabled() || n.Interval() != 0 {
		t.Error("it claims to be heard")
	}
}

func TestNotifierTellsWhenNobodyHears(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	n := NewNotifier(socket, 0)
	if err := n.Status("x"); err == nil {
		t.Error("no error")
	}
	l := listen(t, socket)
	ok(t, n.Status("x")) // not taken for sent before
	if got := received(t, l); !slices.Equal(got, []string{"STATUS=x"}) {
		t.Errorf("got %q", got)
	}
}

func TestStatusIsCut(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	l := listen(t, socket)
	ok(t, NewNotifier(socket, 0).Status(strings.Repeat("ü", maxStatus)+"\xff"))
	got := received(t, l)[0]
	if len(got) > len("STATUS=")+maxStatus || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestNotifierFromEnv(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for name, tc := range map[string]struct {
		usec, pid string
		want      time.Duration
		bad       bool
	}{
		"half of the watchdog's time":     {"60000000", pid, 30 * time.Second, false},
		"the watchdog is another's":       {"60000000", "1", 0, false},
		"no watchdog":                     {"", "", 0, false},
		"a broken time":                   {"soon", pid, 0, true},
		"a watchdog without a process id": {"60000000", "", 30 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", "/run/x")
			t.Setenv("WATCHDOG_USEC", tc.usec)
			t.Setenv("WATCHDOG_PID", tc.pid)
			n, err := NotifierFromEnv()
			if (err != nil) != tc.bad || n.Interval() != tc.want || !n.Enabled() {
				t.Errorf("interval %s, %v", n.Interval(), err)
			}
		})
	}
}

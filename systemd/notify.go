package systemd

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	notifyTimeout = 2 * time.Second // systemd may be slow to read; we do not wait for it
	maxStatus     = 500             // bytes of STATUS=
)

// Notifier tells the service manager how the agent is doing (sd_notify). One
// that has no socket to write to does nothing and returns nil. It may be used
// from several goroutines; after Stopping nothing is sent any more.
type Notifier struct {
	socket   string
	watchdog time.Duration

	mu       sync.Mutex
	status   string // as last sent
	stopping bool
}

// NewNotifier makes a Notifier for a socket as NOTIFY_SOCKET names it ("/path"
// or "@abstract"; "" for none) and a watchdog time (0 for none).
func NewNotifier(socket string, watchdog time.Duration) *Notifier {
	return &Notifier{socket: socket, watchdog: watchdog}
}

// NotifierFromEnv makes the Notifier that systemd asked for in this process's
// environment. WATCHDOG_PID is obeyed. An error leaves the Notifier usable,
// without watchdog.
func NotifierFromEnv() (*Notifier, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		err = fmt.Errorf("cannot read the watchdog time that systemd gave: %w", err)
	}
	return NewNotifier(os.Getenv("NOTIFY_SOCKET"), interval), err
}

// Enabled says whether anybody listens.
func (n *Notifier) Enabled() bool { return n.socket != "" }

// Interval is how often Watchdog is to be called: half of what systemd allows.
// Zero: never, there is no watchdog.
func (n *Notifier) Interval() time.Duration { return n.watchdog / 2 }

// Ready says that the start, or a reload, is complete.
func (n *Notifier) Ready() error { return n.send(daemon.SdNotifyReady) }

// Watchdog says that the loop is alive.
func (n *Notifier) Watchdog() error { return n.send(daemon.SdNotifyWatchdog) }

// Reloading says that the configuration is being read anew; Ready must follow.
func (n *Notifier) Reloading() error {
	return n.send(daemon.SdNotifyReloading + "\n" + strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// Status shows a line in `systemctl status`. The same line twice is sent once;
// whatever would break the line becomes a space.
func (n *Notifier) Status(line string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	line = oneLine(line, maxStatus)
	if line == n.status {
		return nil
	}
	if err := n.write("STATUS=" + line); err != nil {
		return err
	}
	n.status = line
	return nil
}

// Stopping says that the agent is about to end. It is the last word.
func (n *Notifier) Stopping() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.write(daemon.SdNotifyStopping)
	n.stopping = true
	return err
}

func (n *Notifier) send(state string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.write(state)
}

// write is called with the lock held, so that messages keep their order.
func (n *Notifier) write(state string) error {
	if n.socket == "" || n.stopping {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

// oneLine makes text fit for one line of at most limit bytes: valid UTF-8, no
// control characters, no doubled spaces.
func oneLine(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	const more = "..."
	return strings.ToValidUTF8(text[:limit-len(more)], "") + more
}

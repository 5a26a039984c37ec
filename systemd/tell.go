package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// maxOutput is how much of a journal goes into a report.
const maxOutput = 256 << 10

// Journal returns the last n lines that belong to a unit, of all boots, with time
// and host as journalctl shows them: what the unit wrote, what systemd said about
// it, and what others did to it. Whoever may not read the journal sees his own part
// of it, mostly nothing.
func (m *Manager) Journal(ctx context.Context, unit string, n int) (string, error) {
	if err := checkUnitName(unit); err != nil {
		return "", fmt.Errorf("cannot read the journal: %w", err)
	}
	text, err := program(ctx, m.opts.Journalctl, "--no-pager", "--quiet", "--utc", "--output=short-iso-precise", "--lines="+strconv.Itoa(n), "--unit="+unit)
	if err != nil {
		return text, fmt.Errorf("cannot read the journal of %s: %w", unit, err)
	}
	return text, nil
}

// Show returns properties of a unit as systemctl prints them, one a line; of
// systemd itself where unit is "".
func (m *Manager) Show(ctx context.Context, unit string, properties ...string) (string, error) {
	args := []string{"show", "--no-pager"}
	for _, p := range properties {
		args = append(args, "--property="+p)
	}
	if unit != "" {
		if err := checkUnitName(unit); err != nil {
			return "", fmt.Errorf("cannot ask systemd: %w", err)
		}
		args = append(args, unit)
	}
	text, err := program(ctx, m.opts.Systemctl, args...)
	if err != nil {
		return text, fmt.Errorf("cannot ask systemd: %w", err)
	}
	return text, nil
}

// errLong: more was printed than is kept.
var errLong = errors.New("it is long")

// program runs one of systemd's programs and returns what it printed, of very much
// the end.
func program(ctx context.Context, name string, args ...string) (string, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, journalTimeout)
		defer cancel()
	}
	var out, errOut limited
	cmd := exec.CommandContext(ctx, name, args...)                                                 //nolint:gosec // no shell; a unit's name is checked
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_COLORS=0"} // not ours: it may hold NOTIFY_SOCKET
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if said := oneLine(errOut.text.String(), 200); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return out.text.String(), err
	}
	if out.cut {
		// The first line may have lost its beginning, by which a secret is told.
		_, whole, _ := strings.Cut(out.text.String(), "\n")
		return whole, fmt.Errorf("%w: only the last %d KiB are here", errLong, len(whole)>>10)
	}
	return out.text.String(), nil
}

// limited keeps the last maxOutput bytes written to it, or somewhat fewer.
// (The buffer is not embedded: its ReadFrom would take everything.)
type limited struct {
	text bytes.Buffer
	cut  bool // there was more before
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	p = p[max(0, n-maxOutput/2):]
	l.cut = l.cut || len(p) < n
	if over := l.text.Len() + len(p) - maxOutput; over > 0 {
		l.cut = true
		l.text.Next(max(over, min(l.text.Len(), maxOutput/2)))
	}
	l.text.Write(p)
	return n, nil
}

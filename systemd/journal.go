package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

// ObjectUnit is the log field that names a unit as the object of what is
// logged: `journalctl -u kubelet` then shows what the agent did to the kubelet
// beside what the kubelet itself says.
const ObjectUnit = "OBJECT_SYSTEMD_UNIT"

// MessageID is the log field that leads `journalctl -x` to the catalog.
const MessageID = "MESSAGE_ID"

// identifier is the name under which native entries stand in the journal; lines
// of stderr get it from systemd.
const identifier = "bootstrap-agent"

// StderrIsJournal says whether what is written to stderr goes to the journal.
func StderrIsJournal() bool {
	ok, err := journal.StderrIsJournalStream()
	return ok && err == nil
}

// JournalFormatter formats log entries for a stderr that goes to the journal:
// one line, begun with its level as "<6>", without a time (the journal has its
// own). An entry with the field ObjectUnit or MessageID is sent to the journal
// itself, since a line cannot carry fields, and gives an empty line (which
// writes nothing); should the journal not take it at once it becomes a line like
// all others. Not every entry goes that way: the journal knows the sender of a
// line even when he has ended meanwhile, that of an entry only while he lives.
type JournalFormatter struct {
	// Next formats what comes after the level. Nil: message, then key=value.
	Next logrus.Formatter

	socket native
}

// Format implements logrus.Formatter.
func (f *JournalFormatter) Format(e *logrus.Entry) ([]byte, error) {
	text := []byte(messageOf(e))
	if f.Next != nil {
		var err error
		if text, err = (&PlainFormatter{f.Next}).Format(e); err != nil {
			return nil, err
		}
	}
	// A newline inside would begin another entry, without a level.
	text = bytes.ReplaceAll(bytes.TrimRight(text, "\n"), []byte("\n"), []byte(" "))
	if e.Data[ObjectUnit] != nil || e.Data[MessageID] != nil {
		if f.socket.send(string(text), priority(e.Level), journalFields(e)) == nil {
			return nil, nil
		}
	}
	return fmt.Appendf(nil, "<%d>%s\n", priority(e.Level), text), nil
}

// PlainFormatter leaves out the fields that only the journal understands.
type PlainFormatter struct{ Next logrus.Formatter }

// Format implements logrus.Formatter.
func (f *PlainFormatter) Format(e *logrus.Entry) ([]byte, error) {
	if e.Data[ObjectUnit] == nil && e.Data[MessageID] == nil {
		return f.Next.Format(e)
	}
	plain := *e
	plain.Data = maps.Clone(e.Data)
	delete(plain.Data, ObjectUnit)
	delete(plain.Data, MessageID)
	return f.Next.Format(&plain)
}

// priority is syslog's number for a level.
func priority(level logrus.Level) int {
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel:
		return int(journal.PriCrit)
	case logrus.ErrorLevel:
		return int(journal.PriErr)
	case logrus.WarnLevel:
		return int(journal.PriWarning)
	case logrus.InfoLevel:
		return int(journal.PriInfo)
	}
	return int(journal.PriDebug)
}

// messageOf is the message and then the fields, sorted by key, quoted where
// they have to be. Fields of the journal's own are left to the journal.
func messageOf(e *logrus.Entry) string {
	var b strings.Builder
	b.WriteString(oneLine(e.Message, 4096))
	for _, key := range fieldKeys(e) {
		if key == ObjectUnit || key == MessageID {
			continue
		}
		text := fmt.Sprint(e.Data[key])
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) || oneLine(text, len(text)) != text {
			text = strconv.Quote(text)
		}
		b.WriteString(" " + key + "=" + text)
	}
	return b.String()
}

func fieldKeys(e *logrus.Entry) []string {
	keys := make([]string, 0, len(e.Data))
	for key := range e.Data {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// journalFields gives each field of the entry a name that the journal takes:
// csr becomes BOOTSTRAP_AGENT_CSR; the journal's own two stay.
func journalFields(e *logrus.Entry) map[string]string {
	fields := map[string]string{"SYSLOG_IDENTIFIER": identifier}
	for key, value := range e.Data {
		if key != ObjectUnit && key != MessageID {
			key = "BOOTSTRAP_AGENT_" + strings.Map(func(r rune) rune {
				switch {
				case r >= 'a' && r <= 'z':
					return r - 'a' + 'A'
				case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
					return r
				}
				return '_'
			}, key)
		}
		fields[key] = fmt.Sprint(value)
	}
	return fields
}

const (
	journalTimeout = 5 * time.Second
	maxJournalLine = 500
)

// LastLines returns the last n lines that a unit and systemd about it wrote to
// the journal in this boot, oldest first, each made fit for one line. It runs
// journalctl: the journal's library for reading needs cgo. What the agent
// itself said about the unit (ObjectUnit) is left out.
func (m *Manager) LastLines(ctx context.Context, unit string, n int) ([]string, error) {
	if err := checkUnitName(unit); err != nil {
		return nil, fmt.Errorf("cannot read the journal: %w", err)
	}
	out, err := program(ctx, m.opts.Journalctl, m.thisBoot(), "--no-pager", "--quiet", "--output=cat",
		"--lines="+strconv.Itoa(n), "_SYSTEMD_UNIT="+unit, "+", "_PID=1", "UNIT="+unit)
	if err != nil && !errors.Is(err, errLong) {
		return nil, fmt.Errorf("cannot read the journal of %s: %w", unit, err)
	}
	var lines []string
	for line := range strings.Lines(out) {
		if line = oneLine(line, maxJournalLine); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):], nil
}

// Said tells whether a unit's processes wrote a line that matches a pattern (a
// regular expression as journalctl --grep takes it) within so long. A journalctl
// that cannot search, as some are built, says no, as it does where nothing was found.
func (m *Manager) Said(ctx context.Context, unit, pattern string, within time.Duration) (bool, error) {
	if err := checkUnitName(unit); err != nil {
		return false, fmt.Errorf("cannot search the journal: %w", err)
	}
	out, err := program(ctx, m.opts.Journalctl, m.thisBoot(), "--no-pager", "--quiet", "--output=cat", "--lines=1",
		"--since=-"+strconv.Itoa(int(within.Seconds()))+"s", "--grep="+pattern, "_SYSTEMD_UNIT="+unit)
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == 1 {
		return false, nil
	}
	if err != nil && !errors.Is(err, errLong) {
		return false, fmt.Errorf("cannot search the journal of %s: %w", unit, err)
	}
	return strings.TrimSpace(out) != "", nil
}

// thisBoot is journalctl's argument for the lines of this boot.
func (m *Manager) thisBoot() string {
	if id := strings.ReplaceAll(m.opts.BootID, "-", ""); id != "" {
		return "--boot=" + id
	}
	return "--boot"
}

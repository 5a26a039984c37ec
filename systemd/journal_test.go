package systemd

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// logTo makes a logger that formats with f into out.
func logTo(out io.Writer, f logrus.Formatter) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(out)
	l.SetFormatter(f)
	l.SetLevel(logrus.TraceLevel)
	return l
}

func TestJournalLinesCarryTheirLevel(t *testing.T) {
	var out strings.Builder
	log := logTo(&out, &JournalFormatter{})
	log.WithFields(logrus.Fields{"b": "x y", "a": 1, "c": "two\nlines", "d": ""}).Info("joined")
	log.WithError(errors.New("cannot x: \"y\"")).Error("failed\nbadly")
	log.Warn("w")
	log.Debug("d")
	want := "<6>joined a=1 b=\"x y\" c=\"two\\nlines\" d=\"\"\n" +
		"<3>failed badly error=\"cannot x: \\\"y\\\"\"\n<4>w\n<7>d\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

func TestJournalLinesTakeAnotherFormat(t *testing.T) {
	var out strings.Builder
	log := logTo(&out, &JournalFormatter{Next: &logrus.JSONFormatter{DisableTimestamp: true, PrettyPrint: true}})
	log.WithField("a", "x").Info("joined")
	if got := out.String(); !strings.HasPrefix(got, "<6>{") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q", got)
	}
}

func TestStderrOfATestIsNoJournal(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:1")
	if StderrIsJournal() {
		t.Error("it is")
	}
	t.Setenv("JOURNAL_STREAM", "garbage")
	if StderrIsJournal() {
		t.Error("garbage counts as a journal")
	}
}

// journalctl writes a program that stands for journalctl.
func journalctl(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journalctl")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLastLines(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/secret")
	m := NewManager(Options{Journalctl: journalctl(t, `echo "args: $*"; echo "env: $NOTIFY_SOCKET"; printf 'one\n\n\033[31mtwo\n'; printf '%0600d\n' 1; printf 'end'`)})
	defer m.Close()
	lines, err := m.LastLines(t.Context(), KubeletUnit, 6)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"args: --boot --no-pager --quiet --output=cat --lines=6 _SYSTEMD_UNIT=kubelet.service + _PID=1 UNIT=kubelet.service",
		"env:", "one", "[31mtwo", strings.Repeat("0", maxJournalLine-3) + "...", "end"}
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", lines, want)
	}
	if lines, err = m.LastLines(t.Context(), KubeletUnit, 2); err != nil || len(lines) != 2 || lines[1] != "end" {
		t.Errorf("the last two: %q, %v", lines, err)
	}
	m.opts.BootID = "11112222-3333-4444-5555-666677778888"
	if lines, err = m.LastLines(t.Context(), KubeletUnit, 6); err != nil || !strings.HasPrefix(lines[0], "args: --boot=11112222333344445555666677778888 ") {
		t.Errorf("in a container: %q, %v", lines, err)
	}
}

func TestSaid(t *testing.T) {
	for name, row := range map[string]struct {
		script string
		want   bool
		fails  bool
	}{
		"a line like that":                     {`[ "$*" = "--boot --no-pager --quiet --output=cat --lines=1 --since=-75s --grep=will retry.*Unauthorized _SYSTEMD_UNIT=kubelet.service" ] && echo "will retry: Unauthorized"`, true, false},
		"none":                                 {`exit 1`, false, false},
		"none, and a journalctl that is quiet": {`exit 0`, false, false},
		"a journalctl that cannot search":      {`echo "Compiled without pattern matching support" >&2; exit 1`, false, false},
		"a journalctl that is killed":          {`kill -9 $$`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewManager(Options{Journalctl: journalctl(t, row.script)})
			defer m.Close()
			said, err := m.Said(t.Context(), KubeletUnit, "will retry.*Unauthorized", 75*time.Second)
			if said != row.want || (err != nil) != row.fails {
				t.Errorf("%t, %v", said, err)
			}
		})
	}
}

func TestLastLinesKeepsTheEndOfMuch(t *testing.T) {
	m := NewManager(Options{Journalctl: journalctl(t, `i=0; while [ $i -lt 9000 ]; do echo "0123456789012345678901234567890123456789012345678901234567890123456789 $i"; i=$((i+1)); done`)})
	defer m.Close()
	lines, err := m.LastLines(t.Context(), KubeletUnit, 9000)
	if err != nil || len(lines) == 0 || !strings.HasSuffix(lines[len(lines)-1], " 8999") || len(lines)*70 > maxOutput {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

func TestLastLinesFails(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx           context.Context
		program, unit string
		part          string
	}{
		"no journalctl":             {t.Context(), "/nonexistent/journalctl", KubeletUnit, "no such file"},
		"journalctl fails":          {t.Context(), journalctl(t, "echo 'No journal\nfound' >&2; exit 3"), KubeletUnit, "exit status 3: No journal found"},
		"a name that is no unit's":  {t.Context(), "journalctl", "--vacuum-size=1", "no name of a unit"},
		"the caller does not wait":  {cancelled, journalctl(t, "exec sleep 30"), KubeletUnit, "context canceled"},
		"a name with a match in it": {t.Context(), "journalctl", "x.service + _UID=0", "no name of a unit"},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewManager(Options{Journalctl: tc.program})
			defer m.Close()
			lines, err := m.LastLines(tc.ctx, tc.unit, 3)
			if err == nil || lines != nil || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("%q, %v", lines, err)
			}
		})
	}
}

package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// journald is a socket that stands for journald's.
type journald struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newJournald(t *testing.T, path string) *journald {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &journald{t: t, path: path, conn: conn}
}

// socketPath is short enough for a socket's name wherever the tests run.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "journal") //nolint:usetesting // the name of a long test makes a path that is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

// next reads one entry, as journald would; nil if there is none. What was sent
// lies in the socket when the sender's call returns, so nothing is waited for.
func (j *journald) next() map[string]string {
	j.t.Helper()
	raw, err := j.conn.SyscallConn()
	if err != nil {
		j.t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	n, readErr := 0, error(nil)
	if err := raw.Read(func(fd uintptr) bool {
		n, readErr = syscall.Read(int(fd), data)
		return true
	}); err != nil {
		j.t.Fatal(err)
	}
	if errors.Is(readErr, syscall.EAGAIN) {
		return nil
	}
	if readErr != nil {
		j.t.Fatal(readErr)
	}
	entry, err := parseEntry(data[:n])
	if err != nil {
		j.t.Fatal(err)
	}
	return entry
}

func parseEntry(data []byte) (map[string]string, error) {
	entry := map[string]string{}
	for len(data) > 0 {
		line, rest, found := bytes.Cut(data, []byte("\n"))
		if !found {
			return nil, errors.New("the last line has no end")
		}
		if name, value, plain := bytes.Cut(line, []byte("=")); plain {
			entry[string(name)], data = string(value), rest
			continue
		}
		if len(rest) < 8 {
			return nil, errors.New("a field has no length")
		}
		n := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		if uint64(len(rest)) < n+1 || rest[n] != '\n' {
			return nil, errors.New("a field is shorter than it says")
		}
		entry[string(line)], data = string(rest[:n]), rest[n+1:]
	}
	return entry, nil
}

func TestEntriesAboutAUnitGoToTheJournalWithTheirFields(t *testing.T) {
	j := newJournald(t, socketPath(t))
	var out strings.Builder
	log := logTo(&out, &JournalFormatter{socket: native{path: j.path}})
	log.WithFields(logrus.Fields{ObjectUnit: KubeletUnit, "csr": "node-csr-x", "next-retry": 3, "two": "a\nb"}).Warn("kubelet restarted")
	want := map[string]string{
		"MESSAGE": `kubelet restarted csr=node-csr-x next-retry=3 two="a\nb"`, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "bootstrap-agent",
		"OBJECT_SYSTEMD_UNIT": "kubelet.service", "BOOTSTRAP_AGENT_CSR": "node-csr-x", "BOOTSTRAP_AGENT_NEXT_RETRY": "3", "BOOTSTRAP_AGENT_TWO": "a\nb",
	}
	if got := j.next(); !maps.Equal(got, want) || out.Len() != 0 {
		t.Errorf("got  %q\nwant %q\nline %q", got, want, out.String())
	}
	log.Info("a line like others")
	if got := j.next(); got != nil || out.String() != "<6>a line like others\n" {
		t.Errorf("an entry without fields of the journal: %q, line %q", got, out.String())
	}
}

func TestAnEntryInAnotherFormatIsThatInTheJournal(t *testing.T) {
	j := newJournald(t, socketPath(t))
	log := logTo(io.Discard, &JournalFormatter{Next: &logrus.JSONFormatter{DisableTimestamp: true}, socket: native{path: j.path}})
	log.WithField(MessageID, "0123").WithField("a", "x").Info("joined")
	got := j.next()
	if got["MESSAGE"] != `{"a":"x","level":"info","msg":"joined"}` || got["MESSAGE_ID"] != "0123" || got["BOOTSTRAP_AGENT_A"] != "x" {
		t.Errorf("%q", got)
	}
}

func TestNoEntryIsLostWhenTheJournalDoesNotTakeIt(t *testing.T) {
	t.Run("it is not there", func(t *testing.T) {
		var out strings.Builder
		log := logTo(&out, &JournalFormatter{socket: native{path: socketPath(t)}})
		log.WithField(MessageID, "0123").Info("x")
		if out.String() != "<6>x\n" {
			t.Errorf("line %q", out.String())
		}
	})
	t.Run("it does not read, and nobody waits for it", func(t *testing.T) {
		j := newJournald(t, socketPath(t))
		var out strings.Builder
		log := logTo(&out, &JournalFormatter{socket: native{path: j.path}})
		const entries = 3000
		began := time.Now()
		written := 0
		for ; written < entries && out.Len() == 0; written++ {
			log.WithField(MessageID, "0123").Info("x")
		}
		if out.String() != "<6>x\n" {
			t.Fatalf("%d entries fitted in; line %q", written, out.String())
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the log waited for %s", took)
		}
		read := 0
		for j.next() != nil {
			read++
		}
		if read != written-1 {
			t.Errorf("%d entries were taken and one line written, of %d", read, written)
		}
		log.WithField(MessageID, "0123").Info("y")
		if got := j.next(); got["MESSAGE"] != "y" {
			t.Errorf("it reads again: %q, line %q", got, out.String())
		}
	})
	t.Run("it was started anew", func(t *testing.T) {
		j := newJournald(t, socketPath(t))
		var out strings.Builder
		log := logTo(&out, &JournalFormatter{socket: native{path: j.path}})
		log.WithField(MessageID, "0123").Info("x")
		if j.next() == nil {
			t.Fatal("no entry")
		}
		_ = j.conn.Close()
		_ = os.Remove(j.path)
		j = newJournald(t, j.path)
		log.WithField(MessageID, "0123").Info("y")
		if got := j.next(); got["MESSAGE"] != "y" || out.Len() != 0 {
			t.Errorf("%q, line %q", got, out.String())
		}
	})
	t.Run("the entry is too large for it", func(t *testing.T) {
		j := newJournald(t, socketPath(t))
		var out strings.Builder
		log := logTo(&out, &JournalFormatter{socket: native{path: j.path}})
		log.WithFields(logrus.Fields{MessageID: "0123", "huge": strings.Repeat("h", 4<<20)}).Info("x")
		if !strings.HasPrefix(out.String(), "<6>x huge=hhh") {
			t.Errorf("line %.40q", out.String())
		}
	})
}

func TestOutsideTheJournalNobodySeesItsFields(t *testing.T) {
	var out strings.Builder
	log := logTo(&out, &PlainFormatter{&logrus.JSONFormatter{DisableTimestamp: true}})
	log.WithFields(logrus.Fields{MessageID: "0123", ObjectUnit: "kubelet.service", "a": "x"}).Info("joined")
	if got := out.String(); got != `{"a":"x","level":"info","msg":"joined"}`+"\n" {
		t.Errorf("%q", got)
	}
}

// Whatever stands in a field, journald reads the same fields and no other.
func FuzzTheNativeProtocolKeepsFieldsApart(f *testing.F) {
	f.Add("plain", "two\nlines")
	f.Add("MESSAGE_ID=00\nPRIORITY=0", "")
	f.Add("a=b", "\n")
	f.Fuzz(func(t *testing.T, one, two string) {
		data := appendField(appendField(nil, "ONE", one), "TWO", two)
		got, err := parseEntry(data)
		if err != nil || !maps.Equal(got, map[string]string{"ONE": one, "TWO": two}) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

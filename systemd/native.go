package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// journalSocket is where journald takes entries with fields.
const journalSocket = "/run/systemd/journal/socket"

// nativeTimeout bounds one entry: the loop must not wait for a journald that
// does not read.
const nativeTimeout = 100 * time.Millisecond

// native sends entries to journald in its native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). go-systemd's own sender writes
// to an unconnected socket, where a full queue blocks for ever; here the socket
// is connected, so that the deadline counts.
type native struct {
	path string // "": journalSocket

	mu   sync.Mutex
	conn *net.UnixConn
}

// send hands one entry over, or returns an error and has sent nothing.
func (n *native) send(message string, priority int, fields map[string]string) error {
	data := make([]byte, 0, 1024)
	data = appendField(data, "PRIORITY", fmt.Sprint(priority))
	data = appendField(data, "MESSAGE", message)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		data = appendField(data, name, fields[name])
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		err := n.write(data)
		if err == nil {
			return nil
		}
		n.close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("cannot write to the journal: %w", err)
		} // else journald may have been restarted with another socket: once more
	}
	path := n.path
	if path == "" {
		path = journalSocket
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot reach the journal: %w", err)
	}
	n.conn = conn
	if err := n.write(data); err != nil {
		n.close()
		return fmt.Errorf("cannot write to the journal: %w", err)
	}
	return nil
}

func (n *native) write(data []byte) error {
	if err := n.conn.SetWriteDeadline(time.Now().Add(nativeTimeout)); err != nil {
		return err
	}
	_, err := n.conn.Write(data)
	return err
}

func (n *native) close() {
	if n.conn != nil {
		_ = n.conn.Close() // nothing is buffered there
		n.conn = nil
	}
}

// appendField writes NAME=value, or, where the value has several lines, the name,
// the length and the value.
func appendField(data []byte, name, value string) []byte {
	data = append(data, name...)
	if !strings.Contains(value, "\n") {
		data = append(data, '=')
	} else {
		data = append(data, '\n')
		data = binary.LittleEndian.AppendUint64(data, uint64(len(value)))
	}
	data = append(data, value...)
	return append(data, '\n')
}

package preflight

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// The kubelet's default ports.
const (
	kubeletPort = 10250
	healthPort  = 10248
)

// kubeletUnit is how the cgroup of the kubelet's own processes is called.
const kubeletUnit = "/kubelet.service"

// listener is a socket that listens.
type listener struct {
	at    netip.AddrPort
	inode string
}

// Port looks whether the port that the API server calls the kubelet on is free,
// or held by kubelet.service itself.
func (m Machine) Port(s kubelet.Settings) *Row {
	port := s.Port
	if port == 0 {
		port = kubeletPort
	}
	name := "port " + strconv.Itoa(port)
	l, err := m.listening(uint16(port), s.Address) // Settings takes 16 bits only
	switch {
	case err != nil:
		return unseen(name, err)
	case l == nil:
		return pass(name, "free")
	}
	h := m.holder(l.inode)
	remedy := "Stop what listens there (`ss -ltnp 'sport = :" + strconv.Itoa(port) + "'`), or give the kubelet another port in its configuration."
	switch {
	case h.kubelet:
		return pass(name, "held by kubelet.service")
	case h.name != "":
		return fail(name, remedy, "held by %s (PID %d); the kubelet does not stay up", plain(h.name), h.pid)
	case h.blind:
		row := warn(name, remedy, "held by a process that only root can see")
		row.NeedsRoot = true
		return row
	}
	row := fail(name, remedy, "held by another process, which only root can name; the kubelet does not stay up")
	row.NeedsRoot = true
	return row
}

// HealthPort looks whether the kubelet can open its health endpoint, given as
// the URL that the agent will ask.
func (m Machine) HealthPort(url string) *Row {
	at, err := netip.ParseAddrPort(strings.TrimSuffix(strings.TrimPrefix(strings.Replace(url, "//localhost:", "//127.0.0.1:", 1), "http://"), "/healthz"))
	if err != nil {
		return NotSeen("port "+strconv.Itoa(healthPort), "where the kubelet answers for its health cannot be told")
	}
	name := "port " + strconv.Itoa(int(at.Port()))
	l, err := m.listening(at.Port(), at.Addr().String())
	switch {
	case err != nil:
		return unseen(name, err)
	case l == nil:
		return pass(name, "free")
	}
	h := m.holder(l.inode)
	if h.kubelet {
		return pass(name, "held by kubelet.service")
	}
	who := "another process"
	if h.name != "" {
		who = fmt.Sprintf("%s (PID %d)", plain(h.name), h.pid)
	}
	return warn(name, "Stop it, or set healthzPort in the kubelet's configuration.",
		"held by %s; the kubelet cannot open its health endpoint there, and the agent would ask a stranger", who)
}

// listening finds a socket that keeps the kubelet from listening on a port of
// address ("": every address); nil if there is none.
func (m Machine) listening(port uint16, address string) (*listener, error) {
	mine, err := netip.ParseAddr(address)
	everywhere := err != nil || mine.IsUnspecified()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := m.read(file)
		if errors.Is(err, fs.ErrNotExist) && file == "/proc/net/tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, l := range parseListeners(data) {
			other := l.at.Addr().Unmap()
			if l.at.Port() == port && (everywhere || other.IsUnspecified() || other == mine.Unmap()) {
				return &l, nil
			}
		}
	}
	return nil, nil
}

// parseListeners reads /proc/net/tcp or tcp6: the sockets in state LISTEN (0A).
// What is not of that form is passed over.
func parseListeners(data []byte) []listener {
	var out []listener
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != "0A" {
			continue
		}
		host, port, ok := strings.Cut(fields[1], ":")
		if !ok || len(port) != 4 {
			continue
		}
		number, err := strconv.ParseUint(port, 16, 16)
		raw, hexErr := hex.DecodeString(host)
		if err != nil || hexErr != nil || len(raw) != 4 && len(raw) != 16 {
			continue
		}
		for i := 0; i < len(raw); i += 4 { // words, each in the machine's byte order
			binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
		}
		addr, _ := netip.AddrFromSlice(raw)
		out = append(out, listener{netip.AddrPortFrom(addr, uint16(number)), fields[9]})
	}
	return out
}

// holder is who has a socket open.
type holder struct {
	kubelet bool // a process of kubelet.service
	name    string
	pid     int
	blind   bool // the processes of others cannot be seen at all
}

// holder looks through the processes. Whose the socket is only root can tell;
// whether kubelet.service has a process everybody can, and then it is taken for
// that one's.
func (m Machine) holder(inode string) holder {
	dirs, _ := filepath.Glob(m.path("/proc") + "/[0-9]*") // its pattern is good
	h := holder{blind: !m.exists("/proc/1/cgroup")}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		ours := m.inKubeletUnit(pid)
		if m.hasSocket(dir, inode) {
			comm, _ := m.read(fmt.Sprintf("/proc/%d/comm", pid)) // gone meanwhile: no name
			return holder{kubelet: ours, name: strings.TrimSpace(string(comm)), pid: pid}
		}
		h.kubelet = h.kubelet || ours
	}
	return h
}

func (m Machine) inKubeletUnit(pid int) bool {
	data, err := m.read(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if path := strings.TrimSpace(line); strings.HasSuffix(path, kubeletUnit) || strings.Contains(path, kubeletUnit+"/") {
			return true
		}
	}
	return false
}

func (m Machine) hasSocket(dir, inode string) bool {
	if inode == "" || inode == "0" {
		return false
	}
	entries, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return false // not ours to see
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, "fd", e.Name())); err == nil && target == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

package preflight

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

const tcpHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func socket(local, state, inode string) string {
	return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000     0        0 " + inode + " 1 0000000000000000 100 0 0 10 0\n"
}

// Addresses as a little-endian kernel writes them.
const (
	everywhere4 = "00000000"
	loopback4   = "0100007F"
	other4      = "0A00000A" // 10.0.0.10
	everywhere6 = "00000000000000000000000000000000"
)

func TestPort(t *testing.T) {
	const port = ":280A" // 10250
	tcp := func(lines ...string) files {
		f := files{"/proc/net/tcp": tcpHead, "/proc/1/cgroup": "0::/init.scope\n"}
		for _, l := range lines {
			f["/proc/net/tcp"] += l
		}
		return f
	}
	with := func(f files, more files) files {
		for path, data := range more {
			f[path] = data
		}
		return f
	}
	taken := func() files { return tcp(socket(everywhere4+port, "0A", "777")) }
	stranger := files{"/proc/42/fd/3": "-> socket:[777]", "/proc/42/comm": "nginx\n", "/proc/42/cgroup": "0::/system.slice/nginx.service\n"}
	unit := files{"/proc/43/comm": "kubelet\n", "/proc/43/cgroup": "12:memory:/system.slice/kubelet.service\n0::/\n"}
	for name, c := range map[string]struct {
		f       files
		s       kubelet.Settings
		verdict Verdict
		text    string
		root    bool
	}{
		"free":                                    {tcp(), kubelet.Settings{}, Pass, "free", false},
		"free but for a connection":               {tcp(socket(loopback4+port, "01", "1")), kubelet.Settings{}, Pass, "free", false},
		"another port":                            {tcp(socket(everywhere4+":280B", "0A", "1")), kubelet.Settings{}, Pass, "free", false},
		"held by a stranger":                      {with(taken(), stranger), kubelet.Settings{}, Fail, "nginx (PID 42)", false},
		"held on one address, wanted on all":      {with(tcp(socket(loopback4+port, "0A", "777")), stranger), kubelet.Settings{}, Fail, "nginx", false},
		"held on another address than wanted":     {with(tcp(socket(loopback4+port, "0A", "777")), stranger), kubelet.Settings{Address: "10.0.0.10"}, Pass, "free", false},
		"held on the wanted address":              {with(tcp(socket(other4+port, "0A", "777")), stranger), kubelet.Settings{Address: "10.0.0.10"}, Fail, "nginx", false},
		"held over IPv6":                          {with(tcp(), files{"/proc/net/tcp6": tcpHead + socket(everywhere6+port, "0A", "9")}), kubelet.Settings{}, Fail, "only root can name", true},
		"held by kubelet.service":                 {with(with(taken(), unit), files{"/proc/43/fd/3": "-> socket:[777]"}), kubelet.Settings{}, Pass, "kubelet.service", false},
		"held by kubelet.service, for all to see": {with(taken(), unit), kubelet.Settings{}, Pass, "kubelet.service", false},
		"held by a stranger beside the kubelet":   {with(with(taken(), unit), stranger), kubelet.Settings{}, Fail, "nginx", false},
		"held, and no process can be seen":        {files{"/proc/net/tcp": tcpHead + socket(everywhere4+port, "0A", "777")}, kubelet.Settings{}, Warn, "only root", true},
		"another port is configured":              {with(taken(), stranger), kubelet.Settings{Port: 10350}, Pass, "free", false},
		"no list of sockets":                      {files{}, kubelet.Settings{}, Skip, "cannot", false},
		"a list that cannot be read":              {files{"/proc/net/tcp": tcpHead, "/proc/net/tcp6/": ""}, kubelet.Settings{}, Skip, "cannot", false},
	} {
		t.Run(name, func(t *testing.T) {
			row := on(t, c.f).Port(c.s)
			wantRow(t, row, c.verdict, c.text)
			if row.NeedsRoot != c.root {
				t.Errorf("%+v", row)
			}
		})
	}
}

func TestHealthPort(t *testing.T) {
	held := files{"/proc/net/tcp": tcpHead + socket(loopback4+":2808", "0A", "777"), "/proc/1/cgroup": "0::/\n", "/proc/42/fd/3": "-> socket:[777]", "/proc/42/comm": "stale\n"}
	for name, c := range map[string]struct {
		f       files
		url     string
		verdict Verdict
		text    string
	}{
		"free":                    {files{"/proc/net/tcp": tcpHead}, "http://127.0.0.1:10248/healthz", Pass, "free"},
		"held":                    {held, "http://127.0.0.1:10248/healthz", Warn, "stale (PID 42)"},
		"held, under its name":    {held, "http://localhost:10248/healthz", Warn, "stale (PID 42)"},
		"elsewhere":               {held, "http://[::1]:10248/healthz", Pass, "free"},
		"by the kubelet":          {files{"/proc/net/tcp": held["/proc/net/tcp"], "/proc/7/cgroup": "0::/system.slice/kubelet.service/x\n"}, "http://127.0.0.1:10248/healthz", Pass, "kubelet.service"},
		"an address that is none": {held, "http://example.org/healthz", Skip, "cannot be told"},
		"no list":                 {files{}, "http://127.0.0.1:10248/healthz", Skip, "cannot"},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, on(t, c.f).HealthPort(c.url), c.verdict, c.text) })
	}
}

// The kernel is the oracle for how it writes addresses.
func TestListenersOfThisMachineAreRead(t *testing.T) {
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Logf("%s: %v", network, err)
			continue
		}
		at := netip.MustParseAddrPort(l.Addr().String())
		got, err := (Machine{}).listening(at.Port(), at.Addr().String())
		if err != nil || got == nil || got.at != at {
			t.Errorf("%s: %+v, %v", at, got, err)
		} else if h := (Machine{}).holder(got.inode); h.pid == 0 {
			t.Errorf("nobody holds %s: %+v", at, h)
		}
		_ = l.Close()
	}
}

func FuzzListeners(f *testing.F) {
	f.Add([]byte(tcpHead + socket(everywhere4+":280A", "0A", "777") + socket(everywhere6+":280A", "0A", "1")))
	f.Add([]byte("0: :: 0A 0A 0 0 0 0 0 0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, l := range parseListeners(data) {
			if !l.at.IsValid() || l.inode == "" {
				t.Errorf("%+v", l)
			}
		}
	})
}

func FuzzSwaps(f *testing.F) {
	f.Add([]byte(swapHead))
	f.Add([]byte(swapHead + "/" + strings.Repeat("_", 2400) + " file 1 0 -2\n"))
	f.Add([]byte(swapHead + "/dev/sda2 partition 1 0 -2\n/swap\\040file file 1 0 -3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, area := range parseSwaps(data) {
			if area == "" || len(area) > 2000 {
				t.Errorf("%q", area)
			}
			for _, r := range area {
				if !strconv.IsGraphic(r) {
					t.Errorf("%q has %q", area, r)
				}
			}
		}
	})
}

func FuzzMounts(f *testing.F) {
	f.Add([]byte("cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"), []byte("nodev\toverlay\n"))
	f.Add([]byte("cgroup"), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, mounts, filesystems []byte) {
		if missing := without(mountedControllers(mounts), "cpu", "cpuacct"); len(missing) > 2 {
			t.Error(missing)
		}
		if hasFilesystem(filesystems, "") {
			t.Error("a file system without a name")
		}
	})
}

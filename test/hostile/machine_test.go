//go:build e2e

package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// small is a machine for one join by the packaged program: namespaces of mounts
// and processes in which /etc, /opt, /run and /var/lib are folders of the test, a
// systemd of its own (a user instance) listens where the system's would, and the
// kubelet is a fake that says what it was given. It has the host's network: its
// loopback is where the test's servers are.
type small struct{ dir string }

// script is what runs in it. Everything in it dies with it.
const script = `set -e
mount --bind "$D/etc" /etc; mount --bind "$D/opt" /opt; mount --bind "$D/lib" /var/lib; mount --bind "$D/run" /run
mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd 2>/dev/null || true
XDG_RUNTIME_DIR=/run XDG_CONFIG_HOME=/run/config HOME=/run SYSTEMD_UNIT_PATH=/etc/systemd/system: /lib/systemd/systemd --user --log-target=null </dev/null 3>&- >/dev/null 2>&1 &
n=0; while ! [ -S /run/systemd/private ]; do n=$((n+1)); [ $n -lt 600 ] || exit 125; sleep 0.05; done
exec "$@"
`

var fake struct {
	once sync.Once
	path string
	err  error
}

// fakeKubelet builds it once.
func fakeKubelet() (string, error) {
	fake.once.Do(func() {
		fake.path = filepath.Join(scratch, "fakekubelet")
		cmd := exec.Command("go", "build", "-o", fake.path, "../e2e/fakekubelet")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fake.err = fmt.Errorf("cannot build the fake kubelet: %w: %s", err, out)
		}
	})
	return fake.path, fake.err
}

// newSmall makes a machine whose agent has this config.
func newSmall(t *testing.T, config string) *small {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a machine of mount namespaces needs root")
	}
	dir, err := os.MkdirTemp("", "sm") //nolint:usetesting // t.TempDir is too long for the names of the sockets below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := &small{dir}
	for _, d := range []string{"etc/systemd/system", "etc/bootstrap-agent", "opt/bin", "lib/kubelet", "run/systemd/system", "run/config/systemd/user", "run/containerd"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	runtime(t, filepath.Join(dir, "run/containerd/containerd.sock"))
	kubelet, err := fakeKubelet()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(kubelet)
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "opt/bin/kubelet", string(text), 0o755)
	for _, f := range []string{"passwd", "group", "nsswitch.conf", "hosts", "machine-id", "resolv.conf"} {
		if text, err := os.ReadFile("/etc/" + f); err == nil {
			m.write(t, "etc/"+f, string(text), 0o644)
		}
	}
	m.write(t, "etc/systemd/system/multi-user.target", "[Unit]\n", 0o644)
	m.write(t, "etc/systemd/system/default.target", "[Unit]\nWants=multi-user.target\n", 0o644)
	m.write(t, "etc/systemd/system/containerd.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n", 0o644)
	m.write(t, "etc/bootstrap-agent/config.yaml", config, 0o600)
	m.write(t, "etc/bootstrap-agent/token", tokenID+"."+secret+"\n", 0o600)
	return m
}

func (m *small) write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	full := filepath.Join(m.dir, path)
	if err := os.WriteFile(full, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(full, mode); err != nil {
		t.Fatal(err)
	}
}

// run runs the program in it.
func (m *small) run(t *testing.T, limit time.Duration, args ...string) (r ran) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh", self, program}, args...)
	cmd := exec.CommandContext(ctx, "unshare", argv...)
	cmd.Env = append(os.Environ(), launchEnv+"=1", "D="+m.dir)
	cmd.WaitDelay = 5 * time.Second
	return measured(t, cmd)
}

// argv is what the fake kubelet was given, nil when it has not been started.
func (m *small) argv(t *testing.T) (args []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.dir, "run/fakekubelet.json"))
	if os.IsNotExist(err) {
		return nil
	}
	var words [][]byte
	if err := json.Unmarshal(text, &words); err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		args = append(args, string(word))
	}
	return args
}

// touched lists what a run has left in the folders of kubelet, agent and systemd.
func (m *small) touched(t *testing.T) (paths []string) {
	t.Helper()
	for _, folder := range []string{"lib/kubelet", "lib/bootstrap-agent", "etc/systemd/system"} {
		_ = filepath.WalkDir(filepath.Join(m.dir, folder), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".target") && !strings.HasSuffix(path, "containerd.service") {
				paths = append(paths, strings.TrimPrefix(path, m.dir))
			}
			return nil
		})
	}
	return paths
}

// runtime answers as much of CRI on a socket as the agent asks.
func runtime(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var message []byte
	for i, text := range []string{"0.1.0", "containerd", "2.1.0", "v1"} {
		message = append(message, byte(i+1)<<3|2, byte(len(text)))
		message = append(message, text...)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: &protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if !strings.HasSuffix(r.URL.Path, "/Version") {
			w.Header().Set("Grpc-Status", "12") // unimplemented
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(append([]byte{0, 0, 0, 0, byte(len(message))}, message...))
		w.Header().Set("Grpc-Status", "0")
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

// freePort is a port of loopback that nobody listens on now.
func freePort() string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer func() { _ = l.Close() }()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// measured runs a command that ends in our launcher.
func measured(t *testing.T, cmd *exec.Cmd) (r ran) {
	t.Helper()
	var stdout, stderr, used bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{writer}
	began := time.Now()
	err = cmd.Run()
	r.took = time.Since(began)
	_ = writer.Close()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	_ = reader.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = used.ReadFrom(reader)
	_ = reader.Close()
	r.code, r.stdout, r.stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	if _, err := fmt.Sscan(used.String(), &r.resident); err != nil || r.code == 125 {
		t.Fatalf("the launcher says %q, exit code %d after %s: %s", used.String(), r.code, r.took, r.stderr)
	}
	return r
}

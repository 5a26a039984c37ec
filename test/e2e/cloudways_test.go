//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// What the image of such a machine is: where it looks for its user-data, and how
// it lives without a mirror.
func imageFiles(name, userData string) map[string]machine.File {
	return map[string]machine.File{
		"/var/lib/cloud/seed/nocloud/user-data": {Content: userData, Mode: 0o600},
		"/var/lib/cloud/seed/nocloud/meta-data": {Content: "instance-id: i-" + name + "\nlocal-hostname: " + name + "\nregion: north\navailability_zone: north-7\n"},
		"/etc/cloud/cloud.cfg.d/90-lab.cfg":     {Content: "datasource_list: [NoCloud]\nlocale: C\nssh_genkeytypes: [ed25519]\n"},
		"/etc/apt/sources.list":                 {Content: "# no way to a mirror\n"},
	}
}

// tracePath is where the arguments and the environment of every program stand
// that was executed in a traced machine before anything of cloud-init was.
const tracePath = "/run/executions"

func traceFiles() map[string]machine.File {
	return map[string]machine.File{
		"/etc/systemd/system/trace.service": {Content: `[Unit]
DefaultDependencies=no
[Service]
Type=exec
ExecStart=/usr/bin/strace -f -qq -v -s 65536 -e trace=execve,execveat -e signal=none -o ` + tracePath + ` -p 1
ExecStartPost=/bin/sh -c 'until grep -q "^TracerPid:.[1-9]" /proc/1/status; do :; done'
`},
		"/etc/systemd/system/sysinit.target.d/trace.conf":           {Content: "[Unit]\nWants=trace.service\n"},
		"/etc/systemd/system/cloud-init-local.service.d/trace.conf": {Content: "[Unit]\nAfter=trace.service\n"},
	}
}

// lockFiles hold dpkg's lock, as unattended-upgrades would, until two seconds
// after a shell command has succeeded.
func lockFiles(until string) map[string]machine.File {
	return map[string]machine.File{
		"/etc/systemd/system/lock.service": {Content: `[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
Type=exec
ExecStart=/usr/bin/python3 /srv/lock.py
`},
		"/srv/lock.py": {Content: fmt.Sprintf(`import fcntl, subprocess, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
while subprocess.call(%q, shell=True):
    time.sleep(0.1)
time.sleep(2)
`, until)},
		"/etc/systemd/system/sysinit.target.d/lock.conf": {Content: "[Unit]\nWants=lock.service\n"},
	}
}

// firstBootFiles are what runs a script at the first boot of a machine that has
// no cloud-init: a unit of the image.
func firstBootFiles(script string) map[string]machine.File {
	return map[string]machine.File{
		"/srv/first-boot.sh": {Content: script, Mode: 0o700},
		"/etc/systemd/system/first-boot.service": {Content: `[Unit]
Wants=network-online.target
After=network-online.target
[Service]
Type=oneshot
ExecStart=/srv/first-boot.sh
`},
		"/etc/systemd/system/multi-user.target.d/first-boot.conf": {Content: "[Unit]\nWants=first-boot.service\n"},
	}
}

// secretStore hands out one token, and is not there yet when it is asked for the
// first time.
type secretStore struct {
	url, caPEM string
	mu         sync.Mutex
	token      string
	asked      int
}

func newSecretStore(t *testing.T, ctx context.Context) *secretStore {
	t.Helper()
	authority, err := cluster.NewAuthority("secret store")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Server(lab.Address)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(lab.Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	store := &secretStore{url: "https://" + listener.Addr().String() + "/bootstrap-token", caPEM: string(authority.CertPEM)}
	server := &http.Server{Handler: http.HandlerFunc(store.answer), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}}))
	}() // ends with Close
	t.Cleanup(func() { _ = server.Close() }) // nothing to be done about it
	return store
}

func (s *secretStore) answer(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.asked == 1 {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, s.token) // who hung up asks again
}

func (s *secretStore) prepare(with *cloud, _ *machine.Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, with.secretStore, with.storeCAPEM = with.token.String(), s.url, s.caPEM
}

// askedAgain says that the machine asked until it had a token, and then no more.
func (s *secretStore) askedAgain(t *testing.T, ctx context.Context, m *machine.Machine, _ cloud, _ agent.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked != 2 {
		t.Errorf("the store was asked %d times, want 2", s.asked)
	}
	props := unitProps(t, ctx, m, "bootstrap-agent-token.service", "Result", "NRestarts", "UnitFileState")
	if props["Result"] != "success" || props["NRestarts"] != "1" || props["UnitFileState"] != "enabled" {
		t.Errorf("bootstrap-agent-token.service: %v", props)
	}
}

// waitsForTheClusterThenForAToken is user-data that was written long before the
// machine: its token has expired, and its cluster is not even reached. The boot
// ends all the same, cloud-final with it.
func waitsForTheClusterThenForAToken(c *cluster.Cluster, pipe *proxy.Pipe) func(*testing.T, context.Context, *machine.Machine, cloud) {
	return func(t *testing.T, ctx context.Context, m *machine.Machine, _ cloud) {
		if err := m.AwaitRunning(ctx); err != nil {
			t.Fatal(err)
		}
		final := unitProps(t, ctx, m, "cloud-final.service", "ActiveState", "SubState", "Result", "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic")
		if final["ActiveState"] != "active" || final["SubState"] != "exited" || final["Result"] != "success" {
			t.Errorf("cloud-final.service: %v", final)
		}
		began, err1 := strconv.Atoi(final["ExecMainStartTimestampMonotonic"])
		ended, err2 := strconv.Atoi(final["ExecMainExitTimestampMonotonic"])
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
		}
		t.Logf("cloud-final took %s without a cluster", time.Duration(ended-began)*time.Microsecond)
		// What is refused a moment after it was accepted looks like either.
		awaitStatus(t, ctx, m, "the cluster to be missed", 10*time.Second, func(s agent.Status) bool {
			return s.Reason == fault.EndpointUnreachable || s.Reason == fault.TLSHandshakeFailed
		})
		pipe.Set(proxy.Pass)
		awaitStatus(t, ctx, m, "the token to be missed", 30*time.Second, hasReason(fault.TokenUnknown))
		fresh := newToken(t, ctx, c)
		if err := c.AwaitSignature(ctx, fresh); err != nil {
			t.Fatal(err)
		}
		result, err := m.RunInput(ctx, []byte(fresh.String()+"\n"), "bootstrap-agent", "token", "set")
		if err != nil || result.Code != 0 {
			t.Fatalf("token set: %v, %+v", err, result)
		}
	}
}

func expiredToken(t *testing.T, ctx context.Context, c *cluster.Cluster) cluster.Token {
	t.Helper()
	token, err := c.NewToken(ctx, cluster.TokenOptions{Expiry: -time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func waitedForTheLockItself(t *testing.T, ctx context.Context, m *machine.Machine, _ cloud, _ agent.Status) {
	log, err := m.Journal(ctx, "first-boot.service")
	if err != nil || !strings.Contains(log, "Waiting for cache lock") {
		t.Errorf("apt has not waited for the lock (%v):\n%s", err, log)
	}
}

var logTime = regexp.MustCompile(`(?m)^(\S+ \S+) - .*: (Waiting for apt lock|apt lock available)$`)

// waitedForTheLockAndBoots: cloud-init has waited for the lock by itself; the
// node is what the files say; and after a reboot it is still the same node.
func waitedForTheLockAndBoots(c *cluster.Cluster) func(*testing.T, context.Context, *machine.Machine, cloud, agent.Status) {
	return func(t *testing.T, ctx context.Context, m *machine.Machine, with cloud, status agent.Status) {
		log, err := m.ReadFile(ctx, "/var/log/cloud-init.log")
		if err != nil {
			t.Fatal(err)
		}
		var waited time.Duration
		if lines := logTime.FindAllStringSubmatch(log, 2); len(lines) == 2 {
			const form = "2006-01-02 15:04:05,000"
			from, err1 := time.Parse(form, lines[0][1])
			to, err2 := time.Parse(form, lines[1][1])
			if err1 != nil || err2 != nil {
				t.Error(err1, err2)
			}
			waited = to.Sub(from)
		}
		t.Logf("cloud-init waited %s for apt's lock", waited)
		if waited < time.Second {
			t.Error("the lock was free")
		}
		node, err := c.AwaitNode(ctx, m.Name)
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["example.org/rack"] != "r7" || len(node.Spec.Taints) == 0 {
			t.Errorf("labels %v, taints %v", node.Labels, node.Spec.Taints)
		}
		before := bootOf(t, ctx, m)
		if err := m.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
		after := awaitJoined(t, ctx, m, 60*time.Second)
		bootedWell(t, ctx, m, true)
		if bootOf(t, ctx, m) == before || after.Certificate.Serial != status.Certificate.Serial {
			t.Errorf("certificate %s before the reboot, %s after it", status.Certificate.Serial, after.Certificate.Serial)
		}
		if made := csrsOf(t, ctx, c, with.token); len(made) != 1 {
			t.Errorf("%d requests were made with the token: %q", len(made), made)
		}
	}
}

func credentialStaysOutside(t *testing.T, ctx context.Context, m *machine.Machine, _ cloud, _ agent.Status) {
	if text, err := m.ReadFile(ctx, tokenPath); err == nil {
		t.Errorf("the credential was copied to %s (%d bytes)", tokenPath, len(text))
	}
}

// namedByItsCloud is also where all the examples are, as the package brought
// them: valid in the eyes of this cloud-init.
func namedByItsCloud(c *cluster.Cluster) func(*testing.T, context.Context, *machine.Machine, cloud, agent.Status) {
	return func(t *testing.T, ctx context.Context, m *machine.Machine, with cloud, status agent.Status) {
		if status.Node.Name != "i-"+m.Name {
			t.Errorf("the node is %s", status.Node.Name)
		}
		node, err := c.AwaitNode(ctx, status.Node.Name)
		if err != nil {
			t.Fatal(err)
		}
		for label, want := range map[string]string{"topology.kubernetes.io/region": "north", "topology.kubernetes.io/zone": "north-7", "example.org/cloud": "unknown"} {
			if node.Labels[label] != want {
				t.Errorf("label %s is %q, want %q", label, node.Labels[label], want)
			}
		}
		// A cloud that knows neither region nor zone, and the placeholders as shipped.
		const data = `{"v1": {"instance_id": "i-1", "cloud_name": "plain", "region": null, "availability_zone": null}}`
		if err := m.WriteFile(ctx, "/srv/data.json", data, 0o600); err != nil {
			t.Fatal(err)
		}
		const shipped = "/usr/share/doc/bootstrap-agent/examples/cloud-init/"
		rendered := mustRun(t, ctx, m, "cloud-init", "devel", "render", "--instance-data=/srv/data.json", shipped+"instance-data.yaml")
		if strings.Contains(rendered, "None") || strings.Contains(rendered, "topology") || !strings.Contains(rendered, `nodeName: "i-1"`) {
			t.Errorf("without region and zone:\n%s", rendered)
		}
		if err := m.WriteFile(ctx, "/srv/rendered.yaml", rendered, 0o600); err != nil {
			t.Fatal(err)
		}
		ours, err := filepath.Glob("../../packaging/cloud-init/*")
		if err != nil || len(ours) == 0 {
			t.Fatal(err, ours)
		}
		for _, path := range ours {
			name := filepath.Base(path)
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := m.ReadFile(ctx, shipped+name); err != nil || got != string(want) {
				t.Errorf("%s is not shipped as it is (%v)", name, err)
			}
			switch {
			case strings.HasSuffix(name, ".sh"):
				mustRun(t, ctx, m, "sh", "-n", shipped+name)
			case name == "instance-data.yaml":
				isValid(t, ctx, m, "/srv/rendered.yaml")
			default:
				isValid(t, ctx, m, shipped+name)
			}
		}
	}
}

func isValid(t *testing.T, ctx context.Context, m *machine.Machine, path string) {
	t.Helper()
	result, err := m.Run(ctx, "cloud-init", "schema", "--config-file", path)
	if err != nil || result.Code != 0 || !strings.Contains(result.Stdout, "Valid cloud-config") {
		t.Errorf("cloud-init schema of %s: %v, %+v", path, err, result)
	}
}

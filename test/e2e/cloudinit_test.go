//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// cloud is what a person fills into the examples of packaging/cloud-init.
type cloud struct {
	repo                    repository
	endpoint, pin           string
	token                   cluster.Token
	secretStore, storeCAPEM string // of the form without a secret
}

var keyBlock = regexp.MustCompile(`(?m)^( *)-----BEGIN PGP PUBLIC KEY BLOCK-----\n *\.\.\.\n *-----END PGP PUBLIC KEY BLOCK-----\n`)

// example reads one of them and fills in the places, and changes nothing else.
func (c cloud) example(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../packaging/cloud-init", name))
	if err != nil {
		t.Fatal(err)
	}
	key := c.repo.file(t, "bootstrap-agent.asc")
	filled := keyBlock.ReplaceAllStringFunc(string(text), func(block string) string {
		indent := block[:strings.Index(block, "-")]
		return indent + strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n"+indent) + "\n"
	})
	filled = strings.NewReplacer(
		"https://packages.example.com/bootstrap-agent", c.repo.URL,
		"https://secrets.example.com/bootstrap-token", c.secretStore,
		"10.0.0.1:6443", c.endpoint,
		"abcdef.0123456789abcdef", c.token.String(),
		"sha256:...", c.pin,
	).Replace(filled)
	if strings.Contains(filled, "example.com") || strings.Contains(filled, "...") {
		t.Fatalf("%s has places that are not filled in:\n%s", name, filled)
	}
	return filled
}

// wayIn is one machine: an example, and what its scenario adds around it.
type wayIn struct {
	name, example string
	tokenInside   bool // in the user-data
	traced        bool
	prepare       func(*cloud, *machine.Options) // before the boot
	booted        func(*testing.T, context.Context, *machine.Machine, cloud)
	joined        func(*testing.T, context.Context, *machine.Machine, cloud, agent.Status)
}

// Machines that nobody logs in to: all they get is user-data (or a script), with
// the real cloud-init, at their first boot, from the signed repository.
func TestMachinesJoinByUserDataAlone(t *testing.T) {
	ctx := scenario(t, 6*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	filled := cloud{repo: hostedRepository(t, ctx, packageFolder(t)), endpoint: c.Endpoint(), pin: c.Pin()}
	store := newSecretStore(t, ctx)
	pipe := newPipe(t, ctx, c)
	ways := &turns{free: lanes}
	for _, way := range []wayIn{
		{name: "cloud-line", example: "join-line.yaml", tokenInside: true, traced: true},
		{name: "cloud-script", example: "first-boot.sh", traced: true, prepare: func(_ *cloud, opts *machine.Options) {
			addFiles(opts, lockFiles("journalctl --quiet --unit=first-boot.service --grep='Waiting for cache lock' >/dev/null"))
		}, joined: waitedForTheLockItself},
		{name: "cloud-store", example: "secret-store.yaml", traced: true, prepare: store.prepare, joined: store.askedAgain},
		{name: "cloud-late", example: "join-line.yaml", tokenInside: true, prepare: func(with *cloud, _ *machine.Options) {
			pipe.Set(proxy.Refuse)
			with.endpoint, with.token = pipe.Endpoint(), expiredToken(t, ctx, c)
		}, booted: waitsForTheClusterThenForAToken(c, pipe)},
		{name: "cloud-files", example: "write-files.yaml", tokenInside: true, prepare: func(_ *cloud, opts *machine.Options) {
			addFiles(opts, lockFiles("grep -q 'Waiting for apt lock' /var/log/cloud-init.log"))
		}, joined: waitedForTheLockAndBoots(c)},
		{name: "cloud-credential", example: "credential.yaml", prepare: func(with *cloud, opts *machine.Options) {
			opts.Credentials = map[string]string{"bootstrap-token": with.token.String()}
		}, joined: credentialStaysOutside},
		{name: "cloud-data", example: "instance-data.yaml", tokenInside: true, joined: namedByItsCloud(c)},
	} {
		t.Run(way.name+" by "+way.example, func(t *testing.T) {
			ways.beside(t, 0)
			way.joins(t, ctx, c, filled)
		})
	}
}

func addFiles(opts *machine.Options, files map[string]machine.File) {
	for path, file := range files {
		opts.Files[path] = file
	}
}

func (way wayIn) joins(t *testing.T, ctx context.Context, c *cluster.Cluster, with cloud) {
	with.token = newToken(t, ctx, c)
	opts := machine.Options{Name: way.name, HasConsole: true, CloudInit: strings.HasSuffix(way.example, ".yaml"), Files: map[string]machine.File{}}
	if way.prepare != nil {
		way.prepare(&with, &opts)
	}
	script := with.example(t, way.example)
	userData := script
	if !opts.CloudInit {
		userData = ""
		addFiles(&opts, firstBootFiles(script))
	}
	if strings.Contains(script, with.token.Secret) != (way.tokenInside || !opts.CloudInit) {
		t.Fatal("the example holds a token, or none, against what is claimed")
	}
	addFiles(&opts, imageFiles(way.name, userData))
	if way.traced {
		addFiles(&opts, traceFiles())
	}
	m := newMachine(t, ctx, opts)
	if with.storeCAPEM != "" { // the image trusts whoever runs the store
		if result, err := m.RunInput(ctx, []byte(with.storeCAPEM), "tee", "-a", "/etc/ssl/certs/ca-certificates.crt"); err != nil || result.Code != 0 {
			t.Fatalf("%v, %+v", err, result)
		}
	}
	began := time.Now()
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if way.booted != nil {
		way.booted(t, ctx, m, with)
	}
	status := awaitJoined(t, ctx, m, 90*time.Second)
	t.Logf("joined %.1f s after the machine was switched on", time.Since(began).Seconds())
	bootedWell(t, ctx, m, opts.CloudInit)
	keepsSecret(t, ctx, m, with.token.Secret, way.tokenInside)
	if way.traced {
		inNoProcessList(t, ctx, m, with.token.Secret)
	}
	if way.joined != nil {
		way.joined(t, ctx, m, with, status)
	}
	if err := c.DeleteNode(ctx, status.Node.Name); err != nil {
		t.Error(err)
	}
}

// awaitJoined waits for the file that the agent writes, which costs a busy
// machine less than to ask the agent again and again.
func awaitJoined(t *testing.T, ctx context.Context, m *machine.Machine, within time.Duration) agent.Status {
	t.Helper()
	result, err := m.Run(ctx, "timeout", fmt.Sprint(within.Seconds()), "sh", "-c", "until grep -q '\"phase\": *\"Joined\"' /run/bootstrap-agent/status.json 2>/dev/null; do sleep 0.1; done")
	if err != nil || result.Code != 0 {
		log, _ := m.ReadFile(ctx, "/var/log/cloud-init-output.log") // none without cloud-init
		t.Fatalf("not joined within %s (%v)\n%s\n%s", within, err, mustRun(t, ctx, m, "journalctl", "--boot", "--no-pager", "--lines=50"), log)
	}
	return awaitStatus(t, ctx, m, "the join", 10*time.Second, inPhase(agent.Joined))
}

// bootedWell says that the boot is over, nothing failed, nobody waits for
// anybody in a circle, and cloud-init has no complaint.
func bootedWell(t *testing.T, ctx context.Context, m *machine.Machine, cloudInit bool) {
	t.Helper()
	if err := m.AwaitRunning(ctx); err != nil {
		t.Error(err)
	}
	noCycle(t, ctx, m)
	if !cloudInit {
		return
	}
	if out := mustRun(t, ctx, m, "cloud-init", "schema", "--system"); !strings.Contains(out, "Valid cloud-config") {
		t.Errorf("cloud-init schema: %s", out)
	}
	var result struct {
		V1 struct{ Errors []string }
	}
	text, err := m.ReadFile(ctx, "/run/cloud-init/result.json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &result)
	}
	if err != nil || len(result.V1.Errors) > 0 {
		t.Errorf("cloud-init ended with %q, %v", result.V1.Errors, err)
	}
	log, err := m.ReadFile(ctx, "/var/log/cloud-init.log")
	if err != nil || !strings.Contains(log, "running 'modules:final'") || strings.Contains(log, "Invalid cloud-config") {
		t.Errorf("cloud-init's log lacks its last stage or complains of the user-data (%v)", err)
	}
}

// noCycle reads what systemd said of the boots on the console (it plans them
// before there is a journal), in the journal, and of the next boot with all that
// is installed by now. Machines here get cloud-init.target from a generator.
func noCycle(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	console, err := m.ConsoleLog()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(console, "Queued start job for default target") {
		t.Error("the console does not tell of the boot: this proves nothing")
	}
	journal := mustRun(t, ctx, m, "journalctl", "--boot", "--no-pager", "--output=cat")
	next, err := m.Run(ctx, "systemd-analyze", "verify", "default.target", "cloud-init.target", agentUnit, "bootstrap-agent.path")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.Join([]string{console, journal, next.Stdout, next.Stderr}, "\n")) {
		if strings.Contains(strings.ToLower(line), "ordering cycle") {
			t.Error(line)
		}
	}
}

// keepsSecret looks where the secret lies: in the agent's token file, in a
// credential, and in what cloud-init keeps of the user-data that it was in; for
// root alone, and in no log.
func keepsSecret(t *testing.T, ctx context.Context, m *machine.Machine, secret string, inUserData bool) {
	t.Helper()
	const look = `grep -rlaF -f - /boot /etc /home /opt /root /run /srv /tmp /usr /var 2>/dev/null | xargs -r stat --format='%a %U %n'`
	result, err := m.RunInput(ctx, []byte(secret+"\n"), "sh", "-c", look)
	if err != nil {
		t.Fatal(err)
	}
	var copies int
	for line := range strings.Lines(result.Stdout) {
		mode, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		owner, path, _ := strings.Cut(rest, " ")
		ofCloudInit := strings.HasPrefix(path, "/var/lib/cloud/") || strings.HasPrefix(path, "/run/cloud-init/")
		known := path == tokenPath || path == "/srv/first-boot.sh" || strings.HasPrefix(path, "/run/credentials/") || strings.HasPrefix(path, "/run/host/credentials/") || ofCloudInit && inUserData
		if !known || owner != "root" || !strings.HasSuffix(mode, "00") {
			t.Errorf("the token lies in %s, mode %s, of %s", path, mode, owner)
		}
		if ofCloudInit {
			copies++
		}
	}
	t.Logf("the token lies in:\n%s", result.Stdout)
	if inUserData && copies < 2 {
		t.Errorf("%d copies of user-data found: this proves nothing", copies)
	}
	if journal := mustRun(t, ctx, m, "journalctl", "--no-pager", "--output=export"); strings.Contains(journal, secret) {
		t.Error("the journal holds the token")
	}
	if console, err := m.ConsoleLog(); err != nil || strings.Contains(console, secret) {
		t.Errorf("the console holds the token, or is not there (%v)", err)
	}
}

// inNoProcessList reads what the tracer saw since before the first stage of
// cloud-init.
func inNoProcessList(t *testing.T, ctx context.Context, m *machine.Machine, secret string) {
	t.Helper()
	seen, err := m.ReadFile(ctx, tracePath)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(seen) {
		if strings.Contains(line, secret) {
			t.Errorf("executed with the token: %s", strings.ReplaceAll(line, secret, "<the secret>"))
		}
	}
	for _, part := range []string{`["apt-get", `, `["bootstrap-agent", `, `["/usr/bin/bootstrap-agent", "run"]`} {
		if !strings.Contains(seen, part) {
			t.Errorf("the tracer has not seen %s: this proves nothing", part)
		}
	}
}

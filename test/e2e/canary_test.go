//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// Where a token may lie on a machine: in the folder of the agent's administrator,
// in a kubeconfig that a scenario gave to a kubelet which bootstraps by itself,
// and in what systemd hands to a service.
var mayHoldAToken = regexp.MustCompile(`^(/etc/bootstrap-agent/|/var/lib/kubelet/bootstrap-kubeconfig$|/etc/kubernetes/bootstrap-kubelet\.conf$|/etc/credstore/)`)

// searchScript looks for the lines on its standard input: in the whole journal,
// in what the agent, the kubelet and systemd keep, in the properties of the units,
// and in the arguments and environment of every process. No program is given
// them as an argument, or it would find itself. Of a machine that is off there is
// its disk, with the journal that was kept there.
const searchScript = `
secrets=$(cat); look() { grep -aF -f <(printf '%s\n' "$secrets") "$@" 2>/dev/null; }
[ -d /run/systemd/system ] || kept=--directory=/var/log/journal
journalctl --no-pager --output=export $kept | look --count | sed 's/^/journal /'
look -rl /run/bootstrap-agent /var/lib/bootstrap-agent /var/lib/kubelet /etc/systemd /etc/bootstrap-agent /etc/kubernetes /var/log /tmp /var/tmp | sed 's/^/file /'
systemctl show bootstrap-agent.service kubelet.service | look --count | sed 's/^/properties /'
look -l /proc/[0-9]*/cmdline /proc/[0-9]*/environ | sed 's/^/process /'
address=$(sed -n 's/^metricsAddress: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/bootstrap-agent/config.yaml 2>/dev/null)
[ -z "$address" ] || curl --silent --max-time 5 "http://$address/metrics" | look --count | sed 's/^/metrics /'
for command in 'status' 'status -o json' 'check --config' 'check --config -o json'; do
	[ ! -x /usr/bin/bootstrap-agent ] || timeout 10 /usr/bin/bootstrap-agent $command 2>&1 | look --count | sed "s/^/command $command: /"
done
true`

// ear listens to what the agent's commands say in a scenario, on both streams.
type ear struct {
	mu     sync.Mutex
	leaked []string
}

func (e *ear) hear(argv []string, said string) {
	if !slices.ContainsFunc(argv, func(word string) bool { return filepath.Base(word) == "bootstrap-agent" }) {
		return
	}
	for _, secret := range cluster.Secrets() {
		if strings.Contains(said, secret) {
			e.mu.Lock()
			e.leaked = append(e.leaked, strings.Join(argv, " "))
			e.mu.Unlock()
			return
		}
	}
}

// heardNoSecret fails the scenario in which a command said one.
func (e *ear) heardNoSecret(t *testing.T, m *machine.Machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, command := range e.leaked {
		t.Errorf("machine %s: the secret of a token was said by: %s", m.Name, command)
	}
}

// inWords is how a secret would stand among the arguments of Go's stacks: eight
// bytes a word, the lowest first.
func inWords(secret string) (words []string) {
	for at := 0; at+8 <= len(secret); at += 8 {
		words = append(words, fmt.Sprintf("0x%x", binary.LittleEndian.Uint64([]byte(secret[at:]))))
	}
	return words
}

// holdsNoSecret searches a machine for the secret of every token that was ever
// made here. It is done at the end of every scenario, failed ones included, also
// when the machine is off by then.
func holdsNoSecret(t *testing.T, m *machine.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	secrets := cluster.Secrets()
	if len(secrets) == 0 {
		return
	}
	result, err := m.RunInput(ctx, []byte(strings.Join(secrets, "\n")), "bash", "-c", searchScript)
	if err != nil || result.Code != 0 {
		t.Errorf("machine %s cannot be searched for secrets: %v, %+v", m.Name, err, result)
		return
	}
	searched := false
	for line := range strings.Lines(result.Stdout) {
		what, where, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case what == "journal" && where == "0":
			searched = true
		case what == "metrics" && where == "0", what == "command" && strings.HasSuffix(where, ": 0"):
		case what == "properties" && where == "0", what == "file" && mayHoldAToken.MatchString(where):
		default:
			t.Errorf("machine %s: the secret of a token stands in: %s %s", m.Name, what, where)
		}
	}
	if !searched {
		t.Errorf("machine %s: the journal was not searched, or holds a secret:\n%s", m.Name, result.Stdout)
	}
}

// A search that finds nothing anywhere proves nothing: it finds what is planted.
func TestLabFindsASecretWhereverItStands(t *testing.T) {
	ctx := aside(t, time.Minute)
	secret := cluster.RandomToken().Secret
	m, err := lab.New(ctx, machine.Options{Name: "planted"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	unit := "[Service]\nExecStart=/bin/sleep 1000\nEnvironment=X=" + secret + "\n"
	if err := m.WriteFile(ctx, "/etc/systemd/system/kubelet.service", unit, 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	mustRun(t, ctx, m, "systemctl", "start", "kubelet.service")
	// A program that tells it, as a command of ours and as metrics on a port.
	if err := m.WriteFiles(ctx, map[string]machine.File{
		"/usr/bin/bootstrap-agent":         {Content: "#!/bin/sh\necho \"$* " + secret + "\" >&2\n", Mode: 0o755},
		"/etc/bootstrap-agent/config.yaml": {Content: "metricsAddress: \"127.0.0.1:9464\"\n", Mode: 0o600},
		"/srv/page":                        {Content: "HTTP/1.0 200 OK\r\n\r\nx{token=\"" + secret + "\"} 1\n"},
	}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=page", "socat", "TCP-LISTEN:9464,bind=127.0.0.1,fork,reuseaddr", "SYSTEM:cat /srv/page")
	var told ear
	m.Heard = told.hear
	mustRun(t, ctx, m, "bootstrap-agent", "status")
	if len(told.leaked) != 1 {
		t.Errorf("what a command says was not heard: %q", told.leaked)
	}
	mustRun(t, ctx, m, "systemd-run", "--quiet", "--unit=shown", "/bin/sh", "-c", "echo "+secret+"; sleep 1000; true")
	if err := m.WriteFile(ctx, "/etc/bootstrap-agent/token", secret, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the search to find all of it", func(ctx context.Context) error {
		result, err := m.RunInput(ctx, []byte(secret), "bash", "-c", searchScript)
		if err != nil {
			return err
		}
		for _, want := range []string{
			`journal [1-9]\d*`, `properties [1-9]\d*`, `process /proc/\d+/cmdline`, `process /proc/\d+/environ`,
			`metrics [1-9]\d*`, `command status: [1-9]\d*`, `command check --config -o json: [1-9]\d*`,
			`file /etc/systemd/system/kubelet.service`, `file /etc/bootstrap-agent/token`,
		} {
			if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(result.Stdout) {
				return fmt.Errorf("%s is not in:\n%s", want, result.Stdout)
			}
		}
		return nil
	})
}

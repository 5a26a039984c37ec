//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"
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
// them as an argument, or it would find itself.
const searchScript = `
secrets=$(cat); look() { grep -aF -f <(printf '%s\n' "$secrets") "$@" 2>/dev/null; }
journalctl --no-pager --output=export | look --count | sed 's/^/journal /'
look -rl /run/bootstrap-agent /var/lib/bootstrap-agent /var/lib/kubelet /etc/systemd /etc/bootstrap-agent /etc/kubernetes /var/log /tmp /var/tmp | sed 's/^/file /'
systemctl show bootstrap-agent.service kubelet.service | look --count | sed 's/^/properties /'
look -l /proc/[0-9]*/cmdline /proc/[0-9]*/environ | sed 's/^/process /'
true`

// holdsNoSecret searches a machine for the secret of every token that was ever
// made here. It is done at the end of every scenario, failed ones included.
func holdsNoSecret(t *testing.T, m *machine.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	secrets := cluster.Secrets()
	if len(secrets) == 0 || !m.On() {
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
			`file /etc/systemd/system/kubelet.service`, `file /etc/bootstrap-agent/token`,
		} {
			if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(result.Stdout) {
				return fmt.Errorf("%s is not in:\n%s", want, result.Stdout)
			}
		}
		return nil
	})
}

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// What the operator writes into the config is what the kubelet gets, byte for
// byte, through YAML, the agent, the unit file and the real systemd. A fake
// kubelet tells what it was given; it makes no Node, so the agent stays in
// Registering, which is as far as this goes.
func TestTheKubeletGetsItsArgumentsByteForByte(t *testing.T) {
	ctx := aside(t, 3*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	const name = "argv"
	extra := []string{
		`--double="quoted" and "again"`,
		`--single='quoted'`,
		`--one-quote="`,
		`--other-quote='`,
		`--specifiers=%n %H %i %% %`,
		`--home=$HOME`,
		`--home-alone= $HOME `,
		`--braces=${HOME} ${X} ${}`,
		`--dollars=$$ $ $$$`,
		`--extra=$KUBELET_EXTRA_ARGS`,
		`--backslashes=C:\new\tab\x41\u0041\101\\ \`,
		`--back=\`,
		`--spaces=  two before, two after  `,
		`--unicode=Zürich 東京 🚀 é`,
		`--semicolon=; ;`,
		`--comment=# not one`,
		`--shell=$(id) ` + "`id`" + ` | & > < ! * ? [a] {b,c} ~ ()`,
		`--equals=a=b==c`,
		`--commas=a,b,,c`,
		`--empty=`,
		`--at=@name`,
		`--line=ends with a backslash and n\n`,
		`--flag-alone`,
		`--no-space=` + strings.Repeat("x", 4000),
		`--prefix=-+!:|@`,
		`-v=2`,
	}
	labels := []string{"example.org/rack=r7", "example.org/empty=", "plain=a_b.C-1", "node.kubernetes.io/instance-type=m2"}
	m := readyMachine(t, ctx, c, machine.Options{Name: name, Kubelet: buildFakeKubelet(t)}, newToken(t, ctx, c))
	appendConfig(t, ctx, m, fmt.Sprintf("nodeLabels: %s\nnodeIP: %s\nkubelet: {extraArgs: %s}\n", asYAML(t, labels), m.Address, asYAML(t, extra)))
	mustRun(t, ctx, m, "systemctl", "start", "bootstrap-agent.service")
	seen := awaitStatus(t, ctx, m, "the start of the kubelet", 60*time.Second, inPhase(agent.Registering))

	text, err := m.ReadFile(ctx, "/run/fakekubelet.json")
	if err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	slices.Sort(labels)
	want := append([]string{
		"/usr/bin/kubelet",
		"--config=/var/lib/kubelet/config.yaml",
		"--kubeconfig=/var/lib/kubelet/kubeconfig",
		"--cert-dir=/var/lib/kubelet/pki",
		"--rotate-certificates=true",
		"--hostname-override=" + name,
		"--node-labels=" + strings.Join(labels, ","),
		"--node-ip=" + m.Address,
	}, extra...)
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got):
			t.Errorf("argument %d is missing: %q", i, want[i])
		case i >= len(want):
			t.Errorf("argument %d is too many: %q", i, got[i])
		case string(got[i]) != want[i]:
			t.Errorf("argument %d is %q, want %q", i, got[i], want[i])
		}
	}
	// The kernel's own word for it, and that nothing was started twice.
	props := unitProps(t, ctx, m, "kubelet.service", "MainPID", "NRestarts", "ActiveState")
	if props["ActiveState"] != "active" || props["NRestarts"] != "0" || fmt.Sprint(seen.Kubelet.MainPID) != props["MainPID"] {
		t.Errorf("kubelet.service: %v, in status %+v", props, seen.Kubelet)
	}
	if line, err := m.ReadFile(ctx, "/proc/"+props["MainPID"]+"/cmdline"); err != nil || line != strings.Join(want, "\x00")+"\x00" {
		t.Errorf("/proc shows %q, %v", line, err)
	}
}

// buildFakeKubelet builds a static program that runs on any machine.
func buildFakeKubelet(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./fakekubelet")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the fake kubelet: %v\n%s", err, out)
	}
	return path
}

// asYAML writes a list of strings as JSON, which is YAML.
func asYAML(t *testing.T, list []string) string {
	t.Helper()
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(list); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

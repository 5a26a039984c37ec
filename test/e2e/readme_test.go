//go:build e2e

package e2e

import (
	"context"
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

// readme is the README being followed: its blocks of commands, word for word, with
// the cluster's own address, token and pin where the README has examples.
type readme struct {
	c     *cluster.Cluster
	token cluster.Token
	m     *machine.Machine // the one that pastes the join line
	hand  *machine.Machine // the one with a config by hand
	line  string           // what the control plane printed
}

// blocks are the indented parts of the README, in order.
func readmeBlocks(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	inside := false
	for line := range strings.Lines(string(page)) {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && !inside:
			blocks = append(blocks, code)
		case indented:
			blocks[len(blocks)-1] += code
		case inside && strings.TrimSpace(line) == "":
			blocks[len(blocks)-1] += "\n" // one block, if an indented line follows
			continue
		}
		inside = indented
	}
	return blocks
}

// filled puts this cluster into a block.
func (r *readme) filled(block string) string {
	return strings.NewReplacer("abcdef.0123456789abcdef", r.token.String(), "10.0.0.1:6443", r.c.Endpoint(), "sha256:...", r.c.Pin()).Replace(block)
}

// Every block of the README is run as it stands, or it says here why it is not.
// The key is the first line; a block that nobody knows is an error.
func TestEveryBlockOfTheReadmeWorksAsItIsWritten(t *testing.T) {
	ctx := scenario(t, 3*time.Minute)
	r := &readme{c: sharedCluster(t, ctx, cluster.Kubeadm)}
	r.token = newToken(t, ctx, r.c)
	deb := os.Getenv("BOOTSTRAP_AGENT_DEB")
	data, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	boot := func(name string) *machine.Machine {
		return bootMachine(t, ctx, machine.Options{Name: name, Files: map[string]machine.File{"/srv/" + filepath.Base(deb): {Content: string(data)}}})
	}
	r.m, r.hand = boot("readme"), boot("readme-by-hand")
	known := map[string]func(t *testing.T, ctx context.Context, block string){
		"make build": r.checkCluster,
		"bin/bootstrap-agent check --machine --endpoint 10.0.0.1:6443": r.checkMachine,
		"kubeadm token create --print-join-command":                    r.printLine,
		"apt install ./bootstrap-agent_*.deb":                          r.join,
		"# /etc/bootstrap-agent/config.yaml, mode 0600":                r.byHand,
		"discoveryFile: /etc/bootstrap-agent/cluster.kubeconfig":       r.discoveryFile,
		// Machines boot with it in TestMachinesJoinByUserDataAlone.
		"#cloud-config": nil,
		// These two would run this very test.
		"make demo": nil, "make test": nil,
	}
	for _, block := range readmeBlocks(t) {
		first, _, _ := strings.Cut(block, "\n")
		run, ok := known[first]
		if !ok {
			t.Errorf("nobody says how this block is run:\n%s", block)
			continue
		}
		delete(known, first)
		if run != nil {
			t.Run(strings.Fields(first)[len(strings.Fields(first))-1], func(t *testing.T) { run(t, ctx, r.filled(block)) })
		}
	}
	for first := range known {
		t.Errorf("the README has no block that begins with %q", first)
	}
}

// onHost runs commands where somebody with a checkout and the admin's kubeconfig is.
func (r *readme) onHost(t *testing.T, ctx context.Context, script string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", "-eu", "-o", "pipefail", "-c", script)
	cmd.Dir = "../.."
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "BOOTSTRAP_AGENT_") }), "KUBECONFIG="+r.c.AdminKubeconfig(), "PATH="+r.c.Bin+":"+os.Getenv("PATH"), "MAKEFLAGS=", "NO_PROXY="+r.c.Address)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func (r *readme) checkCluster(t *testing.T, ctx context.Context, block string) {
	if out := r.onHost(t, ctx, block); !strings.Contains(out, r.c.Pin()) {
		t.Errorf("no pin to paste:\n%s", out)
	}
}

func (r *readme) checkMachine(t *testing.T, ctx context.Context, block string) {
	program, err := os.ReadFile("../../bin/bootstrap-agent") // the block before has built it
	if err != nil {
		t.Fatal(err)
	}
	if err := r.m.WriteFile(ctx, "/srv/bin/bootstrap-agent", string(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := r.m.RunScript(ctx, "cd /srv\n"+block); err != nil || !strings.Contains(out, "This machine can run a kubelet") {
		t.Errorf("%v\n%s", err, out)
	}
}

func (r *readme) printLine(t *testing.T, ctx context.Context, block string) {
	r.line = r.onHost(t, ctx, block)
}

func (r *readme) join(t *testing.T, ctx context.Context, block string) {
	result, err := r.m.RunInput(ctx, []byte(r.line), "bash", "-eu", "-c", "cd /srv\n"+block)
	if err != nil || result.Code != 0 {
		t.Fatalf("%v, %+v", err, result)
	}
	if s, err := statusOf(ctx, r.m); err != nil || s.Phase != agent.Joined {
		t.Errorf("phase %s, %v", s.Phase, err)
	}
}

// handedOut is one as clusters hand it out.
const handedOut = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "SERVER", certificate-authority: ca.crt}}]
users: [{name: u, user: {token: TOKEN}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

// byHand writes the file that the block shows and runs the command under it.
func (r *readme) byHand(t *testing.T, ctx context.Context, block string) {
	config, command, ok := strings.Cut(block, "\n# the token\n")
	if !ok {
		t.Fatalf("no config and token in\n%s", block)
	}
	installAgent(t, ctx, r.hand)
	if err := r.hand.WriteFile(ctx, "/etc/bootstrap-agent/config.yaml", config, 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := r.hand.RunInput(ctx, []byte(r.token.String()), "bash", "-eu", "-c", command)
	if err != nil || result.Code != 0 {
		t.Fatalf("%v, %+v", err, result)
	}
	awaitJoined(t, ctx, r.hand, 30*time.Second)
}

func (r *readme) discoveryFile(t *testing.T, ctx context.Context, block string) {
	kubeconfig := strings.ReplaceAll(handedOut, "SERVER", "https://"+r.c.Endpoint())
	if err := r.hand.WriteFile(ctx, "/etc/bootstrap-agent/cluster.kubeconfig", strings.ReplaceAll(kubeconfig, "TOKEN", r.token.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, r.hand, "cp", "/var/lib/kubelet/pki/ca.crt", "/etc/bootstrap-agent/ca.crt")
	if err := r.hand.WriteFile(ctx, "/srv/config.yaml", block, 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, r.hand, "bootstrap-agent", "check", "--config", "--config-file", "/srv/config.yaml")
}

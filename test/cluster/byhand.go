package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/page"
)

// A cluster by hand is made as docs/cluster.md tells a person to make one: with
// the commands that stand there, on the manifests of packaging/cluster.

// handObjects is all that such a cluster needs so that a token can join it.
func handObjects(ctx context.Context, c *Cluster) error {
	// The namespace is made by the API server itself, a moment after it is ready.
	if err := c.awaitPath(ctx, "/api/v1/namespaces/kube-public"); err != nil {
		return err
	}
	for _, step := range []string{"rights", "cluster-info", "way back"} {
		if _, err := c.RunDocumented(ctx, step); err != nil {
			return err
		}
	}
	if c.NoAutoApproval {
		return c.SetAutoApproval(ctx, false)
	}
	return nil
}

// RunDocumented runs the commands of one step of docs/cluster.md word for word,
// in the folder of the manifests and with the real kubectl, and returns what they
// print.
func (c *Cluster) RunDocumented(ctx context.Context, step string) (string, error) {
	return c.RunPage(ctx, "docs/cluster.md", step)
}

// RunPage is RunDocumented for another page.
func (c *Cluster) RunPage(ctx context.Context, name, step string) (string, error) {
	root, err := moduleFolder(ctx)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return "", err
	}
	script, err := page.Commands(string(text), step)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, "bash", "-eu")
	cmd.Dir = filepath.Join(root, "packaging/cluster")
	cmd.Env = append(os.Environ(), "HOME="+c.Dir, "KUBECONFIG="+c.AdminKubeconfig(), "NO_PROXY="+c.Address,
		"PATH="+c.Bin+":"+os.Getenv("PATH"), "SERVER=https://"+c.Endpoint(), "CA="+filepath.Join(c.Dir, clusterInfoCA))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin = strings.NewReader(script)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s, %s: %w: %s", name, step, err, tail([]byte(stderr.String()), 8))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// DocumentedToken makes a token as docs/cluster.md does.
func (c *Cluster) DocumentedToken(ctx context.Context) (Token, error) {
	printed, err := c.RunDocumented(ctx, "token")
	if err != nil {
		return Token{}, err
	}
	id, secret, ok := strings.Cut(printed, ".")
	if !ok {
		return Token{}, errors.New("docs/cluster.md: the step for a token prints none")
	}
	return Token{id, secret}, nil
}

package machine

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
)

//go:embed root.sh
var rootScript []byte

//go:embed boot.sh
var bootScript string

//go:embed prepare.sh
var prepareScript []byte

// tools are the commands that machines are made with. prepare.sh knows which
// packages bring them.
var tools = []string{"debootstrap", "systemd-nspawn", "ip", "nft", "nsenter", "unshare", "mount", "bash"}

// Missing lists why machines cannot run here, each reason one line; empty means
// they can. With packages false it leaves out what Prepare would install.
func Missing(packages bool) []string {
	var reasons []string
	if os.Geteuid() != 0 {
		reasons = append(reasons, "machines need root (namespaces, mounts, systemd-nspawn)")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		reasons = append(reasons, "machines need a Debian host (apt-get is not here)")
	} else if _, err := release(); err != nil {
		reasons = append(reasons, "machines need a Debian host ("+err.Error()+")")
	}
	if !packages {
		return reasons
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			reasons = append(reasons, "the command "+tool+" is missing (test/machine/prepare.sh installs it)")
		}
	}
	return reasons
}

// Prepare installs the host packages that are missing.
func Prepare(ctx context.Context, log cluster.Log) error {
	if reasons := Missing(false); len(reasons) > 0 {
		return errors.New(strings.Join(reasons, "; "))
	}
	cmd := exec.CommandContext(ctx, "bash", "-s")
	cmd.Stdin = strings.NewReader(string(prepareScript))
	if err := cluster.RunWithProgress(cmd, "host packages", log); err != nil {
		return fmt.Errorf("cannot install the host packages of the lab: %w", err)
	}
	return nil
}

// BuildRoot returns the root folder that all machines share, and builds it
// first if this recipe has not been built yet (2 to 3 minutes). Older recipes'
// folders stay in the cache, because machines may run on them; they can be
// deleted at any other time.
func BuildRoot(ctx context.Context, log cluster.Log) (root string, err error) {
	suite, err := release()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(suite+"\n"), rootScript...))
	err = cache.Lock("root", func(dir string) error {
		root = filepath.Join(dir, "root-"+hex.EncodeToString(sum[:6]))
		if _, err := os.Stat(root); err == nil {
			return nil
		}
		unfinished := root + ".new"
		if err := os.RemoveAll(unfinished); err != nil {
			return err
		}
		script := root + ".sh"
		if err := os.WriteFile(script, rootScript, 0o700); err != nil {
			return err
		}
		defer func() { _ = os.Remove(script) }() // a leftover is overwritten by the next build
		// In namespaces of its own: when it is killed, nothing stays mounted or running.
		cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private",
			"--pid", "--fork", "--kill-child", "--mount-proc", "bash", script, unfinished)
		if err := cluster.RunWithProgress(cmd, "building the root folder of the machines", log); err != nil {
			return err
		}
		return os.Rename(unfinished, root)
	})
	if err != nil {
		return "", fmt.Errorf("cannot build the root folder of the machines: %w", err)
	}
	return root, nil
}

// release is this host's Debian codename.
func release() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok && name != "" {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release names no release")
}

// killGrace bounds how long the kernel may take to bury a killed machine.
const killGrace = 10 * time.Second

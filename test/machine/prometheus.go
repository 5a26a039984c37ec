package machine

import (
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/cache"
)

//go:embed prometheus.sh
var prometheusScript string

// Prometheus returns a folder with promtool and prometheus-node-exporter, the
// judges of metrics and alert rules, and fetches them first if they are not there.
func Prometheus(ctx context.Context, log cluster.Log) (folder string, err error) {
	err = cache.Lock("prometheus", func(dir string) error {
		folder = filepath.Join(dir, "prometheus")
		cmd := exec.CommandContext(ctx, "bash", "-s", folder)
		cmd.Stdin = strings.NewReader(prometheusScript)
		return cluster.RunWithProgress(cmd, "promtool and node_exporter", log)
	})
	if err != nil {
		return "", fmt.Errorf("cannot get promtool and node_exporter: %w", err)
	}
	return folder, nil
}

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// filesOfOthers is T19 inside the shipped unit, whose root has no capability and so
// may not even read what another user keeps to himself: the files are back, by their
// records, with the same certificate.
func (o *offForLong) filesOfOthers(t *testing.T, ctx context.Context) {
	const ca, kubeconfig, config = "/var/lib/kubelet/pki/ca.crt", "/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/config.yaml"
	old := o.serial(ctx)
	mustRun(t, ctx, o.m, "chown", "12345:12345", ca, kubeconfig, config)
	ours := func(what string) {
		t.Helper()
		eventually(t, ctx, what, func(ctx context.Context) error {
			out, err := o.m.Output(ctx, "stat", "--format=%u %F", ca, kubeconfig, config)
			if err == nil && out != strings.Repeat("0 regular file\n", 3) {
				err = fmt.Errorf("%q", out)
			}
			return err
		})
		awaitStatus(t, ctx, o.m, what, 30*time.Second, inPhase(agent.Joined))
	}
	ours("the files taken back")

	mustRun(t, ctx, o.m, "sh", "-c", "rm "+ca+"; mkfifo "+ca)
	s := awaitStatus(t, ctx, o.m, "the refusal", 30*time.Second, hasReason(fault.WriteFailed))
	if !strings.Contains(s.Message, ca) {
		t.Errorf("names another file: %s", s.Message)
	}
	mustRun(t, ctx, o.m, "rm", ca)
	ours("the file back in the place of the pipe")
	if now := o.serial(ctx); now != old {
		t.Errorf("another certificate: %s, before %s", now, old)
	}
}

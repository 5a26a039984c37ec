package play

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheRehearsalJoinsSaysWhatItIsAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out strings.Builder
	if err := Show(t.Context(), screen.New(&out, func(string) string { return "" })); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"A REHEARSAL", "stood in", agent.StepDiscover, agent.StepApproval, agent.StepRegister, NodeName + " is a node",
		"-rw-------", "/var/lib/kubelet/kubeconfig", "/etc/systemd/system/kubelet.service.d/90-bootstrap-agent.conf",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not say %q", want)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("without a terminal there are no escape sequences")
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestAnInterruptedRehearsalLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Join(ctx, Options{Approval: time.Hour, OnStatus: func(s agent.Status) {
		if s.Phase == agent.RequestingCertificate {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTheSecretIsNotShown(t *testing.T) {
	secret, shown := "", ""
	result, err := Join(t.Context(), Options{Scene: func(api *testapi.Server, _ string) { _, secret, _ = strings.Cut(api.Token(), ".") }})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range result.Files {
		shown += f.String()
	}
	if secret == "" || strings.Contains(shown, secret) {
		t.Errorf("secret %q in %s", secret, shown)
	}
	if slices.ContainsFunc(result.Files, func(f File) bool { return f.Mode.Perm()&0o022 != 0 && f.Target == "" }) {
		t.Errorf("others may write: %v", result.Files)
	}
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// labSettings moves the wall clock of a lab build of the agent and quickens its
// long waits (cmd/bootstrap-agent/lab.go). The waits stay what they are, events
// of a clock; only their lengths differ from those of the shipped program.
type labSettings struct {
	ClockOffset string            `json:",omitempty"` // "-48h"; read at each look at the clock
	Pace        map[string]string `json:",omitempty"` // fields of agent.Pace: "5s"; read at the start
	Stuck       bool              `json:",omitempty"` // the next look at the kubelet's unit does not come back
}

const (
	agentPath = "/usr/bin/bootstrap-agent"
	labPath   = "/etc/bootstrap-agent/lab.json"
)

// labAgent puts a lab build in the place of the installed agent (installAgent
// comes first) and gives it these settings. The package itself never holds one.
func labAgent(t *testing.T, ctx context.Context, m *machine.Machine, s labSettings) {
	t.Helper()
	program, err := labProgram()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFile(ctx, agentPath+".lab", string(program), 0o755); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "mv", agentPath+".lab", agentPath)
	setLab(t, ctx, m, s)
}

// setLab changes the settings; the clock follows at once.
func setLab(t *testing.T, ctx context.Context, m *machine.Machine, s labSettings) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "mkdir", "-p", filepath.Dir(labPath))
	if err := m.WriteFile(ctx, labPath+".new", string(data), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "mv", labPath+".new", labPath)
}

// labProgram builds the agent with the tag lab, once for all scenarios.
var labProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "bootstrap-agent-lab")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	path := filepath.Join(dir, "bootstrap-agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lab", "-o", path, "../../cmd/bootstrap-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, &buildError{err, string(out)}
	}
	return os.ReadFile(path)
})

type buildError struct {
	err error
	out string
}

func (e *buildError) Error() string {
	return "cannot build the lab agent: " + e.err.Error() + "\n" + e.out
}
func (e *buildError) Unwrap() error { return e.err }

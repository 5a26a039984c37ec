package main

import (
	"os"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
)

func newEmptyMachine(t *testing.T) *door {
	t.Helper()
	d := newDoor(t)
	d.app.adapt = func(deps *agent.Deps) { deps.Units = &testsystemd.Manager{} }
	d.app.root = d.dir
	if err := os.MkdirAll(d.path("proc/self"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.write("proc/self/mountinfo", "", 0o644)
	return d
}

func TestAResetAsksOrIsTold(t *testing.T) {
	d := newEmptyMachine(t)
	d.wantCode(fault.ExitUsage, "reset")
	d.wantText("--yes", "--dry-run", "Nothing of a join")
	d.wantCode(fault.ExitUsage, "reset", "--image", "--restore")
	d.wantCode(fault.ExitUsage, "reset", "now")
	before := d.files()
	d.wantCode(fault.ExitDone, "reset", "--dry-run")
	if d.files() != before {
		t.Error("a dry run changed something")
	}
	d.wantCode(fault.ExitDone, "reset", "--yes")
	d.wantText("kubectl drain NODE", "kubectl delete node NODE")
	d.wantCode(fault.ExitDone, "reset", "--yes", "--image")
	d.wantText("machine-id", "whoever has the image has it")
	d.wantCode(fault.ExitFailed, "reset", "--restore", "--yes")
	d.wantText("nothing to undo")
}

func TestAConfigThatIsBadKeepsNobodyFromLeaving(t *testing.T) {
	d := newEmptyMachine(t)
	d.write("config.yaml", "token: "+canary+"\n\t- x", 0o600)
	d.wantCode(fault.ExitDone, "reset", "--yes")
	d.wantNoSecret(canary)
}

func TestWhatChangesAMachineSaysWhereItCanBeRun(t *testing.T) {
	d := newEmptyMachine(t)
	d.app.paths, d.app.uid = agent.DefaultPaths(), 1000
	for _, command := range []string{"reset", "adopt"} {
		d.wantCode(fault.ExitFailed, command, "--yes")
		d.wantText("root shell")
	}
}

func TestAdoptRefusesAMachineWithoutAKubelet(t *testing.T) {
	d := newEmptyMachine(t)
	d.wantCode(fault.ExitMachine, "adopt", "--yes")
	d.wantText("NotAdoptable", "there is no kubelet.service")
	if _, err := os.Stat(d.app.configFile); err == nil {
		t.Error("a config was written")
	}
}

package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// joinedDoor is a machine that has joined.
func joinedDoor(t *testing.T) (d *door, calls func() []string) {
	t.Helper()
	s := cluster(t)
	d = newDoor(t)
	units := d.machine(s)
	if code := d.call("join", "--timeout", "10s"); code != 0 {
		t.Fatalf("join ended with %d: %s", code, d.output())
	}
	return d, units.Calls
}

func (d *door) edit(path, line string) {
	d.t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		// By rename: an agent that runs heals a file that it finds half written.
		err = os.WriteFile(path+".new", append(data, []byte(line+"\n")...), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func TestApplyShowsThenWritesAndTakesSecretsOutOfWhatItShows(t *testing.T) {
	d, calls := joinedDoor(t)
	d.wantCode(0, "apply", "--yes")
	d.wantText("nothing to apply")
	started := len(calls())
	d.edit(d.path("kubelet/config.yaml"), "maxPods: 42")
	d.edit(d.path("kubelet/kubeconfig"), "# token: "+canary)
	before := d.files()

	d.wantCode(fault.ExitUsage, "apply")
	d.wantText("--yes")
	d.wantCode(0, "apply", "--dry-run")
	d.wantText("--- "+d.path("kubelet/config.yaml"), "-maxPods: 42", "-# token: <redacted>", "edited since the agent wrote it: ")
	d.wantNoSecret(canary)
	if after := d.files(); after != before || len(calls()) != started {
		t.Errorf("something changed: %v", calls())
	}

	d.wantCode(0, "apply", "--yes")
	d.wantText("wrote "+d.path("kubelet/config.yaml"), "what it was is kept: "+d.path("state/replaced"), "kubelet restarted")
	d.wantNoSecret(canary)
	if got := calls()[started:]; strings.Join(got, " ") != "restart" {
		t.Errorf("systemd was told to %v", got)
	}
	d.wantCode(0, "apply", "--dry-run")
	d.wantText("nothing to apply")
}

func TestApplyAsksTheAgentThatRuns(t *testing.T) {
	d, calls := joinedDoor(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	quiet := &lockedBuffer{}
	daemon := *d.app
	daemon.stderr = quiet
	go func() { done <- daemon.run(ctx, []string{"run"}) }()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != 0 {
			t.Errorf("run ended with %d: %s", code, quiet.String())
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if s, running, err := agent.ReadStatus(d.app.paths); err == nil && running && s.Phase == agent.Joined {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not joined: %s", quiet.String())
		}
	}
	// A config that the command could not even read: it is the agent's word that counts.
	d.edit(d.path("kubelet/config.yaml"), "maxPods: 42")
	started := len(calls())
	d.wantCode(0, "apply", "--yes")
	d.wantText("-maxPods: 42", "kubelet restarted")
	if got := calls()[started:]; strings.Join(got, " ") != "restart" {
		t.Errorf("systemd was told to %v", got)
	}
	d.write("config.yaml", "nonsense: true\n", 0o600)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(quiet.String(), "is bad") && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	d.wantCode(fault.ExitConfig, "apply", "--dry-run")
	d.wantText("nonsense")
}

func TestApplySaysWhereThereIsNothingToApply(t *testing.T) {
	d := newDoor(t)
	d.machine(cluster(t))
	d.wantCode(fault.ExitFailed, "apply", "--dry-run")
	d.wantText("has not joined", "systemctl start bootstrap-agent")
	d.wantCode(fault.ExitFailed, "apply", "--same-machine", "--yes")
	d.wantText("has not joined")
}

func TestApplySameMachine(t *testing.T) {
	d, calls := joinedDoor(t)
	inner := d.app.adapt
	d.app.adapt = func(deps *agent.Deps) {
		inner(deps)
		deps.Machine.UUID = "another-uuid"
	}
	started := len(calls())
	d.edit(d.path("kubelet/config.yaml"), "maxPods: 42")
	d.wantCode(0, "apply", "--same-machine", "--dry-run")
	d.wantText("now another-uuid")
	d.wantCode(0, "apply", "--same-machine", "--yes")
	d.wantText("the trust record is of this machine now")
	d.wantCode(0, "apply", "--same-machine", "--yes")
	d.wantText("nothing to apply")
	if text, err := os.ReadFile(d.path("kubelet/config.yaml")); err != nil || !strings.HasSuffix(string(text), "maxPods: 42\n") || len(calls()) != started {
		t.Errorf("it did more than that: %v", calls())
	}
}

func TestRepairWithoutHealIsWarnedAbout(t *testing.T) {
	d := newDoor(t)
	d.machine(cluster(t))
	d.edit(d.path("config.yaml"), "repair: true\nafterJoin: observe")
	good, err := d.app.loader(d.app.rootCommand().PersistentFlags()).load()
	if err != nil || len(good.warnings) != 1 || !strings.Contains(good.warnings[0], "repair") || !good.agent.Repair {
		t.Errorf("%+v, %v", good, err)
	}
}

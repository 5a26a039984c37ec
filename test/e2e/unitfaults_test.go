//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// The fake kubelet of this scenario, see test/e2e/fakekubelet.
const (
	fakePath   = "/usr/local/bin/kubelet"
	fakeDo     = "/run/fakekubelet.do"
	fakeStarts = "/run/fakekubelet.starts"
	theirs     = "/etc/systemd/system/kubelet.service.d/zz-theirs.conf"
	agentLab   = "/etc/systemd/system/bootstrap-agent.service.d/lab.conf"
)

// unitFaults is one machine on which everything around systemd goes wrong, one
// thing after the other.
type unitFaults struct {
	c    *cluster.Cluster
	m    *machine.Machine
	good settings
}

// systemd, its bus, the kubelet's unit and the kubelet fail in every way of the
// fault matrix, on a real machine. The kubelet is a fake one, which fails as it is
// told and never makes a Node: Registering is as far as this goes, and Joined it
// must never say.
func TestWhateverBecomesOfTheKubeletsUnitIsSaidAndGoneOnFrom(t *testing.T) {
	ctx := aside(t, 6*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := agentMachine(t, ctx, machine.Options{Name: "unit-faults", Kubelet: elsewhere})
	program, err := os.ReadFile(buildFakeKubelet(t))
	if err == nil {
		err = m.WriteFile(ctx, fakePath, string(program), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	labAgent(t, ctx, m, labSettings{})
	f := &unitFaults{c, m, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: newToken(t, ctx, c).String()}}
	for _, part := range []struct {
		name string
		run  func(*unitFaults, *testing.T, context.Context)
	}{
		{"F39: no kubelet, or one that cannot be run", (*unitFaults).noKubelet},
		{"F40: masked, and overridden by a drop-in of somebody else's", (*unitFaults).overridden},
		{"F35: no bus", (*unitFaults).noBus},
		{"F36: systemd executes itself anew under the start job", (*unitFaults).reexecuted},
		{"F37: the start job fails, runs out of time, is cancelled, has no dependency", (*unitFaults).jobFails},
		{"F38: the kubelet dies after it was ready", (*unitFaults).dies},
		{"F42: stopped at random moments", (*unitFaults).stopped},
		{"F44: a disk on which each fsync takes a quarter of a second", (*unitFaults).slowDisk},
		{"F43: a loop that is stuck", (*unitFaults).stuck},
	} {
		t.Run(part.name, func(t *testing.T) {
			began := time.Now()
			defer func() {
				f.forget(t, ctx)
				t.Logf("%.1f s", time.Since(began).Seconds())
			}()
			part.run(f, t, ctx)
		})
	}
}

// forget makes the machine what it was.
func (f *unitFaults) forget(t *testing.T, ctx context.Context) {
	t.Helper()
	if _, err := f.m.RunScript(ctx, `systemctl stop bootstrap-agent.path `+agentUnit+`
systemctl stop kubelet.service 2>/dev/null || true
rm -rf /var/lib/bootstrap-agent/* /var/lib/kubelet/* /etc/systemd/system/kubelet.service /etc/systemd/system/kubelet.service.d
rm -f `+strings.Join([]string{fakeDo, fakeStarts, agentLab}, " ")+`
systemctl daemon-reload
systemctl reset-failed
`); err != nil {
		t.Fatal(err)
	}
}

// begin starts the agent, and again makes it look at once.
func (f *unitFaults) begin(t *testing.T, ctx context.Context) {
	t.Helper()
	prepare(t, ctx, f.m, f.good)
	mustRun(t, ctx, f.m, "systemctl", "start", agentUnit)
}

func (f *unitFaults) again(t *testing.T, ctx context.Context) {
	t.Helper()
	mustRun(t, ctx, f.m, "systemctl", "reload", agentUnit)
}

// says waits for a reason with these words.
func (f *unitFaults) says(t *testing.T, ctx context.Context, want fault.Reason, parts ...string) agent.Status {
	t.Helper()
	s := awaitStatus(t, ctx, f.m, fmt.Sprint(want, parts), 40*time.Second, func(s agent.Status) bool {
		if s.Phase == agent.Joined {
			t.Errorf("Joined with a kubelet that has no Node: %+v", s)
		}
		for _, part := range parts {
			if !strings.Contains(s.Message, part) {
				return false
			}
		}
		return s.Reason == want
	})
	t.Logf("%s: %s -> %s", s.Reason, s.Message, s.Hint)
	if s.Hint == "" {
		t.Error("nobody is told what to do")
	}
	return s
}

// registers waits for a kubelet that runs.
func (f *unitFaults) registers(t *testing.T, ctx context.Context) {
	t.Helper()
	awaitStatus(t, ctx, f.m, "a kubelet that runs", 40*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Registering && s.Kubelet.ActiveState == "active"
	})
}

// kubeletDoes makes the fake kubelet fail in that way; the unit's drop-in holds
// what a scenario needs of it.
func (f *unitFaults) kubeletDoes(t *testing.T, ctx context.Context, how, dropIn string) {
	t.Helper()
	if err := f.m.WriteFiles(ctx, map[string]machine.File{fakeDo: {Content: how}, theirs: {Content: dropIn}}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, f.m, "systemctl", "daemon-reload")
}

// awaitKubelet waits for a state of kubelet.service.
func (f *unitFaults) awaitKubelet(t *testing.T, ctx context.Context, state string) {
	t.Helper()
	awaitProps(t, ctx, f.m, "kubelet.service", "the kubelet to be "+state, func(p map[string]string) bool { return p["ActiveState"] == state })
}

func (f *unitFaults) noKubelet(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, f.m, "mv", fakePath, fakePath+".away")
	f.begin(t, ctx)
	f.says(t, ctx, fault.KubeletMissing, fakePath)
	mustRun(t, ctx, f.m, "sh", "-c", "cp "+fakePath+".away "+fakePath+"; chmod 0644 "+fakePath)
	f.again(t, ctx)
	f.says(t, ctx, fault.KubeletMissing, "execut")
	if made := csrsOf(t, ctx, f.c, tokenFrom(f.good)); len(made) != 0 {
		t.Errorf("without a kubelet there are requests: %q", made)
	}
	mustRun(t, ctx, f.m, "mv", fakePath+".away", fakePath)
	f.again(t, ctx)
	f.registers(t, ctx)
}

func (f *unitFaults) overridden(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, f.m, "systemctl", "mask", "--quiet", "kubelet.service")
	f.begin(t, ctx)
	f.says(t, ctx, fault.UnitMasked)
	if state := strings.TrimSpace(mustRun(t, ctx, f.m, "sh", "-c", "systemctl is-enabled kubelet.service || true")); state != "masked" {
		t.Errorf("kubelet.service is %s", state)
	}
	mustRun(t, ctx, f.m, "systemctl", "unmask", "--quiet", "kubelet.service")
	f.kubeletDoes(t, ctx, "", "[Service]\nExecStart=\nExecStart="+fakePath+" --theirs\n")
	f.again(t, ctx)
	f.says(t, ctx, fault.UnitOverridden, theirs)
	if text, err := f.m.ReadFile(ctx, theirs); err != nil || !strings.Contains(text, "--theirs") {
		t.Errorf("somebody else's drop-in: %q, %v", text, err)
	}
	mustRun(t, ctx, f.m, "sh", "-c", "rm "+theirs+"; systemctl daemon-reload")
	f.again(t, ctx)
	f.registers(t, ctx)
}

// noBus: systemd's own socket is used, which is there for root.
func (f *unitFaults) noBus(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, f.m, "systemctl", "stop", "dbus.socket", "dbus.service")
	if _, err := f.m.ReadFile(ctx, "/run/dbus/system_bus_socket"); err == nil {
		t.Error("the bus is still there")
	}
	f.begin(t, ctx)
	f.registers(t, ctx)
	if state := strings.TrimSpace(mustRun(t, ctx, f.m, "sh", "-c", "systemctl is-active dbus.service dbus.socket || true")); state != "inactive\ninactive" {
		t.Errorf("the bus came back by itself: %s", state)
	}
	mustRun(t, ctx, f.m, "systemctl", "start", "dbus.socket")
}

func (f *unitFaults) reexecuted(t *testing.T, ctx context.Context) {
	f.kubeletDoes(t, ctx, "slow", "")
	f.begin(t, ctx)
	f.awaitKubelet(t, ctx, "activating")
	mustRun(t, ctx, f.m, "systemctl", "daemon-reexec")
	if state := unitProps(t, ctx, f.m, "kubelet.service", "ActiveState")["ActiveState"]; state != "activating" {
		t.Errorf("the kubelet was %s when systemd had executed itself: this proves nothing", state)
	}
	f.registers(t, ctx)
	if starts := mustRun(t, ctx, f.m, "cat", fakeStarts); starts != "x" {
		t.Errorf("the kubelet was started %d times", len(starts))
	}
	if props := unitProps(t, ctx, f.m, agentUnit, "NRestarts", "ActiveState"); props["NRestarts"] != "0" || props["ActiveState"] != "active" {
		t.Errorf("the agent: %v", props)
	}
}

// jobFails: each time it is the first start of a kubelet on that machine; later
// ones are systemd's own, by Restart=.
func (f *unitFaults) jobFails(t *testing.T, ctx context.Context) {
	if err := f.m.WriteFile(ctx, "/etc/systemd/system/broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		result, how, dropIn string
		says                []string
	}{
		{"failed", "exit", "", []string{"start job failed (result exit-code"}},
		// Out of time is one of two things: the service, and then its job has failed; or the job.
		{"failed by a timeout", "hang", "[Service]\nTimeoutStartSec=2s\n", []string{"start job failed (result timeout"}},
		{"timeout", "hang", "[Unit]\nJobTimeoutSec=2s\n", []string{"start job ran into its timeout"}},
		{"canceled", "hang", "", []string{"start job was cancelled"}},
		{"dependency", "", "[Unit]\nRequires=broken.service\nAfter=broken.service\n", []string{"a unit that it requires failed"}},
	} {
		f.forget(t, ctx)
		f.kubeletDoes(t, ctx, row.how, row.dropIn)
		cursor := cursorOf(t, ctx, f.m)
		f.begin(t, ctx)
		if row.result == "canceled" {
			f.awaitKubelet(t, ctx, "activating")
			mustRun(t, ctx, f.m, "systemctl", "stop", "kubelet.service")
		}
		// In the journal: the status soon shows what systemd has made of it since.
		within, cancel := context.WithTimeout(ctx, 40*time.Second)
		err := await.Until(within, row.result+" in the journal", 100*time.Millisecond, func(context.Context) error {
			said := strings.Join(journalSince(t, ctx, f.m, cursor, "_COMM=bootstrap-agent"), "\n")
			for _, part := range append(row.says, string(fault.KubeletFailed)) {
				if !strings.Contains(said, part) {
					return fmt.Errorf("no %q in\n%s", part, said)
				}
			}
			return nil
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	before := csrsOf(t, ctx, f.c, tokenFrom(f.good))
	f.kubeletDoes(t, ctx, "", "")
	f.again(t, ctx)
	f.registers(t, ctx)
	if made := csrsOf(t, ctx, f.c, tokenFrom(f.good)); len(made) != len(before) {
		t.Errorf("a failed start cost %d requests", len(made)-len(before))
	}
}

func (f *unitFaults) dies(t *testing.T, ctx context.Context) {
	f.kubeletDoes(t, ctx, "die", "")
	f.begin(t, ctx)
	f.registers(t, ctx)
	f.says(t, ctx, fault.KubeletFailed, "systemd restarts it", "dies as it was told")
}

// stopped: a first join is interrupted by systemctl stop, wherever it is then.
func (f *unitFaults) stopped(t *testing.T, ctx context.Context) {
	prepare(t, ctx, f.m, f.good)
	const rounds = 10
	out, err := f.m.RunScript(ctx, `for round in $(seq `+strconv.Itoa(rounds)+`); do
  systemctl start --no-block `+agentUnit+`
  sleep 0.$(printf %03d $((RANDOM % 1000)))
  began=$(date +%s%N)
  systemctl stop `+agentUnit+`
  echo "$(( ($(date +%s%N) - began) / 1000000 )) $(systemctl show --property=Result,ExecMainStatus --value `+agentUnit+` | tr '\n' ' ')"
  find /etc /run /var -name '.bootstrap-agent-tmp-*'
  systemctl stop kubelet.service 2>/dev/null
  rm -rf /var/lib/bootstrap-agent/* /var/lib/kubelet/*
done`)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("milliseconds, result, code:\n%s", out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != rounds {
		t.Errorf("files were left behind")
	}
	inOrder := 0
	for _, line := range lines {
		var ms, code int
		var result string
		_, err := fmt.Sscanf(line, "%d %s %d", &ms, &result, &code)
		// 15: SIGTERM came before the program had begun.
		if err != nil || time.Duration(ms)*time.Millisecond > stopWithin || result != "success" || code != 0 && code != 15 {
			t.Errorf("a stop: %s", line)
		}
		if code == 0 {
			inOrder++
		}
	}
	if inOrder == 0 {
		t.Error("no stop came after the program had begun: this proves nothing")
	}
}

// slowDisk: the start of the agent's unit does not wait for the disk. strace makes
// each fsync take a while, those in /run too, which are quick in life; none but
// those comes before READY=1, and a timeout that is too short for the join does it
// no harm.
func (f *unitFaults) slowDisk(t *testing.T, ctx context.Context) {
	const timeout = 5 * time.Second
	prepare(t, ctx, f.m, f.good)
	const wait = "/run/traced-unit-faults"
	if err := f.m.WriteFile(ctx, agentLab, fmt.Sprintf("[Service]\nTimeoutStartSec=%d\nExecStart=\nExecStart=/bin/sh -c 'while ! test -e %s; do sleep 0.02; done; exec %s run'\n",
		int(timeout.Seconds()), wait, agentPath), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, f.m, "systemctl", "daemon-reload")
	mustRun(t, ctx, f.m, "systemctl", "start", "--no-block", agentUnit)
	began := time.Now()
	log := filepath.Join(t.TempDir(), "trace")
	trace := exec.CommandContext(ctx, "strace", "-f", "-q", "-y", "-p", strconv.Itoa(hostPID(t, ctx, wait)), "-o", log,
		"-e", "trace=fsync,write,sendto,sendmsg", "-e", "inject=fsync:delay_enter=250000")
	if err := trace.Start(); err != nil {
		t.Fatalf("cannot slow the disk down: %v (test/machine/prepare.sh installs strace)", err)
	}
	defer func() {
		_ = trace.Process.Kill() // its agent may be gone already, and so it
		_ = trace.Wait()         // it was killed
	}()
	pause(t, ctx, 500*time.Millisecond) // until it has attached itself
	mustRun(t, ctx, f.m, "touch", wait)
	awaitProps(t, ctx, f.m, agentUnit, "the unit to be started", func(p map[string]string) bool { return p["ActiveState"] == "active" })
	active := time.Since(began)
	f.registers(t, ctx)
	joined := time.Since(began)
	t.Logf("the unit was active after %.1f s, the kubelet ran after %.1f s", active.Seconds(), joined.Seconds())
	if joined < timeout {
		t.Errorf("the disk was not slow: this proves nothing")
	}
	if props := unitProps(t, ctx, f.m, agentUnit, "NRestarts", "ActiveState"); props["NRestarts"] != "0" || props["ActiveState"] != "active" {
		t.Errorf("the agent: %v", props)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	early, late, ready := strings.Cut(string(text), `"READY=1`)
	if !ready || !strings.Contains(late, "</var/lib/bootstrap-agent") {
		t.Fatalf("strace saw no READY=1 and then a write to the disk:\n%.4000s", text)
	}
	for line := range strings.Lines(early) {
		if strings.Contains(line, "fsync(") && !strings.Contains(line, "</run/") {
			t.Errorf("before READY=1: %s", line)
		}
	}
}

// hostPID finds the process of a machine with these words in its command line.
func hostPID(t *testing.T, ctx context.Context, words string) int {
	t.Helper()
	pid := 0
	err := await.Until(ctx, "a process with "+words, 20*time.Millisecond, func(context.Context) error {
		found, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, path := range found {
			if text, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(text), "/bin/sh\x00") && strings.Contains(string(text), words) {
				pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
				return err
			}
		}
		return fmt.Errorf("none of %d", len(found))
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stuck: a call in the loop never comes back. The heartbeat grows old (the lab's
// clock spares the ten minutes that an act may take), the watchdog is not fed any
// more, and systemd starts the agent anew; the kubelet does not notice.
func (f *unitFaults) stuck(t *testing.T, ctx context.Context) {
	prepare(t, ctx, f.m, f.good)
	if err := f.m.WriteFile(ctx, agentLab, "[Service]\nWatchdogSec=3\nRestartSec=1\n", 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, f.m, "systemctl", "daemon-reload")
	mustRun(t, ctx, f.m, "systemctl", "start", agentUnit)
	f.registers(t, ctx)
	run := kubeletRun(t, ctx, f.m)
	pid := unitProps(t, ctx, f.m, agentUnit, "MainPID")["MainPID"]
	cursor := cursorOf(t, ctx, f.m)

	// A loop that works is fed for, however short the watchdog is.
	pause(t, ctx, 4*time.Second)
	if now := unitProps(t, ctx, f.m, agentUnit, "MainPID")["MainPID"]; now != pid {
		t.Fatalf("the agent is another process: %s, was %s", now, pid)
	}
	setLab(t, ctx, f.m, labSettings{Stuck: true})
	mustRun(t, ctx, f.m, "systemctl", "reload", "--no-block", agentUnit)
	pause(t, ctx, time.Second)
	stuckAt := time.Now()
	setLab(t, ctx, f.m, labSettings{Stuck: true, ClockOffset: "15m"})
	awaitProps(t, ctx, f.m, agentUnit, "the watchdog", func(p map[string]string) bool { return p["MainPID"] != pid })
	t.Logf("ended %.1f s after its heartbeat was too old", time.Since(stuckAt).Seconds())
	setLab(t, ctx, f.m, labSettings{})
	awaitProps(t, ctx, f.m, agentUnit, "a fresh agent", func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != pid && p["MainPID"] != "0"
	})
	if said := strings.Join(journalSince(t, ctx, f.m, cursor, "_PID=1", "UNIT="+agentUnit), "\n"); !strings.Contains(said, "Watchdog timeout") {
		t.Errorf("systemd says:\n%s", said)
	}
	f.registers(t, ctx)
	if now := kubeletRun(t, ctx, f.m); now != run {
		t.Errorf("the kubelet felt it: %v, was %v", now, run)
	}
}

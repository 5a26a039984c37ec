//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

const pathUnit = "bootstrap-agent.path"

// life is one machine on which the package comes, changes and goes.
type life struct {
	packager

	v      *versions
	c      *cluster.Cluster
	m      *machine.Machine
	good   settings
	before map[string]bool // the machine's files before the package was there
	csr    string          // the request for a certificate
	run    oneRun          // of the kubelet, which never feels any of it
	files  string          // of the kubelet, likewise
}

// What a package manager does to the agent, from a machine that never saw it to
// one that has forgotten it, with both formats, whose scripts run in orders of
// their own: dpkg's old prerm, new preinst, files, old postrm, new postinst; rpm's
// files, new %post, old %preun, old %postun.
func TestThePackageComesChangesAndGoesAndTheKubeletDoesNotNotice(t *testing.T) {
	ctx := scenario(t, 6*time.Minute)
	v := packageVersions(t, ctx)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	patient := waitingToken(t, ctx, c)
	for name, packager := range map[string]packager{"deb": debs{v}, "rpm": rpms{v}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := v.repo.aptFiles(t)
			files["/etc/dpkg/dpkg.cfg.d/lab"] = machine.File{Content: "force-unsafe-io\n"} // no power is ever cut here
			m := bootMachine(t, ctx, machine.Options{Name: "life-" + name, Files: files})
			l := &life{packager: packager, v: v, c: c, m: m, good: settings{
				endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: patient.String(), more: "nodeLabels: [\"example.org/rack=r7\"]\n",
			}}
			if err := m.AwaitRunning(ctx); err != nil {
				t.Fatal(err)
			}
			for _, part := range []struct {
				name string
				run  func(*life, *testing.T, context.Context)
			}{
				{"without a config nothing starts, nothing fails and nobody is asked", (*life).arrives},
				{"a config that appears starts it, once when it is bad", (*life).badConfigAppears},
				{"removed when it had failed, it leaves nothing", (*life).leavesNothing},
				{"an image with package and config starts it at its first boot", (*life).bootsFromAnImage},
				{"a config that is written slowly starts it when it is whole", (*life).slowConfigAppears},
				{"an upgrade while it waits for approval keeps the request", (*life).upgradedWaiting},
				{"a downgrade to one that does not know a key of the config names the key", (*life).downgradedWaiting},
				{"an upgrade of a node restarts the agent alone, and shows what would be written differently", (*life).upgradedJoined},
				{"a downgrade of a node that does not know a key of the config watches on", (*life).downgradedJoined},
				{"stopped stays stopped, whatever is edited or installed", (*life).staysStopped},
				{"disabled stays disabled, and masked masked", (*life).staysDisabled},
				{"afterJoin exit is one start", (*life).exitsAfterTheJoin},
				{"removed, the kubelet runs on and all is there for another installation", (*life).removed},
				{"purged, nothing of ours is left, and the kubelet runs on", (*life).purged},
			} {
				if !t.Run(part.name, func(t *testing.T) {
					began := time.Now()
					part.run(l, t, ctx)
					t.Logf("%.1f s", time.Since(began).Seconds())
				}) {
					t.FailNow() // the rest builds upon it
				}
			}
			if err := c.DeleteNode(ctx, m.Name); err != nil {
				t.Error(err)
			}
		})
	}
}

func (l *life) arrives(t *testing.T, ctx context.Context) {
	l.before = l.allFiles(t, ctx)
	l.install(t, ctx, l.m, l.v.older)
	l.wantUnit(t, ctx, "inactive", "success", "0")
	l.wantEnabled(t, ctx, "enabled")
	if watches := unitProps(t, ctx, l.m, pathUnit, "ActiveState")["ActiveState"] == "active"; watches != l.startsUnits() {
		t.Errorf("a config is watched for: %t", watches)
	}
	l.wantNothingFailed(t, ctx)
	if state := mustRun(t, ctx, l.m, "systemctl", "is-system-running"); state != "running\n" {
		t.Errorf("the machine is %s", state)
	}
	if load := unitProps(t, ctx, l.m, "kubelet.service", "LoadState")["LoadState"]; load != "not-found" {
		t.Errorf("kubelet.service is %s", load)
	}
	// Also a start by hand is none: its condition is not met.
	mustRun(t, ctx, l.m, "systemctl", "start", agentUnit)
	l.wantUnit(t, ctx, "inactive", "success", "0")
}

func (l *life) badConfigAppears(t *testing.T, ctx context.Context) {
	cursor := cursorOf(t, ctx, l.m)
	last := ""
	for i, line := range []string{"nodNames: x\n", "nodNames: y\n"} {
		bad := l.good
		bad.more = line
		l.write(t, ctx, bad)
		last = awaitProps(t, ctx, l.m, agentUnit, "the end of a start with a bad config", func(p map[string]string) bool {
			return p["ActiveState"] == "failed" && p["InvocationID"] != last
		})["InvocationID"]
		pause(t, ctx, 1500*time.Millisecond) // a loop would show by now; a pending restart shows in the state
		l.wantUnit(t, ctx, "failed", "exit-code", "78")
		if n := l.starts(t, ctx, cursor); n != i+1 {
			t.Errorf("%d starts after %d bad configs", n, i+1)
		}
	}
}

// sharedFolders are folders of many packages, which a distribution's own base
// package has. This machine's root lacks some, and rpm owns none of them for us.
var sharedFolders = map[string]bool{
	"/var/lib/kubelet":    true, // made for the agent, and maybe by the kubelet's package, too
	"/usr/share/licenses": true, "/usr/share/man/man5": true, "/usr/share/man/man8": true, "/usr/share/zsh": true, "/usr/share/zsh/site-functions": true,
	"/usr/share/fish": true, "/usr/share/fish/vendor_completions.d": true, "/usr/share/bash-completion": true, "/usr/share/bash-completion/completions": true,
}

func (l *life) leavesNothing(t *testing.T, ctx context.Context) {
	l.remove(t, ctx, l.m)
	l.wantNothingFailed(t, ctx)
	l.purge(t, ctx, l.m)
	l.wantNothingFailed(t, ctx)
	after := l.allFiles(t, ctx)
	for path := range after {
		if !l.before[path] && !sharedFolders[path] {
			t.Errorf("left behind: %s", path)
		}
	}
	for path := range l.before {
		if !after[path] {
			t.Errorf("taken away: %s", path)
		}
	}
}

func (l *life) bootsFromAnImage(t *testing.T, ctx context.Context) {
	if err := l.m.Poweroff(ctx); err != nil {
		t.Fatal(err)
	}
	l.install(t, ctx, l.m, l.v.older)
	l.write(t, ctx, l.good)
	if err := l.m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	s := awaitStatus(t, ctx, l.m, "a request after the boot", 20*time.Second, waitsForApproval)
	l.csr = s.CSR.Name
	l.wantEnabled(t, ctx, "enabled")
	l.wantNothingFailed(t, ctx)
}

func (l *life) slowConfigAppears(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, l.m, "systemctl", "stop", agentUnit)
	mustRun(t, ctx, l.m, "rm", configPath)
	mustRun(t, ctx, l.m, "systemctl", "start", pathUnit)
	// systemd watches again only when it has dealt with the end of the service; what
	// is written and done with before that it does not see.
	awaitProps(t, ctx, l.m, pathUnit, "the watch", func(p map[string]string) bool { return p["SubState"] == "waiting" })
	if err := l.v.publish(); err != nil { // or the build would slow the writer down
		t.Fatal(err)
	}
	cursor := cursorOf(t, ctx, l.m)
	result, err := l.m.RunInput(ctx, []byte(l.good.config()), "bash", "-ec",
		"umask 077; { head --bytes=50; sleep 0.1; head --bytes=20; sleep 0.1; cat; } > "+configPath)
	if err != nil || result.Code != 0 {
		t.Fatal(err, result)
	}
	l.awaitRequest(t, ctx, l.v.older)
	if n := l.starts(t, ctx, cursor); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func (l *life) upgradedWaiting(t *testing.T, ctx context.Context) {
	if err := l.m.WriteFile(ctx, "/etc/systemd/system/bootstrap-agent.service.d/50-admin.conf", "[Service]\nEnvironment=OF_THE_ADMIN=1\n", 0o644); err != nil {
		t.Fatal(err)
	}
	before := propertiesOf(t, ctx, l.m)["MainPID"]
	l.install(t, ctx, l.m, l.v.newer)
	l.awaitRequest(t, ctx, l.v.newer)
	after := propertiesOf(t, ctx, l.m)
	if after["MainPID"] == before || !strings.Contains(after["Environment"], newerMark) || !strings.Contains(after["Environment"], "OF_THE_ADMIN=1") {
		t.Errorf("MainPID=%s (was %s) Environment=%s", after["MainPID"], before, after["Environment"])
	}
	if kubelet := unitProps(t, ctx, l.m, "kubelet.service", "ActiveState", "MainPID"); kubelet["ActiveState"] != "inactive" {
		t.Errorf("the kubelet: %v", kubelet)
	}
	if config, err := l.m.ReadFile(ctx, configPath); err != nil || config != l.good.config() {
		t.Errorf("the config was touched: %v\n%s", err, config)
	}
}

func (l *life) downgradedWaiting(t *testing.T, ctx context.Context) {
	l.writeConfig(t, ctx, newerKey+": x\n")
	cursor := cursorOf(t, ctx, l.m)
	l.install(t, ctx, l.m, l.v.older)
	l.wantUnit(t, ctx, "failed", "exit-code", "78")
	if n := l.starts(t, ctx, cursor); n != 1 {
		t.Errorf("%d starts", n)
	}
	if said := strings.Join(journalSince(t, ctx, l.m, cursor), "\n"); !strings.Contains(said, configPath+":5: "+newerKey) {
		t.Errorf("the journal does not name file, line and key:\n%s", said)
	}
	// Nobody stopped it: with the version that knows the key it goes on by itself.
	l.install(t, ctx, l.m, l.v.newer)
	l.awaitRequest(t, ctx, l.v.newer)
	l.writeConfig(t, ctx, "")
	l.install(t, ctx, l.m, l.v.older)
	l.awaitRequest(t, ctx, l.v.older)
}

func (l *life) upgradedJoined(t *testing.T, ctx context.Context) {
	if err := l.c.Approve(ctx, l.csr); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, ctx, l.m, "the join", 60*time.Second, inPhase(agent.Joined))
	// Only with a Lease does an agent that was not there believe that the kubelet
	// is well; the first one comes up to ten seconds after the Node.
	if err := await.Until(ctx, "the Lease", 100*time.Millisecond, func(ctx context.Context) error {
		return l.c.Get(ctx, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"+l.m.Name, nil)
	}); err != nil {
		t.Fatal(err)
	}
	l.run, l.files = kubeletRun(t, ctx, l.m), l.kubeletFiles(t, ctx)
	before := propertiesOf(t, ctx, l.m)["MainPID"]

	l.install(t, ctx, l.m, l.v.newer)
	l.awaitJoined(t, ctx, "joined and drifted under the newer version", l.v.newer, withNote(fault.Drifted, "kubelet.service"))
	if after := propertiesOf(t, ctx, l.m)["MainPID"]; after == before {
		t.Errorf("the agent is still process %s", after)
	}
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) downgradedJoined(t *testing.T, ctx context.Context) {
	l.writeConfig(t, ctx, newerKey+": x\n")
	l.install(t, ctx, l.m, l.v.older)
	s := l.awaitJoined(t, ctx, "joined with a config that it does not understand", l.v.older, notesConfigInvalid)
	if notes := fmt.Sprint(s.Notes); !strings.Contains(notes, newerKey) || withNote(fault.Drifted)(s) {
		t.Errorf("notes %s", notes)
	}
	l.wantUnit(t, ctx, "active", "success", "0")
	before := propertiesOf(t, ctx, l.m)["MainPID"]
	l.writeConfig(t, ctx, "")
	l.awaitJoined(t, ctx, "joined with the repaired config", l.v.older, func(s agent.Status) bool { return !notesConfigInvalid(s) })
	if after := propertiesOf(t, ctx, l.m)["MainPID"]; after != before {
		t.Errorf("the repair took a restart: %s, was %s", after, before)
	}
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) staysStopped(t *testing.T, ctx context.Context) {
	mustRun(t, ctx, l.m, "systemctl", "stop", agentUnit)
	cursor := cursorOf(t, ctx, l.m)
	l.writeConfig(t, ctx, "# edited\n")
	l.install(t, ctx, l.m, l.v.newer)
	l.writeConfig(t, ctx, "")
	pause(t, ctx, time.Second)
	l.wantUnit(t, ctx, "inactive", "success", "0")
	if n := l.starts(t, ctx, cursor); n != 0 {
		t.Errorf("%d starts", n)
	}
	l.wantEnabled(t, ctx, "enabled")
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) staysDisabled(t *testing.T, ctx context.Context) {
	cursor := cursorOf(t, ctx, l.m)
	mustRun(t, ctx, l.m, "systemctl", "disable", "--quiet", agentUnit)
	l.install(t, ctx, l.m, l.v.older)
	l.wantEnabled(t, ctx, "disabled")
	mustRun(t, ctx, l.m, "systemctl", "enable", "--quiet", agentUnit)
	mustRun(t, ctx, l.m, "systemctl", "mask", "--quiet", agentUnit)
	l.install(t, ctx, l.m, l.v.newer)
	if load := unitProps(t, ctx, l.m, agentUnit, "LoadState")["LoadState"]; load != "masked" {
		t.Errorf("the unit is %s", load)
	}
	mustRun(t, ctx, l.m, "systemctl", "unmask", "--quiet", agentUnit)
	l.wantEnabled(t, ctx, "enabled")
	if n := l.starts(t, ctx, cursor); n != 0 {
		t.Errorf("%d starts", n)
	}
	l.wantNothingFailed(t, ctx)
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) exitsAfterTheJoin(t *testing.T, ctx context.Context) {
	l.writeConfig(t, ctx, "afterJoin: exit\n")
	cursor := cursorOf(t, ctx, l.m)
	mustRun(t, ctx, l.m, "systemctl", "start", agentUnit)
	awaitProps(t, ctx, l.m, agentUnit, "the end of the agent", func(p map[string]string) bool { return p["ActiveState"] == "inactive" })
	l.install(t, ctx, l.m, l.v.older) // what has ended well stays so over an upgrade, too
	pause(t, ctx, time.Second)
	l.wantUnit(t, ctx, "inactive", "success", "0")
	if n := l.starts(t, ctx, cursor); n != 1 {
		t.Errorf("%d starts", n)
	}
	// It ended, it was not stopped: another config is another start.
	l.writeConfig(t, ctx, "")
	l.awaitJoined(t, ctx, "joined under another config", l.v.older)
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) removed(t *testing.T, ctx context.Context) {
	asked := requestsOf(t, ctx, l.c, tokenFrom(l.good), l.m.Name)
	l.remove(t, ctx, l.m)
	if load := unitProps(t, ctx, l.m, agentUnit, "LoadState", "MainPID"); load["LoadState"] != "not-found" || load["MainPID"] != "0" {
		t.Errorf("the unit: %v", load)
	}
	mustRun(t, ctx, l.m, "sh", "-ec", "for gone in /usr/bin/bootstrap-agent /run/bootstrap-agent; do ! test -e $gone; done; for kept in "+
		configPath+" "+tokenPath+" /var/lib/bootstrap-agent/trust.json /etc/systemd/system/bootstrap-agent.service.d/50-admin.conf; do test -e $kept; done")
	l.wantNothingFailed(t, ctx)
	l.wantKubeletUntouched(t, ctx)

	l.install(t, ctx, l.m, l.v.newer)
	l.wantEnabled(t, ctx, "enabled")
	if !l.startsUnits() {
		l.wantUnit(t, ctx, "inactive", "success", "0")
		mustRun(t, ctx, l.m, "systemctl", "start", agentUnit)
	}
	l.awaitJoined(t, ctx, "joined after another installation", l.v.newer)
	if now := requestsOf(t, ctx, l.c, tokenFrom(l.good), l.m.Name); !slices.Equal(now, asked) {
		t.Errorf("requests %v, were %v", now, asked)
	}
	l.wantKubeletUntouched(t, ctx)
}

func (l *life) purged(t *testing.T, ctx context.Context) {
	l.purge(t, ctx, l.m)
	for path := range l.allFiles(t, ctx) {
		if strings.Contains(path, "bootstrap-agent") && !l.before[path] && !strings.HasPrefix(path, "/etc/systemd/system/bootstrap-agent.service.d") &&
			path != "/etc/systemd/system/kubelet.service.d/90-bootstrap-agent.conf" {
			t.Errorf("left behind: %s", path)
		}
	}
	l.wantNothingFailed(t, ctx)
	l.wantKubeletUntouched(t, ctx)
	if _, err := l.c.AwaitReady(ctx, l.m.Name); err != nil {
		t.Error(err)
	}
	// It has forgotten that this kubelet is its own work, and says so.
	l.install(t, ctx, l.m, l.v.older)
	l.write(t, ctx, l.good)
	mustRun(t, ctx, l.m, "systemctl", "start", agentUnit)
	awaitStatus(t, ctx, l.m, "somebody else's kubelet", 20*time.Second, hasReason(fault.ForeignKubelet))
	l.wantKubeletUntouched(t, ctx)
}

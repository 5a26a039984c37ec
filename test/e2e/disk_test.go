//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/crash"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// plenty of files and pages of a disk: far more than a join takes.
const plenty = 1000

// TestADiskThatIsFullAtAnyWriteIsSaidAndSurvived is F30: the disk has so many free
// files, or pages, that a first join comes to its first, second, third ... write and
// not further. The agent says WriteFailed, the path and the cause; nothing of a
// temporary file stays, and no file is empty or half; and it joins when there is
// space again, with the one request that it has made.
func TestADiskThatIsFullAtAnyWriteIsSaidAndSurvived(t *testing.T) {
	aside(t, 4*time.Minute)
	named := map[string]int{} // which paths were said to be in the way
	for _, of := range []string{"files", "pages"} {
		for left := 0; ; left++ {
			pages, files := plenty, left
			if of == "pages" {
				pages, files = left, plenty
			}
			path, err := fullDisk(t, pages, files)
			if err != nil {
				t.Fatalf("%d %s left: %v", left, of, err)
			}
			if path == "" {
				t.Logf("%d %s are enough for a join", left, of)
				break
			}
			named[path]++
		}
	}
	t.Logf("what could not be written: %v", named)
	for _, path := range []string{
		"state/lock", "state/trust.json", "state/kubelet-client.key", "state/kubelet-client-new.pem", "state/manifest.json",
		"kubelet/pki/ca.crt", "kubelet/kubeconfig",
	} {
		if named[path] == 0 {
			t.Errorf("no disk was full at %s", path)
		}
	}
}

// fullDisk joins a machine whose disk has so much left, frees the disk when the
// agent has said that it is full, and returns the path that it named.
func fullDisk(t *testing.T, pages, files int) (path string, err error) {
	m, api := scratchNode(t)
	v, err := crash.NewVolume(2000, 1200)
	if err != nil {
		return "", err
	}
	defer func() { _ = v.Close() }() // gone with this process anyway
	if err := m.Use(v); err != nil {
		return "", err
	}
	if err := v.Fill(pages, files); err != nil {
		return "", err
	}
	life, err := m.Start()
	if err != nil {
		return "", err
	}
	defer func() { life.Kill() }()
	s, ok := life.Await(20*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined || s.Reason == fault.WriteFailed || s.Reason != "" && s.Attempt > 2
	})
	if ok && s.Phase == agent.Joined {
		return "", nil
	}
	said, reason := s.Message, s.Reason
	if !ok { // it did not come so far as to have a status
		select {
		case <-life.Ended():
		case <-time.After(10 * time.Second):
			return "", fmt.Errorf("says nothing: %s: %s", s.Phase, s.Message)
		}
		lines := strings.Split(strings.TrimSpace(life.Log()), "\n")
		said = lines[len(lines)-1]
		if strings.HasPrefix(said, string(fault.WriteFailed)+": ") {
			reason = fault.WriteFailed
		}
	}
	if reason != fault.WriteFailed || !strings.Contains(said, "no space left on device") || !strings.Contains(said, v.Dir+"/") {
		return "", fmt.Errorf("a full disk is %s %q", reason, said)
	}
	_, path, _ = strings.Cut(said, v.Dir+"/")
	path = strings.TrimRight(strings.Fields(path)[0], ":,;")
	if err := wholeFiles(m); err != nil {
		return path, err
	}
	if err := v.Free(); err != nil {
		return path, err
	}
	if !ok {
		if life, err = m.Start(); err != nil {
			return path, err
		}
	}
	if s, ok := life.Await(20*time.Second, inPhase(agent.Joined)); !ok {
		life.Kill()
		return path, fmt.Errorf("with space again: %s: %s: %s\n%s", s.Phase, s.Reason, s.Message, life.Log())
	}
	if n := len(api.CSRs()); n != 1 {
		return path, fmt.Errorf("%d requests", n)
	}
	if m.Stale() {
		return path, errors.New("the kubelet runs on other files than those that lie there")
	}
	return path, nil
}

// wholeFiles looks for what must not lie there after a write that failed. The
// agent is between two attempts; where it is not any more, it is looked again.
func wholeFiles(m *crash.Machine) error {
	var found error
	for range 20 {
		paths, err := m.Managed()
		if err != nil {
			return err
		}
		found = nil
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil {
				continue
			}
			switch {
			case strings.Contains(path, "-tmp-"):
				found = fmt.Errorf("%s is left", path)
			case info.Size() == 0 && filepath.Base(path) != "lock":
				found = fmt.Errorf("%s is empty", path)
			}
		}
		if found == nil {
			return nil
		}
		<-time.After(7 * time.Millisecond)
	}
	return found
}

// TestOnAMachineAReadOnlyOrFullDiskIsSaidAndSurvived is F30 and F31 on a machine,
// with the packaged agent in its own unit and sandbox: each of its three folders is
// a file system of its own, first read-only, then full. The agent names the path
// and the cause of the first one that is in its way; once that one is mended, of the
// next; and once all are, it joins. No write left anything behind.
func TestOnAMachineAReadOnlyOrFullDiskIsSaidAndSurvived(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := sharedCluster(t, ctx, cluster.Kubeadm)
	m := agentMachine(t, ctx, machine.Options{Name: "disks", Kubelet: kubelet, Containerd: true})
	for _, dir := range ownFolders {
		// Big enough for a kubelet; what is there stays there.
		if _, err := m.RunScript(ctx, fmt.Sprintf("mkdir -p %[1]s /srv/keep; cp -a %[1]s/. /srv/keep; mount -t tmpfs -o size=64m,mode=0755 tmpfs %[1]s; cp -a /srv/keep/. %[1]s; rm -rf /srv/keep", dir)); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, ctx, m, "systemctl", "daemon-reload")
	for _, disk := range []struct{ name, cause, harm, mend string }{
		{"read-only", "read-only file system", "mount -o remount,ro %s", "mount -o remount,rw %s"},
		{"full", "no space left on device", "dd if=/dev/zero of=%s/filler bs=64k status=none || true", "rm %s/filler"},
	} {
		t.Run(disk.name, func(t *testing.T) {
			prepare(t, ctx, m, settings{endpoints: []string{c.Endpoint()}, pin: c.Pin(), token: newToken(t, ctx, c).String()})
			for _, dir := range ownFolders {
				mustRun(t, ctx, m, "sh", "-c", fmt.Sprintf(disk.harm, dir))
			}
			mustRun(t, ctx, m, "systemctl", "start", "--no-block", agentUnit)
			for _, dir := range ownFolders {
				began := time.Now()
				saysWriteFailed(t, ctx, m, dir, disk.cause)
				t.Logf("%s is said after %s", dir, time.Since(began).Round(time.Millisecond))
				out := mustRun(t, ctx, m, "sh", "-c", "find "+strings.Join(ownFolders, " ")+" -name '.bootstrap-agent-tmp-*' -o -type f -empty -path '*/pki/*'")
				if out != "" {
					t.Errorf("left behind:\n%s", out)
				}
				s, err := statusOf(ctx, m)
				mustRun(t, ctx, m, "sh", "-c", fmt.Sprintf(disk.mend, dir))
				if disk.name == "read-only" && dir != agent.DefaultPaths().State {
					// A service keeps the mounts of its start, and says so.
					if err != nil || !strings.Contains(s.Hint, "systemctl restart bootstrap-agent") {
						t.Errorf("the hint is %q (%v)", s.Hint, err)
					}
					mustRun(t, ctx, m, "systemctl", "restart", agentUnit)
				}
			}
			awaitStatus(t, ctx, m, "the join", time.Minute, inPhase(agent.Joined))
			mustRun(t, ctx, m, "systemctl", "disable", "--now", agentUnit, "kubelet.service")
			// The next one begins anew.
			mustRun(t, ctx, m, "sh", "-c", "rm -rf /var/lib/kubelet/* /etc/systemd/system/kubelet.service*; systemctl daemon-reload")
			if err := c.DeleteNode(ctx, m.Name); err != nil {
				t.Error(err)
			}
		})
	}
}

// ownFolders are those that the agent writes into, in the order of a join.
var ownFolders = []string{"/var/lib/bootstrap-agent", "/var/lib/kubelet", "/etc/systemd/system"}

// saysWriteFailed waits until the agent has named a folder and the cause, in its
// status; in the journal where it cannot even begin.
func saysWriteFailed(t *testing.T, ctx context.Context, m *machine.Machine, dir, cause string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	right := func(text string) bool {
		if dir == agent.DefaultPaths().State && strings.Contains(text, "Failed to set up special execution directory in /var/lib: Read-only file system") {
			return true // systemd makes the StateDirectory= and says so itself; the agent is not started
		}
		return strings.Contains(text, dir+"/") && strings.Contains(text, cause) && strings.Contains(text, string(fault.WriteFailed))
	}
	last := ""
	for ctx.Err() == nil {
		if s, err := statusOf(ctx, m); err == nil {
			last = fmt.Sprintf("%s %s: %s", s.Phase, s.Reason, s.Message)
			if right(last) {
				return
			}
		}
		journal, err := m.Output(ctx, "journalctl", "--unit="+agentUnit, "--output=cat", "--no-pager", "-n", "12")
		if err == nil && slices.ContainsFunc(strings.Split(journal, "\n"), right) {
			return
		}
		<-time.After(100 * time.Millisecond)
	}
	t.Fatalf("it does not say that %s: %s; it says %s", dir, cause, last)
}

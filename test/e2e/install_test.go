//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
	"github.com/bootstrap-agent/bootstrap-agent/test/page"
)

// documentedInstall returns the commands of docs/install.md behind a mark, with the
// place where this repository is hosted.
func documentedInstall(t *testing.T, step, url string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := page.Commands(string(text), step)
	if err != nil {
		t.Fatalf("docs/install.md: %v", err)
	}
	return "set -eu\ncd /srv\n" + strings.ReplaceAll(script, "https://packages.example.com/bootstrap-agent", url)
}

// wantInstalled looks at what a distribution's own software has: enabled units that
// wait, nothing failed, messages in the journal's catalog, and all that is listed.
func wantInstalled(t *testing.T, ctx context.Context, m *machine.Machine, format string) {
	t.Helper()
	for unit, want := range map[string]string{"bootstrap-agent.service": "inactive", "bootstrap-agent.path": "active"} {
		state := mustRun(t, ctx, m, "systemctl", "show", "--value", "--property=ActiveState", unit)
		enabled := mustRun(t, ctx, m, "systemctl", "is-enabled", unit)
		if strings.TrimSpace(state) != want || strings.TrimSpace(enabled) != "enabled" {
			t.Errorf("%s: %s is %s and %s", format, unit, strings.TrimSpace(state), strings.TrimSpace(enabled))
		}
	}
	if failed := mustRun(t, ctx, m, "systemctl", "list-units", "--failed", "--no-legend"); strings.Contains(failed, "bootstrap-agent") {
		t.Errorf("%s: %s", format, failed)
	}
	if entries := mustRun(t, ctx, m, "journalctl", "--list-catalog"); !strings.Contains(entries, " bootstrap-agent: ") {
		t.Errorf("%s: the journal's catalog has no entry of ours:\n%s", format, entries)
	}
	if missing, err := m.RunScript(ctx, "ls -d "+strings.Join(contentsOf(t, format), " ")+" 2>&1 >/dev/null"); err != nil || missing != "" {
		t.Errorf("%s: %v %s", format, err, missing)
	}
	if leftOvers(t, ctx, m) == "" {
		t.Errorf("%s: the search for what is left behind finds nothing where all is there", format)
	}
}

// contentsOf lists the files that a format installs.
func contentsOf(t *testing.T, format string) []string {
	t.Helper()
	table, err := os.ReadFile("../../packaging/contents.txt")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] != "#" && slices.Contains(f[:len(f)-2], format) {
			files = append(files, f[len(f)-1])
		}
	}
	if len(files) < 30 {
		t.Fatalf("packaging/contents.txt lists %d files for %s", len(files), format)
	}
	return files
}

// leftOvers are the files and units of ours on a machine, besides what apt and dpkg
// note down about packages.
func leftOvers(t *testing.T, ctx context.Context, m *machine.Machine) string {
	t.Helper()
	return mustRun(t, ctx, m, "sh", "-c", `find / -xdev \( -path /srv -o -path /proc -o -path /sys -o -path /var/lib/dpkg -o -path /var/cache -o -path /etc/apt -o -path /var/lib/apt -o -path /var/log \) -prune -o -type f -name '*bootstrap-agent*' -print; systemctl list-unit-files --no-legend 'bootstrap-agent*' || true`)
}

func wantGone(t *testing.T, ctx context.Context, m *machine.Machine, format string) {
	t.Helper()
	if left := leftOvers(t, ctx, m); left != "" {
		t.Errorf("%s: left behind: %s", format, left)
	}
}

func TestEveryWayToInstallInTheDocsWorksAsItIsWritten(t *testing.T) {
	ctx := scenario(t, 90*time.Second)
	r := hostedRepository(t, ctx, packageFolder(t))
	tarballs, err := filepath.Glob(filepath.Join(packageFolder(t), "*-linux-*.tar.gz"))
	if err != nil || len(tarballs) == 0 {
		t.Fatalf("no tar.gz beside the packages: %v", err)
	}
	deb := filepath.Base(os.Getenv("BOOTSTRAP_AGENT_DEB")) // bootstrap-agent_VERSION-1_ARCH.deb
	parts := strings.Split(strings.TrimSuffix(deb, ".deb"), "_")
	version, arch := strings.TrimSuffix(parts[1], "-1"), parts[2]
	tarball, err := os.ReadFile(filepath.Join(packageFolder(t), "bootstrap-agent-"+version+"-linux-"+arch+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, ctx, machine.Options{Name: "install"})
	if err := m.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFiles(ctx, map[string]machine.File{
		"/etc/apt/sources.list": {Content: "# no way to a mirror\n"},
		"/srv/bootstrap-agent-" + version + "-linux-" + arch + ".tar.gz": {Content: string(tarball)},
	}); err != nil {
		t.Fatal(err)
	}
	run := func(step string) {
		t.Helper()
		script := "export DEBIAN_FRONTEND=noninteractive VERSION='" + version + "' ARCH=" + arch + " ROOT=/srv/image\n" + documentedInstall(t, step, r.URL)
		if out, err := m.RunScript(ctx, script); err != nil {
			t.Fatalf("%s: %v\n%s", step, err, out)
		}
	}

	run("apt")
	wantInstalled(t, ctx, m, "deb")
	run("purge")
	wantGone(t, ctx, m, "deb")

	run("tar")
	wantInstalled(t, ctx, m, "tar")
	// What was unpacked runs, and a configuration starts it, as it starts a package.
	if err := m.WriteFile(ctx, "/etc/bootstrap-agent/config.yaml", "apiVersion: bootstrap-agent/v1\nendpoints: [\"198.18.0.1:1\"]\nunsafeSkipCAVerification: true\n", 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := m.RunScript(ctx, `for i in $(seq 100); do systemctl is-active --quiet bootstrap-agent && exit 0; sleep 0.1; done; systemctl status --no-pager bootstrap-agent; exit 1`); err != nil {
		t.Errorf("the unit that watches for the configuration did not start the agent: %v\n%s", err, out)
	}
	// An upgrade starts nothing that a person stopped, and enables nothing.
	mustRun(t, ctx, m, "systemctl", "disable", "--now", "--quiet", "bootstrap-agent.path", "bootstrap-agent.service")
	run("tar upgrade")
	if s := strings.TrimSpace(mustRun(t, ctx, m, "sh", "-c", "systemctl is-active bootstrap-agent.service; systemctl is-enabled bootstrap-agent.service; true")); s != "inactive\ndisabled" {
		t.Errorf("after an upgrade: %s", s)
	}
	run("tar removed")
	wantGone(t, ctx, m, "tar")

	mustRun(t, ctx, m, "mkdir", "-p", "/srv/image")
	run("image")
	mustRun(t, ctx, m, "test", "-L", "/srv/image/etc/systemd/system/multi-user.target.wants/bootstrap-agent.service")
	mustRun(t, ctx, m, "test", "-s", "/srv/image/var/lib/systemd/catalog/database")
}

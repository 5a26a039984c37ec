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
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// newerKey is a key of the config that only the newer version knows, newerMark
// stands in the newer version's unit of the agent.
const (
	newerKey  = "ofTomorrow"
	newerMark = "OF_THE_NEWER_VERSION=1"
)

// newerTree says in what the newer version differs from this tree: a key of the
// config, the unit that it writes for the kubelet, and its own unit.
var newerTree = []struct{ file, from, to string }{
	{"cmd/bootstrap-agent/keys.go", "\t\t{name: \"endpoints\",", "\t\t{name: \"" + newerKey + "\", kind: kindString, def: \"\", noEnv: true, doc: \"Of tomorrow.\"},\n\t\t{name: \"endpoints\","},
	{"systemd/render.go", `line("RestartSec=10")`, `line("RestartSec=11")`},
	{"packaging/bootstrap-agent.service", "\nLimitCORE=0\n", "\nLimitCORE=0\nEnvironment=" + newerMark + "\n"},
}

// versions are two versions of the package: the one that was built, and a newer
// one, which is built from a changed copy of this tree and published, in the same
// repository, when a machine asks for it first.
type versions struct {
	older, newer string
	repo         repository

	publish func() error // the newer one, once
	mu      sync.RWMutex // held to read while packages are fetched
}

func packageVersions(t *testing.T, ctx context.Context) *versions {
	t.Helper()
	folder, home, root := t.TempDir(), throwawayKey(t, ctx), t.TempDir()
	built := os.Getenv("BOOTSTRAP_AGENT_DEB")
	older := strings.TrimSpace(onHost(t, ctx, nil, "dpkg-deb", "--field", built, "Version"))
	onHost(t, ctx, nil, "sh", "-ec", `cp "$1" "$2"/*"$3"*.rpm "$4"`, "sh", built, packageFolder(t), older, folder)
	url := host(t, root) + "/repo"
	v := &versions{older: older, newer: "99.0-1", repo: buildRepository(t, ctx, folder, home, url, filepath.Join(root, "repo"))}

	// Beside the first parts of the scenario.
	tree := t.TempDir()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- buildNewer(ctx, tree, "99.0") }()
	v.publish = sync.OnceValue(func() error {
		if err := <-done; err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		out, err := tryOnHost(ctx, []string{"GNUPGHOME=" + home, "REPO_KEY=throwaway@example.com", "REPO_URL=" + url,
			"SOURCE_DATE_EPOCH=" + strconv.FormatInt(time.Now().Unix(), 10)}, "sh", "-ec",
			`cp "$1"/dist/*.deb "$1"/dist/*.rpm "$2"; exec ../../internal/tools/repo.sh "$2" "$3"`, "sh", tree, folder, v.repo.Dir)
		if err != nil {
			return fmt.Errorf("cannot publish the newer version: %w\n%s", err, out)
		}
		return nil
	})
	t.Cleanup(func() {
		cancel()
		_ = v.publish() // so that nothing is being built in a folder that is removed
	})
	return v
}

// buildNewer makes both packages of the newer version.
func buildNewer(ctx context.Context, tree, version string) error {
	if out, err := tryOnHost(ctx, nil, "sh", "-ec", `tar -C ../.. --exclude=./.git --exclude=./bin --exclude=./dist -c . | tar -x -C "$1"`, "sh", tree); err != nil {
		return fmt.Errorf("cannot copy the tree: %w\n%s", err, out)
	}
	for _, change := range newerTree {
		path := filepath.Join(tree, change.file)
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Count(string(content), change.from) != 1 {
			return fmt.Errorf("%s does not hold %q once", change.file, change.from)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(content), change.from, change.to, 1)), 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "make", "-C", tree, "package", "VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build version %s: %w\n%s", version, err, out)
	}
	return nil
}

// packager installs and removes packages of one format as its administrators do.
type packager interface {
	// startsUnits: an installation starts what is enabled.
	startsUnits() bool
	// install installs this version in place of whichever is there, on or off.
	install(t *testing.T, ctx context.Context, m *machine.Machine, version string)
	remove(t *testing.T, ctx context.Context, m *machine.Machine)
	// purge removes the package and what is its own.
	purge(t *testing.T, ctx context.Context, m *machine.Machine)
}

// quietly runs a package manager's command without a terminal, without anything on
// stdin, and without being told not to ask: whoever asked would fail. It must
// succeed and be content.
func quietly(t *testing.T, ctx context.Context, m *machine.Machine, argv ...string) {
	t.Helper()
	result, err := m.Run(ctx, append([]string{"env", "--unset=DEBIAN_FRONTEND"}, argv...)...)
	if err != nil || result.Code != 0 {
		t.Fatalf("%q: %v, code %d\n%s%s", argv, err, result.Code, result.Stdout, result.Stderr)
	}
	for line := range strings.Lines(result.Stdout + result.Stderr) {
		known := containsAny(line,
			"/usr/lib/systemd/system-preset' not empty", // a folder of the distribution's that goes by two names there
			"RPM should not be used directly", "downgrading bootstrap-agent",
			"Job for bootstrap-agent.service failed") // systemctl, of a config that is bad: whether it was is asked elsewhere
		if !known && containsAny(line, "warning", "Warning", "error", "failed", "Failed") {
			t.Errorf("%q says: %s", argv, line)
		}
	}
}

// debs come through apt from the signed repository.
type debs struct{ v *versions }

func (debs) startsUnits() bool { return true }

func (d debs) install(t *testing.T, ctx context.Context, m *machine.Machine, version string) {
	t.Helper()
	d.v.available(t, version)
	d.v.mu.RLock()
	defer d.v.mu.RUnlock()
	if !m.On() { // an image is built: there is no network in it
		files, err := filepath.Glob(filepath.Join(d.v.repo.Dir, "deb/pool/*_"+version+"_*.deb"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if out, err := m.InstallDeb(ctx, files[0]); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	quietly(t, ctx, m, "apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")
	quietly(t, ctx, m, "apt-get", "install", "-y", "-q", "--allow-downgrades", "bootstrap-agent="+version)
	if conffiles := mustRun(t, ctx, m, "dpkg-query", "--show", "--showformat=${Conffiles}", "bootstrap-agent"); conffiles != "" {
		t.Errorf("dpkg would ask about %s", conffiles)
	}
}

func (debs) remove(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	quietly(t, ctx, m, "apt-get", "remove", "-y", "-q", "bootstrap-agent")
}

func (debs) purge(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	quietly(t, ctx, m, "apt-get", "purge", "-y", "-q", "bootstrap-agent")
}

// rpms are installed by rpm itself, signature required, without the packages that
// they depend on: the machine is a Debian. The order of the scripts is rpm's own.
type rpms struct{ v *versions }

func (rpms) startsUnits() bool { return false }

func (r rpms) install(t *testing.T, ctx context.Context, m *machine.Machine, version string) {
	t.Helper()
	r.v.available(t, version)
	r.v.mu.RLock()
	defer r.v.mu.RUnlock()
	found, err := filepath.Glob(filepath.Join(r.v.repo.Dir, "rpm/bootstrap-agent-"+version+".*.rpm"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	content, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFiles(ctx, map[string]machine.File{
		"/srv/bootstrap-agent.rpm": {Content: string(content)}, "/srv/bootstrap-agent.asc": {Content: r.v.repo.file(t, "bootstrap-agent.asc")},
	}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "rpm", "--import", "/srv/bootstrap-agent.asc")
	quietly(t, ctx, m, "rpm", "--upgrade", "--oldpackage", "--nodeps", "--force-debian", "--define", "_pkgverify_level all", "/srv/bootstrap-agent.rpm")
}

func (rpms) remove(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	quietly(t, ctx, m, "rpm", "--erase", "--nodeps", "--force-debian", "bootstrap-agent")
}

// purge is remove and what docs/operations.md says to do then: rpm has no purge.
func (r rpms) purge(t *testing.T, ctx context.Context, m *machine.Machine) {
	t.Helper()
	if installed, err := m.Run(ctx, "rpm", "--query", "bootstrap-agent"); err != nil {
		t.Fatal(err)
	} else if installed.Code == 0 {
		r.remove(t, ctx, m)
	}
	mustRun(t, ctx, m, "rm", "-rf", "/etc/bootstrap-agent", "/var/lib/bootstrap-agent")
}

// available waits until a version is in the repository.
func (v *versions) available(t *testing.T, version string) {
	t.Helper()
	if version != v.newer {
		return
	}
	if err := v.publish(); err != nil {
		t.Fatal(err)
	}
}

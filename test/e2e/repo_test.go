//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// packageFolder is where the built packages are, of both kinds.
func packageFolder(t *testing.T) string {
	t.Helper()
	path := os.Getenv("BOOTSTRAP_AGENT_DEB")
	if path == "" {
		t.Fatal("BOOTSTRAP_AGENT_DEB does not name the built package; make e2e sets it")
	}
	return filepath.Dir(path)
}

// repository is what `make repo` builds, hosted where machines reach it.
type repository struct {
	URL string // of the folder
	Dir string // the folder itself
}

// file reads one of the files that are handed out with the repository.
func (r repository) file(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// aptFiles are what an administrator puts into a machine to use the repository:
// its key and its source. The mirrors that the machine knows are out of reach.
func (r repository) aptFiles(t *testing.T) map[string]machine.File {
	t.Helper()
	return map[string]machine.File{
		"/etc/apt/keyrings/bootstrap-agent.asc":             {Content: r.file(t, "bootstrap-agent.asc")},
		"/etc/apt/sources.list.d/bootstrap-agent.sources":   {Content: r.file(t, "bootstrap-agent.sources")},
		"/etc/apt/sources.list":                             {Content: "# no way to a mirror\n"},
		"/etc/apt/apt.conf.d/90-no-mirror-to-compress-from": {Content: "Acquire::Languages \"none\";\n"},
	}
}

// host serves a folder's subfolders until the test ends.
func host(t *testing.T, dir string) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(lab.Address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })   // nothing to be done about it
	return "http://" + listener.Addr().String()
}

// throwawayKey makes a key that signs, in a GNUPGHOME of its own.
func throwawayKey(t *testing.T, ctx context.Context) (home string) {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") //nolint:usetesting // the socket in it allows a path of 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() // none may have come up
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	onHost(t, ctx, nil, "gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "",
		"--quick-generate-key", "Throwaway <throwaway@example.com>", "ed25519", "sign", "never")
	return home
}

// onHost runs a command of this host that must succeed, with more environment.
func onHost(t *testing.T, ctx context.Context, env []string, argv ...string) string {
	t.Helper()
	out, err := tryOnHost(ctx, env, argv...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return out
}

func tryOnHost(ctx context.Context, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// buildRepository is `make repo` of the packages in a folder, with a throwaway key.
func buildRepository(t *testing.T, ctx context.Context, packages, home, url, dir string) repository {
	t.Helper()
	onHost(t, ctx, []string{"GNUPGHOME=" + home, "REPO_KEY=throwaway@example.com", "REPO_URL=" + url},
		"../../internal/tools/repo.sh", packages, dir)
	return repository{URL: url, Dir: dir}
}

// hostedRepository is a repository of the packages in a folder, hosted until the
// test ends and signed by a key of its own.
func hostedRepository(t *testing.T, ctx context.Context, packages string) repository {
	t.Helper()
	dir := t.TempDir()
	return buildRepository(t, ctx, packages, throwawayKey(t, ctx), host(t, dir)+"/repo", filepath.Join(dir, "repo"))
}

// alter writes over the first place of a text in a file, which must be there.
func alter(t *testing.T, path, from, to string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte(from)) || len(from) != len(to) {
		t.Fatalf("%s has no %q, or %q is of another length", path, from, to)
	}
	if err := os.WriteFile(path, bytes.Replace(content, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What a machine takes from a host that it need not trust: the packages that the
// holder of the key signed, and nothing else.
func TestAMachineTakesPackagesOnlyFromTheRepositoryWhoseKeyItWasGiven(t *testing.T) {
	ctx := scenario(t, 2*time.Minute)
	root := t.TempDir()
	base := host(t, root)
	ours := throwawayKey(t, ctx)
	build := func(name, home string) repository {
		return buildRepository(t, ctx, packageFolder(t), home, base+"/"+name, filepath.Join(root, name))
	}
	good, index, whole := build("good", ours), build("index", ours), build("package", ours)
	foreign := hostedRepository(t, ctx, packageFolder(t))
	keys := good.file(t, "bootstrap-agent.asc")

	// Altered by somebody who has the host and not the key, in every form in which
	// the index lies there, and with a hash in Packages that fits an altered package.
	altered, err := filepath.Glob(filepath.Join(index.Dir, "deb/dists/stable/main/binary-*"))
	if err != nil || len(altered) == 0 {
		t.Fatal(err, altered)
	}
	for _, folder := range altered {
		packages := filepath.Join(folder, "Packages")
		alter(t, packages, "Depends: systemd", "Depends: systemf")
		onHost(t, ctx, nil, "sh", "-ec", `cd "$1"; gzip -9nkf Packages; xz -9kf Packages
			for old in by-hash/SHA256/*; do cat Packages.xz >"$old"; done`, "sh", folder)
	}
	debs, err := filepath.Glob(filepath.Join(whole.Dir, "deb/pool/*.deb"))
	if err != nil || len(debs) == 0 {
		t.Fatal(err, debs)
	}
	for _, deb := range debs {
		alter(t, deb, "debian-binary", "debiam-binary")
	}

	t.Run("apt", func(t *testing.T) {
		m := bootMachine(t, ctx, machine.Options{Name: "apt"})
		for _, tt := range []struct {
			name string
			from repository
			want string // what apt says; empty: it is content
		}{
			{"whose index was altered", index, "File has unexpected size|Hash Sum mismatch|Hashes of expected file"},
			{"signed by another key", foreign, "NO_PUBKEY"},
			{"whose package was altered", whole, "Hash Sum mismatch|unexpected size"},
			{"as it was built", good, ""},
		} {
			files := tt.from.aptFiles(t)
			files["/etc/apt/keyrings/bootstrap-agent.asc"] = machine.File{Content: keys}
			if err := m.WriteFiles(ctx, files); err != nil {
				t.Fatal(err)
			}
			// Errors, not only warnings, and no list of another repository to fall back on.
			result, err := m.Run(ctx, "sh", "-c", "rm -rf /var/lib/apt/lists/*; apt-get update -q -o APT::Update::Error-Mode=any && apt-get install -y -q bootstrap-agent")
			if err != nil {
				t.Fatal(err)
			}
			said := result.Stdout + result.Stderr
			if tt.want == "" {
				if result.Code != 0 {
					t.Errorf("a repository %s: exit code %d\n%s", tt.name, result.Code, said)
				}
				t.Log(said)
				continue
			}
			if result.Code == 0 || !containsAny(said, strings.Split(tt.want, "|")...) {
				t.Errorf("a repository %s: exit code %d, want %q\n%s", tt.name, result.Code, tt.want, said)
			}
			if installed, err := m.Run(ctx, "test", "-e", "/usr/bin/bootstrap-agent"); err != nil || installed.Code == 0 {
				t.Fatalf("a repository %s: the package is installed all the same (%v)", tt.name, err)
			}
		}
		if out := mustRun(t, ctx, m, "apt-cache", "policy", "bootstrap-agent"); !strings.Contains(out, good.URL+"/deb stable/main") {
			t.Errorf("where apt has it from: %s", out)
		}
	})

	// The real dnf of this host, in a folder of its own; nothing is installed there,
	// because no package of such a distribution is at hand to depend on.
	t.Run("dnf", func(t *testing.T) {
		for _, tt := range []struct {
			name string
			from repository
			key  string
			good bool
		}{
			{"as it was built", good, keys, true},
			{"signed by another key", foreign, keys, false},
			{"whose index was altered", alteredForDNF(t, whole), keys, false},
		} {
			out, err := dnf(t, ctx, tt.from, tt.key)
			if (err == nil) != tt.good || tt.good && !strings.Contains(out, "bootstrap-agent-") || !tt.good && !strings.Contains(out, "repomd.xml") {
				t.Errorf("a repository %s: %v\n%s", tt.name, err, out)
			}
		}
	})

	t.Run("rpm", func(t *testing.T) {
		db := t.TempDir()
		key := filepath.Join(t.TempDir(), "key.asc")
		if err := os.WriteFile(key, []byte(keys), 0o644); err != nil {
			t.Fatal(err)
		}
		onHost(t, ctx, nil, "rpmkeys", "--dbpath", db, "--import", key)
		check := func(r repository) error {
			packages, err := filepath.Glob(filepath.Join(r.Dir, "rpm/*.rpm"))
			if err != nil || len(packages) == 0 {
				t.Fatal(err, packages)
			}
			out, err := tryOnHost(ctx, nil, append([]string{"rpmkeys", "--dbpath", db, "--checksig", "--verbose"}, packages...)...)
			if strings.Contains(out, "Signature") && err == nil {
				return nil
			}
			return fmt.Errorf("%w: %s", err, out)
		}
		if err := check(good); err != nil {
			t.Errorf("our own: %v", err)
		}
		if err := check(foreign); err == nil {
			t.Error("packages signed by another key are taken")
		}
	})
}

// alteredForDNF changes one time in the index for dnf after it was signed.
func alteredForDNF(t *testing.T, r repository) repository {
	t.Helper()
	alter(t, filepath.Join(r.Dir, "rpm/repodata/repomd.xml"), "<revision>1", "<revision>2")
	return r
}

// dnf lists a repository's packages with the .repo file that is handed out.
func dnf(t *testing.T, ctx context.Context, r repository, key string) (string, error) {
	t.Helper()
	root := t.TempDir()
	keyPath := filepath.Join(root, "key.asc")
	repo := strings.ReplaceAll(r.file(t, "bootstrap-agent.repo"), "/etc/pki/rpm-gpg/RPM-GPG-KEY-bootstrap-agent", keyPath)
	for path, content := range map[string]string{keyPath: key, filepath.Join(root, "repos/bootstrap-agent.repo"): repo, filepath.Join(root, "dnf.conf"): "[main]\n"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return tryOnHost(ctx, nil, "dnf", "--assumeyes", "--config", filepath.Join(root, "dnf.conf"), "--installroot", filepath.Join(root, "root"), "--releasever", "1",
		"--setopt=reposdir="+filepath.Join(root, "repos"), "--setopt=cachedir="+filepath.Join(root, "cache"), "--setopt=logdir="+root, "--setopt=persistdir="+root,
		"repoquery", "--nvr", "bootstrap-agent")
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

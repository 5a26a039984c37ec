package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// repository is a scratch repository with the script that tells versions in it.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{t, t.TempDir()}
	script, err := os.ReadFile("../../internal/tools/version.sh")
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(r.dir, "internal/tools")
	if err := os.MkdirAll(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tools, "version.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r repository) do(name string, args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), name, args...)
	cmd.Dir = r.dir
	// Nothing of the builder's: neither configuration nor a repository above.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CEILING_DIRECTORIES=" + filepath.Dir(r.dir),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2026-01-02T23:30:00-0500", "GIT_COMMITTER_DATE=2026-01-02T23:30:00-0500",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r repository) version() string {
	r.t.Helper()
	return regexp.MustCompile(`([.g])[0-9a-f]{7}\b`).ReplaceAllString(r.do("internal/tools/version.sh"), "${1}HASH")
}

func (r repository) commit() { r.do("git", "commit", "-q", "--allow-empty", "-m", "one") }

func (r repository) change() {
	if err := os.WriteFile(filepath.Join(r.dir, "internal/tools/version.sh"), []byte(mustRead(r.t, filepath.Join(r.dir, "internal/tools/version.sh"))+"\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTheVersionComesFromGit(t *testing.T) {
	for _, bin := range []string{"git", "bash"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skipf("no %s on this machine", bin)
		}
	}
	r := newRepository(t)
	want := func(what, version string) {
		t.Helper()
		if got := r.version(); got != version {
			t.Errorf("%s: version %s, want %s", what, got, version)
		}
	}
	want("a source archive without its history", "0.0.0~unknown")
	r.do("git", "init", "-q", "-b", "main")
	r.do("git", "add", ".")
	r.commit()
	want("no tag yet; the day is UTC's", "0.0.0~git.20260103.HASH")
	r.change()
	want("no tag yet, and changes that are not committed", "0.0.0~git.20260103.HASH.dirty")
	r.do("git", "checkout", "-q", ".")
	r.do("git", "tag", "v0.2.0-rc.1")
	want("a candidate", "0.2.0~rc.1")
	r.commit()
	want("a commit after a candidate", "0.2.0~rc.1+1.gHASH")
	r.do("git", "tag", "nightly")
	want("a tag that is no version", "0.2.0~rc.1+1.gHASH")
	r.do("git", "tag", "v0.2.0")
	want("a release", "0.2.0")
	r.change()
	want("a release with changes", "0.2.0+dirty")
	r.do("git", "checkout", "-q", ".")
	r.commit()
	r.commit()
	want("two commits later", "0.2.0+2.gHASH")
	r.change()
	want("two commits later, with changes", "0.2.0+2.gHASH.dirty")
}

// What the script prints must rise in the eyes of both package managers.
func TestLaterVersionsAreNewerForDpkgAndRpm(t *testing.T) {
	rising := []string{"0.0.0~git-1", "0.0.0~git.20260103.1a2b3c4-1", "0.0.0~git.20260104.0a2b3c4-1", "0.1.0~rc.1-1", "0.1.0~rc.1+1.g1a2b3c4-1", "0.1.0~rc.2-1", "0.1.0-1", "0.1.0+2.g1a2b3c4-1", "0.1.0+10.g0a2b3c4-1", "0.1.1-1", "0.10.0-1"}
	newer := map[string]func(a, b string) bool{
		"dpkg": func(a, b string) bool {
			return exec.CommandContext(t.Context(), "dpkg", "--compare-versions", a, "lt", b).Run() == nil
		},
		"rpm": func(a, b string) bool {
			out, err := exec.CommandContext(t.Context(), "rpm", "--eval", "%{lua:print(rpm.vercmp('"+a+"','"+b+"'))}").Output()
			return err == nil && strings.TrimSpace(string(out)) == "-1"
		},
	}
	for tool, less := range newer {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("no %s on this machine: its order is not shown", tool)
			continue
		}
		for i := range rising[1:] {
			if !less(rising[i], rising[i+1]) {
				t.Errorf("%s: %s is not newer than %s", tool, rising[i+1], rising[i])
			}
		}
	}
}

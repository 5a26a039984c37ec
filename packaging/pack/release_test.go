//go:build packages

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// throwaway makes a key that lives as long as the test, in a home of its own.
func throwaway(t *testing.T) (home string) {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") //nolint:usetesting // t.TempDir is too long for the agent's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	out, err := exec.CommandContext(t.Context(), "gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-generate-key", "Throwaway <throwaway@example.org>", "rsa3072", "sign", "1d").CombinedOutput()
	if err != nil {
		t.Fatalf("no key: %v\n%s", err, out)
	}
	return home
}

func releaseScript(t *testing.T, home, key string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../internal/tools/release.sh", args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home, "REPO_KEY="+key, "SOURCE_DATE_EPOCH=1700000000")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// packagesOfBoth links the packages of this host's architecture under the names of
// both: what is signed is not looked into, and another build would take minutes.
func packagesOfBoth(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, arch := range present()[:1] {
		p := built(t, arch)
		sbom, err := filepath.Glob("../../dist/*-linux-" + arch + ".cdx.json")
		if err != nil || len(sbom) != 1 {
			t.Fatalf("%v %v", sbom, err)
		}
		for _, file := range []string{p[0].file, p[1].file, p[2].file, sbom[0]} {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for to, rpm := range architectures {
				name := strings.NewReplacer(arch, to, architectures[arch], rpm).Replace(filepath.Base(file))
				if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return folder
}

func TestAReleaseCanBeVerifiedAndATamperedOneCannot(t *testing.T) {
	home := throwaway(t)
	release := filepath.Join(t.TempDir(), "release")
	if out, err := releaseScript(t, home, "throwaway@example.org", packagesOfBoth(t), release); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// As docs/install.md says it, with nothing but the published files.
	verify := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", documented(t, "verify"))
		cmd.Dir = release
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home, "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := verify()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"_amd64.deb: OK", "_arm64.deb: OK", ".x86_64.rpm: OK", ".aarch64.rpm: OK", "-linux-amd64.tar.gz: OK", "-linux-arm64.cdx.json: OK", "bootstrap-agent.asc: OK", "Good signature"} {
		if !strings.Contains(out, want) {
			t.Errorf("the verification lacks %q:\n%s", want, out)
		}
	}
	for _, file := range []string{"repo/deb/dists/stable/InRelease", "repo/rpm/repodata/repomd.xml.asc"} {
		if _, err := os.Stat(filepath.Join(release, file)); err != nil {
			t.Error(err)
		}
	}
	rpms, err := filepath.Glob(filepath.Join(release, "*.x86_64.rpm"))
	if err != nil || len(rpms) != 1 {
		t.Fatalf("%v %v", rpms, err)
	}
	if out := sh(t, ".", `rpm --query --package --queryformat '%{RSAHEADER:pgpsig}' "$1" 2>/dev/null`, rpms[0]); !strings.Contains(out, "RSA/SHA") {
		t.Errorf("the rpm carries no signature: %s", out)
	}

	tamper(t, rpms[0])
	if out, err := verify(); err == nil || !strings.Contains(out, "x86_64.rpm: FAILED") {
		t.Errorf("a package that was changed: %v\n%s", err, out)
	}
	tamper(t, filepath.Join(release, "SHA256SUMS"))
	if out, err := verify(); err == nil || !strings.Contains(out, "BAD signature") {
		t.Errorf("sums that were changed: %v\n%s", err, out)
	}
}

// documented returns the commands of docs/install.md behind a mark.
func documented(t *testing.T, step string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "<!-- run: "+step+" -->\n\n")
	var script strings.Builder
	for line := range strings.Lines(after) {
		command, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		script.WriteString(command)
	}
	if !found || script.Len() == 0 {
		t.Fatalf("docs/install.md has no commands behind the mark %q", step)
	}
	return script.String()
}

func tamper(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAReleaseThatCannotBeWholeIsNotMade(t *testing.T) {
	empty := t.TempDir()
	release := filepath.Join(t.TempDir(), "release")
	out, err := releaseScript(t, empty, "", "--check")
	if err == nil || !strings.Contains(out, "REPO_KEY=FINGERPRINT") || !strings.Contains(out, "--quick-generate-key") {
		t.Errorf("without a key it must say what to do: %v\n%s", err, out)
	}
	out, err = releaseScript(t, empty, "nobody@example.org", "--check")
	if err == nil || !strings.Contains(out, "no secret key nobody@example.org") {
		t.Errorf("a key that is not there: %v\n%s", err, out)
	}
	out, err = releaseScript(t, throwaway(t), "throwaway@example.org", empty, release)
	if err == nil || !strings.Contains(out, "make package ARCH=amd64") {
		t.Errorf("without packages: %v\n%s", err, out)
	}
	if _, err := os.Stat(release); err == nil {
		t.Error("half a release was left behind")
	}
}

//go:build packages

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// These tests read packages that are built, with the tools of those who install
// them: dpkg-deb, rpm, tar. make lint-packages runs them.

var update = flag.Bool("update", false, "write contents.txt from the packages instead of comparing")

const tableFile = "../contents.txt"

const tableHead = `# What the three formats install, as their own tools tell it; all of it is root's.
# Renewed by make contents, held by make lint-packages.
# formats      mode  path
`

// architectures are those of Go, with the names that rpm has for them.
var architectures = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// present are the architectures that packages lie there for; this host's always.
func present() []string {
	archs := []string{runtime.GOARCH}
	for arch := range architectures {
		if found, _ := filepath.Glob("../../dist/*_" + arch + ".deb"); len(found) > 0 && arch != runtime.GOARCH {
			archs = append(archs, arch)
		}
	}
	return archs
}

// shipped is one package of one architecture.
type shipped struct {
	format string
	file   string
	lines  map[string]string // path -> "mode owner", as the format's own tool lists them
	unpack func() string     // into a folder of its own
}

// built returns the packages in dist of one architecture.
func built(t *testing.T, debArch string) []shipped {
	t.Helper()
	rpmArch := architectures[debArch]
	one := func(pattern string) string {
		found, err := filepath.Glob(filepath.Join("../../dist", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%d files fit dist/%s, want one: make package ARCH=%s", len(found), pattern, debArch)
		}
		return found[0]
	}
	deb, rpm, tar := one("*_"+debArch+".deb"), one("*."+rpmArch+".rpm"), one("*-linux-"+debArch+".tar.gz")
	unpack := func(script, file string) func() string {
		return func() string {
			folder := t.TempDir()
			sh(t, folder, "umask 022; "+script, file)
			return folder
		}
	}
	return []shipped{
		// -rwxr-xr-x root/root 16175266 2026-11-22 16:48 ./usr/bin/bootstrap-agent
		// nfpm's rpm names its files from the root on: cpio would write them there.
		{"deb", deb, listing(t, sh(t, ".", `dpkg-deb --contents "$1"`, deb), 0, 1, 5), unpack(`dpkg-deb --extract "$1" .`, deb)},
		{"rpm", rpm, listing(t, sh(t, ".", `rpm --query --package --queryformat '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]' "$1" 2>/dev/null`, rpm), 0, 1, 2), unpack(`rpm2cpio "$1" | cpio --quiet --no-absolute-filenames -id`, rpm)},
		{"tar", tar, listing(t, sh(t, ".", `tar --list --verbose --gzip --file "$1"`, tar), 0, 1, 5), unpack(`tar --extract --gzip --file "$1"`, tar)},
	}
}

func sh(t *testing.T, dir, script string, args ...string) string {
	t.Helper()
	for i, a := range args {
		full, err := filepath.Abs(a)
		if err != nil {
			t.Fatal(err)
		}
		args[i] = full
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+t.TempDir()) // rpm makes a database in it
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, stderr.String())
	}
	return string(out)
}

// listing reads mode, owner and path out of the columns of a listing.
func listing(t *testing.T, text string, mode, owner, file int) map[string]string {
	t.Helper()
	lines := map[string]string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) <= file {
			t.Fatalf("unreadable line %q", line)
		}
		p := "/" + strings.Trim(strings.TrimPrefix(f[file], "."), "/")
		if p == "/" {
			continue
		}
		lines[p] = f[mode] + " " + f[owner]
	}
	if len(lines) < 10 {
		t.Fatalf("a package with %d files:\n%s", len(lines), text)
	}
	return lines
}

// perm is the mode of a listing as a number: -rw-r--r-- is 0644.
func perm(listed string) string {
	bits := 0
	for i, c := range listed[1:10] {
		if c != '-' {
			bits |= 1 << (8 - i)
		}
	}
	return fmt.Sprintf("%04o", bits)
}

func TestTheThreeFormatsInstallWhatTheTableSays(t *testing.T) {
	for _, arch := range present() {
		t.Run(arch, func(t *testing.T) { installsWhatTheTableSays(t, built(t, arch)) })
	}
}

func installsWhatTheTableSays(t *testing.T, packages []shipped) {
	t.Helper()
	formats, modes := map[string][]string{}, map[string]string{}
	for _, p := range packages {
		for file, line := range p.lines {
			folder := strings.HasPrefix(line, "d")
			if !strings.HasSuffix(line, " root/root") && !strings.HasSuffix(line, " 0/0") {
				t.Errorf("%s: %s does not belong to root: %s", p.format, file, line)
			}
			if folder && !strings.Contains(file, "/"+name) {
				// A folder that everybody has: dpkg lists it, the others leave it alone.
				if p.format != "deb" || perm(line) != "0755" {
					t.Errorf("%s: the folder %s is in the package: %s", p.format, file, line)
				}
				continue
			}
			if folder {
				file += "/"
			}
			if old, ok := modes[file]; ok && old != perm(line) {
				t.Errorf("%s: %s has mode %s, elsewhere %s", p.format, file, perm(line), old)
			}
			modes[file] = perm(line)
			formats[file] = append(formats[file], p.format)
		}
	}
	var text strings.Builder
	text.WriteString(tableHead)
	for _, file := range slices.Sorted(maps.Keys(modes)) {
		fmt.Fprintf(&text, "%-11s  %s  %s\n", strings.Join(formats[file], " "), modes[file], file)
	}
	if *update {
		if err := os.WriteFile(tableFile, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, string(want), text.String())
}

func compare(t *testing.T, want, got string) {
	t.Helper()
	wanted, found := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, line := range wanted {
		if !slices.Contains(found, line) {
			t.Errorf("packaging/contents.txt has what the packages have not: %s", line)
		}
	}
	for _, line := range found {
		if !slices.Contains(wanted, line) {
			t.Errorf("the packages have what packaging/contents.txt has not (make contents, if it is meant): %s", line)
		}
	}
}

func TestInstallsOfTheThreeFormatsHoldTheSameBytes(t *testing.T) {
	for _, arch := range present() {
		t.Run(arch, func(t *testing.T) {
			sums := map[string]map[string]string{}
			for _, p := range built(t, arch) {
				sums[p.format] = installed(t, p.unpack())
			}
			common := 0
			for _, other := range []string{"rpm", "tar"} {
				for file, sum := range sums["deb"] {
					if there, ok := sums[other][file]; ok && there != sum {
						t.Errorf("%s has other bytes in the deb than in the %s", file, other)
					} else if ok {
						common++
					}
				}
			}
			if common < 40 {
				t.Errorf("only %d files compared", common)
			}
			theProgramIsOf(t, arch, sums["tar"])
		})
	}
}

// installed returns the sum of every file; where zsh looks differs by system, so
// its file goes by one name.
func installed(t *testing.T, folder string) map[string]string {
	t.Helper()
	sums := map[string]string{"": folder}
	err := filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		sum := sha256.Sum256(data)
		sums[strings.Replace(strings.TrimPrefix(file, folder), "/zsh/site-functions/", "/zsh/vendor-completions/", 1)] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(sums, "")
	return sums
}

// theProgramIsOf says that the SBOM in a package speaks of the program in it.
func theProgramIsOf(t *testing.T, arch string, sums map[string]string) {
	t.Helper()
	found, err := filepath.Glob("../../dist/*-linux-" + arch + ".cdx.json")
	if err != nil || len(found) != 1 {
		t.Fatalf("%d SBOMs for %s in dist", len(found), arch)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	var document bom
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	main := document.Metadata.Component
	if main.Hashes[0].Content != sums["/usr/bin/bootstrap-agent"] {
		t.Errorf("the SBOM speaks of another program (%s)", main.Hashes[0].Content)
	}
	if !slices.Contains(main.Properties, property{"go:build:GOARCH", arch}) {
		t.Errorf("the program is not for %s: %v", arch, main.Properties)
	}
	if len(document.Components) < 30 {
		t.Errorf("the SBOM names %d modules", len(document.Components))
	}
}

func TestThePackagesAskForSystemdAndSuggestTheRest(t *testing.T) {
	for _, arch := range present() {
		packages := built(t, arch)
		fields := sh(t, ".", `dpkg-deb --field "$1" Depends Recommends`, packages[0].file)
		if fields != "Depends: systemd\nRecommends: kubelet, containerd | containerd.io | cri-o\n" {
			t.Errorf("%s deb: %s", arch, fields)
		}
		relations := sh(t, ".", `rpm --query --package --requires --recommends "$1" 2>/dev/null`, packages[1].file)
		for _, want := range []string{"systemd\n", "kubelet\n", "(containerd or containerd.io or cri-o)\n"} {
			if !strings.Contains(relations, want) {
				t.Errorf("%s rpm lacks %q: %s", arch, want, relations)
			}
		}
	}
}

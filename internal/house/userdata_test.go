package house

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// shortForm is the example that the README shows.
const shortForm = "packaging/cloud-init/join-line.yaml"

// What people copy from the README is the file that a test boots machines with.
func TestTheShortFormOfTheReadmeIsTheTestedFile(t *testing.T) {
	var shown []string
	for line := range strings.Lines(text(t, "README.md")) {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && (len(shown) > 0 || strings.HasPrefix(code, "#cloud-config")):
			shown = append(shown, code)
			continue
		case len(shown) == 0:
			continue
		}
		break
	}
	want := slices.Collect(strings.Lines(text(t, shortForm)))
	for i := range max(len(want), len(shown)) {
		if i >= len(want) || i >= len(shown) || want[i] != shown[i] {
			t.Fatalf("line %d of the block differs from %s; the README shows:\n%s", i+1, shortForm, strings.Join(shown, ""))
		}
	}
}

func TestEveryExampleOfUserDataIsShippedToldOfAndOfOneKind(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(top(t), "packaging/cloud-init/*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	page, packages := text(t, "docs/cloud-init.md"), text(t, "packaging/contents.txt")
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(name, func(t *testing.T) {
			example := text(t, "packaging/cloud-init/"+name)
			if !strings.Contains(page, "| `"+name+"` |") {
				t.Errorf("docs/cloud-init.md has no row for it")
			}
			if !strings.Contains(packages, "deb rpm tar  0644  /usr/share/doc/bootstrap-agent/examples/cloud-init/"+name+"\n") {
				t.Error("it is not in every package: make contents")
			}
			// What is alike in all of them can be filled in alike.
			for _, part := range []string{"BEGIN PGP PUBLIC KEY BLOCK", "https://packages.example.com/bootstrap-agent/deb stable main", "10.0.0.1:6443", "sha256:..."} {
				if !strings.Contains(example, part) {
					t.Errorf("lacks %q", part)
				}
			}
			if strings.HasSuffix(name, ".sh") {
				return
			}
			head, _, _ := strings.Cut(strings.TrimPrefix(example, "## template: jinja\n"), "\n")
			if head != "#cloud-config" {
				t.Errorf("begins with %q", head)
			}
			modes(t, example)
		})
	}
}

// modes wants what is ours in the user-data to be for root alone, and the
// configuration and the scripts to begin when the machine first boots.
func modes(t *testing.T, example string) {
	t.Helper()
	// A template is YAML but for its statements, which stand on lines of their own.
	var plain strings.Builder
	for line := range strings.Lines(example) {
		if !strings.HasPrefix(line, "{%") {
			plain.WriteString(line)
		}
	}
	var data struct {
		Files []struct {
			Path        string `yaml:"path"`
			Permissions string `yaml:"permissions"`
			Content     string `yaml:"content"`
		} `yaml:"write_files"`
		Packages []string `yaml:"packages"`
		Commands []string `yaml:"runcmd"`
	}
	if err := yaml.Unmarshal([]byte(plain.String()), &data); err != nil {
		t.Fatal(err)
	}
	for _, file := range data.Files {
		if strings.HasPrefix(file.Path, "/etc/bootstrap-agent/") && file.Permissions != "0600" {
			t.Errorf("%s has mode %q", file.Path, file.Permissions)
		}
	}
	if !slices.Equal(data.Packages, []string{"bootstrap-agent"}) {
		t.Errorf("packages %q", data.Packages)
	}
	if last := data.Commands[len(data.Commands)-1]; !strings.HasPrefix(last, "systemctl enable --now --no-block bootstrap-agent") {
		t.Errorf("ends with %q", last)
	}
}

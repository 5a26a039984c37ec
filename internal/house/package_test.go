package house

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// rpm removes a folder only when the package says that it owns it. What a package
// holds is read from packaging/contents.txt, which a test holds against the built
// packages.
func TestTheRpmOwnsEveryFolderOfItsOwn(t *testing.T) {
	var owned, needed []string
	for line := range strings.Lines(text(t, "packaging/contents.txt")) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] == "#" || !slices.Contains(f[:len(f)-2], "rpm") {
			continue
		}
		file := f[len(f)-1]
		if folder, ok := strings.CutSuffix(file, "/"); ok {
			owned = append(owned, folder)
			continue
		}
		for dir := path.Dir(file); strings.Contains(dir, "bootstrap-agent"); dir = path.Dir(dir) {
			needed = append(needed, dir)
		}
	}
	if len(needed) == 0 {
		t.Fatal("packaging/contents.txt names no folder of ours: is it read right?")
	}
	slices.Sort(needed)
	for _, dir := range slices.Compact(needed) {
		if !slices.Contains(owned, dir) {
			t.Errorf("the rpm does not own %s: a removed one would leave it behind", dir)
		}
	}
}

package house

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// rpm removes a folder only when the package says that it owns it.
func TestTheRpmOwnsEveryFolderOfItsOwn(t *testing.T) {
	data, err := os.ReadFile("../../nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var recipe struct {
		Contents []struct{ Dst, Type, Packager string }
	}
	if err := yaml.Unmarshal(data, &recipe); err != nil {
		t.Fatal(err)
	}
	var owned, needed []string
	for _, c := range recipe.Contents {
		switch {
		case c.Packager == "deb":
		case c.Type == "dir":
			owned = append(owned, c.Dst)
		default:
			for dir := path.Dir(c.Dst); strings.Contains(dir, "bootstrap-agent"); dir = path.Dir(dir) {
				needed = append(needed, dir)
			}
		}
	}
	if len(needed) == 0 {
		t.Fatal("nfpm.yaml names no folder of ours: is it read right?")
	}
	slices.Sort(needed)
	for _, dir := range slices.Compact(needed) {
		if !slices.Contains(owned, dir) {
			t.Errorf("nfpm.yaml: %s needs an entry of type dir, packager rpm, or a removed rpm leaves it behind", dir)
		}
	}
}

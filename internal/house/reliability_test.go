package house

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// incidents are what the bug museum of docs/reliability.md has to show.
var incidents = []string{
	"kubernetes/kubernetes#53288", "kubernetes/kubernetes#131111", "rancher/rancher#33618", "kubernetes/kubernetes#65063", "kubernetes/kubernetes#47856",
	"kubernetes/kubernetes#53037", "krustlet/krustlet#634", "kubermatic/kubeone#1894", "kubernetes/kubernetes#109233", "kubernetes-sigs/kind#2798",
	"kubernetes/kubeadm#663", "awslabs/amazon-eks-ami#1917", "awslabs/amazon-eks-ami#2123", "awslabs/amazon-eks-ami#2436",
	"cri-o/cri-o#6126", "opencontainers/runc#1781",
	"CVE-2022-2084", "CVE-2023-1786", "CVE-2024-6174", "CVE-2024-11584", "CVE-2025-65637",
}

const faultRows = 51

var (
	faultRow  = regexp.MustCompile(`(?m)^\| F(\d+) \|.*$`)
	testNamed = regexp.MustCompile("`([a-z0-9]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	anyTest   = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9_]+`)
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
)

// The table of faults cannot rot: each fault and each incident has its row, each
// row names a test, and each test that is named is there.
func TestEveryFaultHasItsRowAndEveryTestNamedThereExists(t *testing.T) {
	page := text(t, "docs/reliability.md")
	rows := map[string]int{}
	for _, match := range faultRow.FindAllStringSubmatch(page, -1) {
		rows[match[1]]++
		if !testNamed.MatchString(match[0]) {
			t.Errorf("the row names no test: %s", match[0])
		}
	}
	for n := 1; n <= faultRows; n++ {
		if have := rows[fmt.Sprint(n)]; have != 1 {
			t.Errorf("F%d has %d rows", n, have)
		}
	}
	if len(rows) != faultRows {
		t.Errorf("%d rows, %d faults are known", len(rows), faultRows)
	}
	for _, incident := range incidents {
		row := regexp.MustCompile(`(?m)^\|[^|]*` + regexp.QuoteMeta(incident) + `\b.*$`).FindString(page)
		if !testNamed.MatchString(row) {
			t.Errorf("%s has no row with a test", incident)
		}
	}
	there := testsOf(t)
	for _, match := range testNamed.FindAllStringSubmatch(page, -1) {
		if !there[match[1]+"."+match[2]] {
			t.Errorf("there is no %s.%s", match[1], match[2])
		}
	}
	// In no other form, or nobody would check it.
	if named, all := len(testNamed.FindAllString(page, -1)), len(anyTest.FindAllString(page, -1)); named != all {
		t.Errorf("%d names of tests, %d of them as `folder.TestName`", all, named)
	}
}

// testsOf are all tests of the tree, whatever build tag they have, behind the last
// part of their folder.
func testsOf(t *testing.T) map[string]bool {
	t.Helper()
	there := map[string]bool{}
	err := filepath.WalkDir(top(t), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range testFunc.FindAllSubmatch(source, -1) {
			there[filepath.Base(filepath.Dir(path))+"."+string(match[1])] = true
		}
		return err
	})
	if err != nil || len(there) == 0 {
		t.Fatalf("%d tests, %v", len(there), err)
	}
	return there
}

// CVE-2025-65637: a line of more than 64 KiB ends the writer, and whoever writes.
// Nobody logs through one, and logrus is newer than that.
func TestNobodyWritesIntoTheLogThroughAWriter(t *testing.T) {
	writer := regexp.MustCompile(`\.(WriterLevel\(|Writer\(\))`)
	for _, f := range tree(t) {
		if source := text(t, f.path); !f.test && strings.Contains(source, "sirupsen/logrus") && writer.MatchString(source) {
			t.Errorf("%s makes a writer of a logger", f.path)
		}
	}
	var major, minor, patch int
	_, version, _ := strings.Cut(text(t, "go.mod"), "github.com/sirupsen/logrus v")
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n != 3 || err != nil {
		t.Fatalf("no version of logrus in go.mod: %v", err)
	}
	if major == 1 && (minor < 9 || minor == 9 && patch < 3) {
		t.Errorf("logrus v%d.%d.%d has that fault", major, minor, patch)
	}
}

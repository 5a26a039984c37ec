//go:build packages

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// labMark is what a lab build says of itself (cmd/bootstrap-agent/lab.go).
const labMark = "bootstrap-agent-lab-build"

// A lab build lets whoever may write one file move the agent's clock, by which it
// judges certificates: it is for tests on machines only.
func TestNoPackageHoldsALabBuild(t *testing.T) {
	for _, arch := range present() {
		for _, p := range built(t, arch) {
			program, err := os.ReadFile(filepath.Join(p.unpack(), "usr/bin/bootstrap-agent"))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(program, []byte(labMark)) {
				t.Errorf("the %s for %s holds a lab build", p.format, arch)
			}
		}
	}
	// The mark is there where it belongs, or the search above finds nothing ever.
	path := filepath.Join(t.TempDir(), "lab")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-tags", "lab", "-o", path, "../../cmd/bootstrap-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the lab agent: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(program, []byte(labMark)) {
		t.Error("a lab build does not bear its mark")
	}
}

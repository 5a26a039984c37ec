package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// The package was purged and installed again: the node is as it was, and nothing
// is left that would say whose work it is.
func TestANodeWhoseRecordsAreGoneIsSomebodyElses(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	if err := os.RemoveAll(r.cfg.Paths.State); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.cfg.Paths.State, 0o700); err != nil {
		t.Fatal(err)
	}
	before, requests, calls := snapshot(t, r.cfg.Paths), len(r.api.Requests()), len(r.units.Calls())
	r.deps.StopWhenBlocked = true
	err := r.run()
	if fault.ReasonOf(err) != fault.ForeignKubelet || !strings.Contains(err.Error(), filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")) {
		t.Fatal(err)
	}
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(before, after) {
		t.Errorf("changed:\n%v\n%v", before, after)
	}
	if n := len(r.api.Requests()) - requests; n != 0 {
		t.Errorf("%d requests", n)
	}
	if n := len(r.units.Calls()) - calls; n != 0 {
		t.Errorf("systemd was told to do: %v", r.units.Calls()[calls:])
	}
	// The way out that it names is one: adopt takes over nothing that the agent wrote.
	if hint := fault.HintOf(err); !strings.Contains(hint, "`bootstrap-agent reset`") || strings.Contains(hint, "adopt") {
		t.Errorf("hint: %s", hint)
	}
	r.awaitLock()
	r.mustReset(r.reset())
	r.api.DeleteNode(nodeName)
	r.mustJoin()
}

// Where somebody else's identity lies beside it, that is what is to be decided on.
func TestAForeignIdentityBesideOneWithoutRecordsIsForAdopt(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	if err := os.RemoveAll(r.cfg.Paths.State); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, r.files().Kubeconfig(), strings.Replace(r.read(r.files().Kubeconfig()), "https://", "https://other.", 1)+"# mine\n")
	r.deps.StopWhenBlocked = true
	if err := r.run(); fault.ReasonOf(err) != fault.ForeignKubelet || !strings.Contains(fault.HintOf(err), "adopt") {
		t.Errorf("%v: %s", err, fault.HintOf(err))
	}
}

// What a crash has left half written beside the units goes with the next start.
func TestTemporaryFilesAreSweptAlsoBesideTheUnits(t *testing.T) {
	r := joinedRig(t, nil)
	var left []string
	for _, dir := range []string{r.cfg.Paths.Units, filepath.Dir(r.dropInPath()), r.cfg.Paths.State, r.cfg.Paths.Kubelet} {
		path := filepath.Join(dir, ".bootstrap-agent-tmp-0123")
		mustWrite(t, path, "half")
		left = append(left, path)
	}
	r.mustStayJoined()
	for _, path := range left {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// Started with a config that cannot be read, a node is watched; what a config
// would make of its unit nobody knows then, so nothing has drifted from it.
func TestWithoutAConfigNothingHasDrifted(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.NodeLabels = []kubelet.Label{{Key: "example.org/rack", Value: "r7"}}
	r.mustJoin()
	drifted := func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.Drifted })
	}
	for _, tt := range []struct {
		name string
		cfg  Config
		want bool
	}{
		{"the same config", r.cfg, false},
		{"other labels", func(c Config) Config { c.NodeLabels = nil; return c }(r.cfg), true},
		{"no config", Config{NodeName: r.cfg.NodeName, AfterJoin: AfterJoinObserve, Paths: r.cfg.Paths}, false},
	} {
		r.cfg, r.statuses = tt.cfg, nil
		_, stop := r.start()
		s := r.await(tt.name, phase(Joined))
		if drifted(s) != tt.want {
			t.Errorf("%s: notes %v", tt.name, s.Notes)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

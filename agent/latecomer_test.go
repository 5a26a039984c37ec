package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// F34: while the request waits for its approval, the machine is joined by other
// means. What is there then is not replaced.
func TestAMachineThatIsJoinedByOthersWhileTheRequestWaitsIsLeftToThem(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	request := r.await("the request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" }).CSR.Name
	clock := r.deps.Clock.(*fastClock)
	clock.mu.Lock()
	clock.ahead += 24 * time.Hour
	clock.mu.Unlock()

	theirs := filepath.Join(r.cfg.Paths.Etc, "kubernetes/kubelet.conf")
	mustWrite(t, theirs, foreignKubeconfig)
	r.api.Approve(request)
	told := r.await("the other kubelet to be seen", reason(fault.ForeignKubelet))
	if told.Phase != Blocked {
		t.Errorf("phase %s", told.Phase)
	}
	// The unit was made while there was nothing to do but wait; it starts nothing.
	if calls := r.units.Calls(); slices.Contains(calls, "start") || slices.Contains(calls, "stop") || slices.Contains(calls, "restart") {
		t.Errorf("systemd was asked to %v", calls)
	}
	if left, err := filepath.Glob(filepath.Join(r.cfg.Paths.Kubelet, "*")); err != nil || len(left) != 0 {
		t.Errorf("written: %v, %v", left, err)
	}

	// Moved away, as the remedy says: the certificate that came is used.
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	r.await("the join", phase(Joined))
	if made := len(r.api.CSRs()); made != 1 {
		t.Errorf("%d requests", made)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

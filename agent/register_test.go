package agent

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// In a container the kubelet sees the container's boot ID, and the agent in its
// sandbox that of the host. A Node that was not there before the kubelet's start
// proves the join all the same; one that was there proves nothing until its
// Lease moves.
func TestARegistrationIsSeenWhateverBootIDTheKubeletSees(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(*rig)
		joined bool
	}{
		"nobody had the name": {func(*rig) {}, true},
		"a dead namesake had it": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other"})
			r.api.DeleteLease(nodeName)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			tc.before(r)
			r.units.OnStart = func([]string) error {
				r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "the container's"})
				r.api.DeleteLease(nodeName) // the first one comes seconds later
				return nil
			}
			_, stop := r.start()
			if !tc.joined {
				r.await("the end of a wait in vain", func(s Status) bool { return s.Phase == Registering && s.Attempt > 0 })
				r.api.SetLease(nodeName, r.deps.Clock.Now().Add(time.Hour), 40)
			}
			r.await("the join", phase(Joined))
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

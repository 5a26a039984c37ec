package agent

import (
	"context"
	"time"
)

// refusedWords is what a kubelet writes every few seconds while the API answers 401
// to it (pkg/kubelet/kubelet_node_status.go and k8s.io/component-helpers'
// apimachinery/lease: "Error updating node status, will retry", "Failed to ensure
// lease exists, will retry"). It is no proof, and need not be: see kubeletRefused.
const refusedWords = "will retry.*Unauthorized"

// refusedSlack covers the pause between two such lines.
const refusedSlack = 15 * time.Second

// suspicion is when the kubelet's journal was searched last, and when that last led
// to a question.
type suspicion struct{ searched, led time.Time }

// kubeletRefused says whether the kubelet complains that the API does not know its
// certificate: then the API is asked at once, with that pair, instead of at the next
// look in a quarter of an hour. A signer that was replaced shows nowhere else on the
// machine. The words decide nothing: whoever writes them into the journal causes one
// question in a quarter of an hour, and a kubelet that words it otherwise is found
// out by the next look.
func (a *Agent) kubeletRefused(ctx context.Context, now time.Time) bool {
	s := &a.memory.suspicion
	asked := !now.Before(a.memory.nextAPICheck) || !a.memory.unauthorized.IsZero() // it is asked anyway
	recent := func(t time.Time, d time.Duration) bool { return !t.IsZero() && !now.Before(t) && now.Sub(t) < d }
	// A look may come at each change of the unit; a search is a program that is run.
	if asked || recent(s.led, a.pace.APICheck) || recent(s.searched, a.pace.LocalCheck*3/4) {
		return false
	}
	s.searched = now
	said, err := a.deps.Units.Said(ctx, UnitName, refusedWords, a.pace.LocalCheck+refusedSlack)
	if err != nil {
		a.log.WithError(err).Debug("the kubelet's journal cannot be searched")
	}
	if said {
		s.led = now
	}
	return said
}

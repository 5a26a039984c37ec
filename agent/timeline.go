package agent

import (
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The names of the steps as they stand in the timeline.
const (
	StepDiscover  = "read and verify cluster-info"
	StepRequest   = "request certificate"
	StepApproval  = "wait for approval"
	StepName      = "check node name"
	StepRuntime   = "wait for the container runtime"
	StepConfigure = "write kubelet files"
	StepUnit      = "write kubelet.service"
	StepStart     = "start kubelet"
	StepHealth    = "kubelet healthy"
	StepRegister  = "node registered"
	StepFollow    = "follow the cluster"
)

// maxSteps bounds the timeline: a node that waits for weeks must not grow it.
const maxSteps = 40

// timeline collects the steps of this run. A step that is tried again keeps one
// line: its first start, its last detail.
type timeline struct{ steps []Step }

func (t *timeline) begin(name string, now time.Time) {
	for i := range t.steps {
		if s := &t.steps[i]; s.Seconds == nil {
			seconds := now.Sub(s.Start).Seconds()
			s.Seconds, s.Detail = &seconds, "interrupted"
		}
	}
	if n := len(t.steps); n > 0 && t.steps[n-1].Name == name && t.steps[n-1].Reason != "" {
		t.steps[n-1].Seconds, t.steps[n-1].Reason = nil, "" // again: the line goes on
		return
	}
	t.steps = append(t.steps, Step{Name: name, Start: now.UTC()})
	if len(t.steps) > maxSteps {
		t.steps = slices.Delete(t.steps, 0, len(t.steps)-maxSteps)
	}
}

// end closes the newest step of this name; without one it does nothing.
func (t *timeline) end(name string, now time.Time, detail string, reason fault.Reason) {
	for i := range slices.Backward(t.steps) {
		s := &t.steps[i]
		if s.Name != name {
			continue
		}
		if s.Seconds != nil {
			return // it has ended already
		}
		seconds := now.Sub(s.Start).Seconds()
		s.Seconds, s.Reason = &seconds, reason
		if detail != "" {
			s.Detail = detail
		}
		return
	}
}

// rename gives the newest step of this name another one: it has turned out to be that.
func (t *timeline) rename(name, other string) {
	for i := range slices.Backward(t.steps) {
		if t.steps[i].Name == name {
			t.steps[i].Name = other
			return
		}
	}
}

func (t *timeline) copy() []Step { return slices.Clone(t.steps) }

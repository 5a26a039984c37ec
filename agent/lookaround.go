package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// examineAtMost bounds the asking; the program has a shorter bound of its own.
const examineAtMost = time.Minute

// examination is the kubelet being asked for its version, beside the first steps
// of a join: it takes the time of a few round trips, and none of the join's as
// long as it has ended when the certificate is to be requested.
type examination struct {
	*beside[kubelet.Version]

	path     string // of the binary that is asked; "" if there is none
	identity string // of that file when it was asked; "" if it is not worth a record
	kept     bool   // it is on record, or was tried to be
}

// examine begins to ask the kubelet for its version, unless that is done. The
// first time it is called systemd has not been asked yet: if somebody else's unit
// then turns out to run another kubelet, that one is asked instead.
func (a *Agent) examine(ctx context.Context) {
	path, err := a.binary()
	if a.examined != nil && a.examined.path == path {
		return
	}
	a.reexamine()
	if err != nil {
		a.examined = &examination{beside: finished(kubelet.Version{}, err)}
		return
	}
	if v, ok := a.recall(path); ok {
		a.examined = &examination{beside: finished(v, nil), path: path, kept: true}
		return
	}
	identity, _ := kubelet.Identity(path) // "": a script, say, that may run any kubelet
	run := a.deps.Host.RunKubelet
	a.examined = &examination{path: path, identity: identity, beside: startBeside(ctx, examineAtMost, func(ctx context.Context) (kubelet.Version, error) {
		return kubelet.BinaryVersion(ctx, path, run)
	})}
}

// suitable says whether the kubelet may be given a certificate: what no kernel
// runs and what is too old would only waste one. A binary that could not be
// asked, here in the sandbox, may still run under its unit: that is logged, and
// the kubelet's start decides.
func (a *Agent) suitable(ctx context.Context) error {
	a.examine(ctx)
	if err := a.examined.await(ctx); err != nil {
		return err
	}
	err := a.examined.err
	if err == nil {
		err = a.examined.out.Supported()
	} else if fault.ReasonOf(err) != fault.KubeletMissing || !kubelet.Unusable(err) {
		a.log.WithError(err).Warn("the kubelet's version cannot be told")
		err = nil
	}
	if err != nil {
		a.reexamine() // the next attempt may find another one
		return fmt.Errorf("cannot use this kubelet: %w", err)
	}
	return nil
}

// reexamine forgets what the kubelet has answered.
func (a *Agent) reexamine() {
	if a.examined != nil {
		a.examined.end()
		a.examined = nil
	}
}

// kubeletVersion is what is known of it; the zero value if nothing.
func (a *Agent) kubeletVersion() kubelet.Version {
	if a.examined == nil || !a.examined.ended() {
		return kubelet.Version{}
	}
	return a.examined.out
}

// lookAround looks for what may keep the kubelet from running: files only, some
// milliseconds. It is for a join that waits or fails, never on the way of one that
// goes on. What it finds is told beside the phase and refuses nothing.
func (a *Agent) lookAround() {
	a.memory.findings = preflight.Findings(a.machineRows(a.kubeletVersion(), a.likelyRuntime()))
}

// lookAtRest keeps of the findings what still matters while the kubelet runs:
// that it started answers the rest.
func (a *Agent) lookAtRest() {
	a.memory.findings = preflight.Findings(a.lastingRows(a.likelyRuntime()))
}

// likelyRuntime is the runtime that was asked beside the request, else the one
// that the kubelet is configured for; it is not asked anew.
func (a *Agent) likelyRuntime() kubelet.Runtime {
	if q := a.asked; q != nil {
		select {
		case <-q.done:
			return q.found
		default:
		}
	}
	return a.runtimeForUnit()
}

// askServerVersion compares the API server's version with that of the kubelet
// that runs, once a run of the agent: on the join's way it would be one request
// more, and all it can lead to is a note.
func (a *Agent) askServerVersion(ctx context.Context, node *corev1.Node) {
	if a.memory.versionAsked {
		return
	}
	text, err := a.node.ServerVersion(ctx)
	if err != nil {
		a.log.WithError(err).Debug("cannot ask for the API server's version")
		return
	}
	a.memory.versionAsked = true
	server, serverErr := kubelet.ParseServerVersion(text)
	own, ownErr := kubelet.ParseServerVersion(node.Status.NodeInfo.KubeletVersion) // of the same form
	if err := errors.Join(serverErr, ownErr); err != nil {
		a.log.WithError(err).Debug("cannot compare the versions")
		return
	}
	a.memory.skew = own.Skew(server)
}

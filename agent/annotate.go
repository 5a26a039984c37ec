package agent

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// annotationPrefix is before the names of what the agent writes to its own Node:
// a name below the project's own pages, so that nobody else can mean something
// else by it.
const annotationPrefix = "bootstrap-agent.github.io/"

// annotateAtMost bounds the one request: nothing waits for its answer but the end
// of `join`.
const annotateAtMost = 5 * time.Second

// annotations are what the Node should say about this machine's agent. Words of
// our own only: nothing that came from a network stands here.
func (a *Agent) annotations() map[string]string {
	out := map[string]string{"version": a.deps.Version, "phase": string(a.status.Phase)}
	if a.trust != nil {
		out["ca-hashes"] = strings.Join(a.trust.CAPins, ",")
	}
	if c := a.status.Certificate; c != nil {
		out["certificate-serial"] = c.Serial
	}
	reasons := reasonsOf(a.status)
	// Whether it is Ready the Node says itself, and it changes with each join.
	reasons = slices.DeleteFunc(reasons, func(r string) bool { return r == string(fault.NodeNotReady) })
	out["reason"] = strings.Join(reasons, ",")
	for name, value := range out {
		if value == "" {
			delete(out, name)
		}
	}
	return out
}

// annotationsOf are ours among the annotations of a Node.
func annotationsOf(node *corev1.Node) map[string]string {
	out := map[string]string{}
	for key, value := range node.Annotations {
		if name, ours := strings.CutPrefix(key, annotationPrefix); ours {
			out[name] = value
		}
	}
	return out
}

// annotationsDue says whether the Node, as it was seen last, says something else
// than it should. A node that is only observed is not written to.
func (a *Agent) annotationsDue() bool {
	return a.cfg.AfterJoin != AfterJoinObserve && !a.memory.annotateRefused && a.memory.annotated != nil && a.memory.node.Known && !a.memory.node.Deleted &&
		!maps.Equal(a.memory.annotated, a.annotations())
}

// annotate brings our annotations of our own Node up to date, over a connection
// that is open anyway. It is one request, for `kubectl get nodes` to show a fleet:
// that it fails is no fault, and with the next look at the API it is tried again,
// unless the cluster forbids it.
func (a *Agent) annotate(ctx context.Context) {
	if a.node == nil || !a.annotationsDue() {
		return
	}
	want := a.annotations()
	change := map[string]*string{}
	for name := range a.memory.annotated {
		change[annotationPrefix+name] = nil
	}
	for name, value := range want {
		if change[annotationPrefix+name] = &value; a.memory.annotated[name] == value {
			delete(change, annotationPrefix+name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, annotateAtMost)
	defer cancel()
	if err := a.node.AnnotateNode(ctx, a.cfg.NodeName, change); err != nil {
		a.memory.annotateRefused = apierrors.IsForbidden(err)
		a.log.WithError(err).Debug("the Node's annotations are not up to date")
		return
	}
	a.memory.annotated = want
}

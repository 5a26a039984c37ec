package agent

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// AskNode asks the API for this machine's Node, with the node's own pair, and
// returns what it says now. It is for `wait` and `status` where no daemon runs
// or where its last answer is old: one request on a connection of its own, no
// lock, nothing written. Only root may read the pair.
func AskNode(ctx context.Context, cfg Config, deps Deps) (NodeStatus, error) {
	trust, err := record.ReadTrust(cfg.Paths)
	switch {
	case err != nil:
		return NodeStatus{}, err
	case trust == nil:
		return NodeStatus{}, fault.New(fault.NodeNotRegistered, "there is no record of a join on this machine")
	}
	cfg.NodeName = trust.NodeName
	a, err := New(cfg, deps)
	if err != nil {
		return NodeStatus{}, err
	}
	a.trust = trust
	if err := a.connectCurrent(); err != nil {
		return NodeStatus{}, err
	}
	defer a.closeNode()
	node, err := a.node.GetNode(ctx, cfg.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		a.memory.nodeAsked = deps.Clock.Now()
	case err != nil:
		return NodeStatus{}, fmt.Errorf("cannot ask for the Node: %w", err)
	default:
		a.rememberNode(node)
	}
	a.status.Node.Name = cfg.NodeName
	a.describeNode(true)
	return a.status.Node, nil
}

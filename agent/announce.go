package agent

import "context"

// JoinedTarget is reached when the machine is a node: units that need one are
// wanted by it, and by nothing else.
const JoinedTarget = "bootstrap-agent-joined.target"

// announce has systemd reach JoinedTarget, once a run. It comes after everything
// that the join is about, and nothing follows from its failure but another try
// with the next look: the machine is a node all the same. The target stays
// reached when the node has to begin again later, as network-online.target does
// when the network goes: what was started by it looks at its node itself.
func (a *Agent) announce(ctx context.Context) {
	if a.announced {
		return
	}
	there, err := a.deps.Units.Reach(ctx, JoinedTarget)
	log := a.log.WithField("unit", JoinedTarget)
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		log.WithError(err).Warn("units that wait for a joined node are not started yet")
		return
	case !there:
		log.Debug("not installed, or masked: nobody waits for a joined node")
	}
	a.announced = true
}

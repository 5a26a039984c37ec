package crowd

import (
	"context"
	"fmt"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/standin"
)

// Upkeep is what agents of joined nodes asked of the API server in a while.
type Upkeep struct {
	Nodes       int
	Window      time.Duration
	Looks       int64 // each is one look of one agent at the API
	Requests    int64
	Connections int64
	Handshakes  int64
	Processor   time.Duration // of the API server, beyond what the same nodes cost it in a window without agents
}

// Rest lets a crowd join and look at the API every few seconds instead of every
// quarter of an hour, counts for the length of the window, then stops all agents
// and takes the API server's time for as long again, with the same nodes.
// A window of more than half a minute would see the nodes go stale: nobody renews
// their Leases.
func Rest(ctx context.Context, c *cluster.Cluster, o Options, every, window time.Duration) (u Upkeep, err error) {
	u = Upkeep{Nodes: o.Joins, Window: window}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	kubelets, stopKubelets := newKubelets(ctx, c)
	defer stopKubelets()
	o.Change = func(m *standin.Machine) {
		m.Config.AfterJoin = agent.AfterJoinHeal
		m.Deps.Pace = agent.Pace{LocalCheck: every, APICheck: every, EagerFirst: every}
	}
	all, err := o.machines(c, kubelets)
	if err != nil {
		return u, err
	}
	running, stopAgents := context.WithCancel(ctx)
	defer stopAgents()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runAll(running, all)
	}()
	defer func() { stopAgents(); <-ended }()
	err = await.Until(ctx, "all nodes", 50*time.Millisecond, func(context.Context) error {
		for _, m := range all {
			if m.joined.Load() == 0 {
				return fmt.Errorf("%s has not joined", m.join.Name)
			}
		}
		return nil
	})
	if err != nil {
		return u, err
	}
	if err := pause(ctx, 2*every); err != nil { // what belongs to the join is over
		return u, err
	}
	before, used, err := count(c, all)
	if err != nil {
		return u, err
	}
	if err := pause(ctx, window); err != nil {
		return u, err
	}
	after, usedAfter, err := count(c, all)
	if err != nil {
		return u, err
	}
	u.Looks, u.Requests = after.Looks-before.Looks, after.Requests-before.Requests
	u.Connections, u.Handshakes = after.Connections-before.Connections, after.Handshakes-before.Handshakes
	stopAgents()
	<-ended
	idle, err := c.ProcessorTime("kube-apiserver")
	if err != nil {
		return u, err
	}
	if err := pause(ctx, window); err != nil {
		return u, err
	}
	idleAfter, err := c.ProcessorTime("kube-apiserver")
	u.Processor = (usedAfter - used) - (idleAfter - idle)
	return u, err
}

func count(c *cluster.Cluster, all []*one) (u Upkeep, processor time.Duration, err error) {
	for _, m := range all {
		sent := m.sent()
		u.Looks, u.Requests, u.Handshakes = u.Looks+m.looks.Load(), u.Requests+sent.Requests, u.Handshakes+sent.Handshakes
		u.Connections += m.dials.Load()
	}
	processor, err = c.ProcessorTime("kube-apiserver")
	return u, processor, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
)

// A node that joined while cluster-info's server could not be reached talks to
// the endpoint that had answered instead: provisionally. That server is taken
// back once it answers, verified by the trust record: one request with each API
// check until then, and one change of the kubeconfig with one restart of the
// kubelet, splayed, because all nodes that joined on that day see it answer at
// the same time.

// takeServerBack asks for cluster-info's server where it is due, and puts it
// into the trust record when it has answered twice, restartSplay apart. The
// loop finds the kubeconfig outdated then and does the rest.
func (a *Agent) takeServerBack(ctx context.Context, checked bool) {
	if a.trust == nil || !a.trust.Provisional || a.cfg.AfterJoin != AfterJoinHeal {
		a.memory.serverDue = time.Time{}
		return
	}
	now := a.deps.Clock.Now()
	due := !a.memory.serverDue.IsZero() && !now.Before(a.memory.serverDue)
	if !due && !(checked && a.memory.serverDue.IsZero()) {
		return
	}
	log := a.log.WithField("server", a.trust.InfoServer)
	if err := a.answers(ctx, a.trust.InfoServer); err != nil {
		log.WithError(err).Debug("the cluster's own server does not answer yet")
		a.memory.serverDue = time.Time{}
		return
	}
	if !due {
		a.memory.serverDue = now.Add(splay(a.deps.Machine.MachineID+a.cfg.NodeName, a.cfg.RestartSplay))
		log.WithField("at", a.memory.serverDue.UTC().Format(time.RFC3339)).Info("the cluster's own server answers, the kubelet is moved to it")
		if a.memory.serverDue.After(now) {
			return
		}
	}
	a.memory.serverDue = time.Time{}
	next := *a.trust
	next.Server, next.Provisional = next.InfoServer, false
	if err := next.Write(a.cfg.Paths); err != nil {
		log.WithError(err).Warn("cannot record the cluster's own server")
		return
	}
	a.trust = &next
	a.closeNode()
	log.Info("the cluster's own server is taken back")
	a.wake()
}

// answers says whether a server that the trust record verifies speaks HTTP. It
// is asked anonymously: whether it lets us read cluster-info does not matter.
func (a *Agent) answers(ctx context.Context, server string) error {
	api, err := a.deps.Connect(Identity{Server: server, CA: []byte(a.trust.CA)})
	if err != nil {
		return err
	}
	defer api.Close()
	_, err = api.ClusterInfo(ctx)
	var unauthorized *apiclient.Unauthorized
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || errors.As(err, &unauthorized) {
		return nil
	}
	return err
}

// splay spreads what a change in the cluster makes all nodes do at once: always
// the same pause for one machine, evenly spread over many.
func splay(machine string, over time.Duration) time.Duration {
	if over <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(machine))
	return time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(over))
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The waits of Registering. Its health and its Node come within a second of a
// start that went well; the bounds are for one that did not.
const (
	healthFirst    = 20 * time.Millisecond
	healthMost     = 2 * time.Second
	healthAtMost   = 30 * time.Second
	registerAtMost = 60 * time.Second
	leaseFirst     = 50 * time.Millisecond
	leaseMost      = 5 * time.Second
	lookFrom       = 500 * time.Millisecond // pauses from here on: is the unit still there?
	lookEvery      = 2 * time.Second        // the same while the Node is awaited
)

// register waits until the kubelet is healthy and is seen in the API: a Node
// that it has just made, or the Lease of an older Node, renewed since its start.
func (a *Agent) register(ctx context.Context, o Observation) error {
	if o.Unit.Starting && fault.ReasonOf(a.lastFault) == fault.KubeletFailed {
		return a.lastFault // started again by systemd: until it runs, what it died of is the news
	}
	if o.Unit.Starting {
		return fault.New(fault.KubeletUnhealthy, "%s is starting", UnitName)
	}
	if !o.Unit.Active {
		return a.kubeletFailed(ctx, fault.New(fault.KubeletFailed, "%s is %s (%s), systemd restarts it",
			UnitName, a.status.Kubelet.ActiveState, a.status.Kubelet.SubState))
	}
	if !o.Healthy {
		err := a.stepped(StepHealth, func() (string, error) { return "", a.awaitHealth(ctx) })
		if errors.Is(err, errKubeletGone) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	err := a.stepped(StepRegister, func() (string, error) {
		if err := a.connectCurrent(); err != nil {
			return "", err
		}
		return "", a.awaitNode(ctx)
	})
	if err != nil {
		a.closeNode()
	}
	if errors.Is(err, errKubeletGone) {
		return nil
	}
	if err != nil {
		return a.judgeUnauthorized(err)
	}
	a.memory.unauthorized = time.Time{}
	return nil
}

// errKubeletGone ends a wait for something that only a kubelet that runs can do.
// It is no fault: the loop looks at the unit and sees what has become of it.
var errKubeletGone = errors.New("the kubelet does not run any more")

// gone says whether the unit has ended while its kubelet was waited for.
func (a *Agent) gone(ctx context.Context) bool {
	unit, err := a.deps.Units.Unit(ctx, UnitName)
	return err == nil && (unit.ActiveState == "inactive" || unit.ActiveState == "failed" || unit.ActiveState == "deactivating" ||
		strings.HasPrefix(unit.SubState, "auto-restart"))
}

func (a *Agent) awaitHealth(ctx context.Context) error {
	return a.poll(ctx, healthFirst, healthMost, healthAtMost, func() (bool, error) {
		err := a.health(ctx)
		return err == nil, err
	})
}

// awaitNode watches our Node until it is there; if it is not a new one, its
// Lease until it is renewed. A node may watch its Node but only get its Lease.
func (a *Agent) awaitNode(ctx context.Context) error {
	if deleted, err := a.wasDeleted(ctx); deleted || err != nil {
		return err
	}
	node, err := a.firstNode(ctx)
	if err != nil {
		return err
	}
	started := a.memory.lastUnitStart
	if a.isNew(node) {
		// A Node that did not exist before, made in this boot under our name: the
		// kubelet that runs now has registered it. Its first Lease follows within
		// ten seconds and would tell nothing more.
		return a.registered(ctx, node, started)
	}
	startedAt := a.deps.Clock.Now().Add(started - a.deps.Clock.Monotonic())
	err = a.poll(ctx, leaseFirst, leaseMost, registerAtMost, func() (bool, error) {
		lease, err := a.node.GetLease(ctx, a.cfg.NodeName)
		if apierrors.IsNotFound(err) {
			return false, fault.New(fault.NodeNotRegistered, "Node %s is there, its Lease is not", a.cfg.NodeName)
		}
		if err != nil {
			return false, err
		}
		if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(startedAt.Add(-time.Second)) {
			return false, fault.New(fault.NodeNotRegistered, "the Lease of %s has not been renewed since the kubelet was started", a.cfg.NodeName)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return a.registered(ctx, node, started)
}

// isNew tells a Node that was registered just now from one of an earlier boot
// or of a predecessor with our name. The boot ID alone would not do: in a
// container systemd gives a sandboxed service another /proc, which shows the
// host's boot ID (ProtectKernelTunables= and ProtectControlGroups= do that).
func (a *Agent) isNew(node *corev1.Node) bool {
	known := a.trust != nil && a.trust.NodeUID == string(node.UID)
	ours := a.deps.Machine.BootID != "" && node.Status.NodeInfo.BootID == a.deps.Machine.BootID
	return (ours || a.memory.nameWasFree) && !known
}

func (a *Agent) registered(ctx context.Context, node *corev1.Node, started time.Duration) error {
	a.memory.leaseKnown, a.memory.leaseFor = true, started
	a.rememberNode(node)
	if a.memory.nameWasFree {
		a.noteOwner(node) // else this is perhaps what a predecessor has left
	}
	a.memory.nameWasFree = false // from here on there is a Node, and a Lease to look at
	a.askRenewal(ctx)
	a.noteClock()
	if err := a.keepUID(string(node.UID)); err != nil {
		return err
	}
	if a.manifest.Before != "" { // the new pair has proven itself
		a.manifest.Before = ""
		if err := a.manifest.Write(a.cfg.Paths); err != nil {
			return err
		}
	}
	return a.payReload(ctx)
}

// payReload has systemd learn of the link that enables a new unit, now that the
// node is there (see systemd.Manager.Install).
func (a *Agent) payReload(ctx context.Context) error {
	if !a.manifest.ReloadOwed {
		return nil
	}
	if err := a.deps.Units.Reload(ctx); err != nil {
		return err
	}
	a.manifest.ReloadOwed = false
	return a.manifest.Write(a.cfg.Paths)
}

// wasDeleted finds out whether a Node that was there once is gone although the
// kubelet has had the time to register it: then somebody deleted it, and it is
// not waited for.
func (a *Agent) wasDeleted(ctx context.Context) (bool, error) {
	if !a.memory.node.Known || a.deps.Clock.Monotonic()-a.memory.lastUnitStart < registerAtMost {
		return false, nil
	}
	_, err := a.node.GetNode(ctx, a.cfg.NodeName)
	if !apierrors.IsNotFound(err) {
		return false, err
	}
	a.memory.node.Deleted = true
	return true, nil
}

// firstNode returns our Node as soon as the API has it.
func (a *Agent) firstNode(ctx context.Context) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, registerAtMost)
	defer cancel()
	notYet := fault.New(fault.NodeNotRegistered, "Node %s is not in the API yet", a.cfg.NodeName)
	events, err := a.node.WatchNode(ctx, a.cfg.NodeName, "")
	if err != nil {
		return nil, fmt.Errorf("cannot watch the Node: %w", err)
	}
	defer events.Stop()
	look, stop := a.deps.Clock.After(lookEvery)
	defer func() { stop() }()
	for {
		select {
		case <-look:
			if a.gone(ctx) {
				return nil, errKubeletGone
			}
			look, stop = a.deps.Clock.After(lookEvery)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, notYet
			}
			return nil, ctx.Err()
		case event, open := <-events.ResultChan():
			if !open {
				return nil, notYet // the loop asks again
			}
			node, isNode := event.Object.(*corev1.Node)
			if isNode && (event.Type == watch.Added || event.Type == watch.Modified) {
				return node, nil
			}
			if event.Type == watch.Error {
				return nil, notYet
			}
		}
	}
}

// rememberNode keeps what matters of our Node.
func (a *Agent) rememberNode(node *corev1.Node) {
	n := Node{Known: true, Other: a.memory.node.Other}
	for _, c := range node.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		n.Ready = c.Status == corev1.ConditionTrue
		if !n.Ready {
			n.NotReady = fault.Quote(c.Message)
		}
	}
	a.memory.node, a.memory.nodeAsked = n, a.deps.Clock.Now()
	a.memory.annotated = annotationsOf(node)
	a.status.Node.UID = string(node.UID)
}

// noteOwner keeps whose Node it is by the last kubelet that described it. Two
// machines of one name that start within the same second both find no Node, and
// both join: then two kubelets describe one Node in turn. It says so where neither
// boot nor machine is ours; two clones of one machine ID look like one.
func (a *Agent) noteOwner(node *corev1.Node) {
	info, us := node.Status.NodeInfo, a.deps.Machine
	a.memory.node.Other = ""
	if info.MachineID != "" && us.MachineID != "" && info.MachineID != us.MachineID && info.BootID != us.BootID {
		a.memory.node.Other = info.MachineID
	}
}

func (a *Agent) keepUID(uid string) error {
	if a.trust == nil || a.trust.NodeUID == uid {
		return nil
	}
	a.trust.NodeUID = uid
	return a.trust.Write(a.cfg.Paths)
}

// askRenewal finds out on the first day whether the certificate will be renewed
// without a person. A failure to ask is asked again with the next API check.
func (a *Agent) askRenewal(ctx context.Context) {
	allowed, err := a.node.Allowed(ctx, authorizationv1.ResourceAttributes{
		Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: "selfnodeclient", Verb: "create",
	})
	if err != nil {
		a.log.WithError(err).Debug("cannot ask whether renewal is automatic")
		return
	}
	if old := a.manifest.RenewalAutomatic; old != nil && *old == allowed {
		return
	}
	a.manifest.RenewalAutomatic = &allowed
	if err := a.manifest.Write(a.cfg.Paths); err != nil {
		a.log.WithError(err).Warn("cannot record the answer")
	}
}

// judgeUnauthorized believes a 401 only when it comes twice, a minute apart.
func (a *Agent) judgeUnauthorized(err error) error {
	var unauthorized *apiclient.Unauthorized
	if !errors.As(err, &unauthorized) {
		return err
	}
	now := a.deps.Clock.Now()
	if a.memory.unauthorized.IsZero() {
		a.memory.unauthorized = now
	} else if now.Sub(a.memory.unauthorized) >= a.pace.UnauthorizedGap && a.status.Certificate != nil {
		a.memory.rejected = a.status.Certificate.Serial
		a.memory.unauthorized = time.Time{}
		a.log.Warn("the API server refuses this node's certificate")
	}
	return &fault.Error{Reason: fault.NodeNotRegistered, Err: err, RetryAfter: a.pace.UnauthorizedGap}
}

// poll asks with growing pauses until ok, a hard error, the bound, the end of the
// kubelet (errKubeletGone; not asked for in the first second) or the end of ctx. A fault returned beside false is what the bound is reported as.
func (a *Agent) poll(ctx context.Context, pause, most, atMost time.Duration, ask func() (bool, error)) error {
	until := a.deps.Clock.Now().Add(atMost)
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if fault.ReasonOf(err) == "" && err != nil || !a.deps.Clock.Now().Before(until) {
			return err
		}
		if pause >= lookFrom && a.gone(ctx) {
			return errKubeletGone
		}
		fire, stop := a.deps.Clock.After(pause)
		select {
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-fire:
		}
		pause = min(2*pause, most)
	}
}

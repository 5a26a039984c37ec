package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The Lease of a possible namesake is watched this long when it looks fresh, or
// for it when a Node is too young to have one.
const (
	namesakeShare      = 0.4 // of leaseDurationSeconds
	defaultLeaseLength = 40 * time.Second
)

// checkName makes sure that no other live machine is registered under our name,
// then installs the new pair. A fresh node certificate may read its own Node
// and Lease, so this needs no extra RBAC.
func (a *Agent) checkName(ctx context.Context, o Observation) error {
	path := a.cfg.Paths.NewPair()
	data, err := atomicfile.Read(path, maxPairFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.WriteFailed, "cannot read the new pair: %w", err)
	}
	if a.trust == nil {
		// The record is lost: who would answer the question is not known.
		return a.discover(ctx, o)
	}
	err = a.stepped(StepName, func() (string, error) {
		if err := a.connectNode(data); err != nil {
			return "", err
		}
		if o.Pair != PairUsable || a.manifest.Rewrite {
			a.renderAhead(ctx, o)
		}
		return a.nameIsFree(ctx)
	})
	if err != nil && o.Pair == PairUsable && ctx.Err() == nil {
		// The old one serves: nothing is lost by not installing this one.
		a.closeNode()
		return a.dropNewPair("the new certificate is not installed: " + err.Error())
	}
	var unauthorized *apiclient.Unauthorized
	if errors.As(err, &unauthorized) {
		a.closeNode()
		if now := a.deps.Clock.Now(); a.memory.unauthorized.IsZero() || now.Sub(a.memory.unauthorized) < a.pace.UnauthorizedGap {
			// Believed only when it comes twice, a minute apart.
			if a.memory.unauthorized.IsZero() {
				a.memory.unauthorized = now
			}
			return &fault.Error{Reason: fault.ServerError, Err: err, RetryAfter: a.pace.UnauthorizedGap}
		}
		a.memory.unauthorized = time.Time{}
		if rerr := atomicfile.Remove(path); rerr != nil {
			return rerr
		}
		return fault.New(fault.CertificateInvalid, "the API server does not accept the new certificate: %w", err).
			WithHint("The signer's CA must be in the API server's --client-ca-file.")
	}
	if err != nil {
		return fmt.Errorf("cannot check the node name: %w", err)
	}
	return a.installPair(ctx, o, data)
}

// nameIsFree returns who has the name, in words, or the fault NodeNameTaken.
func (a *Agent) nameIsFree(ctx context.Context) (string, error) {
	name := a.cfg.NodeName
	node, err := a.node.GetNode(ctx, name)
	switch {
	case apierrors.IsNotFound(err):
		a.memory.nameWasFree = true
		return "nobody has it", nil
	case err != nil:
		return "", err
	case a.deps.Machine.BootID != "" && node.Status.NodeInfo.BootID == a.deps.Machine.BootID:
		return "it is this machine's already", nil
	case a.cfg.NodeNameTakeover:
		return "taken over (nodeNameTakeover)", nil
	}
	lease, err := a.node.GetLease(ctx, name)
	if apierrors.IsNotFound(err) {
		if a.mayStillMakeItsLease(node) {
			return a.watchLease(ctx, node, defaultLeaseLength, time.Time{})
		}
		return "a Node without a Lease has it", nil
	}
	if err != nil {
		return "", err
	}
	length := defaultLeaseLength
	if s := lease.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		length = time.Duration(*s) * time.Second
	}
	if lease.Spec.RenewTime == nil {
		return "a Node that never lived has it", nil
	}
	first := lease.Spec.RenewTime.Time
	// By the server's word, which came with this answer. Our own clock may be days
	// off on a machine that was off; without that word the Lease is watched.
	if server, _, known := a.node.Clock(); known && server.Sub(first) > length {
		return fmt.Sprintf("its last owner has been dead since %s", first.UTC().Format(time.RFC3339)), nil
	}
	return a.watchLease(ctx, node, length, first)
}

// mayStillMakeItsLease tells a Node whose kubelet has only just registered it: a
// kubelet makes its Lease after its Node, and tries for up to seven seconds at a
// time. A Node that no kubelet has ever described was made by hand and waits for
// one. Without the server's word on the time a Node may be young.
func (a *Agent) mayStillMakeItsLease(node *corev1.Node) bool {
	if info := node.Status.NodeInfo; info.BootID == "" && info.KubeletVersion == "" {
		return false
	}
	server, _, known := a.node.Clock()
	return !known || server.Sub(node.CreationTimestamp.Time) <= defaultLeaseLength
}

// watchLease finds out whether somebody renews the Lease, or makes it: first is
// its renewTime, zero where there is no Lease yet. It returns how its owner ended,
// in words, or the fault NodeNameTaken.
func (a *Agent) watchLease(ctx context.Context, node *corev1.Node, length time.Duration, first time.Time) (string, error) {
	watchFor := max(a.pace.NamesakeAtLeast, time.Duration(float64(length)*namesakeShare))
	for left := watchFor; left > 0; left -= a.pace.NamesakeEvery {
		a.heart.beat(a.deps.Clock.Now(), actAtMost)
		fire, stop := a.deps.Clock.After(min(left, a.pace.NamesakeEvery))
		select {
		case <-ctx.Done():
			stop()
			return "", ctx.Err()
		case <-fire:
		}
		lease, err := a.node.GetLease(ctx, node.Name)
		switch {
		case apierrors.IsNotFound(err) && first.IsZero():
		case apierrors.IsNotFound(err):
			return "its last owner has left", nil
		case err != nil:
			return "", err
		case lease.Spec.RenewTime != nil && !lease.Spec.RenewTime.Time.Equal(first):
			return "", taken(node, a.deps.Machine)
		}
	}
	if first.IsZero() {
		return "a Node whose owner never made its Lease has it", nil
	}
	return fmt.Sprintf("its last owner died at %s", first.UTC().Format(time.RFC3339)), nil
}

func taken(node *corev1.Node, us Machine) error {
	info := node.Status.NodeInfo
	return fault.New(fault.NodeNameTaken, "another live machine is registered as %s (its machine ID is %s, ours %s; its UUID is %s, ours %s)",
		fault.Quote(node.Name), fault.Quote(info.MachineID), fault.Quote(us.MachineID), fault.Quote(info.SystemUUID), fault.Quote(us.UUID))
}

// installPair moves the checked pair into the kubelet's FileStore. A kubelet
// that runs is stopped first: it writes into that store, too.
func (a *Agent) installPair(ctx context.Context, o Observation, pair []byte) error {
	if err := a.stillAdmissible(); err != nil {
		return err
	}
	anew := o.Pair == PairUsable // the node is one: only its pair is replaced
	if o.Unit.Active && o.Unit.HeldBack != "" {
		if anew {
			return a.dropNewPair("the new certificate is not installed: the kubelet could not be started again after it")
		}
		return fault.New(fault.UnitMasked, "%s runs but is %s: once stopped for its new certificate it could not be started again", UnitName, o.Unit.HeldBack).
			WithHint("systemctl unmask kubelet; systemctl enable kubelet")
	}
	if !o.Unit.Dead {
		a.manifest.Stopped = a.now()
		if err := a.manifest.Write(a.cfg.Paths); err != nil {
			return err
		}
		if _, err := a.deps.Units.Stop(ctx, UnitName); err != nil {
			return fmt.Errorf("cannot stop the kubelet before its certificate is replaced: %w", err)
		}
		a.did(fault.EventKubeletStopped).Info("kubelet stopped, its certificate is replaced")
	}
	if anew && a.overtaken(pair) {
		return atomicfile.Discard(a.cfg.Paths.NewPair())
	}
	for _, path := range []string{
		a.files.CurrentPair(), a.files.CACert(), a.files.ConfigFile(), a.files.EnvironmentFile(),
		a.files.ServingCert(), a.files.ServingKey(), a.files.Kubeconfig(),
	} {
		if !a.theirs(path) {
			a.manifest.Expect(path, "")
		}
	}
	a.manifest.Rewrite = a.manifest.Rewrite || !anew
	a.manifest.Before, a.manifest.Inputs = a.wayBack(o, pair), a.now()
	if err := a.manifest.Write(a.cfg.Paths); err != nil {
		return err
	}
	if _, err := a.files.WritePair(pair, pair); err != nil {
		return err
	}
	a.manifest.Inputs = a.now()
	a.memory.rejected, a.memory.unauthorized = "", time.Time{}
	a.did(fault.EventCertificateInstalled).WithField("path", a.files.CurrentPair()).Info("certificate installed")
	// Should it come back after a power cut, it is the same pair once more; and the
	// next sync in that folder, of the manifest, is milliseconds away.
	return atomicfile.Discard(a.cfg.Paths.NewPair())
}

// intend records, before anything is written, that these paths are ours, with
// the hash of what they will hold, and that the kubelet's inputs change now: a
// crash in the middle leaves neither a file of ours that looks foreign nor a
// kubelet that runs on old inputs unseen. While the files that belong to a new
// pair are written (Rewrite), the record that was made for the pair covers them.
func (a *Agent) intend(hashes map[string]string) error {
	covered := a.manifest.Rewrite
	replaced := map[string]string{}
	for path, hash := range hashes {
		if old := cmp.Or(a.manifest.Replaced[path], a.manifest.Files[path]); old != "" && old != hash {
			replaced[path] = old // and still, if an earlier attempt came no further
		}
		if a.manifest.Expect(path, hash) {
			covered = false
		}
	}
	a.manifest.Replaced, a.manifest.Inputs = replaced, a.now()
	if a.trust != nil {
		a.manifest.Generation = a.trust.Generation
	}
	if covered {
		return nil
	}
	return a.manifest.Write(a.cfg.Paths)
}

func (a *Agent) now() record.Moment {
	return record.Moment{BootID: a.deps.Machine.BootID, Monotonic: a.deps.Clock.Monotonic()}
}

// connectNode opens the connection with the node's own pair (certificates and
// key in one PEM text), once for a join.
func (a *Agent) connectNode(pair []byte) error {
	if a.node != nil {
		return nil
	}
	api, err := a.deps.Connect(Identity{Server: a.trust.Server, CA: []byte(a.trust.CA), Pair: pair})
	if err != nil {
		return err
	}
	a.node = api
	return nil
}

func (a *Agent) closeNode() {
	a.rendering.end() // it asks on this connection
	a.rendering = nil
	if a.node != nil {
		a.node.Close()
		a.node = nil
	}
}

// connectCurrent is connectNode with the pair of the FileStore.
func (a *Agent) connectCurrent() error {
	if a.node != nil {
		return nil
	}
	if a.trust == nil {
		return errors.New("there is no trust record to connect with")
	}
	// Through the link: the kubelet swaps it when it rotates.
	pair, err := a.readPair()
	if err != nil {
		return fmt.Errorf("cannot read the node's pair: %w", err)
	}
	return a.connectNode(pair)
}

// readPair reads the pair that the link leads to, and waits for no pipe there.
func (a *Agent) readPair() ([]byte, error) {
	real, err := filepath.EvalSymlinks(a.files.CurrentPair())
	if err != nil {
		return nil, err
	}
	return atomicfile.Read(real, maxPairFile)
}

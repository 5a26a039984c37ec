package agent

import (
	"context"
	"fmt"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// binaryRecord is what a kubelet said of its version, and which file said it.
// To ask takes as long as half a join: the whole program has to start for it. So
// what `configure` or an earlier run has heard is believed as long as the file is
// the same. It saves time and decides nothing by itself: a record that is lost,
// damaged or of another file is as good as none.
type binaryRecord struct {
	Path     string `json:"path"`
	Identity string `json:"identity"` // see kubelet.Identity
	Version  string `json:"version"`  // as in v1.36.3
}

// recall returns what is on record for the kubelet at path as it is now.
func (a *Agent) recall(path string) (kubelet.Version, bool) {
	var r binaryRecord
	if ok, err := record.ReadJSON(a.cfg.Paths.BinaryFile(), &r); err != nil || !ok || r.Path != path {
		return kubelet.Version{}, false
	}
	now, err := kubelet.Identity(path)
	if err != nil || now != r.Identity {
		return kubelet.Version{}, false
	}
	v, err := kubelet.ParseVersion("Kubernetes " + r.Version)
	return v, err == nil
}

// keepVersion puts on record what the kubelet has answered, once nobody waits for it.
func (a *Agent) keepVersion() {
	e := a.examined
	if e == nil || e.identity == "" || e.kept || !e.ended() {
		return
	}
	e.kept = true
	if e.err != nil {
		return
	}
	if err := keepBinary(a.cfg.Paths, e); err != nil {
		a.log.WithError(err).Debug("the kubelet's version is not kept; it will be asked again")
	}
}

func keepBinary(paths record.Paths, e *examination) error {
	now, err := kubelet.Identity(e.path)
	if err != nil || now != e.identity {
		return err // replaced while it was asked: whose answer it is, is not known
	}
	return record.WriteJSON(paths.BinaryFile(), binaryRecord{Path: e.path, Identity: now, Version: e.out.Text})
}

// LearnKubelet asks the kubelet that a join would use for its version and keeps
// the answer in the state folder, so that the join does not have to wait for it.
// It is for the one who prepares a machine, before the config is written; an
// error costs the join some time and nothing else.
func LearnKubelet(ctx context.Context, cfg Config, deps Deps) error {
	if err := atomicfile.MkdirAll(cfg.Paths.State, 0o700); err != nil {
		return err
	}
	a, err := New(cfg, deps)
	if err != nil {
		return err
	}
	a.examine(ctx)
	defer a.examined.end()
	if err := a.examined.await(ctx); err != nil {
		return err
	}
	if err := a.examined.err; err != nil {
		return fmt.Errorf("cannot learn the kubelet's version: %w", err)
	}
	if a.examined.identity == "" || a.examined.kept {
		return nil
	}
	return keepBinary(cfg.Paths, a.examined)
}

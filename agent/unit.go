package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// prepareAtMost bounds the writing of the unit beside the request: systemd
// reads all its units anew, which takes a slow machine a while.
const prepareAtMost = time.Minute

// preparation is kubelet.service being written while the approval is awaited.
// The unit cannot start anything yet: it waits for the kubeconfig.
type preparation struct {
	rendered systemd.Rendered
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // valid after done
}

// abandon ends a preparation and waits for its end. Nil is allowed.
func (p *preparation) abandon() {
	if p == nil {
		return
	}
	p.cancel()
	<-p.done
}

// prepareUnit begins to write the unit, once the cluster is trusted. It takes
// systemd's daemon-reload (tens of milliseconds in which systemd answers nobody)
// out of the way between the certificate and the kubelet's start.
func (a *Agent) prepareUnit(ctx context.Context) {
	if a.prepared != nil || !a.manifest.Started.isZero() {
		return // under way, or an older node: its unit is decided when it is started
	}
	rendered, err := a.render(ctx)
	if err != nil {
		return // the start says what is wrong
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), prepareAtMost)
	p := &preparation{rendered: rendered, cancel: cancel, done: make(chan struct{})}
	a.prepared = p
	dir := a.cfg.Paths.Units
	go func() {
		defer close(p.done)
		_, p.err = a.deps.Units.Install(ctx, dir, rendered, true)
	}()
}

// awaitPrepared waits for a preparation that is under way.
func (a *Agent) awaitPrepared(ctx context.Context) error {
	if a.prepared == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.prepared.done:
		return nil
	}
}

// installUnit makes the unit what it has to be. What was prepared beside the
// request and is still right is not done twice.
func (a *Agent) installUnit(ctx context.Context) (detail string, err error) {
	if err := a.awaitPrepared(ctx); err != nil {
		return "", err
	}
	rendered, err := a.render(ctx)
	if err != nil {
		return "", err
	}
	if p := a.prepared; p != nil {
		a.prepared = nil
		p.cancel()
		if p.err == nil && bytes.Equal(p.rendered.DropIn, rendered.DropIn) && bytes.Equal(p.rendered.Unit, rendered.Unit) {
			return "written while the approval was awaited", nil
		}
	}
	changed, err := a.deps.Units.Install(ctx, a.cfg.Paths.Units, rendered, true)
	if err == nil && !changed {
		detail = "unchanged"
	}
	return detail, err
}

// render says what kubelet.service has to be on this machine.
func (a *Agent) render(ctx context.Context) (systemd.Rendered, error) {
	binary, err := a.binary()
	if err != nil {
		return systemd.Rendered{}, err
	}
	existing, err := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if err != nil {
		return systemd.Rendered{}, err
	}
	return systemd.Render(a.service(ctx, binary, existing.Owner == systemd.OwnerAlien))
}

// service is what kubelet.service has to be.
func (a *Agent) service(ctx context.Context, binary string, alien bool) systemd.KubeletService {
	after := []string{}
	if runtime, err := a.runtime(ctx); err == nil && runtime.Unit != "" {
		after = append(after, runtime.Unit)
	}
	configDir := a.cfg.Kubelet.ConfigDir
	if configDir != "" {
		if info, err := os.Stat(configDir); err != nil || !info.IsDir() {
			a.log.WithField("path", configDir).Warn("kubelet.configDir is no folder, it is not passed on: the kubelet would exit")
			configDir = ""
		}
	}
	service := systemd.KubeletService{
		Binary: binary, Args: a.arguments(configDir), After: after,
		Condition: a.files.Kubeconfig(), Alien: alien,
	}
	if len(a.cfg.ProxyEnvironment) > 0 {
		service.EnvironmentFiles = []string{a.files.EnvironmentFile()}
	}
	return service
}

func (a *Agent) arguments(configDir string) []string {
	return kubelet.Arguments(kubelet.Spec{
		Layout: a.files.Layout, NodeName: a.cfg.NodeName, ConfigDir: configDir,
		Labels: a.cfg.NodeLabels, NodeIP: a.cfg.NodeIP, Extra: a.cfg.Kubelet.ExtraArgs,
	})
}

// recordUnit remembers the unit files as they now are, and that the kubelet is
// started by the agent: from now on a stopped one was stopped by a person.
func (a *Agent) recordUnit() error {
	for _, path := range []string{filepath.Join(a.cfg.Paths.Units, UnitName), a.dropIn()} {
		if data, err := readSmall(path); err == nil && systemd.Ours(data) {
			a.manifest.wrote(path, data)
		}
	}
	a.manifest.Started, a.manifest.ReloadOwed = a.now(), true
	return a.manifest.write(a.cfg.Paths)
}

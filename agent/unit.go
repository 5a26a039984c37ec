package agent

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// prepareAtMost bounds the writing of the unit beside the request: systemd
// reads all its units anew, which takes a slow machine a while.
const prepareAtMost = time.Minute

// prepareUnit begins to ask for the container runtime and to write the unit, once
// a certificate is asked for. It takes that and the asking and telling of systemd
// (and its daemon-reload, where a unit was there before) out of the way between
// the certificate and the kubelet's start. The unit cannot start anything yet: it
// waits for the kubeconfig.
func (a *Agent) prepareUnit(ctx context.Context) {
	if a.prepared != nil || !a.manifest.Started.IsZero() {
		return // under way, or an older node: its unit is decided when it is started
	}
	service, err := a.service()
	if err != nil {
		return // the start says what is wrong
	}
	q := newQuestion(a.renderer().likely())
	a.asked = q
	units, dir, host, clock := a.deps.Units, a.cfg.Paths.Units, a.deps.Host, a.deps.Clock
	existing := a.memory.existing // as admissible saw it
	a.prepared = startBeside(ctx, prepareAtMost, func(ctx context.Context) (systemd.KubeletService, error) {
		service.After = afterRuntime(q.ask(ctx, host, clock).found) // not ready yet: the likely one
		_, err := install(ctx, units, dir, existing, service)
		return service, err
	})
}

// installUnit makes the unit what it has to be. What was prepared beside the
// request and is still right is not done twice.
func (a *Agent) installUnit(ctx context.Context) (detail string, err error) {
	if err := a.prepared.await(ctx); err != nil {
		return "", err
	}
	service, err := a.service()
	if err != nil {
		return "", err
	}
	if p := a.prepared; p != nil {
		a.prepared = nil
		if p.err == nil && reflect.DeepEqual(p.out, service) {
			return a.alsoSay("written while the approval was awaited", service.Binary), nil
		}
	}
	existing, err := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if err != nil {
		return "", err
	}
	changed, err := install(ctx, a.deps.Units, a.cfg.Paths.Units, existing, service)
	if err == nil && !changed {
		detail = "unchanged"
	}
	return a.alsoSay(detail, service.Binary), err
}

func install(ctx context.Context, units Units, dir string, existing systemd.Existing, service systemd.KubeletService) (changed bool, err error) {
	rendered, err := render(existing, service)
	if err != nil {
		return false, err
	}
	return units.Install(ctx, dir, existing, rendered, true)
}

// render says what kubelet.service has to be beside what is there.
func render(existing systemd.Existing, service systemd.KubeletService) (systemd.Rendered, error) {
	service.Alien, service.Read = existing.Owner == systemd.OwnerAlien, existing.Read
	return systemd.Render(service)
}

// service is what kubelet.service has to be.
func (a *Agent) service() (systemd.KubeletService, error) {
	return a.serviceAfter(a.runtimeForUnit())
}

// serviceAfter is service with a container runtime to be started after.
func (a *Agent) serviceAfter(runtime kubelet.Runtime) (systemd.KubeletService, error) {
	binary, err := a.binary()
	if err != nil {
		return systemd.KubeletService{}, err
	}
	configDir := a.cfg.Kubelet.ConfigDir
	if configDir != "" {
		if info, err := os.Stat(configDir); err != nil || !info.IsDir() {
			a.log.WithField("path", configDir).Warn("kubelet.configDir is no folder, it is not passed on: the kubelet would exit")
			configDir = ""
		}
	}
	service := systemd.KubeletService{
		Binary: binary, Args: a.arguments(configDir), After: afterRuntime(runtime),
		Condition: a.files.Kubeconfig(), Variables: a.adoptedVariables(),
	}
	if len(a.cfg.ProxyEnvironment) > 0 {
		service.EnvironmentFiles = []string{a.files.EnvironmentFile()}
	}
	return service, nil
}

func (a *Agent) arguments(configDir string) []string {
	return kubelet.Arguments(kubelet.Spec{
		Layout: a.files.Layout, NodeName: a.cfg.NodeName, ConfigDir: configDir,
		Labels: a.cfg.NodeLabels, NodeIP: a.cfg.NodeIP, Extra: slices.Concat(a.adoptedArguments(), a.cfg.Kubelet.ExtraArgs),
	})
}

// unitBefore is the state of the kubelet's unit file as it was before the agent
// came; "" where that is not known any more.
func (a *Agent) unitBefore() string {
	unit := a.memory.existing.Unit
	switch {
	case a.trust != nil && a.trust.UnitBefore != "":
		return a.trust.UnitBefore
	case contains(unit.DropInPaths, a.dropIn()):
		return "" // that is what we have made of it
	case unit.UnitFileState == "":
		return record.UnitNone
	}
	return unit.UnitFileState
}

// recordStart remembers the unit files as they now are, and that the kubelet is
// started by the agent: from now on a stopped one was stopped by a person. The
// record becomes durable beside the start itself: after a crash in between the
// kubelet runs and the start is put on record once more. The result is there
// when the returned function has returned.
func (a *Agent) recordStart() (wait func() error) {
	for _, path := range []string{filepath.Join(a.cfg.Paths.Units, UnitName), a.dropIn()} {
		if data, err := readSmall(path); err == nil && systemd.Ours(data) {
			a.manifest.Wrote(path, data)
		}
	}
	a.manifest.Started, a.manifest.ReloadOwed = a.now(), true
	now := *a.manifest
	now.Files = maps.Clone(a.manifest.Files)
	written := make(chan error, 1)
	go func() { written <- now.Write(a.cfg.Paths) }()
	return func() error { return <-written }
}

package agent

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// PreflightInput is what `check --machine` knows beside config and rooms. The
// daemon looks without any of it: it asks no network for a check.
type PreflightInput struct {
	Hostname string           // of the machine
	Environ  []string         // of the person's shell
	Lookup   preflight.Lookup // nil: names are not resolved
	// Greet asks API servers for version and time; nil: nobody is asked.
	Greet func(ctx context.Context, endpoints []discovery.Endpoint, proxy func(*url.URL) (*url.URL, error)) (*discovery.Greeting, error)
}

// Preflight looks whether this machine can become a node with this config, as
// far as its files, systemd and one anonymous question to the API servers tell.
// It needs no lock and no root, and changes nothing; rows that only root can
// fill say so. The order of the rows is that in which a join would meet them.
func Preflight(ctx context.Context, cfg Config, deps Deps, in PreflightInput) []*preflight.Row {
	configured := cfg.NodeName
	if cfg.NodeName == "" {
		cfg.NodeName = "node" // only a name can be missing; its row tells
	}
	a, err := New(cfg, deps)
	if err != nil {
		return []*preflight.Row{preflight.Of("config", "", err)}
	}
	recorded, recordErr := record.ReadManifest(cfg.Paths)
	if recordErr == nil {
		a.manifest = recorded
		a.takeAdopted()
	} // else: only root may see it
	path, version, versionErr := a.askBinary(ctx)
	server := a.greeted(ctx, in)
	rows := []*preflight.Row{
		preflight.Kubelet(path, version, versionErr),
		preflight.APIServer(version, server),
		preflight.Clock(server),
		preflight.Proxy(a.proxying(in, server)),
	}
	unit, unitErr := a.deps.Units.Unit(ctx, UnitName)
	rows = append(rows, a.identityRow(unit, recordErr), a.unitRow(ctx, unit, unitErr))
	if row := a.configRow(); row.Message != "" {
		rows = append(rows, row)
	}
	runtime, runtimeErr := a.renderer().runtime(ctx, a.renderer().likely())
	rows = append(rows, runtimeRow(runtime.found, runtimeErr))
	rows = append(rows, a.machineRows(version, runtime.found)...)
	return append(rows, preflight.HostName(ctx, configured, in.Hostname, in.Lookup))
}

// machineRows are the rows that files alone decide. The daemon tells them, too.
func (a *Agent) machineRows(v kubelet.Version, r kubelet.Runtime) []*preflight.Row {
	m, layers := a.machine(), a.knownLayers()
	s, err := layers.Settings()
	if err != nil {
		a.log.WithError(err).Debug("cannot tell the kubelet's settings")
	}
	rows := []*preflight.Row{m.Cgroups(s, v), m.CgroupDriver(s, v, r), m.Swap(s)}
	if s.ProtectKernelDefaults {
		rows = append(rows, m.KernelDefaults())
	}
	rows = append(rows, m.Port(s))
	if url, enabled, err := layers.HealthURL(); err == nil && enabled {
		rows = append(rows, m.HealthPort(url))
	}
	rows = append(rows, m.BridgeFilter(), m.Overlay(), m.Tools(v))
	return append(rows, a.lastingRows(r)...)
}

// lastingRows are those that matter still when the kubelet runs.
func (a *Agent) lastingRows(r kubelet.Runtime) []*preflight.Row {
	m := a.machine()
	rows := []*preflight.Row{m.Forwarding(a.cfg.NodeIP)}
	for _, disk := range preflight.Disks(a.cfg.Paths.State, a.files.Root(), r) {
		rows = append(rows, m.Disk(disk))
	}
	return rows
}

// machine is this machine as the checks see it.
func (a *Agent) machine() preflight.Machine {
	return preflight.Machine{Root: a.deps.Host.Root, Statfs: a.deps.Host.Statfs}
}

// askBinary finds the kubelet, asks it for its version and judges that.
func (a *Agent) askBinary(ctx context.Context) (path string, v kubelet.Version, err error) {
	if path, err = a.binary(); err != nil {
		return "", v, err
	}
	if v, err = kubelet.BinaryVersion(ctx, path, a.deps.Host.RunKubelet); err != nil {
		return path, v, err
	}
	return path, v, v.Supported()
}

// knownLayers is what is known of the kubelet's configuration before it runs: the
// operator's file, else the one that the agent wrote, with drop-ins and arguments
// over it. What cannot be read counts as not there.
func (a *Agent) knownLayers() kubelet.Layers {
	var config []byte
	switch {
	case a.cfg.Kubelet.ConfigFile != "":
		config, _ = readSmall(a.cfg.Kubelet.ConfigFile)
	case a.isOurs(a.files.ConfigFile()):
		config, _ = readSmall(a.files.ConfigFile())
	}
	layers, _ := a.renderer().layers(config)
	return layers
}

// servers are the API servers that the configuration names.
func (a *Agent) servers() []discovery.Endpoint {
	if a.cfg.Discovery == nil {
		return a.cfg.Endpoints
	}
	file, err := a.cfg.Discovery.Read()
	if err != nil {
		return nil // not there yet, or only root may read it
	}
	server := file.Server()
	if u, err := url.Parse(server); err == nil && u.Port() == "" {
		server += ":443"
	}
	e, err := discovery.ParseEndpoint(server)
	if err != nil {
		return nil
	}
	return []discovery.Endpoint{e}
}

// greeted asks the API servers, where there are any to ask.
func (a *Agent) greeted(ctx context.Context, in PreflightInput) *preflight.Server {
	servers := a.servers()
	if in.Greet == nil || len(servers) == 0 {
		return nil
	}
	g, err := in.Greet(ctx, servers, a.cfg.Proxy)
	if err != nil {
		return &preflight.Server{Err: err}
	}
	s := &preflight.Server{Endpoint: g.Endpoint, GitVersion: g.GitVersion, Time: g.ServerTime, Local: g.LocalTime}
	if len(g.Peer) > 0 {
		s.NotBefore, s.NotAfter = g.Peer[0].NotBefore, g.Peer[0].NotAfter
	}
	return s
}

func (a *Agent) proxying(in PreflightInput, server *preflight.Server) preflight.Proxying {
	p := preflight.Proxying{Configured: a.cfg.Proxy, Environ: in.Environ, Answered: server != nil && server.Err == nil}
	for _, e := range a.servers() {
		p.Servers = append(p.Servers, e.URL())
	}
	if a.cfg.Server != "" {
		p.Servers = append(p.Servers, a.cfg.Server)
	}
	return p
}

// identityRow looks for somebody else's kubelet. Without the record of what is
// ours nothing can be told apart.
func (a *Agent) identityRow(unit systemd.Unit, recordErr error) *preflight.Row {
	const name = "identity"
	if recordErr != nil {
		return preflight.Of(name, "", recordErr)
	}
	message := "no other kubelet's is here"
	if !a.manifest.Started.IsZero() {
		message = "this machine was joined by the agent"
	}
	return preflight.Of(name, message, a.foreign(unit))
}

// unitRow looks at kubelet.service. Where systemd has not read it since it
// changed, a join would have it do so; a check changes nothing.
func (a *Agent) unitRow(ctx context.Context, unit systemd.Unit, err error) *preflight.Row {
	if err != nil {
		return preflight.Of(UnitName, "", err)
	}
	if unit.NeedDaemonReload {
		return preflight.NotSeen(UnitName, "changed since systemd read it: `systemctl daemon-reload`, then look again")
	}
	existing, err := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if err == nil {
		err = a.lostFlags(ctx, existing)
	}
	if err == nil {
		err = a.overriddenFlags(existing)
	}
	if existing.Owner == systemd.OwnerNone || existing.Path == "" {
		return preflight.Of(UnitName, "not there yet, the agent writes it", err)
	}
	return preflight.Of(UnitName, existing.Path, err)
}

// configRow is the kubelet's configuration, as far as it is a matter of this
// machine; its message is empty where there is nothing to say.
func (a *Agent) configRow() *preflight.Row {
	err := errors.Join(a.renderer().operatorConfig(), a.clientCAFile(), a.theirConfig())
	return preflight.Of("kubelet config", a.cfg.Kubelet.ConfigFile, err)
}

// runtimeRow is the runtime's. A socket that only root may open tells nothing
// about who is behind it.
func runtimeRow(r kubelet.Runtime, err error) *preflight.Row {
	const name = "runtime"
	if fault.ReasonOf(err) == fault.RuntimeNotReady && strings.Contains(err.Error(), "permission denied") {
		row := preflight.NotSeen(name, "only root may talk to it: "+err.Error())
		row.NeedsRoot = true
		return row
	}
	who := r.Version
	if who == "" {
		who = r.String()
	}
	return preflight.Of(name, who+" at "+r.Socket(), err)
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// admittedFor is how long the machine is taken for admissible without another
// look: discovery and request follow each other within milliseconds.
const admittedFor = 2 * time.Second

// lastLines is how much of the kubelet's own log goes into KubeletFailed.
const lastLines = 8

// admissible checks this machine for what would stop the join anyway, before
// any traffic and before anything is written.
func (a *Agent) admissible(ctx context.Context) error {
	now := a.deps.Clock.Monotonic()
	if a.memory.admitted != 0 && now-a.memory.admitted < admittedFor {
		return nil // looked at a moment ago, in the same join
	}
	if err := a.inspect(ctx); err != nil {
		return err
	}
	a.memory.admitted = now
	return nil
}

func (a *Agent) inspect(ctx context.Context) error {
	existing, unitErr := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if unitErr != nil && fault.ReasonOf(unitErr) == "" {
		return fmt.Errorf("cannot ask systemd about %s: %w", UnitName, unitErr)
	}
	search := kubelet.Search{
		Layout:       a.files.Layout,
		Kubeconfigs:  []string{filepath.Join(a.cfg.Paths.Etc, "kubernetes/kubelet.conf")},
		ManifestDirs: []string{filepath.Join(a.cfg.Paths.Etc, "kubernetes/manifests")},
		Ours:         a.isOurs,
	}
	argv := existing.Unit.Argv(readSmall)
	if path := flagOf(argv, "--kubeconfig"); path != "" {
		search.Kubeconfigs = append(search.Kubeconfigs, path)
	}
	foreign, err := kubelet.FindForeign(search)
	if err != nil {
		return err
	}
	if err := kubelet.ForeignFault(foreign); err != nil {
		return err
	}
	var faults []error
	if unitErr != nil && a.manifest.Started.isZero() {
		faults = append(faults, unitErr)
	}
	if _, err := a.binary(); err != nil {
		faults = append(faults, err)
	}
	if err := a.operatorConfig(); err != nil {
		faults = append(faults, err)
	}
	if err := a.lostFlags(existing); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func (a *Agent) isOurs(path string) bool {
	_, ours := a.manifest.Files[path]
	return ours
}

func (a *Agent) binary() (string, error) {
	return kubelet.FindBinary(a.cfg.Kubelet.Binary, a.deps.Host.Binaries)
}

// operatorConfig renders the operator's kubelet config once, to refuse early
// what it would refuse late.
func (a *Agent) operatorConfig() error {
	if a.cfg.Kubelet.ConfigFile == "" {
		return nil
	}
	input, err := a.operatorInput()
	if err != nil {
		return err
	}
	// The CA is written later in the join: it counts as there.
	input.FileExists = func(path string) bool {
		_, err := os.Stat(path)
		return err == nil || path == a.files.CACert()
	}
	_, _, err = kubelet.RenderConfig(input)
	return err
}

func (a *Agent) operatorInput() (kubelet.RenderInput, error) {
	base, err := readSmall(a.cfg.Kubelet.ConfigFile)
	if err != nil {
		return kubelet.RenderInput{}, fault.New(fault.ConfigInvalid, "kubelet.configFile: %w", err)
	}
	return a.renderInput(kubelet.Operator, base), nil
}

func (a *Agent) renderInput(source kubelet.Source, base []byte) kubelet.RenderInput {
	clientCA := a.cfg.Kubelet.ClientCAFile
	if clientCA == "" {
		clientCA = a.files.CACert()
	}
	return kubelet.RenderInput{
		Source: source, Base: base, Dir: a.files.Root(), ClientCAFile: clientCA,
		ClusterDNS: a.cfg.ClusterDNS, ClusterDomain: a.cfg.ClusterDomain,
		RegisterWithTaints: a.cfg.NodeTaints, ServingCertificate: a.cfg.Kubelet.ServingCertificate,
		ResolvConf: a.deps.Host.ResolvConf(), CgroupV2: a.deps.Host.CgroupV2(),
	}
}

func (a *Agent) runtime(ctx context.Context) (kubelet.Runtime, error) {
	found, notes, err := kubelet.FindRuntime(ctx, a.cfg.Kubelet.RuntimeEndpoint, a.deps.Host.Runtimes, a.deps.Host.DialRuntime)
	for _, note := range notes {
		a.log.WithField("detail", note.String()).Info("container runtime")
	}
	return found, err
}

// lostFlags refuses to take over somebody else's unit while flags of its
// command line would be lost.
func (a *Agent) lostFlags(existing systemd.Existing) error {
	if a.cfg.Kubelet.DropFlags || existing.Owner != systemd.OwnerAlien || contains(existing.Unit.DropInPaths, a.dropIn()) {
		return nil
	}
	lost := systemd.LostFlags(existing.Unit.Argv(readSmall, "KUBELET_EXTRA_ARGS"), a.arguments(a.cfg.Kubelet.ConfigDir))
	if len(lost) == 0 {
		return nil
	}
	return fault.New(fault.UnitOverridden, "%s has flags that ours would lose: %s", existing.Path, fault.Quote(strings.Join(lost, " "))).
		WithHint("List those to keep in kubelet.extraArgs, or set kubelet.dropFlags: true.")
}

func readSmall(path string) ([]byte, error) { return atomicfile.Read(path, maxStateFile) }

// readAhead brings the kubelet's binary into the page cache while the network
// is waited for: on a first boot it is most of the kubelet's start.
func (a *Agent) readAhead(ctx context.Context) {
	path, err := a.binary()
	if err != nil || a.readingAhead {
		return
	}
	a.readingAhead = true
	go func() {
		// Not ended with the act that began it: it serves the one after the next.
		if _, err := kubelet.Readahead(context.WithoutCancel(ctx), path); err != nil {
			a.log.WithError(err).Debug("no read-ahead")
		}
	}()
}

// configure writes what is missing or damaged of CA, kubelet config and, last,
// the kubeconfig: the commit point after which the machine counts as configured.
// After a new pair was installed all three are written from the trust record.
// What a person edited is kept, except where it names another cluster.
func (a *Agent) configure(ctx context.Context, o Observation) error {
	if a.trust == nil {
		return a.discover(ctx, o) // the record is lost, and the CA with it
	}
	return a.stepped(StepConfigure, func() (string, error) {
		path := a.files.ConfigFile()
		if !contains(o.Files.Damaged, path) && (!a.manifest.Rewrite || contains(o.Files.Drifted, path)) {
			return "", a.writeFiles(o, nil)
		}
		source, config, err := a.kubeletConfig(ctx)
		if err != nil {
			return "", err
		}
		return "from " + string(source), a.writeFiles(o, config)
	})
}

// kubeletConfig renders the kubelet's configuration for this machine.
func (a *Agent) kubeletConfig(ctx context.Context) (kubelet.Source, []byte, error) {
	runtime, err := a.runtime(ctx)
	if err != nil {
		return "", nil, err
	}
	input, err := a.kubeletConfigSource(ctx)
	if err != nil {
		return "", nil, err
	}
	input.RuntimeEndpoint = runtime.Endpoint
	input.CgroupDriver = a.deps.Host.CgroupDriver(runtime)
	input.FileExists = func(path string) bool {
		_, err := os.Stat(path)
		return err == nil || path == a.files.CACert() // written below, before the commit point
	}
	config, notes, err := kubelet.RenderConfig(input)
	if err != nil {
		return "", nil, fmt.Errorf("cannot render the kubelet config from %s: %w", input.Source, err)
	}
	for _, note := range notes {
		a.log.WithField("detail", note.String()).Info("kubelet config")
	}
	return input.Source, config, nil
}

// kubeletConfigSource picks the operator's file, the cluster's ConfigMap, or
// the built-in defaults.
func (a *Agent) kubeletConfigSource(ctx context.Context) (kubelet.RenderInput, error) {
	if a.cfg.Kubelet.ConfigFile != "" {
		return a.operatorInput()
	}
	if err := a.connectCurrent(); err != nil {
		return kubelet.RenderInput{}, err
	}
	text, err := a.node.KubeletConfig(ctx)
	switch {
	case err == nil:
		return a.renderInput(kubelet.Cluster, []byte(text)), nil
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		a.log.WithField("cause", err.Error()).Info("the cluster has no kubelet-config for its nodes, built-in defaults are used")
		return a.renderInput(kubelet.BuiltIn, nil), nil
	}
	a.closeNode() // the next attempt dials anew
	return kubelet.RenderInput{}, fmt.Errorf("cannot read the cluster's kubelet-config: %w", err)
}

// writeFiles writes those files that have to be written, in an order that leaves
// no kubeconfig which names something missing. config nil: it stays as it is.
func (a *Agent) writeFiles(o Observation, config []byte) error {
	kubeconfig, err := a.files.RenderKubeconfig(a.trust.Server)
	if err != nil {
		return err
	}
	environment, err := kubelet.RenderEnvironment(a.cfg.ProxyEnvironment)
	if err != nil {
		return err
	}
	ca := []byte(a.trust.CA)
	wanted := func(path string) bool { return a.manifest.Rewrite || contains(o.Files.Damaged, path) }
	type file struct {
		path  string
		data  []byte
		write func() (bool, error)
		input bool // the kubelet reads it at its start only
	}
	var files []file
	if wanted(a.files.CACert()) {
		files = append(files, file{a.files.CACert(), ca, func() (bool, error) { return a.files.WriteCA(ca) }, true})
	}
	if config != nil {
		files = append(files, file{a.files.ConfigFile(), config, func() (bool, error) { return a.files.WriteConfig(config) }, false})
	}
	if _, known := a.manifest.Files[a.files.EnvironmentFile()]; !known || a.manifest.Rewrite {
		files = append(files, file{a.files.EnvironmentFile(), environment, func() (bool, error) { return a.files.WriteEnvironment(a.cfg.ProxyEnvironment) }, false})
	}
	if wanted(a.files.Kubeconfig()) {
		files = append(files, file{a.files.Kubeconfig(), kubeconfig, func() (bool, error) { return a.files.WriteKubeconfig(a.trust.Server) }, true})
	}

	inputs, before := a.manifest.Inputs, false
	var paths []string
	hashes := map[string]string{}
	for _, f := range files {
		paths = append(paths, f.path)
		hashes[f.path] = hashOf(f.data)
		// The same bytes as before, only gone in between, are no new input.
		before = before || f.input && a.manifest.Files[f.path] != hashes[f.path]
	}
	if err := a.intend(hashes, paths...); err != nil {
		return err
	}
	for _, f := range files {
		changed, err := f.write()
		if err != nil {
			return err
		}
		if changed {
			a.log.WithField("path", f.path).Info("file written")
		}
	}
	a.manifest.Inputs = inputs
	if before {
		a.manifest.Inputs = a.now()
	}
	a.manifest.Rewrite = false
	return a.manifest.write(a.cfg.Paths)
}

// start writes the unit, has systemd read it, and starts the kubelet, or
// restarts one that is older than its inputs.
func (a *Agent) start(ctx context.Context, o Observation) error {
	if a.manifest.Started.isZero() || !o.Unit.Installed {
		if err := a.stepped(StepUnit, func() (string, error) { return a.installUnit(ctx) }); err != nil {
			return err
		}
		if err := a.recordUnit(); err != nil {
			return err
		}
	} // else: the unit of a node is what it is; how it would look today is reported
	err := a.stepped(StepStart, func() (string, error) {
		if o.Unit.Older {
			a.logKubelet().Info("kubelet restarts: its inputs changed")
			_, err := a.deps.Units.Restart(ctx, UnitName)
			return "restarted", err
		}
		_, err := a.deps.Units.Start(ctx, UnitName)
		return "", err
	})
	if err != nil {
		return a.kubeletFailed(ctx, err)
	}
	a.logKubelet().Info("kubelet started")
	return nil
}

// kubeletFailed adds the kubelet's own last lines to what systemd said.
func (a *Agent) kubeletFailed(ctx context.Context, err error) error {
	if fault.ReasonOf(err) != "" && fault.ReasonOf(err) != fault.KubeletFailed {
		return err
	}
	lines, lerr := a.deps.Units.LastLines(ctx, UnitName, lastLines)
	if lerr != nil || len(lines) == 0 {
		return fault.New(fault.KubeletFailed, "%w", err)
	}
	for i, line := range lines {
		lines[i] = fault.Quote(line)
	}
	return fault.New(fault.KubeletFailed, "%w; its last lines: %s", err, strings.Join(lines, " "))
}

// logKubelet is for what is done to the kubelet: it shows in
// `journalctl -u kubelet` as well.
func (a *Agent) logKubelet() logrus.FieldLogger {
	return a.log.WithField("OBJECT_SYSTEMD_UNIT", UnitName)
}

// flagOf returns the value of a flag in an argument list, in both spellings.
func flagOf(argv []string, flag string) string {
	for i, word := range argv {
		if value, ok := strings.CutPrefix(word, flag+"="); ok {
			return value
		}
		if word == flag && i+1 < len(argv) {
			return argv[i+1]
		}
	}
	return ""
}

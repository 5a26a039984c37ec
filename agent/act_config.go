package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// renderAtMost bounds the rendering beside the name check.
const renderAtMost = 30 * time.Second

// renderer makes the kubelet's configuration for this machine. It has copies of
// all that it reads, so that it may work beside the loop.
type renderer struct {
	cfg   Config
	files kubelet.Files
	host  Host
	clock Clock
	asked *runtimeQuestion // beside the request; nil: not yet
	log   logrus.FieldLogger
}

func (a *Agent) renderer() renderer {
	return renderer{cfg: a.cfg, files: a.files, host: a.deps.Host, clock: a.deps.Clock, asked: a.asked, log: a.log}
}

// rendered is the kubelet's configuration and what follows from it.
type rendered struct {
	from    string // for the timeline
	config  []byte
	named   kubelet.Named        // endpoint of the runtime; set also when that is not ready
	serving *kubelet.ServingPair // nil: the kubelet needs none of ours
}

// render makes the configuration from the operator's file, the cluster's
// ConfigMap, or the built-in defaults. api is asked only where there is no file.
func (r renderer) render(ctx context.Context, api API) (out rendered, err error) {
	input, err := r.source(ctx, api)
	if err != nil {
		return out, err
	}
	out.named = r.named(input)
	answer, err := r.runtime(ctx, out.named)
	if err != nil {
		return out, err
	}
	input.RuntimeEndpoint = answer.found.Endpoint
	input.CgroupDriver = r.host.CgroupDriver(answer.found)
	config, notes, err := kubelet.RenderConfig(input)
	if err != nil {
		return out, fmt.Errorf("cannot render the kubelet config from %s: %w", input.Source, err)
	}
	for _, note := range notes {
		r.log.WithField("detail", note.String()).Info("kubelet config")
	}
	out.from, out.config = "from "+string(input.Source)+answer.tell(r), config
	layers, err := r.layers(config)
	if err != nil {
		return out, err
	}
	out.serving, err = r.files.MakeServingPair(r.cfg.NodeName, layers)
	return out, err
}

// layers is what the kubelet puts its configuration together from, over this file
// and as far as our own config decides it.
func (r renderer) layers(config []byte) (l kubelet.Layers, err error) {
	l = kubelet.Layers{Config: config, Args: r.cfg.Kubelet.ExtraArgs}
	if dir := r.cfg.Kubelet.ConfigDir; dir != "" {
		l.DropIns, err = kubelet.DropIns(dir)
	}
	return l, err
}

// fileExists counts the CA as there: it is written later in the join, before
// the commit point.
func (r renderer) fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || path == r.files.CACert()
}

func (r renderer) source(ctx context.Context, api API) (kubelet.RenderInput, error) {
	if r.cfg.Kubelet.ConfigFile != "" {
		return r.operatorInput()
	}
	text, err := api.KubeletConfig(ctx)
	switch {
	case err == nil:
		return r.input(kubelet.Cluster, []byte(text)), nil
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		r.log.WithField("cause", err.Error()).Info("the cluster has no kubelet-config for its nodes, built-in defaults are used")
		return r.input(kubelet.BuiltIn, nil), nil
	}
	return kubelet.RenderInput{}, fmt.Errorf("cannot read the cluster's kubelet-config: %w", err)
}

// operatorConfig renders the operator's kubelet config once, to refuse early
// what it would refuse late.
func (r renderer) operatorConfig() error {
	if r.cfg.Kubelet.ConfigFile == "" {
		return nil
	}
	input, err := r.operatorInput()
	if err != nil {
		return err
	}
	_, _, err = kubelet.RenderConfig(input)
	return err
}

func (r renderer) operatorInput() (kubelet.RenderInput, error) {
	base, err := readSmall(r.cfg.Kubelet.ConfigFile)
	if err != nil {
		return kubelet.RenderInput{}, fault.New(fault.ConfigInvalid, "kubelet.configFile: %w", err)
	}
	return r.input(kubelet.Operator, base), nil
}

func (r renderer) input(source kubelet.Source, base []byte) kubelet.RenderInput {
	clientCA := r.cfg.Kubelet.ClientCAFile
	if clientCA == "" {
		clientCA = r.files.CACert()
	}
	return kubelet.RenderInput{
		Source: source, Base: base, Dir: r.files.Root(), ClientCAFile: clientCA,
		ClusterDNS: r.cfg.ClusterDNS, ClusterDomain: r.cfg.ClusterDomain,
		RegisterWithTaints: r.cfg.NodeTaints, ServingCertificate: r.cfg.Kubelet.ServingCertificate, FileExists: r.fileExists,
		ResolvConf: r.host.ResolvConf(), CgroupV2: r.host.CgroupV2(),
	}
}

// renderAhead begins to read the cluster's kubelet-config and to render, while
// the node's name is asked for on the same connection.
func (a *Agent) renderAhead(ctx context.Context, o Observation) {
	edited := contains(o.Files.Drifted, a.files.ConfigFile())
	if a.rendering != nil || edited || a.theirs(a.files.ConfigFile()) {
		return // under way, or a person's, which stays as it is
	}
	renderer, api := a.renderer(), a.node
	a.rendering = startBeside(ctx, renderAtMost, func(ctx context.Context) (rendered, error) { return renderer.render(ctx, api) })
}

// rendered returns what was rendered ahead, or renders now.
func (a *Agent) rendered(ctx context.Context) (rendered, error) {
	if p := a.rendering; p != nil {
		if err := p.await(ctx); err != nil {
			return rendered{}, err
		}
		a.rendering = nil
		if p.err == nil || fault.ReasonOf(p.err) == fault.RuntimeNotReady {
			return p.out, p.err // a runtime has a wait of its own
		}
	} // what failed beside is tried once more, where it can be said
	if err := a.connectForConfig(); err != nil {
		return rendered{}, err
	}
	out, err := a.renderer().render(ctx, a.node)
	if err != nil {
		a.closeNode() // the next attempt dials anew
	}
	return out, err
}

// connectForConfig connects where the kubelet's configuration comes from the
// cluster.
func (a *Agent) connectForConfig() error {
	if a.cfg.Kubelet.ConfigFile != "" {
		return nil
	}
	return a.connectCurrent()
}

// source reads the document that the configuration is made from.
func (a *Agent) source(ctx context.Context) (kubelet.RenderInput, error) {
	if err := a.connectForConfig(); err != nil {
		return kubelet.RenderInput{}, err
	}
	input, err := a.renderer().source(ctx, a.node)
	a.closeNode() // not kept over the wait that follows
	return input, err
}

// configure writes what is missing or damaged of CA, kubelet config and, last,
// the kubeconfig: the commit point after which the machine counts as configured.
// After a new pair was installed all three are written from the trust record.
// What a person edited is kept, except where it names another cluster.
func (a *Agent) configure(ctx context.Context, o Observation) error {
	if a.trust == nil {
		return a.discover(ctx, o) // the record is lost, and the CA with it
	}
	path := a.files.ConfigFile()
	render := contains(o.Files.Damaged, path) || a.manifest.Rewrite && !contains(o.Files.Drifted, path) && !a.theirs(path)
	if render && a.awaited != nil {
		if err := a.awaitRuntime(ctx); err != nil {
			return err
		}
	}
	err := a.stepped(StepConfigure, func() (string, error) {
		if !render {
			return "", a.writeFiles(o, rendered{})
		}
		made, err := a.rendered(ctx)
		a.noteRuntime(made.named, err)
		if err != nil {
			return "", err
		}
		return made.from, a.writeFiles(o, made)
	})
	if fault.ReasonOf(err) == fault.RuntimeNotReady {
		a.closeNode()                                 // a wait may take hours
		a.timeline.rename(StepConfigure, StepRuntime) // no file was touched
	}
	return err
}

// writeFiles writes those files that have to be written: all that the kubeconfig
// names, in one go, and then the kubeconfig. made without a config: that stays
// as it is.
func (a *Agent) writeFiles(o Observation, made rendered) error {
	kubeconfig, err := a.files.RenderKubeconfig(a.trust.Server)
	if err != nil {
		return err
	}
	environment, err := kubelet.RenderEnvironment(a.cfg.ProxyEnvironment)
	if err != nil {
		return err
	}
	wanted := func(path string) bool { return a.manifest.Rewrite || contains(o.Files.Damaged, path) }
	hashes := map[string]string{}
	newInput := false
	will := func(path string, data []byte, input bool) {
		hashes[path] = record.HashOf(data)
		// The same bytes as before, only gone in between, are no new input.
		newInput = newInput || input && (a.manifest.Files[path] != hashes[path] || a.manifest.Replaced[path] != "")
	}
	set := kubelet.Set{Config: made.config, Serving: made.serving}
	if wanted(a.files.CACert()) {
		set.CA = []byte(a.trust.CA)
		will(a.files.CACert(), set.CA, true)
	}
	if set.Config != nil {
		will(a.files.ConfigFile(), set.Config, false)
	}
	if set.Serving != nil {
		will(a.files.ServingCert(), set.Serving.CertPEM, false)
		will(a.files.ServingKey(), set.Serving.KeyPEM, false)
	}
	if _, known := a.manifest.Files[a.files.EnvironmentFile()]; !known || a.manifest.Rewrite {
		will(a.files.EnvironmentFile(), environment, false)
	}
	if wanted(a.files.Kubeconfig()) {
		will(a.files.Kubeconfig(), kubeconfig, true)
	}

	inputs := a.manifest.Inputs
	if err := a.intend(hashes); err != nil {
		return err
	}
	changed, err := a.files.WriteSet(set)
	if err != nil {
		return err
	}
	if hashes[a.files.EnvironmentFile()] != "" {
		if _, err := a.files.WriteEnvironment(a.cfg.ProxyEnvironment); err != nil {
			return err
		}
	}
	if hashes[a.files.Kubeconfig()] != "" {
		written, err := a.files.WriteKubeconfig(a.trust.Server)
		if err != nil {
			return err
		}
		if written {
			changed = append(changed, a.files.Kubeconfig())
		}
	}
	if len(changed) > 0 {
		a.log.WithField("paths", changed).Info("files written")
	}
	a.manifest.Inputs = inputs
	if newInput {
		a.manifest.Inputs = a.now()
	}
	a.manifest.Rewrite, a.manifest.Replaced = false, nil
	if a.manifest.Started.IsZero() {
		return nil // the kubelet's first start, which comes next, puts all of it on record
	}
	return a.manifest.Write(a.cfg.Paths)
}

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/diff"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// wantedFile is one file as it should be.
type wantedFile struct {
	path string
	data []byte // nil: there should be none
	mode fs.FileMode
	unit bool // of kubelet.service
}

// change is a wanted file and what stands there instead.
type change struct {
	*wantedFile
	old    []byte
	exists bool
	tell   FileChange
}

// bytesDiffer is false where only the mode is not right.
func (c *change) bytesDiffer() bool {
	return c.exists != (c.data != nil) || !bytes.Equal(c.old, c.data)
}

// textOnly: what is different is the comment at the head alone, which another version
// of the package words otherwise. That is no drift, and nothing that a kubelet reads.
func (c *change) textOnly() bool {
	return c.exists && c.data != nil && bytes.Equal(headless(c.old), headless(c.data))
}

// headless is a file without the comment at its head.
func headless(data []byte) []byte {
	for {
		line, rest, more := bytes.Cut(data, []byte("\n"))
		if line = bytes.TrimSpace(line); !more || len(line) > 0 && line[0] != '#' {
			return data
		}
		data = rest
	}
}

// plan is what has to be done so that a node's files are as they should be.
type plan struct {
	changes  []*change
	rendered systemd.Rendered
	forget   []string // on record as ours, and somebody else's now
	notes    []string
	repairs  bool // nobody has asked for it
}

func (p *plan) told() []FileChange {
	out := make([]FileChange, len(p.changes))
	for i, c := range p.changes {
		out[i] = c.tell
	}
	return out
}

// inputs says whether anything changes that the kubelet reads, which it does
// only when it starts.
func (p *plan) inputs() bool {
	return slices.ContainsFunc(p.changes, func(c *change) bool { return c.bytesDiffer() && !c.textOnly() })
}

// restart says whether the kubelet is to be restarted, and if not although
// something changes, why.
func (p *plan) restart(o *Observation) (restart bool, why string) {
	switch {
	case !p.inputs() && !o.Unit.Older:
		return false, ""
	case o.Unit.HeldBack != "":
		return false, "kubelet.service is " + o.Unit.HeldBack + ": it is neither started nor restarted"
	case !o.Unit.Active:
		return false, "the kubelet does not run: it reads them when it starts"
	}
	return true, ""
}

// agreed says whether this is what a person has seen and said yes to.
func (p *plan) agreed(order *Order) error {
	for _, c := range p.changes {
		seen, shown := order.Agreed[c.path]
		if !shown || seen != c.tell.Swap {
			return fmt.Errorf("%s: the change is not the one that was shown, nothing was written; look again: bootstrap-agent apply", c.path)
		}
	}
	return nil
}

// plan compares what is there with what is wanted. fresh: the cluster's
// kubelet-config is read now, as in a join; else the kubelet's configuration is
// that of the join.
func (a *Agent) plan(ctx context.Context, o *Observation, fresh bool) (*plan, error) {
	switch {
	case a.trust == nil || a.manifest.Started.IsZero():
		return nil, errNotJoined
	case o.Pair != PairUsable:
		return nil, fmt.Errorf("the node's certificate is %s: the agent replaces it first, and writes the files with it", o.Pair)
	case a.unconfigured():
		return nil, fault.New(fault.ConfigInvalid, "the config file is bad, so what it asks for is not known: %w", a.configErr)
	case fresh && a.hands.badConfig:
		return nil, fault.New(fault.ConfigInvalid, "the config file has become bad, so what it asks for is not known: %w", a.configErr)
	}
	p := &plan{}
	wanted, err := a.wanted(ctx, p, fresh)
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		c, differs, err := a.compare(w)
		if err != nil {
			return nil, err
		}
		if differs {
			p.changes = append(p.changes, c)
		}
	}
	return p, nil
}

// unconfigured: started with a config that cannot be read.
func (a *Agent) unconfigured() bool { return len(a.cfg.Endpoints) == 0 && a.cfg.Discovery == nil }

// wanted lists the files in the order in which they are written: the kubeconfig,
// which names others, comes last. Of the kubelet's files only those that the
// agent has written here are its own.
func (a *Agent) wanted(ctx context.Context, p *plan, fresh bool) ([]*wantedFile, error) {
	var out []*wantedFile
	add := func(path string, data []byte, mode fs.FileMode) {
		if a.isOurs(path) {
			out = append(out, &wantedFile{path: path, data: data, mode: mode})
		}
	}
	if a.trust != nil {
		add(a.files.CACert(), []byte(a.trust.CA), 0o644)
	}
	config, err := a.wantedConfig(ctx, fresh)
	if err != nil {
		return nil, err
	}
	if config != nil {
		add(a.files.ConfigFile(), config, 0o600)
	}
	environment, err := kubelet.RenderEnvironment(a.cfg.ProxyEnvironment)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(a.files.EnvironmentFile()); a.isOurs(a.files.EnvironmentFile()) || errors.Is(err, fs.ErrNotExist) {
		out = append(out, &wantedFile{path: a.files.EnvironmentFile(), data: environment, mode: 0o600})
	}
	units, err := a.wantedUnit(ctx, p, config)
	if err != nil {
		return nil, err
	}
	out = append(out, units...)
	if a.trust != nil {
		kubeconfig, err := a.files.RenderKubeconfig(a.trust.Server)
		if err != nil {
			return nil, err
		}
		add(a.files.Kubeconfig(), kubeconfig, 0o600)
	}
	return out, nil
}

// wantedConfig is the kubelet's configuration; nil where it is not known, or
// somebody else's.
func (a *Agent) wantedConfig(ctx context.Context, fresh bool) ([]byte, error) {
	if path := a.files.ConfigFile(); !a.isOurs(path) || a.theirs(path) {
		return nil, nil
	}
	r := a.renderer()
	if !fresh {
		if a.cfg.Kubelet.ConfigFile == "" {
			return a.keptConfig(), nil
		}
		r.log = quiet() // it is rendered with each look for drift
		made, err := r.render(ctx, nil)
		if err != nil {
			a.log.WithError(err).Debug("cannot compare the kubelet's configuration")
		}
		return made.config, nil
	} else if err := a.connectForConfig(); err != nil {
		return nil, err
	}
	made, err := r.render(ctx, a.node)
	return made.config, err
}

func quiet() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// wantedUnit renders kubelet.service, and says what of it is not ours.
func (a *Agent) wantedUnit(ctx context.Context, p *plan, config []byte) ([]*wantedFile, error) {
	runtime := a.runtimeForUnit()
	if config != nil {
		runtime = a.runtimeIn(config)
	}
	service, err := a.serviceAfter(runtime)
	if err != nil {
		return nil, err
	}
	existing, err := a.existing(ctx)
	if fault.ReasonOf(err) == fault.UnitMasked {
		p.notes = append(p.notes, UnitName+" is masked: neither unit nor drop-in is written")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if p.rendered, err = render(existing, service); err != nil {
		return nil, err
	}
	var out []*wantedFile
	for _, f := range p.rendered.Files(a.cfg.Paths.Units) {
		out = append(out, &wantedFile{path: f.Path, data: f.Data, mode: 0o644, unit: true})
	}
	if path := a.unitFile(); p.rendered.Unit == nil && a.isOurs(path) {
		p.forget = append(p.forget, path)
		p.notes = append(p.notes, existing.Path+" is somebody else's unit: it stays, the drop-in decides")
	}
	return out, nil
}

func (a *Agent) unitFile() string { return filepath.Join(a.cfg.Paths.Units, UnitName) }

// existing is Units.Existing, without making systemd read a unit anew that a
// person has edited and not told it of: that is not for who only looks.
func (a *Agent) existing(ctx context.Context) (systemd.Existing, error) {
	unit, err := a.deps.Units.Unit(ctx, UnitName)
	if err != nil {
		return systemd.Existing{}, err
	}
	if unit.NeedDaemonReload && unit.FragmentPath == a.unitFile() {
		if data, err := readSmall(a.unitFile()); err == nil && systemd.Ours(data) {
			return systemd.Existing{Owner: systemd.OwnerOurs, Path: a.unitFile(), Unit: unit}, nil
		}
	}
	return a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
}

// compare looks at one file.
func (a *Agent) compare(w *wantedFile) (c *change, differs bool, err error) {
	c = &change{wantedFile: w, tell: FileChange{Path: w.path}}
	info, err := os.Lstat(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, false, fmt.Errorf("cannot look at %s: %w", w.path, err)
	default:
		if c.old, err = readSmall(w.path); err != nil {
			return c, false, fmt.Errorf("cannot compare %s: %w", w.path, err)
		}
		c.exists = true
		c.tell.Swap.From = record.HashOf(c.old)
		if mode := info.Mode().Perm(); w.data != nil && mode != w.mode {
			c.tell.Mode = fmt.Sprintf("%04o, wanted %04o", mode, w.mode)
		}
	}
	if w.data != nil {
		c.tell.Swap.To = record.HashOf(w.data)
	}
	if !c.bytesDiffer() {
		return c, c.tell.Mode != "", nil
	}
	was := a.manifest.Files[w.path]
	c.tell.Edited = was != "" && was != record.HashOf(c.old)
	from, to := diff.Text{Name: w.path, Data: string(c.old)}, diff.Text{Name: w.path, Data: string(w.data)}
	if !c.exists {
		from.Name = os.DevNull
	}
	if w.data == nil {
		to.Name = os.DevNull
	}
	c.tell.Diff = diff.Unified(from, to, a.mask(w))
	return c, true, nil
}

// mask hides the values of environment variables, in the file that holds only
// such, and in a unit: a proxy's URL may hold a password, and what people put
// there, nobody knows.
func (a *Agent) mask(w *wantedFile) func(string) string {
	const hidden = "<not shown>"
	switch {
	case w.path == a.files.EnvironmentFile():
		return func(line string) string {
			if strings.HasPrefix(strings.TrimSpace(line), "#") && !strings.Contains(line, "=") {
				return line
			}
			if name, _, ok := strings.Cut(line, "="); ok {
				return name + "=" + hidden
			}
			return hidden
		}
	case w.unit:
		return func(line string) string {
			key, value, ok := strings.Cut(line, "=")
			if ok && strings.TrimSpace(key) == "Environment" && value != systemd.ExtraArgs+"=" {
				return key + "=" + hidden
			}
			return line
		}
	}
	return nil
}

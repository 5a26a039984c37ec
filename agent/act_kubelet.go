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

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
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
	a.ready()
	a.memory.admitted = now
	return nil
}

// stillAdmissible looks once more for somebody else's kubelet, before anything of
// ours is put in its place: an approval may have taken days, in which the machine
// was joined by other means.
func (a *Agent) stillAdmissible() error {
	if now := a.deps.Clock.Monotonic(); a.memory.admitted != 0 && now-a.memory.admitted < admittedFor {
		return nil
	}
	return a.foreign(a.memory.unit)
}

func (a *Agent) inspect(ctx context.Context) error {
	existing, unitErr := a.deps.Units.Existing(ctx, a.cfg.Paths.Units)
	if unitErr != nil && fault.ReasonOf(unitErr) == "" {
		return fmt.Errorf("cannot ask systemd about %s: %w", UnitName, unitErr)
	}
	a.noteUnit(existing.Unit)
	a.memory.existing = existing
	if err := a.foreign(existing.Unit); err != nil {
		return err
	}
	var faults []error
	if unitErr != nil && a.manifest.Started.IsZero() {
		faults = append(faults, unitErr)
	}
	if _, err := a.binary(); err != nil {
		faults = append(faults, err)
	}
	if err := a.renderer().operatorConfig(); err != nil {
		faults = append(faults, err)
	}
	if err := a.clientCAFile(); err != nil {
		faults = append(faults, err)
	}
	if err := a.theirConfig(); err != nil {
		faults = append(faults, err)
	}
	if err := a.lostFlags(ctx, existing); err != nil {
		faults = append(faults, err)
	}
	if err := a.overriddenFlags(existing); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// clientCAFile refuses, before anything is asked for, a CA file that the kubelet
// would miss in the end.
func (a *Agent) clientCAFile() error {
	path := a.cfg.Kubelet.ClientCAFile
	if path == "" || path == a.files.CACert() {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return fault.New(fault.ConfigInvalid, "kubelet.clientCAFile: %w", err)
	}
	return nil
}

// foreign looks for somebody else's kubelet, also where its unit says it is.
func (a *Agent) foreign(unit systemd.Unit) error {
	search := kubelet.Search{
		Layout:       a.files.Layout,
		Kubeconfigs:  []string{filepath.Join(a.cfg.Paths.Etc, "kubernetes/kubelet.conf")},
		ManifestDirs: []string{filepath.Join(a.cfg.Paths.Etc, "kubernetes/manifests")},
		Ours:         a.isOurs,
	}
	argv := unit.Argv(a.readFile)
	if path := flagOf(argv, "--kubeconfig"); path != "" {
		search.Kubeconfigs = append(search.Kubeconfigs, path)
	}
	search.CertDirs = append(search.CertDirs, flagOf(argv, "--cert-dir"))
	foreign, err := kubelet.FindForeign(search)
	if err != nil {
		return err
	}
	err = kubelet.ForeignFault(foreign)
	if f, ok := fault.As(err); ok && a.forgotten() {
		return f.WithHint("It was joined by an agent whose records are gone (a purge of the package?). The node goes on as it is. To have it looked after again, join anew: `bootstrap-agent reset`, `bootstrap-agent token set`, `systemctl enable --now bootstrap-agent`. Nothing was changed.")
	}
	return err
}

// forgotten: what lies here is an agent's work, byte for byte, and no record says so.
func (a *Agent) forgotten() bool {
	data, err := readSmall(a.files.Kubeconfig())
	dropIn, derr := readSmall(a.dropIn())
	if err != nil || derr != nil || !systemd.Ours(dropIn) || len(a.manifest.Files) > 0 {
		return false
	}
	k, err := kubelet.ParseKubeconfig(data)
	ours, rerr := a.files.RenderKubeconfig(k.Server)
	return err == nil && rerr == nil && string(ours) == string(data)
}

func (a *Agent) isOurs(path string) bool {
	_, ours := a.manifest.Files[path]
	return ours || a.theirs(path)
}

func readSmall(path string) ([]byte, error) { return atomicfile.Read(path, record.MaxFile) }

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

// start writes the unit, has systemd read it, and starts the kubelet, or
// restarts one that is older than its inputs.
func (a *Agent) start(ctx context.Context, o Observation) error {
	recorded := func() error { return nil }
	if a.manifest.Started.IsZero() || !o.Unit.Installed {
		if err := a.stepped(StepUnit, func() (string, error) { return a.installUnit(ctx) }); err != nil {
			// The files of this join are not on record yet, see writeFiles.
			return errors.Join(err, a.manifest.Write(a.cfg.Paths))
		}
		recorded = a.recordStart()
	} // else: the unit of a node is what it is; how it would look today is reported
	var unit systemd.Unit
	err := a.stepped(StepStart, func() (_ string, err error) {
		if o.Unit.Older {
			unit, err = a.deps.Units.Restart(ctx, UnitName)
			return "restarted", errors.Join(err, a.recordEnded(err))
		}
		unit, err = a.deps.Units.Start(ctx, UnitName)
		return "", err
	})
	if err == nil {
		a.exports.restarted(a.causeOf(o), execStart(unit))
	}
	if rerr := recorded(); rerr != nil {
		return errors.Join(rerr, err)
	}
	if err != nil {
		return a.kubeletFailed(ctx, err)
	}
	if o.Unit.Older {
		a.did(fault.EventKubeletRestarted).Info("kubelet restarted: its inputs changed")
	} else {
		a.did(fault.EventKubeletStarted).Info("kubelet started")
	}
	return nil
}

// recordEnded puts on record that the run which a failed restart has ended was
// ended by the agent: no person stopped it, and it is started again. A restart that
// was cancelled was cancelled by somebody.
func (a *Agent) recordEnded(err error) error {
	var job *systemd.JobError
	if !errors.As(err, &job) || job.Result == "canceled" {
		return nil
	}
	a.manifest.Stopped = a.now()
	return a.manifest.Write(a.cfg.Paths)
}

// causeOf is why a kubelet that has been running is started now; "" where that is
// no restart.
func (a *Agent) causeOf(o Observation) string {
	switch {
	case !o.Unit.Active && a.manifest.Stopped.After(a.deps.Machine.BootID, a.memory.lastUnitStart):
		return causeCertificate
	case o.Unit.Older:
		return causeInputs
	case o.Unit.Failed:
		return causeFailed
	}
	return ""
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
	return a.log.WithField(systemd.ObjectUnit, UnitName)
}

// did is logKubelet for what has a text of its own in the catalog.
func (a *Agent) did(event fault.Event) logrus.FieldLogger {
	return a.logKubelet().WithField(systemd.MessageID, event.MessageID())
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

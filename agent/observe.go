package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

const maxPairFile = 256 << 10

// observe looks at files, certificate and unit. It changes nothing but the
// agent's own memory of what it has seen.
func (a *Agent) observe(ctx context.Context) (Observation, error) {
	now := a.deps.Clock.Now()
	seen, err := a.files.Observe(a.cfg.NodeName)
	if err != nil {
		return Observation{}, unreadable("cannot look at the kubelet's files", err)
	}
	pair := a.pairState(seen.Pair, now)
	o := Observation{
		Copied:      a.copied(),
		Pair:        pair,
		Trust:       pair != PairUsable && a.trustServes(), // else nobody asks, and it costs reading files
		Files:       a.filesState(seen),
		Node:        a.memory.node,
		Leftovers:   a.memory.leftovers,
		ConfigError: a.configErr,

		CARefreshClosed: a.memory.caClosed,
		Skew:            a.memory.skew,
	}
	if o.NewPair, err = a.hasNewPair(pair); err != nil {
		return o, unreadable("cannot look at the new pair", err)
	}
	unit, err := a.lookAtUnit(ctx, nextPhase(o))
	if err != nil {
		return o, err
	}
	o.Unit = a.unitState(unit)
	a.noteEdits(o)
	o.Outdated = a.rendersOtherwise(o)
	o.Repairs = a.repairNotes(o)
	if leaf := seen.Pair.Leaf; leaf != nil && o.Pair == PairUsable {
		o.Renewal.NotAfter = leaf.NotAfter
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		if o.Renewal.Overdue = now.After(leaf.NotBefore.Add(life * 9 / 10)); o.Renewal.Overdue {
			o.Renewal.Request = a.memory.renewal
		} else {
			a.memory.renewal = nil
		}
	}
	o.Reissue = a.reissueState(seen.Pair, o, now)
	if automatic := a.manifest.RenewalAutomatic; automatic != nil {
		o.Renewal.NotAutomatic = !*automatic
	}
	started := execStart(unit)
	if started != a.memory.lastUnitStart {
		a.exports.startSeen(a.memory.lastUnitStart, started)
		// A kubelet that was started anew has yet to show itself in the API.
		if a.memory.lastUnitStart != 0 {
			a.memory.node.Deleted = false // it registers its Node anew
		}
		a.memory.lastUnitStart = started
		a.memory.nextAPICheck = time.Time{}
	}
	o.LeaseRenewed = a.memory.leaseKnown && a.memory.leaseFor == started
	if o.Unit.Active && o.Pair == PairUsable && len(o.Files.Damaged) == 0 {
		o.Healthy = a.health(ctx) == nil
		o.Serving = a.servingState(now)
	}
	a.describe(seen, unit, o)
	return o, nil
}

// pairState gives what lies in the FileStore its meaning.
func (a *Agent) pairState(p kubelet.PairState, now time.Time) Pair {
	if p.Status != kubelet.PairMissing {
		a.memory.vanishedAt = time.Time{}
	}
	switch p.Status {
	case kubelet.PairMissing:
		if _, ours := a.manifest.Files[a.files.CurrentPair()]; !ours {
			return PairMissing // never there: a first join
		}
		if a.manifest.Rewrite && !p.Updating {
			return PairMissing // the agent was about to install it: nobody rotates
		}
		if a.memory.vanishedAt.IsZero() {
			a.memory.vanishedAt = now
		}
		if p.Updating || now.Sub(a.memory.vanishedAt) < a.pace.VanishGrace {
			return PairVanishing
		}
		return PairMissing
	case kubelet.PairWrongName:
		return PairOtherName
	case kubelet.PairExpired:
		return PairExpired
	case kubelet.PairUsable:
		if p.Serial != "" && p.Serial == a.memory.rejected {
			return PairRejected
		}
		return PairUsable
	}
	return PairDamaged
}

// trustServes says whether the trust record may be used to join now.
func (a *Agent) trustServes() bool {
	if a.distrusted || a.trust == nil {
		return false
	}
	token, _, _, err := a.token()
	return err == nil && serves(a.trust, a.cfg, token.ID(), a.fileDigest())
}

// filesState sorts the files into healthy, damaged and edited.
func (a *Agent) filesState(seen kubelet.Observed) Files {
	var f Files
	for path, file := range map[string]kubelet.FileState{
		a.files.CACert(): seen.CA, a.files.ConfigFile(): seen.Config, a.files.Kubeconfig(): seen.Kubeconfig.FileState,
	} {
		if file.Status != kubelet.FilePresent {
			f.Damaged = append(f.Damaged, path)
			continue
		}
		if want, ours := a.manifest.Files[path]; ours && want != "" && want != seen.Hashes[path] {
			f.Drifted = append(f.Drifted, path)
		}
	}
	if path := a.files.EnvironmentFile(); a.isOurs(path) {
		// It need not be there: then it counts as empty.
		if data, err := readSmall(path); a.manifest.Files[path] != "" && (err == nil || errors.Is(err, fs.ErrNotExist)) && record.HashOf(data) != a.manifest.Files[path] {
			f.Drifted = append(f.Drifted, path)
		}
	}
	a.outdatedFiles(&f, seen)
	if a.manifest.Rewrite && !contains(f.Damaged, a.files.Kubeconfig()) {
		f.Damaged = append(f.Damaged, a.files.Kubeconfig())
	}
	sortStrings(f.Damaged, f.Drifted)
	return f
}

// outdatedFiles finds those that are as we wrote them while the trust record has
// changed since: another server, other CAs. A crash may have put on record what
// they were about to hold; then it is what they held before that counts.
func (a *Agent) outdatedFiles(f *Files, seen kubelet.Observed) {
	if a.trust == nil {
		return
	}
	for path := range a.manifest.Replaced {
		if a.manifest.Files[path] == seen.Hashes[path] {
			delete(a.manifest.Replaced, path) // that write went through after all
		}
	}
	old := func(path string, other bool) {
		hash := seen.Hashes[path]
		ours := hash != "" && (a.manifest.Files[path] == hash || a.manifest.Replaced[path] == hash)
		if !other || !ours || contains(f.Damaged, path) {
			return
		}
		f.Damaged = append(f.Damaged, path)
		f.Drifted = without(f.Drifted, path)
	}
	old(a.files.Kubeconfig(), seen.Kubeconfig.OK && seen.Kubeconfig.Server != a.trust.Server)
	old(a.files.CACert(), seen.Hashes[a.files.CACert()] != record.HashOf([]byte(a.trust.CA)))
}

// unitState reduces systemd's properties to what decides (DESIGN of the loop:
// docs/architecture.md, "What the agent may do to a joined node").
func (a *Agent) unitState(u systemd.Unit) Unit {
	startedByUs := !a.manifest.Started.IsZero()
	s := Unit{
		Installed: u.LoadState == "loaded" && contains(u.DropInPaths, a.dropIn()),
		Active:    u.Running(),
		Dead:      u.Job == 0 && (u.ActiveState == "" || u.ActiveState == "inactive" || u.ActiveState == "failed"),
		Starting:  u.Job != 0 || u.ActiveState == "activating" && !strings.HasPrefix(u.SubState, "auto-restart"),
	}
	// A run that ended before the agent first started the kubelet was somebody
	// else's, or the one of a node that was given up since.
	wasActive := u.WasActive() && !a.manifest.Started.After(a.deps.Machine.BootID, activeExit(u))
	// A run that the agent itself ended (to replace its certificate) was not
	// ended by a person.
	stoppedByUs := !s.Active && a.manifest.Stopped.After(a.deps.Machine.BootID, execStart(u))
	// What runs, or is on its way, was not always started by us: the kubelet of
	// kubeadm's package dies and is started again by systemd until somebody
	// configures it. Then it is started once more, and that is put on record.
	s.Started = startedByUs && (s.Active || u.Job != 0 || u.ActiveState == "activating" || u.ActiveState == "reloading" ||
		wasActive && !stoppedByUs)
	givenUp := u.ActiveState == "failed" && (u.Result == "start-limit-hit" || u.Result == "resources" || u.Result == "dependency")
	s.Failed = givenUp
	if startedByUs {
		switch {
		case u.Masked():
			s.HeldBack = heldMasked
		case u.Disabled():
			s.HeldBack = "disabled"
		case stoppedByUs:
		case u.Job == 0 && u.ConditionResult && wasActive && !givenUp && u.ActiveState == "inactive":
			s.HeldBack = "stopped"
		case u.Job == 0 && u.ConditionResult && wasActive && !givenUp && u.ActiveState == "failed":
			s.HeldBack = "stopped (" + u.Result + ")"
		}
	}
	s.Older = s.Active && a.manifest.Inputs.After(a.deps.Machine.BootID, execStart(u))
	for _, path := range []string{filepath.Join(a.cfg.Paths.Units, UnitName), a.dropIn()} {
		want, ours := a.manifest.Files[path]
		if !ours || want == "" {
			continue
		}
		if data, err := atomicfile.Read(path, record.MaxFile); err == nil && record.HashOf(data) != want {
			s.Drifted = append(s.Drifted, path)
		}
	}
	return s
}

func activeExit(u systemd.Unit) time.Duration {
	return time.Duration(u.ActiveExitMonotonic) * time.Microsecond
}

// dropIn is the path of our drop-in for the kubelet's unit.
func (a *Agent) dropIn() string {
	return filepath.Join(a.cfg.Paths.Units, UnitName+".d", systemd.DropInName)
}

func execStart(u systemd.Unit) time.Duration {
	return time.Duration(u.ExecMainStartMonotonic) * time.Microsecond
}

// lookAtUnit asks systemd about the kubelet's unit, unless there is no need to:
// in a first join the files alone decide the phase until the kubelet's start,
// and admissible has looked before. A look of a moment ago, in the same join, is
// as good as another; and while systemd reads its units anew (see prepareUnit)
// it would not answer.
func (a *Agent) lookAtUnit(ctx context.Context, byFiles Phase) (systemd.Unit, error) {
	if a.manifest.Started.IsZero() {
		seen := a.memory.unitAt
		recent := seen != 0 && a.deps.Clock.Monotonic()-seen < admittedFor
		if recent || byFiles == Discovering || byFiles == RequestingCertificate {
			return a.memory.unit, nil
		}
	}
	if byFiles != StartingKubelet && !a.prepared.ended() {
		return a.memory.unit, nil
	}
	if err := a.prepared.await(ctx); err != nil {
		return systemd.Unit{}, err
	}
	unit, err := a.deps.Units.Unit(ctx, UnitName)
	if err != nil {
		return systemd.Unit{}, fmt.Errorf("cannot ask systemd about %s: %w", UnitName, err)
	}
	a.noteUnit(unit)
	return unit, nil
}

// noteUnit remembers how the unit looks now.
func (a *Agent) noteUnit(unit systemd.Unit) {
	a.memory.unit, a.memory.unitAt = unit, a.deps.Clock.Monotonic()
	a.describeUnit(unit)
}

// hasNewPair tells whether a signed pair that can be used waits in our own
// folder. One that cannot (a crash, another name, expired, another cluster than
// the one that is configured now) counts as none: the request is made again and
// replaces it. One that was asked for with a pair that still serves is of the
// cluster that this node belongs to, whatever the config says now. One that the
// disk does not give is an error: it may be good.
func (a *Agent) hasNewPair(current Pair) (bool, error) {
	data, err := atomicfile.Read(a.cfg.Paths.NewPair(), maxPairFile)
	if errors.Is(err, syscall.EIO) {
		return false, err
	}
	own := current == PairUsable || a.memory.reissue.back
	if err != nil || !own && a.trust != nil && !sameGrounds(a.trust, a.cfg, a.fileDigest()) {
		return false, nil //nolint:nilerr // missing, or no file of ours
	}
	return kubelet.JudgePair(data, a.cfg.NodeName, a.deps.Clock.Now()).Status == kubelet.PairUsable, nil
}

// unreadable is the fault of what cannot be seen: nothing is decided, and so
// nothing overwritten, on the strength of it. It has the reason of writing: it is
// the same disk, and the same person who mends it.
func unreadable(what string, err error) error {
	return fault.New(fault.WriteFailed, "%s: %w", what, err)
}

// health asks the kubelet's health endpoint, at the address of the effective
// config. Switched off counts as healthy.
func (a *Agent) health(ctx context.Context) error {
	layers, err := a.layers()
	if err != nil {
		return err
	}
	url, enabled, err := layers.HealthURL()
	if err != nil || !enabled {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return a.deps.Health(ctx, url)
}

// layers reads all that the kubelet puts its configuration together from; its
// unit may add arguments of its own.
func (a *Agent) layers() (kubelet.Layers, error) {
	config, err := atomicfile.Read(a.files.ConfigFile(), record.MaxFile)
	if err != nil {
		return kubelet.Layers{}, fmt.Errorf("cannot read the kubelet config: %w", err)
	}
	l, err := a.renderer().layers(config)
	for _, name := range append(slices.Clone(a.adoptedVariables()), systemd.ExtraArgs) {
		l.Args = slices.Concat(l.Args, a.memory.unit.Words(a.readFile, name))
	}
	return l, err
}

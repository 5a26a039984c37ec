package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// A disk that was copied: an image made of a machine that had joined, or that waited
// for its certificate. The trust record says on which machine it was made; it is
// written before the first key, so every key has it beside it.

// Copied says by what the records show that they were made on another machine; ""
// if they were made on this one.
type Copied string

func (c Copied) clause() string {
	if c == "" {
		return ""
	}
	return "; the records on this disk were made on another machine: " + string(c)
}

func (a *Agent) copied() Copied {
	if a.trust == nil {
		return ""
	}
	return Copied(a.trust.Machine.Differs(a.deps.Machine))
}

// learnMachine takes into the record what was not known of this machine when it was
// made: an image gets its machine ID at its first boot.
func (a *Agent) learnMachine() error {
	if !a.trust.Machine.Behind(a.deps.Machine) {
		return nil
	}
	next := *a.trust
	next.Machine = a.deps.Machine
	if err := next.Write(a.cfg.Paths); err != nil {
		return err
	}
	a.trust = &next
	return nil
}

// discoverAnew discovers the cluster for a machine that has another's records. Only
// a cluster that was found with this machine's own token makes accept set them
// aside: a machine whose mainboard was replaced most often has none any more, and
// its node goes on as it is until a person has said which of both it is.
func (a *Agent) discoverAnew(ctx context.Context, o Observation) error {
	if told, err := record.ReadTrust(a.cfg.Paths); err == nil && told != nil && told.Machine.Differs(a.deps.Machine) == "" {
		a.trust = told // a person has said so: apply --same-machine
		return nil
	}
	err := a.discoverCluster(ctx)
	switch fault.ReasonOf(err) {
	case fault.TokenMissing, fault.TokenUnknown, fault.NoSignatures, fault.SignatureMismatch, fault.TokenRejected:
		return fault.New(fault.MachineChanged, "the records on this disk were made on another machine (%s), and there is no token to join anew with: %w", string(o.Copied), err)
	}
	return err
}

// setAside moves what makes another machine's node out of the way: pairs and
// kubeconfig, the pending key, the new pair, the records. First everything is
// copied, then it is removed, and the trust record last: until then the next run
// sees the other machine and does the rest. The kubelet is stopped before: it owns
// the folder of its pairs while it runs.
func (a *Agent) setAside(ctx context.Context, why Copied) error {
	paths := a.cfg.Paths
	data, err := readSmall(paths.TrustFile())
	if err != nil {
		return fault.New(fault.WriteFailed, "cannot read %s: %w", paths.TrustFile(), err)
	}
	to := filepath.Join(paths.SetAside(), record.HashOf(data)[:12])
	unit, err := a.deps.Units.Unit(ctx, UnitName)
	if err != nil {
		return err
	}
	if unit.Exists() && unit.ActiveState != "inactive" && unit.ActiveState != "failed" {
		if _, err := a.deps.Units.Stop(ctx, UnitName); err != nil {
			return err
		}
		a.did(fault.EventKubeletStopped).Info("kubelet stopped: it ran with the identity of another machine")
	}
	away, err := a.othersFiles()
	if err != nil {
		return err
	}
	for _, dir := range []string{paths.SetAside(), to} {
		if err := atomicfile.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	var copies []atomicfile.File
	for _, path := range away {
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			continue // a link: what it leads to is copied by itself
		}
		data, err := readSmall(path)
		if err != nil {
			return fault.New(fault.WriteFailed, "cannot read %s: %w", path, err)
		}
		copies = append(copies, atomicfile.File{Path: filepath.Join(to, filepath.Base(path)), Data: data, Mode: 0o600})
	}
	if _, err := atomicfile.WriteAll(copies...); err != nil {
		return err
	}
	for _, path := range away {
		if err := atomicfile.Remove(path); err != nil {
			return err
		}
	}
	a.closeNode()
	a.trust, a.manifest = nil, &record.Manifest{Files: map[string]string{}}
	a.files.Config = "" // a copy makes its own
	a.memory = memory{
		unitAt: a.memory.unitAt, unit: a.memory.unit, existing: a.memory.existing, admitted: a.memory.admitted,
		lastUnitStart: a.memory.lastUnitStart, findings: a.memory.findings, lookForDrift: true,
	}
	a.log.WithField("detail", string(why)).WithField("path", to).Warn("the records on this disk were another machine's: set aside, this machine joins anew")
	return nil
}

// othersFiles are the files to set aside, in the order of their removal: without
// the kubeconfig no kubelet starts.
func (a *Agent) othersFiles() ([]string, error) {
	paths := a.cfg.Paths
	files := []string{a.files.Kubeconfig()}
	entries, err := os.ReadDir(a.files.PKI())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.WriteFailed, "cannot look into %s: %w", a.files.PKI(), err)
	}
	for _, e := range entries {
		if kubelet.IsPair(e.Name()) && !e.IsDir() {
			files = append(files, filepath.Join(a.files.PKI(), e.Name()))
		}
	}
	return slices.Concat(files, []string{paths.NewPair(), paths.PendingKey(), paths.ManifestFile(), paths.TrustFile()}), nil
}

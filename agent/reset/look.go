package reset

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// nodeState is what a kubelet keeps of its own machine and node below its folder,
// which must not be in two machines: devices and CPUs given out, pods and their
// volumes, sockets of plugins, its checkpoints.
var nodeState = []string{
	"actuated_pods_state", "allocated_pods_state", "pod_status_manager_state", "cpu_manager_state", "memory_manager_state", "dra_manager_state",
	"checkpoints", "device-plugins", "plugins", "plugins_registry", "pod-resources", "pods",
}

// records are what the agent remembers, as far as it can be read.
type records struct {
	trust    *record.Trust
	manifest *record.Manifest
	damaged  bool // there is a manifest, and it cannot be read
}

func (r *Reset) records() (rec records, err error) {
	if rec.trust, err = record.ReadTrust(r.Paths); err != nil {
		return rec, err
	}
	rec.manifest = &record.Manifest{}
	ok, err := record.ReadJSON(r.Paths.ManifestFile(), rec.manifest)
	if err != nil {
		return rec, err
	}
	if !ok {
		_, lerr := os.Lstat(r.Paths.ManifestFile())
		rec.manifest, rec.damaged = &record.Manifest{}, lerr == nil
	}
	return rec, nil
}

// Look finds out what there is to do. It changes nothing.
func (r *Reset) Look(ctx context.Context) (*Plan, error) {
	rec, err := r.records()
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	if rec.trust != nil {
		p.Node = rec.trust.NodeName
	}
	if rec.damaged {
		p.Unsure = append(p.Unsure, r.Paths.ManifestFile()+" is damaged: only what shows by itself that it is the agent's is removed")
	}
	_, listed := rec.manifest.Files[r.layout().CurrentPair()]
	p.Ours = listed || isUnit(r.dropIn()) || isUnit(r.unitFile())
	r.files(p, rec)
	if err := r.pairs(p, rec); err != nil {
		return p, err
	}
	if err := r.enablement(ctx, p, rec); err != nil {
		return p, err
	}
	if p.Ours {
		if p.Busy, err = r.busy(); err != nil {
			return p, err
		}
	}
	if r.Image {
		for _, name := range nodeState {
			path := filepath.Join(r.Paths.Kubelet, name)
			if _, err := os.Lstat(path); err == nil {
				p.Clear = append(p.Clear, path)
			}
		}
	}
	return p, nil
}

// files sorts the files on record, and those that the agent may have written
// without a record of it, into what goes and what stays. The kubeconfig is first.
func (r *Reset) files(p *Plan, rec records) {
	l := r.layout()
	known := []string{l.Kubeconfig(), l.ConfigFile(), l.CACert(), l.EnvironmentFile(), r.dropIn(), r.unitFile()}
	others := slices.Sorted(maps.Keys(rec.manifest.Files))
	for _, path := range slices.Concat(known, others) {
		hash, listed := rec.manifest.Files[path]
		if slices.Contains(p.Remove, path) || filepath.Dir(path) == l.PKI() && kubelet.IsPair(filepath.Base(path)) {
			continue // seen already; see pairs
		}
		left := func(why string) { p.Left = append(p.Left, Left{path, why}) }
		if slices.ContainsFunc(p.Left, func(l Left) bool { return l.Path == path }) {
			continue
		}
		data, err := atomicfile.Read(path, record.MaxFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case listed && !r.within(path):
			left("it is on record, but the agent writes nothing there")
		case err != nil && (listed || rec.damaged):
			left("it cannot be read as a regular file")
		case err != nil:
		case hash != "" && record.HashOf(data) == hash, hash == "" && r.proven(path, data, rec):
			p.Remove = append(p.Remove, path)
		case hash != "":
			left("it was changed since the agent wrote it")
		case listed || rec.damaged:
			left("nothing shows that the agent wrote it")
		}
	}
}

// within says whether the agent writes files in that folder at all.
func (r *Reset) within(path string) bool {
	return slices.Contains([]string{r.Paths.Kubelet, r.layout().PKI(), r.Paths.Units, filepath.Dir(r.dropIn())}, filepath.Dir(path))
}

// proven says whether a file shows by itself that the agent wrote it, where no
// hash does.
func (r *Reset) proven(path string, data []byte, rec records) bool {
	l := r.layout()
	switch path {
	case r.unitFile(), r.dropIn():
		return systemd.Ours(data)
	case l.ConfigFile():
		return kubelet.IsRendered(data)
	case l.EnvironmentFile():
		return true // nobody else's file has that name
	case l.CACert():
		return rec.trust != nil && rec.trust.CA == string(data)
	case l.Kubeconfig():
		return isOurKubeconfig(l, data)
	}
	return false
}

// isOurKubeconfig: these are the bytes that the agent writes for that server.
func isOurKubeconfig(l kubelet.Layout, data []byte) bool {
	k, err := kubelet.ParseKubeconfig(data)
	if err != nil {
		return false
	}
	ours, err := l.RenderKubeconfig(k.Server)
	return err == nil && string(ours) == string(data)
}

func isUnit(path string) bool {
	data, err := atomicfile.Read(path, record.MaxFile)
	return err == nil && systemd.Ours(data)
}

// pairs lists the identities in the certificate folder: the kubelet renews them
// under names of its own, so no record has them all. They are this node's where
// the kubelet runs on our files; anywhere else they are somebody else's.
func (r *Reset) pairs(p *Plan, rec records) error {
	dir := r.layout().PKI()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.WriteFailed, "cannot look into %s: %w", dir, err)
	}
	var links, pairs []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !kubelet.IsPair(e.Name()) || e.IsDir() {
			continue
		}
		if !p.Ours {
			p.Left = append(p.Left, Left{path, "the kubelet of this machine does not run on the agent's files"})
			continue
		}
		if hash := rec.manifest.Files[path]; hash != "" && strings.HasPrefix(e.Name(), "kubelet.") {
			if data, err := atomicfile.Read(path, record.MaxFile); err == nil && record.HashOf(data) != hash {
				p.Left = append(p.Left, Left{path, "it was changed since the agent wrote it"})
				continue
			}
		}
		if e.Type()&fs.ModeSymlink != 0 {
			links = append(links, path)
		} else {
			pairs = append(pairs, path)
		}
	}
	// Behind the kubeconfig, before everything else: keys first.
	at := min(1, len(p.Remove))
	if at == 1 && p.Remove[0] != r.layout().Kubeconfig() {
		at = 0
	}
	p.Remove = slices.Insert(p.Remove, at, slices.Concat(links, pairs)...)
	return nil
}

// enablement decides whether the kubelet goes on to start at boot.
func (r *Reset) enablement(ctx context.Context, p *Plan, rec records) error {
	if !p.Ours {
		return nil
	}
	unit, err := r.Units.Unit(ctx, systemd.KubeletUnit)
	if err != nil {
		return err
	}
	theirs := unit.FragmentPath != "" && (unit.FragmentPath != r.unitFile() || !isUnit(r.unitFile()))
	if !theirs {
		return nil
	}
	before := ""
	if rec.trust != nil {
		before = rec.trust.UnitBefore
	}
	switch before {
	case "enabled":
		p.KubeletStays = true
	case "":
		p.KubeletStays = true
		p.Unsure = append(p.Unsure, "whether "+systemd.KubeletUnit+" was enabled before is not on record: it stays as it is")
	}
	return nil
}

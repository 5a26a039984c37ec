package record

import (
	"io/fs"
	"path/filepath"
	"time"
)

// Adopted is what stays somebody else's on a machine that `adopt` took over, and is
// used all the same.
type Adopted struct {
	// Config is the kubelet's --config: theirs before, theirs after. kubeadm writes
	// it at each upgrade.
	Config string `json:"config"`
	// Theirs are files with a client credential that are known, and stay.
	Theirs []string `json:"theirs,omitempty"`
	// Variables of their unit that stay in the command line: kubeadm writes the
	// value of one at each upgrade.
	Variables []string `json:"variables,omitempty"`
}

// Adoption is what the machine was before it was taken over: what `reset --restore`
// goes back to. It is written before anything is changed, once.
type Adoption struct {
	// Files that are replaced or new: what was there.
	Files map[string]Before `json:"files"`
	// Pairs are the names in the certificate folder.
	Pairs []string `json:"pairs,omitempty"`
	// PairInPlace: the kubelet's own folder held the pair already; else the kubelet
	// used one from elsewhere, which ends at NotAfter.
	PairInPlace bool      `json:"pairInPlace"`
	NotAfter    time.Time `json:"notAfter"`
	// ExecStart of the unit, variables as they are written.
	ExecStart []string `json:"execStart"`
	// UnitState and AgentState are the states of the unit files of kubelet and agent.
	UnitState  string `json:"unitState"`
	AgentState string `json:"agentState"`
	// ConfigFile is the agent's config file that was written, and its hash.
	ConfigFile string `json:"configFile"`
	ConfigHash string `json:"configHash"`
}

// Before is a file as it was; the copy lies beside the record under the name Copy.
type Before struct {
	Copy string      `json:"copy,omitempty"` // "": there was no file
	Mode fs.FileMode `json:"mode,omitempty"`
	Hash string      `json:"hash,omitempty"`
}

// BeforeAdopt is the folder with the record and the copies of an adoption.
func (p Paths) BeforeAdopt() string { return filepath.Join(p.State, "before-adopt") }

func (p Paths) adoptionFile() string { return filepath.Join(p.BeforeAdopt(), "record.json") }

// ReadAdoption returns nil without an error where nothing was adopted, or where
// that cannot be read any more.
func ReadAdoption(paths Paths) (*Adoption, error) {
	var a Adoption
	ok, err := ReadJSON(paths.adoptionFile(), &a)
	if err != nil || !ok || a.Files == nil {
		return nil, err
	}
	return &a, nil
}

// Write makes the record durable.
func (a *Adoption) Write(paths Paths) error { return WriteJSON(paths.adoptionFile(), a) }

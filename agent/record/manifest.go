package record

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Manifest is the record of what the agent wrote and did to this machine. It
// decides three questions: is a file ours (foreign identities), was it edited
// since (Drifted), and is the running kubelet older than its inputs.
type Manifest struct {
	// Files: path -> hex SHA-256 of the bytes that the agent wrote.
	Files map[string]string `json:"files"`
	// Generation is that of the trust record on whose strength CA and kubeconfig were
	// written last.
	Generation int `json:"generation,omitempty"`
	// Inputs is when the agent last wrote pair, CA or server.
	Inputs Moment `json:"inputs"`
	// Started is when the agent last started the kubelet; zero: never. From
	// then on a kubelet that is stopped was stopped by a person.
	Started Moment `json:"started"`
	// Stopped is when the agent last stopped the kubelet, to replace its pair.
	Stopped Moment `json:"stopped"`
	// Rewrite: a new pair was installed, so kubeconfig, CA and kubelet config are
	// written anew from the trust record, whatever stands there.
	Rewrite bool `json:"rewrite,omitempty"`
	// Before is the file of the pair that the installed one has replaced, until that
	// has proven itself: should the API refuse it, there is a way back.
	Before string `json:"before,omitempty"`
	// Replaced: path -> hash of what it held before the write that is under way, so
	// that after a crash a file that still holds it is outdated, not edited.
	Replaced map[string]string `json:"replaced,omitempty"`
	// ReloadOwed: the unit was new to systemd and was started without a
	// daemon-reload, which is made up for once nobody waits for it.
	ReloadOwed bool `json:"reloadOwed,omitempty"`
	// Repairs: path -> when the agent has put back, by itself, what somebody had
	// changed there.
	Repairs map[string]Repair `json:"repairs,omitempty"`
	// Adopted: the machine was taken over; what of it stays somebody else's.
	Adopted *Adopted `json:"adopted,omitempty"`
	// RenewalAutomatic is the answer of the access review after the join.
	RenewalAutomatic *bool `json:"renewalAutomatic,omitempty"`
}

// Repair is what `repair: true` did last to a file.
type Repair struct {
	At time.Time `json:"at"`
	// Contested: it was changed again soon after that, so it is left to whoever
	// does that.
	Contested bool `json:"contested,omitempty"`
}

// Moment is a point in one boot: comparable to systemd's monotonic time stamps
// as long as the boot is the same.
type Moment struct {
	BootID    string        `json:"bootID,omitempty"`
	Monotonic time.Duration `json:"monotonicNanoseconds,omitempty"`
}

// IsZero says whether it was never set.
func (m Moment) IsZero() bool { return m == Moment{} }

// After says whether m lies after a monotonic time stamp of the given boot.
// Another boot answers false: whatever runs now was started after m.
func (m Moment) After(bootID string, stamp time.Duration) bool {
	return m.BootID == bootID && m.BootID != "" && m.Monotonic > stamp
}

// ReadManifest returns an empty manifest when there is none or it is damaged.
func ReadManifest(paths Paths) (*Manifest, error) {
	m := &Manifest{}
	ok, err := ReadJSON(paths.ManifestFile(), m)
	if err != nil {
		return nil, err
	}
	if !ok {
		m = &Manifest{}
	}
	if m.Files == nil {
		m.Files = map[string]string{}
	}
	return m, nil
}

// Write makes the record durable.
func (m *Manifest) Write(paths Paths) error {
	return WriteJSON(paths.ManifestFile(), m)
}

// Expect notes that a path is about to be written by us, with the hash of what
// it will hold ("": not known yet). It returns whether the path is new here.
func (m *Manifest) Expect(path, hash string) (added bool) {
	_, known := m.Files[path]
	if hash != "" || !known {
		m.Files[path] = hash
	}
	return !known
}

// Wrote records a file's bytes.
func (m *Manifest) Wrote(path string, data []byte) {
	m.Files[path] = HashOf(data)
}

// HashOf is the hex SHA-256 under which the manifest knows bytes.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

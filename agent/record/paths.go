package record

import "path/filepath"

// Paths are the folders the agent works in. Tests and the rehearsal use scratch
// folders; everything else uses DefaultPaths.
type Paths struct {
	State   string // private state: lock, pending key, new pair, trust.json, manifest.json (0700)
	Run     string // status.json, metrics.prom
	Kubelet string // /var/lib/kubelet
	Units   string // /etc/systemd/system
	Etc     string // /etc: foreign identities are looked for under etc/kubernetes
}

// DefaultPaths returns the folders of an installed agent.
func DefaultPaths() Paths {
	return Paths{
		State:   "/var/lib/bootstrap-agent",
		Run:     "/run/bootstrap-agent",
		Kubelet: "/var/lib/kubelet",
		Units:   "/etc/systemd/system",
		Etc:     "/etc",
	}
}

// StatusFile is where the daemon publishes its Status.
func (p Paths) StatusFile() string { return filepath.Join(p.Run, "status.json") }

// MetricsFile holds the daemon's metrics, for the textfile collector of
// Prometheus' node_exporter.
func (p Paths) MetricsFile() string { return filepath.Join(p.Run, "metrics.prom") }

// LockFile is locked (flock) by the one agent at work.
func (p Paths) LockFile() string { return filepath.Join(p.State, "lock") }

// PendingKey is the key of a certificate request that is under way.
func (p Paths) PendingKey() string { return filepath.Join(p.State, "kubelet-client.key") }

// NewPair is a signed pair that has not passed the name check yet.
func (p Paths) NewPair() string { return filepath.Join(p.State, "kubelet-client-new.pem") }

// TrustFile is the trust record (see Trust).
func (p Paths) TrustFile() string { return filepath.Join(p.State, "trust.json") }

// BinaryFile records what version the kubelet's binary has (see LearnKubelet).
func (p Paths) BinaryFile() string { return filepath.Join(p.State, "kubelet-binary.json") }

// ManifestFile records what the agent wrote (see manifest).
func (p Paths) ManifestFile() string { return filepath.Join(p.State, "manifest.json") }

// OrderFile is what `apply` asks the agent that is at work to do.
func (p Paths) OrderFile() string { return filepath.Join(p.State, "apply.json") }

// AnswerFile is the agent's answer to it.
func (p Paths) AnswerFile() string { return filepath.Join(p.State, "apply-answer.json") }

// Replaced is the folder with what files were before `apply` or `repair` wrote
// them: one generation.
func (p Paths) Replaced() string { return filepath.Join(p.State, "replaced") }

// KeptConfig is a copy of the kubelet's configuration as the agent wrote it, for
// `repair`.
func (p Paths) KeptConfig() string { return filepath.Join(p.State, "kubelet-config.yaml") }

// SetAside is the folder for what another machine has left on this disk, copied
// there before it was removed; each machine has a folder of its own in it.
func (p Paths) SetAside() string { return filepath.Join(p.State, "set-aside") }

package agent

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// AfterJoin says how much the agent does once the machine is a node.
type AfterJoin string

// The values of the key afterJoin.
const (
	// AfterJoinHeal watches the node and heals what it safely can (the default).
	AfterJoinHeal AfterJoin = "heal"
	// AfterJoinObserve watches and reports, and changes nothing.
	AfterJoinObserve AfterJoin = "observe"
	// AfterJoinExit ends the process with code 0 once the node is joined.
	AfterJoinExit AfterJoin = "exit"
)

// Config is what the agent needs to know, typed and already judged: package cmd
// makes it from flags, environment and file. Values are final (NodeName is the
// name, not "empty means host name").
type Config struct {
	Endpoints                []discovery.Endpoint
	Discovery                *DiscoveryFile // names the cluster instead of Endpoints; nil: they do
	Tokens                   []TokenSource  // asked in this order; the next one when one is refused
	Pins                     discovery.Pins
	UnsafeSkipCAVerification bool
	Server                   string                           // overrides the server of cluster-info; empty: cluster-info decides
	Proxy                    func(*url.URL) (*url.URL, error) // nil: no proxy
	ProxyEnvironment         []kubelet.Variable               // for the kubelet's environment file; may hold a password
	NodeName                 string                           // RFC 1123, lower case
	NodeIP                   string                           // empty: the kubelet decides
	NodeLabels               []kubelet.Label                  //
	NodeTaints               []kubelet.Taint                  //
	NodeNameTakeover         bool                             // take the name even from a live machine
	AfterJoin                AfterJoin                        //
	RestartSplay             time.Duration                    // over which restarts are spread that a fleet would do at once
	ClusterDNS               []string                         // only for the built-in kubelet config
	ClusterDomain            string                           // only for the built-in kubelet config
	MetricsAddress           netip.AddrPort                   // where GET /metrics is answered; the zero value: nowhere
	Kubelet                  KubeletConfig                    //
	Paths                    Paths                            //
}

// KubeletConfig is the part of Config under the key `kubelet`.
type KubeletConfig struct {
	Binary             string   // absolute path; empty: looked for
	ConfigFile         string   // operator's KubeletConfiguration; empty: the cluster's, else built-in
	ConfigDir          string   // the kubelet's own --config-dir, passed on when it exists
	RuntimeEndpoint    string   // unix:///...; empty: looked for
	ServingCertificate string   // "", "self-signed" or "cluster"
	ClientCAFile       string   // empty: ca.crt
	ExtraArgs          []string // words for the kubelet's command line
	DropFlags          bool     // flags of an existing unit may be lost
}

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

package agent

import (
	"net/netip"
	"net/url"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
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

// CARotation says what becomes of other CAs that the cluster shows a joined node,
// over a connection that its trust record verifies.
type CARotation string

// The values of the key caRotation. The zero value is CARotationFollow.
const (
	// CARotationFollow takes them: pins decide the first contact only.
	CARotationFollow CARotation = "follow"
	// CARotationPinned takes them once the pin of each new one is configured.
	CARotationPinned CARotation = "pinned"
)

// Config is what the agent needs to know, typed and already judged: package cmd
// makes it from flags, environment and file. Values are final (NodeName is the
// name, not "empty means host name").
type Config struct {
	Endpoints                []discovery.Endpoint
	Discovery                *DiscoveryFile // names the cluster instead of Endpoints; nil: they do
	Tokens                   []TokenSource  // asked in this order; the next one when one is refused
	RemoveToken              string         // token file that is removed once the machine has joined with it; empty: none
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
	CARotation               CARotation                       // what becomes of CAs that are new in cluster-info
	Repair                   bool                             // bring drifted files back without being asked
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

// Paths are the folders the agent works in.
type Paths = record.Paths

// DefaultPaths returns the folders of an installed agent.
func DefaultPaths() Paths { return record.DefaultPaths() }

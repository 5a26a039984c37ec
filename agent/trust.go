package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const maxStateFile = 4 << 20

// Trust is the trust record: which cluster was accepted, on what grounds, and
// who this machine was then. It holds no secret (of the token only its id).
type Trust struct {
	// The grounds. A record made on other grounds is not used for a join.
	Endpoints  []string `json:"endpoints"`
	Pins       []string `json:"pins,omitempty"`
	UnsafeSkip bool     `json:"unsafeSkipCAVerification,omitempty"`
	TokenID    string   `json:"tokenID"`
	// DiscoveryFile is the digest of what the discovery file says of server and
	// CA; no endpoint and no token is a ground beside it.
	DiscoveryFile string `json:"discoveryFile,omitempty"`

	// What was accepted.
	Server      string   `json:"server"`
	InfoServer  string   `json:"infoServer"`
	Provisional bool     `json:"provisional,omitempty"`
	Endpoint    string   `json:"endpoint"`
	CA          string   `json:"ca"` // PEM
	CAPins      []string `json:"caPins"`
	DroppedPins []string `json:"droppedPins,omitempty"` // of the CAs that stood beside them and were not pinned
	// ClientCAs are the names of the CAs whose clients the API server takes, where
	// none of the accepted ones is among them; quoted already.
	ClientCAs []string `json:"clientCAs,omitempty"`

	// Who we are.
	NodeName string  `json:"nodeName"`
	Machine  Machine `json:"machine"`
	NodeUID  string  `json:"nodeUID,omitempty"` // once seen
}

// newTrust records what discovery accepted.
func newTrust(cfg Config, cluster *discovery.Cluster, machine Machine) *Trust {
	t := &Trust{
		UnsafeSkip: cfg.UnsafeSkipCAVerification, TokenID: cluster.TokenID, DiscoveryFile: cluster.FileDigest,
		Server: cluster.Server, InfoServer: cluster.InfoServer, Provisional: cluster.Provisional,
		Endpoint: cluster.Endpoint, CA: string(cluster.CA), CAPins: cluster.Pins, DroppedPins: cluster.DroppedPins, ClientCAs: cluster.OtherClientCAs,
		NodeName: cfg.NodeName, Machine: machine,
	}
	t.Endpoints, t.Pins = grounds(cfg)
	return t
}

func grounds(cfg Config) (endpoints, pins []string) {
	for _, e := range cfg.Endpoints {
		endpoints = append(endpoints, e.String())
	}
	slices.Sort(endpoints)
	pins = cfg.Pins.List()
	slices.Sort(pins)
	return endpoints, pins
}

// serves says whether the record may be used to join with this config and this
// token: made under the same endpoints, pins, server and token id, or with the
// same content of the discovery file (file is its digest).
func (t *Trust) serves(cfg Config, tokenID, file string) bool {
	return t != nil && (file != "" || t.TokenID == tokenID) && t.sameGrounds(cfg, file)
}

// sameGrounds is serves without the token.
func (t *Trust) sameGrounds(cfg Config, file string) bool {
	if t.DiscoveryFile != file {
		return false
	}
	if t.NodeName != cfg.NodeName || t.UnsafeSkip != cfg.UnsafeSkipCAVerification {
		return false
	}
	if cfg.Server != "" && cfg.Server != t.Server {
		return false
	}
	endpoints, pins := grounds(cfg)
	return slices.Equal(endpoints, t.Endpoints) && slices.Equal(pins, t.Pins)
}

// readTrust returns nil without an error when there is no record, or when it
// is damaged: it can always be made anew, so it never stops a join.
func readTrust(paths Paths) (*Trust, error) {
	var t Trust
	ok, err := readJSON(paths.TrustFile(), &t)
	if err != nil || !ok || t.CA == "" || t.Server == "" {
		return nil, err
	}
	return &t, nil
}

// restoreTrust rebuilds a lost record from the files that were written on its
// strength, if they are still the agent's own bytes. Its grounds are not known
// any more, so it never serves a join; it serves to look at the node.
func (a *Agent) restoreTrust() error {
	seen, err := a.files.Observe(a.cfg.NodeName)
	if err != nil {
		return err
	}
	for _, path := range []string{a.files.CACert(), a.files.Kubeconfig()} {
		if want := a.manifest.Files[path]; want == "" || want != seen.Hashes[path] {
			return nil
		}
	}
	pins, err := discovery.BundlePins(seen.CA.Data)
	if err != nil {
		return nil //nolint:nilerr // without a CA there is nothing to restore
	}
	a.trust = &Trust{
		Server: seen.Kubeconfig.Server, InfoServer: seen.Kubeconfig.Server, CA: string(seen.CA.Data), CAPins: pins,
		NodeName: a.cfg.NodeName, Machine: a.deps.Machine,
	}
	return a.trust.write(a.cfg.Paths)
}

func (t *Trust) write(paths Paths) error {
	return writeJSON(paths.TrustFile(), t)
}

// readJSON returns false for a file that is missing or no JSON of this kind.
func readJSON(path string, into any) (bool, error) {
	data, err := atomicfile.Read(path, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.New(fault.WriteFailed, "cannot read %s: %w", path, err)
	}
	return json.Unmarshal(data, into) == nil, nil
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	_, err = atomicfile.Write(path, append(data, '\n'), 0o600)
	return err
}

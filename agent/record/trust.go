package record

import (
	"encoding/pem"
	"time"
)

// UnitNone, as Trust.UnitBefore: there was no unit.
const UnitNone = "none"

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
	Server      string `json:"server"`
	InfoServer  string `json:"infoServer"`
	Provisional bool   `json:"provisional,omitempty"`
	// ServerByConfig: Server is the key server's, whatever cluster-info names.
	ServerByConfig bool     `json:"serverByConfig,omitempty"`
	Endpoint       string   `json:"endpoint"`
	CA             string   `json:"ca"` // PEM
	CAPins         []string `json:"caPins"`
	DroppedPins    []string `json:"droppedPins,omitempty"` // of the CAs that stood beside them and were not pinned
	// ClientCAs are the names of the CAs whose clients the API server takes, where
	// none of the accepted ones is among them; quoted already.
	ClientCAs []string `json:"clientCAs,omitempty"`
	// FormerCA holds the CAs that this record held once and has dropped since
	// (PEM). Nothing is trusted on their strength: a node's certificate that only
	// one of them vouches for is replaced while it is still accepted.
	FormerCA string `json:"formerCA,omitempty"`
	// When the node last took other CAs, and when it last moved to another server.
	CATaken     time.Time `json:"caTaken,omitzero"`
	ServerMoved time.Time `json:"serverMoved,omitzero"`

	// Generation is raised with each other server or bundle. The manifest keeps that
	// of its files: a record of before them is told from a change that is still to
	// be written (0: made by a version that did not count).
	Generation int `json:"generation,omitempty"`

	// Who we are.
	NodeName string  `json:"nodeName"`
	Machine  Machine `json:"machine"`
	NodeUID  string  `json:"nodeUID,omitempty"` // once seen

	// UnitBefore is the state of the kubelet's unit file before the agent touched it,
	// in systemd's words (enabled, disabled, static, ...; "none" where there was no
	// unit): what `reset` goes back to. It stands here because this is the first
	// record of a join.
	UnitBefore string `json:"unitBefore,omitempty"`
}

// ReadTrust returns nil without an error when there is no record, or when it
// is damaged: it can always be made anew, so it never stops a join.
func ReadTrust(paths Paths) (*Trust, error) {
	var t Trust
	ok, err := ReadJSON(paths.TrustFile(), &t)
	if err != nil || !ok || t.CA == "" || t.Server == "" {
		return nil, err
	}
	return &t, nil
}

// mostFormer bounds FormerCA: who rotates more often has had the time to replace
// every certificate.
const mostFormer = 8

// TakeCA replaces the accepted bundle by another one (PEM, with its pins) and
// remembers what that drops. The caller has decided that it is to be trusted, and
// writes the record.
func (t *Trust) TakeCA(bundle string, pins []string) {
	held := map[string]bool{}
	for _, block := range certificates(bundle) {
		held[string(block.Bytes)] = true
	}
	var former []byte
	kept := 0
	for _, block := range append(certificates(t.CA), certificates(t.FormerCA)...) {
		if held[string(block.Bytes)] || kept == mostFormer {
			continue
		}
		held[string(block.Bytes)] = true // once is enough
		former = append(former, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		kept++
	}
	t.CA, t.CAPins, t.FormerCA = bundle, pins, string(former)
}

// certificates are the certificate blocks of a PEM text.
func certificates(text string) (out []*pem.Block) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		if block.Type == "CERTIFICATE" {
			out = append(out, block)
		}
	}
}

// Write makes the record durable.
func (t *Trust) Write(paths Paths) error {
	return WriteJSON(paths.TrustFile(), t)
}

package record

// Machine is what tells this machine and this boot from others.
type Machine struct {
	BootID    string `json:"bootID,omitempty"`    // new at every boot
	MachineID string `json:"machineID,omitempty"` // /etc/machine-id
	UUID      string `json:"uuid,omitempty"`      // DMI product UUID; empty where there is none
}

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

// Write makes the record durable.
func (t *Trust) Write(paths Paths) error {
	return WriteJSON(paths.TrustFile(), t)
}

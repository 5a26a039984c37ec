package agent

import (
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
)

// newTrust records what discovery accepted.
func newTrust(cfg Config, cluster *discovery.Cluster, machine Machine) *record.Trust {
	t := &record.Trust{
		UnsafeSkip: cfg.UnsafeSkipCAVerification, TokenID: cluster.TokenID, DiscoveryFile: cluster.FileDigest,
		Server: cluster.Server, InfoServer: cluster.InfoServer, Provisional: cluster.Provisional,
		Endpoint: cluster.Endpoint, CA: string(cluster.CA), CAPins: cluster.Pins, DroppedPins: cluster.DroppedPins, ClientCAs: cluster.OtherClientCAs,
		NodeName: cfg.NodeName, Machine: machine, ServerByConfig: cfg.Server != "",
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
func serves(t *record.Trust, cfg Config, tokenID, file string) bool {
	return t != nil && (file != "" || t.TokenID == tokenID) && sameGrounds(t, cfg, file)
}

// sameGrounds is serves without the token.
func sameGrounds(t *record.Trust, cfg Config, file string) bool {
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

// nextGeneration is that of a record with another server or bundle than before.
func (a *Agent) nextGeneration() int {
	last := a.manifest.Generation
	if a.trust != nil {
		last = max(last, a.trust.Generation)
	}
	return last + 1
}

// restoreTrust rebuilds a lost record from the files that were written on its
// strength. Its grounds are not known any more, so it never serves a join; it
// serves to look at the node.
func (a *Agent) restoreTrust() error {
	server, bundle, pins, err := a.written()
	if err != nil || server == "" {
		return err
	}
	a.trust = &record.Trust{
		Server: server, CA: bundle, CAPins: pins, Generation: a.manifest.Generation,
		NodeName: a.cfg.NodeName, Machine: a.deps.Machine,
	}
	return a.trust.Write(a.cfg.Paths)
}

// renewTrust brings a record up to date that is older than the files that were
// written on its strength: the folder was restored from a copy, say. Taken at its
// word it would put CAs back that the cluster has left, and cut a running kubelet
// off. Where the files are not the agent's own bytes any more, it counts as lost.
func (a *Agent) renewTrust() error {
	server, bundle, pins, err := a.written()
	if err != nil {
		return err
	}
	a.log.WithField("path", a.cfg.Paths.TrustFile()).Warn("the trust record is older than the kubelet's files")
	if server == "" {
		a.trust = nil
		return nil
	}
	if server != a.trust.Server {
		a.trust.Server, a.trust.InfoServer, a.trust.Provisional = server, "", false
		a.trust.ServerByConfig = server == a.cfg.Server
	}
	a.trust.TakeCA(bundle, pins)
	a.trust.Generation = a.manifest.Generation
	return a.trust.Write(a.cfg.Paths)
}

// written returns the server and the CAs that the kubelet's files hold, if they
// are still the agent's own bytes; else no server.
func (a *Agent) written() (server, bundle string, pins []string, err error) {
	seen, err := a.files.Observe(a.cfg.NodeName)
	if err != nil {
		return "", "", nil, err
	}
	for _, path := range []string{a.files.CACert(), a.files.Kubeconfig()} {
		if want := a.manifest.Files[path]; want == "" || want != seen.Hashes[path] {
			return "", "", nil, nil
		}
	}
	if pins, err = discovery.BundlePins(seen.CA.Data); err != nil {
		return "", "", nil, nil //nolint:nilerr // without a CA there is nothing to restore
	}
	return seen.Kubeconfig.Server, string(seen.CA.Data), pins, nil
}

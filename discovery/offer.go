package discovery

// Offer is what the cluster shows in cluster-info now.
type Offer struct {
	Server string   // URL
	Pins   []string // SPKI pins of the CAs, in a stable order
}

// Offered reads the kubeconfig of a cluster-info that was read over a connection
// which is verified already: what the cluster offers now, to be compared with
// what was accepted before. It trusts nothing and judges no signature.
func Offered(kubeconfig string) (Offer, error) {
	entry, err := parseKubeconfig(kubeconfig)
	if err != nil {
		return Offer{}, err
	}
	pins, err := BundlePins(entry.ca)
	if err != nil {
		return Offer{}, err
	}
	return Offer{Server: entry.server.URL(), Pins: pins}, nil
}

// BundlePins returns the SPKI pins of a CA bundle (PEM), in a stable order.
func BundlePins(pem []byte) ([]string, error) {
	bundle, err := parseBundle(pem, Limits{}.orDefaults().Certificates)
	if err != nil {
		return nil, err
	}
	pins := make([]string, 0, len(bundle))
	for _, ca := range bundle {
		pins = append(pins, SPKIPin(ca))
	}
	return pins, nil
}

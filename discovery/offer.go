package discovery

import (
	"crypto/x509"
	"slices"
)

// Offer is what the cluster shows in cluster-info now.
type Offer struct {
	Server string // URL
	Bundle Bundle // the CAs
}

// Offered reads the kubeconfig of a cluster-info that was read over a connection
// which is verified already: what the cluster offers now, to be compared with
// what was accepted before. It trusts nothing and judges no signature.
func Offered(kubeconfig string) (Offer, error) {
	entry, err := parseKubeconfig(kubeconfig)
	if err != nil {
		return Offer{}, err
	}
	bundle, err := ParseBundle(entry.ca)
	if err != nil {
		return Offer{}, err
	}
	return Offer{Server: entry.server.URL(), Bundle: bundle}, nil
}

// BundlePins returns the SPKI pins of a CA bundle (PEM), in a stable order.
func BundlePins(pem []byte) ([]string, error) {
	bundle, err := ParseBundle(pem)
	if err != nil {
		return nil, err
	}
	return bundle.Pins(), nil
}

// Bundle is a set of CA certificates, each once, in an order that depends on
// nothing but the certificates. The zero value holds none.
type Bundle struct{ certs []*x509.Certificate }

// ParseBundle reads a CA bundle (PEM) by the rules of cluster-info's: at least
// one certificate and at most a hundred, each of them really a CA.
func ParseBundle(pem []byte) (Bundle, error) {
	certs, err := parseBundle(pem, Limits{}.orDefaults().Certificates)
	return Bundle{certs}, err
}

// PEM returns the certificates without headers, as a [Cluster] has them.
func (b Bundle) PEM() []byte { return encodeBundle(b.certs) }

// Len returns how many certificates there are.
func (b Bundle) Len() int { return len(b.certs) }

// Pins returns the SPKI pins of the certificates, each once, in a stable order.
func (b Bundle) Pins() []string {
	var pins []string
	for _, ca := range b.certs {
		pins = append(pins, SPKIPin(ca))
	}
	return slices.Compact(pins) // sorted by pin, as parseBundle leaves them
}

// Minus returns what b holds and other does not. Two certificates of one key are
// two: a CA that was issued anew has another end.
func (b Bundle) Minus(other Bundle) Bundle {
	return b.filter(func(ca *x509.Certificate) bool { return !slices.ContainsFunc(other.certs, ca.Equal) })
}

// Without returns b without the CAs of these pins.
func (b Bundle) Without(pins []string) Bundle {
	return b.filter(func(ca *x509.Certificate) bool { return !slices.Contains(pins, SPKIPin(ca)) })
}

func (b Bundle) filter(keep func(*x509.Certificate) bool) (out Bundle) {
	for _, ca := range b.certs {
		if keep(ca) {
			out.certs = append(out.certs, ca)
		}
	}
	return out
}

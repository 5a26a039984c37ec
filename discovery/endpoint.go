package discovery

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	defaultEndpointPort = "6443" // where an API server listens if nobody says otherwise
	defaultServerPort   = "443"  // what a kubeconfig's https URL without a port means
)

// Endpoint is host and port of an API server, normalised. The zero value is no
// endpoint.
type Endpoint struct{ host, port string }

// ParseEndpoint reads "10.0.0.1:6443", "api.example.org", "[fd00::1]:6443" or
// the same with https:// before it. What it cannot normalise without guessing,
// it refuses.
func ParseEndpoint(s string) (Endpoint, error) {
	e, err := parseEndpoint(s)
	if err != nil {
		return Endpoint{}, fault.New(fault.ConfigInvalid, "endpoint %s %w", showAddress(s), err).
			WithHint("Write host and port, as in 10.0.0.1:6443, api.example.org:6443 or [fd00::1]:6443.")
	}
	return e, nil
}

// ParseServer reads a URL of an API server, as in the key server: https, host
// and an optional port, which stays away where it was not given (443 is meant).
// It returns the normalised URL.
func ParseServer(s string) (string, error) {
	e, err := parseServer(s)
	if err != nil {
		return "", fault.New(fault.ConfigInvalid, "server %s %w", showAddress(s), err).
			WithHint("Write https:// and host and port, as in https://api.example.org:6443.")
	}
	return e.URL(), nil
}

// String returns "host:port", an IPv6 address in brackets.
func (e Endpoint) String() string { return net.JoinHostPort(e.host, e.orPort(defaultEndpointPort)) }

// URL returns "https://host:port".
func (e Endpoint) URL() string {
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(e.host, e.port)}
	if e.port == "" {
		u.Host = strings.TrimSuffix(u.Host, ":")
	}
	return u.String()
}

// Host returns the host without brackets.
func (e Endpoint) Host() string { return e.host }

// address returns what a server URL means: port 443 where none is given.
func (e Endpoint) address() string { return net.JoinHostPort(e.host, e.orPort(defaultServerPort)) }

// certificateName returns what a certificate must be valid for: an IPv6 zone is
// known to this machine only and stands in no certificate.
func (e Endpoint) certificateName() string {
	name, _, _ := strings.Cut(e.host, "%")
	return name
}

func (e Endpoint) orPort(p string) string {
	if e.port == "" {
		return p
	}
	return e.port
}

// showAddress quotes an address for an error, but nothing that may hold a
// password.
func showAddress(s string) string {
	if strings.Contains(s, "@") {
		return "(not shown: it has an @)"
	}
	return fault.Quote(s)
}

func parseEndpoint(s string) (Endpoint, error) {
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		if !strings.EqualFold(scheme, "https") {
			return Endpoint{}, errors.New("has another scheme than https")
		}
		rest = strings.ReplaceAll(after, "%25", "%") // a URL escapes the sign before a zone
	}
	e, err := parseAuthority(rest)
	if err != nil {
		return Endpoint{}, err
	}
	e.port = e.orPort(defaultEndpointPort)
	return e, nil
}

// parseServer is ParseServer without the fault: cluster-info's server obeys the
// same rules and breaks them with another reason.
func parseServer(s string) (Endpoint, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !strings.EqualFold(scheme, "https") {
		return Endpoint{}, errors.New("does not begin with https://")
	}
	if strings.Contains(rest, "%") {
		return Endpoint{}, errors.New("has a % in it")
	}
	return parseAuthority(rest)
}

// parseAuthority reads host and optional port. A lone slash at the end is
// dropped; the port stays empty where there is none.
func parseAuthority(s string) (Endpoint, error) {
	s = strings.TrimSuffix(s, "/")
	switch {
	case s == "":
		return Endpoint{}, errors.New("has no host")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return Endpoint{}, errors.New("has white space or a control character in it")
	case strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }):
		return Endpoint{}, errors.New("has a character outside ASCII: write an international name in its xn-- form")
	case strings.Contains(s, "@"):
		return Endpoint{}, errors.New("has a user name or password before the host")
	case strings.Contains(s, "?"):
		return Endpoint{}, errors.New("has a query")
	case strings.Contains(s, "#"):
		return Endpoint{}, errors.New("has a fragment")
	case strings.Contains(s, "/"):
		return Endpoint{}, errors.New("has a path")
	}
	host, port, hasPort, err := splitPort(s)
	if err != nil {
		return Endpoint{}, err
	}
	if hasPort {
		if port, err = normalPort(port); err != nil {
			return Endpoint{}, err
		}
	}
	return Endpoint{host: host, port: port}, nil
}

// splitPort parts host and port and normalises the host.
func splitPort(s string) (host, port string, hasPort bool, err error) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		inside, rest, closed := strings.Cut(inside, "]")
		if !closed {
			return "", "", false, errors.New("has an opening bracket without a closing one")
		}
		addr, err := netip.ParseAddr(inside)
		if err != nil || !addr.Is6() {
			return "", "", false, errors.New("has something other than an IPv6 address in its brackets")
		}
		if rest != "" && rest[0] != ':' {
			return "", "", false, errors.New("has something other than a port after its brackets")
		}
		host, err = normalAddr(addr)
		return host, strings.TrimPrefix(rest, ":"), rest != "", err
	}
	if strings.Count(s, ":") > 1 {
		// fd00::1:6443 is a whole address, too: only brackets tell the port.
		return "", "", false, errors.New("has more than one colon: write an IPv6 address in brackets, as in [fd00::1]:6443")
	}
	host, port, hasPort = strings.Cut(s, ":")
	host, err = normalHost(host)
	return host, port, hasPort, err
}

func normalPort(s string) (string, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return "", errors.New("has a port that is no number from 1 to 65535")
	}
	return strconv.FormatUint(n, 10), nil
}

func normalAddr(a netip.Addr) (string, error) {
	if zone := a.Zone(); len(zone) > 15 || strings.ContainsFunc(zone, func(r rune) bool { return !isNameRune(r) && r != '.' }) {
		return "", errors.New("has a zone that is no name of a network interface")
	}
	a = a.Unmap()
	switch {
	case a.IsUnspecified():
		return "", errors.New("is the address that stands for none in particular")
	case a.IsMulticast():
		return "", errors.New("is a multicast address")
	}
	return a.String(), nil
}

// normalHost checks an IPv4 address or a DNS name and returns it in lower case,
// without the dot at its end.
func normalHost(s string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return normalAddr(a)
	}
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" {
		return "", errors.New("has no host")
	}
	if len(s) > 253 {
		return "", fmt.Errorf("has a host name of %d characters; 253 are the most", len(s))
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		switch {
		case l == "":
			return "", errors.New("has a host name with an empty part")
		case len(l) > 63:
			return "", fmt.Errorf("has a host name with a part of %d characters; 63 are the most", len(l))
		case l[0] == '-' || l[len(l)-1] == '-':
			return "", errors.New("has a host name with a part that begins or ends with a hyphen")
		case strings.ContainsFunc(l, func(r rune) bool { return !isNameRune(r) }):
			return "", errors.New("has a host name with a character other than a-z, 0-9, hyphen and underscore")
		}
	}
	// No top level domain is a number: this was meant as an address.
	if last := labels[len(labels)-1]; !strings.ContainsFunc(last, func(r rune) bool { return r < '0' || r > '9' }) {
		return "", errors.New("looks like an IPv4 address but is none")
	}
	return s, nil
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

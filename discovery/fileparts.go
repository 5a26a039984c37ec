package discovery

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// refusedFields are fields that may stand in a discovery file only without
// content, each with what is done instead.
type refusedFields map[string]string

var (
	refusedInCluster = refusedFields{
		"insecure-skip-tls-verify": "a server that nobody verifies gets no token; give its CA",
		"proxy-url":                "name the proxy in the key proxyURL of the agent's config",
		"tls-server-name":          "the server's certificate must be valid for the host in server",
	}
	refusedInUser = refusedFields{
		"exec":                    "no program is run; give a token",
		"auth-provider":           "no program is run; give a token",
		"client-certificate":      "a machine joins with a token",
		"client-certificate-data": "a machine joins with a token",
		"client-key":              "a machine joins with a token",
		"client-key-data":         "a machine joins with a token",
		"username":                "a machine joins with a token",
		"password":                "a machine joins with a token",
		"tokenFile":               "name the file in the key tokenFile of the agent's config",
		"as":                      "a machine joins as itself",
		"as-uid":                  "a machine joins as itself",
		"as-groups":               "a machine joins as itself",
		"as-user-extra":           "a machine joins as itself",
	}
)

// read is record with the refused fields checked and taken out.
func (r refusedFields) read(e entry, allowed ...string) (map[string]*yaml.Node, error) {
	for name := range r {
		allowed = append(allowed, name)
	}
	parts, err := record(e.value, e.at, allowed...)
	if err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(parts) {
		n, instead := parts[name], r[name]
		off := name == "insecure-skip-tls-verify" && isBool(n) && strings.EqualFold(n.Value, "false")
		if instead != "" && !isEmpty(n) && !off {
			return nil, fault.New(fault.ConfigInvalid, "%s.%s is not allowed here (line %d): %s", e.at, name, n.Line, instead)
		}
	}
	return parts, nil
}

// readFileCluster reads the cluster that counts.
func readFileCluster(e entry, dir string, read func(string) ([]byte, error)) (server Endpoint, bundle []*x509.Certificate, caFile string, err error) {
	parts, err := refusedInCluster.read(e, "server", "certificate-authority", "certificate-authority-data", "disable-compression", "extensions")
	if err != nil {
		return server, nil, "", err
	}
	if n := parts["disable-compression"]; n != nil && !isEmpty(n) && !isBool(n) {
		return server, nil, "", fmt.Errorf("%s.disable-compression is neither true nor false (line %d)", e.at, n.Line)
	}
	url, err := plainText(parts["server"], e.at+".server")
	if err != nil {
		return server, nil, "", err
	}
	if url == "" {
		return server, nil, "", fmt.Errorf("%s.server is missing or empty", e.at)
	}
	if server, err = parseServer(url); err != nil {
		return server, nil, "", fault.New(fault.ConfigInvalid, "%s.server %w", e.at, err).
			WithHint("Write https:// and host and port, as in https://api.example.org:6443.")
	}
	path, err := plainText(parts["certificate-authority"], e.at+".certificate-authority")
	if err != nil {
		return server, nil, "", err
	}
	data, err := plainText(parts["certificate-authority-data"], e.at+".certificate-authority-data")
	if err != nil {
		return server, nil, "", err
	}
	var pem []byte
	field := e.at + ".certificate-authority-data"
	switch {
	case path == "" && data == "":
		return server, nil, "", fault.New(fault.ConfigInvalid, "%s has no CA: both certificate-authority-data and certificate-authority are missing or empty", e.at).
			WithHint("Put the cluster's CA in: `kubectl config set-cluster NAME --kubeconfig FILE --certificate-authority=/etc/kubernetes/pki/ca.crt --embed-certs`.")
	case path != "" && data != "":
		return server, nil, "", fmt.Errorf("%s has both certificate-authority and certificate-authority-data; remove one of the two", e.at)
	case path != "":
		field, caFile = e.at+".certificate-authority", besideFile(dir, path)
		pem, err = read(caFile)
	default:
		pem, err = decodeCA(data)
	}
	if err == nil {
		bundle, err = decodeBundle(pem, Limits{}.orDefaults().Certificates)
	}
	if err != nil {
		return server, nil, caFile, fmt.Errorf("%s: %w", field, err)
	}
	return server, bundle, caFile, nil
}

func isBool(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" }

// decodeCA decodes certificate-authority-data and names what is put there by
// mistake most often.
func decodeCA(value string) ([]byte, error) {
	const isPath = "holds a path, not certificates: certificate-authority is the field for a path (`kubectl config set-cluster --embed-certs` puts the certificates in)"
	ca, err := base64.StdEncoding.DecodeString(value)
	switch {
	case strings.Contains(value, "-----BEGIN "):
		return nil, errors.New("holds PEM text as it is; it must be the base64 of that text")
	case looksLikePath(value), err == nil && looksLikePath(string(ca)):
		return nil, errors.New(isPath)
	case err != nil:
		return nil, fmt.Errorf("is no base64: %w", err)
	}
	return ca, nil
}

// looksLikePath tells a path from base64, which can begin with a slash, too, but
// not if it holds text.
func looksLikePath(s string) bool {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 4096 || strings.ContainsAny(s, "\n\x00") {
		return false
	}
	for _, start := range []string{"/", "./", "../", "~/"} {
		if strings.HasPrefix(s, start) {
			return true
		}
	}
	for _, end := range []string{".crt", ".pem", ".cer", ".cert"} {
		if strings.HasSuffix(s, end) {
			return true
		}
	}
	return false
}

// readFileUser returns the token of the user that counts.
func readFileUser(e entry) (Token, error) {
	parts, err := refusedInUser.read(e, "token", "extensions")
	if err != nil {
		return Token{}, err
	}
	text, err := plainText(parts["token"], e.at+".token")
	if err != nil || text == "" {
		return Token{}, err
	}
	token, err := ParseBearer(text)
	if err != nil {
		return Token{}, fault.New(fault.ConfigInvalid, "%s.token: %w", e.at, err).WithHint("%s", fault.HintOf(err))
	}
	return token, nil
}

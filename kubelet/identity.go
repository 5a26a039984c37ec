package kubelet

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Credentials are what a kubeconfig of somebody else's kubelet says: which cluster,
// and with which client certificate. Of CA, certificate and key each is either
// embedded or a file.
type Credentials struct {
	Server            string
	CA, Cert, Key     []byte `json:"-"`
	CAFile            string
	CertFile, KeyFile string
}

// theirKubeconfig is the whole format, so that a field that is not known here can be
// refused by its name: it may mean another way to reach the cluster, or to prove
// who one is.
type theirKubeconfig struct {
	kubeconfigFile
	Preferences any `json:"preferences,omitempty"`
	Extensions  any `json:"extensions,omitempty"`
}

// ParseCredentials reads a kubeconfig strictly: one cluster, one user, one context;
// a server by https with its CA; a client certificate with its key, and no other
// way to prove who one is. Paths become absolute as seen from dir, the kubeconfig's
// folder. It opens no file. Errors name the field, never a value.
func ParseCredentials(data []byte, dir string) (c Credentials, err error) {
	doc, err := parseDocument(data)
	if err != nil {
		return c, err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return c, errors.New("is no kubeconfig")
	}
	var file theirKubeconfig
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&file); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return c, fmt.Errorf("is no kubeconfig: %s has the wrong kind of value", fault.Quote(kind.Field))
		}
		return c, fmt.Errorf("has a setting that is not known here: %s", strings.TrimPrefix(err.Error(), "json: unknown field "))
	}
	if file.Kind != "" && file.Kind != "Config" {
		return c, errors.New("is no kubeconfig: kind is another one")
	}
	for what, n := range map[string]int{"clusters": len(file.Clusters), "contexts": len(file.Contexts), "users": len(file.Users)} {
		if n != 1 {
			return c, fmt.Errorf("has %d %s; one is wanted, or nobody can tell which one the kubelet uses for what", n, what)
		}
	}
	context := file.Contexts[0]
	switch {
	case context.Name == "" || context.Name != file.CurrentContext:
		return c, errors.New("current-context names no context")
	case context.Context.Cluster != file.Clusters[0].Name || context.Context.User != file.Users[0].Name:
		return c, errors.New("its context names another cluster or user than those in it")
	}
	if err := c.takeCluster(file.Clusters[0].Cluster, dir); err != nil {
		return Credentials{}, err
	}
	if err := c.takeUser(file.Users[0].User, dir); err != nil {
		return Credentials{}, err
	}
	return c, nil
}

func (c *Credentials) takeCluster(from cluster, dir string) (err error) {
	u, uerr := url.Parse(from.Server)
	switch {
	case uerr != nil || control(from.Server) || u.Scheme != "https" || u.Hostname() == "":
		return errors.New("server is not https://host:port")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return errors.New("server has more than host and port")
	case from.Insecure:
		return errors.New("has insecure-skip-tls-verify: whoever answers there may be anybody")
	case from.ProxyURL != "":
		return errors.New("has proxy-url, which the agent's proxyURL is for")
	case from.TLSServerName != "":
		return errors.New("has tls-server-name, which the agent does not know")
	}
	c.Server = "https://" + u.Host
	c.CAFile, c.CA, err = either("certificate-authority", from.CAFile, from.CAData, dir)
	return err
}

func (c *Credentials) takeUser(from user, dir string) (err error) {
	for _, other := range []struct {
		set  bool
		name string
	}{
		{from.Token != "", "token"},
		{from.TokenFile != "", "tokenFile"},
		{from.Exec != nil, "exec"},
		{from.AuthProvider != nil, "auth-provider"},
		{from.Username != "" || from.Password != "", "username"},
	} {
		if other.set {
			return fmt.Errorf("its user has %s: only a client certificate can be taken over", other.name)
		}
	}
	if c.CertFile, c.Cert, err = either("client-certificate", from.ClientCertificate, from.ClientCertificateData, dir); err != nil {
		return err
	}
	c.KeyFile, c.Key, err = either("client-key", from.ClientKey, from.ClientKeyData, dir)
	return err
}

// either returns a file or the embedded data; as in client-go, data wins.
func either(name, file, data, dir string) (path string, decoded []byte, err error) {
	switch {
	case data != "":
		if decoded, err = base64.StdEncoding.DecodeString(data); err != nil || len(decoded) == 0 {
			return "", nil, fmt.Errorf("%s-data is no base64", name)
		}
		return "", decoded, nil
	case file == "":
		return "", nil, fmt.Errorf("has no %s", name)
	case control(file):
		return "", nil, fmt.Errorf("%s is no path", name)
	case !filepath.IsAbs(file):
		file = filepath.Join(dir, file)
	}
	return filepath.Clean(file), nil, nil
}

package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The names that the kubelet's own TLS bootstrap gives.
const (
	clusterName = "default-cluster"
	userName    = "default-auth"
	contextName = "default-context"
)

// Kubeconfig is what matters in a kubeconfig, ours or another's. Paths are as
// written in the file.
type Kubeconfig struct {
	Server            string // of the current context
	CAFile            string // of the current context
	ClientCertificate string // of the current context
	ClientKey         string // of the current context
	// Credential names the kind of client credential that any of its users
	// holds or points to ("client-certificate", "token", ...); "" for none.
	Credential string
	// Extra names settings of the current context that ours never has
	// (insecure-skip-tls-verify, proxy-url, embedded data, ...).
	Extra []string
}

// kubeconfigFile is the part of the format that is read and written here.
type kubeconfigFile struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	CurrentContext string         `json:"current-context"`
	Clusters       []namedCluster `json:"clusters"`
	Contexts       []namedContext `json:"contexts"`
	Users          []namedUser    `json:"users"`
}

type namedCluster struct {
	Name    string  `json:"name"`
	Cluster cluster `json:"cluster"`
}

type cluster struct {
	Server        string `json:"server"`
	CAFile        string `json:"certificate-authority,omitempty"`
	CAData        string `json:"certificate-authority-data,omitempty"`
	Insecure      bool   `json:"insecure-skip-tls-verify,omitempty"`
	ProxyURL      string `json:"proxy-url,omitempty"`
	TLSServerName string `json:"tls-server-name,omitempty"`
}

type namedContext struct {
	Name    string      `json:"name"`
	Context contextBody `json:"context"`
}

type contextBody struct {
	Cluster   string `json:"cluster"`
	User      string `json:"user"`
	Namespace string `json:"namespace,omitempty"`
}

type namedUser struct {
	Name string `json:"name"`
	User user   `json:"user"`
}

type user struct {
	ClientCertificate     string         `json:"client-certificate,omitempty"`
	ClientCertificateData string         `json:"client-certificate-data,omitempty"`
	ClientKey             string         `json:"client-key,omitempty"`
	ClientKeyData         string         `json:"client-key-data,omitempty"`
	Token                 string         `json:"token,omitempty"`
	TokenFile             string         `json:"tokenFile,omitempty"`
	Username              string         `json:"username,omitempty"`
	Password              string         `json:"password,omitempty"`
	Exec                  map[string]any `json:"exec,omitempty"`
	AuthProvider          map[string]any `json:"auth-provider,omitempty"`
}

// RenderKubeconfig gives the bytes of our kubeconfig for this server.
func (l Layout) RenderKubeconfig(server string) ([]byte, error) {
	u, err := url.Parse(server)
	switch {
	case err != nil || control(server):
		return nil, fault.New(fault.ConfigInvalid, "server %s: is no URL", fault.Quote(server))
	case u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fault.New(fault.ConfigInvalid, "server %s: must be https://host:port", fault.Quote(server))
	case !filepath.IsAbs(l.Root()) || control(l.Root()):
		return nil, fault.New(fault.ConfigInvalid, "folder of the kubelet %s: must be an absolute path without control characters", fault.Quote(l.Root()))
	}
	return yaml.Marshal(kubeconfigFile{
		APIVersion:     "v1",
		Kind:           "Config",
		CurrentContext: contextName,
		Clusters:       []namedCluster{{clusterName, cluster{Server: server, CAFile: l.CACert()}}},
		Contexts:       []namedContext{{contextName, contextBody{Cluster: clusterName, User: userName, Namespace: "default"}}},
		Users:          []namedUser{{userName, user{ClientCertificate: l.CurrentPair(), ClientKey: l.CurrentPair()}}},
	})
}

// ParseKubeconfig reads a kubeconfig: one YAML document without doubled keys,
// whose current context leads to a cluster and a user. It opens no file that
// the document names. Errors never show a value of the document.
func ParseKubeconfig(data []byte) (Kubeconfig, error) {
	doc, err := parseDocument(data)
	if err != nil {
		return Kubeconfig{}, err
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return Kubeconfig{}, errors.New("is no kubeconfig")
	}
	var file kubeconfigFile
	if err := json.Unmarshal(raw, &file); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return Kubeconfig{}, fmt.Errorf("is no kubeconfig: %s has the wrong kind of value", fault.Quote(kind.Field))
		}
		return Kubeconfig{}, errors.New("is no kubeconfig")
	}
	out := Kubeconfig{}
	for _, u := range file.Users {
		if c := u.User.credential(); c != "" {
			out.Credential = c
			break
		}
	}
	var current *contextBody
	for i := range file.Contexts {
		if file.Contexts[i].Name == file.CurrentContext {
			current = &file.Contexts[i].Context
		}
	}
	if current == nil || file.CurrentContext == "" {
		return out, errors.New("is no kubeconfig: current-context names no context")
	}
	found := false
	for _, c := range file.Clusters {
		if c.Name == current.Cluster {
			found = true
			out.Server, out.CAFile = c.Cluster.Server, c.Cluster.CAFile
			out.Extra = append(out.Extra, c.Cluster.extra()...)
		}
	}
	if !found || out.Server == "" {
		return out, errors.New("is no kubeconfig: the current context names no cluster with a server")
	}
	for _, u := range file.Users {
		if u.Name == current.User {
			out.ClientCertificate, out.ClientKey = u.User.ClientCertificate, u.User.ClientKey
			if c := u.User.credential(); c != "" && c != "client-certificate" {
				out.Extra = append(out.Extra, c)
			}
		}
	}
	return out, nil
}

// Ours tells whether a kubeconfig is the one this layout would have, whatever
// its server: it names our CA file and the link for certificate and key, and
// nothing else.
func (l Layout) Ours(k Kubeconfig) bool {
	return k.CAFile == l.CACert() && k.ClientCertificate == l.CurrentPair() && k.ClientKey == l.CurrentPair() && len(k.Extra) == 0
}

func (c cluster) extra() []string {
	var out []string
	for _, f := range []struct {
		set  bool
		name string
	}{
		{c.CAData != "", "certificate-authority-data"},
		{c.Insecure, "insecure-skip-tls-verify"},
		{c.ProxyURL != "", "proxy-url"},
		{c.TLSServerName != "", "tls-server-name"},
	} {
		if f.set {
			out = append(out, f.name)
		}
	}
	return out
}

// credential names the strongest sign of a credential first. The order also
// makes "client-certificate" mean: files for both, and nothing beside them.
func (u user) credential() string {
	for _, f := range []struct {
		set  bool
		name string
	}{
		{u.ClientCertificateData != "", "client-certificate-data"},
		{u.ClientKeyData != "", "client-key-data"},
		{u.Token != "", "token"},
		{u.TokenFile != "", "tokenFile"},
		{u.Exec != nil, "exec"},
		{u.AuthProvider != nil, "auth-provider"},
		{u.Username != "" || u.Password != "", "username"},
		{u.ClientCertificate != "" || u.ClientKey != "", "client-certificate"},
	} {
		if f.set {
			return f.name
		}
	}
	return ""
}

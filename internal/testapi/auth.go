package testapi

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Token is a bootstrap token Secret.
type Token struct {
	ID, Secret       string
	NoSigning        bool      // lacks usage-bootstrap-signing
	NoAuthentication bool      // lacks usage-bootstrap-authentication
	Expires          time.Time // zero: never
	// Groups are auth-extra-groups. nil: the group that kubeadm gives its tokens
	// and binds its roles to; an empty slice: none, and so 403 after discovery,
	// unless the cluster is HandMade.
	Groups []string
}

// StaticToken is a line of the file of --token-auth-file.
type StaticToken struct {
	Token  string   // any word
	User   string   // its name
	Groups []string // nil: system:bootstrappers, as clusters made by hand have it
}

// authState is who may come in and what they may do; under the server's lock.
type authState struct {
	anonymous, tokenAuth       bool
	rejectCertificates         bool
	nodeClient, selfNodeClient bool
	createForbidden            bool
	infoForbidden              bool
	patchForbidden             bool
	kubeletConfigForbidden     bool
	tokens                     map[string]Token
	static                     map[string]StaticToken
}

// identity is who a request comes from, after authentication.
type identity struct {
	name   string
	groups []string
}

const (
	anonymousName  = "system:anonymous"
	nodePrefix     = "system:node:"
	tokenPrefix    = "system:bootstrap:"
	nodesGroup     = "system:nodes"
	bootstrapGroup = "system:bootstrappers"
	kubeadmGroup   = "system:bootstrappers:kubeadm:default-node-token"
)

var tokenPattern = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

func splitToken(s string) (id, secret string, err error) {
	m := tokenPattern.FindStringSubmatch(s)
	if m == nil {
		return "", "", errors.New("the token is not of the form id.secret")
	}
	return m[1], m[2], nil
}

func randomToken() string {
	const letters = "abcdefghijklmnopqrstuvwxyz234567" // 32: no bias
	b := randomBytes(22)
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b[:6]) + "." + string(b[6:])
}

// SetToken creates or replaces a bootstrap token that may sign and authenticate.
func (s *Server) SetToken(id, secret string) { s.AddToken(Token{ID: id, Secret: secret}) }

// AddToken creates or replaces a bootstrap token.
func (s *Server) AddToken(t Token) {
	s.set(func() {
		s.auth.tokens[t.ID] = t
		s.refreshClusterInfo()
	})
}

// DeleteToken removes a token and, as the signer does, its signature.
func (s *Server) DeleteToken(id string) {
	s.set(func() {
		delete(s.auth.tokens, id)
		s.refreshClusterInfo()
	})
}

// AddStaticToken adds a line to the file of static tokens. (A real API server
// reads that file only when it starts.)
func (s *Server) AddStaticToken(t StaticToken) { s.set(func() { s.auth.static[t.Token] = t }) }

// DeleteStaticToken takes a line away.
func (s *Server) DeleteStaticToken(token string) { s.set(func() { delete(s.auth.static, token) }) }

// Anonymous switches anonymous access; off answers 401.
func (s *Server) Anonymous(on bool) { s.set(func() { s.auth.anonymous = on }) }

// TokenAuth switches bootstrap token authentication; off answers 401.
func (s *Server) TokenAuth(on bool) { s.set(func() { s.auth.tokenAuth = on }) }

// RejectCertificates answers 401 to every client certificate.
func (s *Server) RejectCertificates(on bool) { s.set(func() { s.auth.rejectCertificates = on }) }

// CreateForbidden answers 403 to the creation of CSRs.
func (s *Server) CreateForbidden(on bool) { s.set(func() { s.auth.createForbidden = on }) }

// NodeClientAllowed is whether tokens may have their first certificate approved
// without a person (create certificatesigningrequests/nodeclient).
func (s *Server) NodeClientAllowed(on bool) { s.set(func() { s.auth.nodeClient = on }) }

// SelfNodeClientAllowed is the same for renewal by nodes (selfnodeclient).
func (s *Server) SelfNodeClientAllowed(on bool) { s.set(func() { s.auth.selfNodeClient = on }) }

// ClusterInfoForbidden takes the RBAC for cluster-info away: 403 to anonymous.
func (s *Server) ClusterInfoForbidden(on bool) { s.set(func() { s.auth.infoForbidden = on }) }

// KubeletConfigForbidden answers 403 to reads of kubelet-config.
func (s *Server) KubeletConfigForbidden(on bool) {
	s.set(func() { s.auth.kubeletConfigForbidden = on })
}

// NodePatchForbidden takes from nodes the right to write to their own Node.
func (s *Server) NodePatchForbidden(on bool) { s.set(func() { s.auth.patchForbidden = on }) }

// authenticate finds out who sent r; false is a 401. The order is that of
// kube-apiserver: certificate, then token; a certificate that fails does not
// stop a good token, but alone it is a 401 and not anonymous.
func (s *Server) authenticate(r *http.Request) (identity, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := false
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		if id, ok := s.byCertificate(r.TLS.PeerCertificates); ok {
			return id, true
		}
		failed = true
	}
	header := r.Header.Get("Authorization")
	if header != "" {
		if bearer := strings.TrimSpace(strings.TrimPrefix(header, "Bearer ")); bearer != "" && bearer != header {
			if id, ok := s.byToken(bearer); ok {
				return id, true
			}
			failed = true
		}
	}
	if failed || !s.auth.anonymous {
		return identity{}, false
	}
	return identity{name: anonymousName, groups: []string{"system:unauthenticated"}}, true
}

func (s *Server) byCertificate(chain []*x509.Certificate) (identity, bool) {
	if s.auth.rejectCertificates {
		return identity{}, false
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	if !s.pki.refuseSigner {
		roots.AddCert(s.pki.client.cert)
	}
	for _, ca := range s.pki.former {
		roots.AddCert(ca.cert)
	}
	for _, c := range chain[1:] {
		middle.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: middle, CurrentTime: s.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return identity{}, false
	}
	subject := chain[0].Subject
	groups := append(slices.Clone(subject.Organization), "system:authenticated")
	return identity{name: subject.CommonName, groups: groups}, subject.CommonName != ""
}

func (s *Server) byToken(bearer string) (identity, bool) {
	if t, ok := s.auth.static[bearer]; ok {
		groups := t.Groups
		if groups == nil {
			groups = []string{bootstrapGroup}
		}
		return identity{name: t.User, groups: append(slices.Clone(groups), "system:authenticated")}, true
	}
	id, secret, err := splitToken(bearer)
	if err != nil || !s.auth.tokenAuth {
		return identity{}, false
	}
	t, ok := s.auth.tokens[id]
	if !ok || t.NoAuthentication || subtle.ConstantTimeCompare([]byte(t.Secret), []byte(secret)) != 1 {
		return identity{}, false
	}
	if !t.Expires.IsZero() && !s.now().Before(t.Expires) {
		return identity{}, false
	}
	groups := []string{bootstrapGroup, kubeadmGroup}
	if t.Groups != nil {
		groups = append([]string{bootstrapGroup}, t.Groups...)
	}
	return identity{name: tokenPrefix + id, groups: append(groups, "system:authenticated")}, true
}

// attributes are what authorization is asked about.
type attributes struct {
	verb, group, resource, sub, namespace, name string
	path                                        string // instead of a resource
}

// allowed is the RBAC of a kubeadm cluster plus the node authorizer; the lock is
// held. The text is the authorizer's reason, if it has one.
func (s *Server) allowed(id identity, a attributes) (ok bool, reason string) {
	authenticated := id.name != anonymousName
	switch {
	case a.path != "":
		return s.allowedPath(authenticated, a)
	case !authenticated:
		return a.resource == configMaps.resource && a.group == "" && a.namespace == "kube-public" && a.name == "cluster-info" &&
			a.verb == "get" && !s.auth.infoForbidden, ""
	case a.group == "authorization.k8s.io" && a.resource == "selfsubjectaccessreviews":
		return a.verb == "create", ""
	case a.group == "authentication.k8s.io" && a.resource == "selfsubjectreviews":
		return a.verb == "create", ""
	case a.group == csrs.group && a.resource == csrs.resource:
		return s.allowedCSR(id, a), ""
	case slices.Contains(id.groups, nodesGroup) && strings.HasPrefix(id.name, nodePrefix):
		return s.allowedNode(strings.TrimPrefix(id.name, nodePrefix), a)
	case s.bootstrapper(id) && !s.opts.HandMade:
		own := a.resource == nodes.resource && a.sub == "" && a.verb == "get"
		return own || s.isKubeletConfig(a), ""
	}
	return false, ""
}

// bootstrapper is whether id has the group that the roles are bound to.
func (s *Server) bootstrapper(id identity) bool {
	if s.opts.HandMade {
		return slices.Contains(id.groups, bootstrapGroup)
	}
	return slices.Contains(id.groups, kubeadmGroup)
}

func (s *Server) allowedPath(authenticated bool, a attributes) (bool, string) {
	if a.verb != "get" {
		return false, ""
	}
	switch a.path {
	case "/version", "/version/", "/healthz", "/livez", "/readyz":
		return true, ""
	case "/api", "/api/", "/apis", "/apis/":
		return authenticated, ""
	}
	return authenticated && (strings.HasPrefix(a.path, "/api/") || strings.HasPrefix(a.path, "/apis/") || strings.HasPrefix(a.path, "/openapi")), ""
}

func (s *Server) allowedCSR(id identity, a attributes) bool {
	bootstrapper, node := s.bootstrapper(id), slices.Contains(id.groups, nodesGroup)
	if !bootstrapper && !node {
		return false
	}
	switch a.sub {
	case "":
		if a.verb == "create" && s.auth.createForbidden {
			return false
		}
		return slices.Contains([]string{"create", "get", "list", "watch"}, a.verb)
	case "nodeclient":
		return a.verb == "create" && bootstrapper && s.auth.nodeClient
	case "selfnodeclient":
		return a.verb == "create" && node && s.auth.selfNodeClient
	}
	return false
}

func (s *Server) allowedNode(own string, a attributes) (bool, string) {
	read := slices.Contains([]string{"get", "list", "watch"}, a.verb)
	switch {
	case a.group == "" && a.resource == nodes.resource:
		if patch := a.verb == "patch" && !s.auth.patchForbidden; !read && !patch || a.sub != "" {
			return false, ""
		}
		if a.name == "" {
			return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", own)
		}
		if a.name != own {
			return false, fmt.Sprintf("node '%s' cannot %s '%s', only its own Node object", own, a.verb, a.name)
		}
		return true, ""
	case a.group == leases.group && a.resource == leases.resource:
		if a.namespace != leaseNamespace {
			return false, fmt.Sprintf("can only access leases in the %q system namespace", leaseNamespace)
		}
		if a.name != own || a.verb != "get" {
			return false, "can only access node lease with the same name as the requesting node"
		}
		return true, ""
	}
	return s.isKubeletConfig(a), ""
}

func (s *Server) isKubeletConfig(a attributes) bool {
	return a.group == "" && a.resource == configMaps.resource && a.sub == "" && a.verb == "get" && a.namespace == "kube-system" &&
		a.name == "kubelet-config" && !s.opts.HandMade && !s.auth.kubeletConfigForbidden
}

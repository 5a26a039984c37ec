//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// certificateFaults are the rows about tokens and requests: see
// TestWhateverTheClusterDoesAJoinGoesOnWhereItWas.
var certificateFaults = []faultCase{
	{"F16: the token ends before the request is made", tokenEndsBeforeTheRequest},
	{"F17: the token ends while the request waits, and the same one comes back", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
		tokenEndsWhileItWaits(t, ctx, c, s, node, true)
	}},
	{"F17: the token ends while the request waits, and another one comes", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
		tokenEndsWhileItWaits(t, ctx, c, s, node, false)
	}},
	{"F18: denied", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
		isRefused(t, ctx, c, s, node, certificatesv1.CertificateDenied, fault.CSRDenied, "NotOnMyWatch", "no machine of that name was ordered")
	}},
	{"F19: failed", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
		isRefused(t, ctx, c, s, node, certificatesv1.CertificateFailed, fault.CSRFailed, "SignerValidationFailure", "usages did not match")
	}},
	{"F21: deleted while it waits", deletedWhileItWaits},
	{"F22: deleted while the agent is down", deletedWhileDown},
	{"F23: approved and not signed", neverSigned},
	{"F25: its name is taken by a request for another key", nameOfTheRequestIsTaken},
	{"F26: for another key", wrongly(func(_ *testing.T, _ *x509.Certificate, key *any) {
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err == nil {
			*key = other.Public()
		}
	}, fault.CertificateInvalid)},
	{"F26: for another node", wrongly(func(_ *testing.T, c *x509.Certificate, _ *any) {
		c.Subject.CommonName = "system:node:somebody-else"
	}, fault.CertificateInvalid)},
	{"F26: with another group", wrongly(func(_ *testing.T, c *x509.Certificate, _ *any) {
		c.Subject.Organization = append(c.Subject.Organization, "system:masters")
	}, fault.CertificateInvalid)},
	{"F26: for servers only", wrongly(func(_ *testing.T, c *x509.Certificate, _ *any) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}, fault.CertificateInvalid)},
	{"F26: by a CA that the API server does not take", byAnotherCA},
	{"F27: expired", wrongly(func(_ *testing.T, c *x509.Certificate, _ *any) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, fault.CertificateInvalid)},
	{"F27: not valid for an hour", wrongly(func(_ *testing.T, c *x509.Certificate, _ *any) {
		c.NotBefore = time.Now().Add(time.Hour)
		c.NotAfter = time.Now().Add(2 * time.Hour)
	}, fault.CertificateInvalid)},
	{"F27: not valid for some seconds", validSoon},
}

// tokenEndsBeforeTheRequest: cluster-info has vouched for the token; the request
// is answered with 401.
func tokenEndsBeforeTheRequest(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	front := newFront(t, ctx, c, nil)
	var once sync.Once
	front.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			once.Do(func() { revoke(t, ctx, c, token) })
		}
		return false
	})
	h := newHostAgent(t, ctx, c, node, token, front.Endpoint())
	h.cfg.Server = "https://" + front.Endpoint()
	h.start()
	h.fails(fault.TokenRejected, 20*time.Second)
	key := h.pendingKey()
	fresh := signedToken(t, ctx, c)
	h.setToken(fresh)
	name := s.requestOf(h)
	if h.pendingKey() != key {
		t.Error("the token cost the key")
	}
	s.issue(name, nil)
	isIssued(h)
	s.requests(token, 0)
	s.requests(fresh, 1)
}

// tokenEndsWhileItWaits: the request is there, its maker is no longer known. With
// the same token it is found again; the request of another token would be judged
// by the rights of the first one, so there is one more.
func tokenEndsWhileItWaits(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string, same bool) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	revoke(t, ctx, c, token)
	h.fails(fault.TokenRejected, 30*time.Second)
	h.forget()
	if same {
		secret := map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
			"metadata": map[string]any{"name": "bootstrap-token-" + token.ID, "namespace": "kube-system"},
			"stringData": map[string]string{
				"token-id": token.ID, "token-secret": token.Secret, "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true",
				"auth-extra-groups": kubeadmGroup,
			},
		}
		if err := c.Do(ctx, http.MethodPost, "/api/v1/namespaces/kube-system/secrets", secret, nil); err != nil {
			t.Fatal(err)
		}
		s.issue(name, nil)
		h.joins()
		s.requests(token, 1)
		return
	}
	fresh := signedToken(t, ctx, c)
	h.setToken(fresh)
	s.serves(h, name)
	s.requests(token, 1)
	s.requests(fresh, 1)
}

// isRefused: whoever refused is quoted, the key is not used again, and the next
// request is another one.
func isRefused(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string, condition certificatesv1.RequestConditionType, want fault.Reason, reason, message string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	key := h.pendingKey()
	s.decide(name, condition, reason, message)
	told := h.fails(want, 20*time.Second)
	if !strings.Contains(told.Message, reason) || !strings.Contains(told.Message, message) || !strings.Contains(told.Hint, "kubectl describe csr "+name) {
		t.Errorf("%q -> %q", told.Message, told.Hint)
	}
	h.nothingForTheKubelet()
	next := s.requestOf(h, name)
	if h.pendingKey() == key {
		t.Error("it asks again with the same key")
	}
	s.issue(next, nil)
	h.joins()
	s.requests(token, 2)
}

func deletedWhileItWaits(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	uid, key := s.get(name).UID, h.pendingKey()
	s.delete(name)
	deleted := time.Now()
	// The status of the first one may still come: what the API has counts.
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := await.Until(soon, "the request of the same name", 20*time.Millisecond, func(ctx context.Context) error {
		var now certificatesv1.CertificateSigningRequest
		err := c.Do(ctx, http.MethodGet, csrPath+"/"+name, nil, &now)
		if err == nil && now.UID == uid {
			err = errors.New("it is the one that is deleted")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("asked again after %.1f s", time.Since(deleted).Seconds())
	if h.pendingKey() != key {
		t.Error("it asks with another key")
	}
	s.issue(name, nil)
	h.joins()
	s.requests(token, 1)
}

// deletedWhileDown: the first read of the next run notices it.
func deletedWhileDown(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	s.delete(name)
	h.forget()
	began := time.Now()
	h.start()
	s.requestOf(h)
	within(t, "asked again", 5*time.Second, began, time.Now())
	s.issue(name, nil)
	h.joins()
	s.requests(token, 1)
}

func neverSigned(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	s.decide(name, certificatesv1.CertificateApproved, "Lab", "by the scenario")
	told := h.fails(fault.CSRNotSigned, 20*time.Second)
	if !strings.Contains(told.Message, name) || !strings.Contains(told.Hint, "csrsigning") {
		t.Errorf("%q -> %q", told.Message, told.Hint)
	}
	s.sign(name, s.ca, s.key, nil)
	h.joins()
	s.requests(token, 1)
}

// nameOfTheRequestIsTaken: somebody made a request for another key under the name
// that ours has. It is neither taken over nor waited for.
func nameOfTheRequestIsTaken(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	ours := s.get(name)
	s.delete(name)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	theirs := certificatesv1.CertificateSigningRequest{Spec: ours.Spec}
	theirs.Name, theirs.Spec.Request = name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if err := c.Do(ctx, http.MethodPost, csrPath, theirs, nil); err != nil {
		t.Fatal(err)
	}
	s.issue(name, nil) // a certificate waits there, and it is nobody's
	h.forget()
	h.start()
	s.serves(h, name)
}

// wrongly: a signer that gets it wrong. Nothing of it reaches the kubelet, and
// the next certificate, which is right, does.
func wrongly(edit func(*testing.T, *x509.Certificate, *any), want fault.Reason) func(*testing.T, context.Context, *cluster.Cluster, *signer, string) {
	return func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
		token := signedToken(t, ctx, c)
		h := newHostAgent(t, ctx, c, node, token)
		h.start()
		name := s.requestOf(h)
		s.issue(name, func(template *x509.Certificate, key *any) { edit(t, template, key) })
		told := h.fails(want, 20*time.Second)
		if !strings.Contains(told.Message, name) {
			t.Errorf("%q does not name the request", told.Message)
		}
		h.nothingForTheKubelet()
		s.serves(h, name)
		s.requests(token, 2)
	}
}

// byAnotherCA: it looks as it should, and only the API server can know. Before it
// is installed, the name is asked about with it, and twice a 401 is believed.
func byAnotherCA(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	stranger, err := cluster.NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(stranger.CertPEM, stranger.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	name := s.requestOf(h)
	s.decide(name, certificatesv1.CertificateApproved, "Lab", "by the scenario")
	s.sign(name, pair.Leaf, pair.PrivateKey, nil)
	told := h.fails(fault.CertificateInvalid, 20*time.Second)
	if !strings.Contains(told.Hint, "--client-ca-file") || told.Phase != agent.Blocked {
		t.Errorf("phase %s, hint %q", told.Phase, told.Hint)
	}
	h.nothingForTheKubelet()
	s.serves(h, name)
	s.requests(token, 2)
}

// validSoon: the clocks of the signer and of this machine differ by a little.
func validSoon(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	var from time.Time
	s.issue(s.requestOf(h), func(template *x509.Certificate, _ *any) {
		template.NotBefore = time.Now().Add(4 * time.Second).Truncate(time.Second)
		from = template.NotBefore
	})
	h.joins()
	if early := time.Until(from); early > 0 {
		t.Errorf("used %s before it is valid", early)
	}
	s.requests(token, 1)
}

//go:build e2e

package e2e

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

const (
	csrPath  = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	signing  = "certificatesigningrequest-signing-controller"
	approver = "certificatesigningrequest-approving-controller"
)

// signer is the cluster's approver and signer in the hands of the scenario: its
// controller-manager has neither. It signs with the cluster's CA and through the
// API, as the real one does, and can get things wrong.
type signer struct {
	t   *testing.T
	ctx context.Context
	c   *cluster.Cluster
	ca  *x509.Certificate
	key crypto.PrivateKey
}

func newSigner(t *testing.T, ctx context.Context, c *cluster.Cluster) *signer {
	t.Helper()
	pair, err := tls.X509KeyPair(readOrFail(t, c, "pki/ca.crt"), readOrFail(t, c, "pki/ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t: t, ctx: ctx, c: c, ca: pair.Leaf, key: pair.PrivateKey}
}

// in returns the signer for a subtest.
func (s signer) in(t *testing.T, ctx context.Context) *signer {
	s.t, s.ctx = t, ctx
	return &s
}

func (s *signer) get(name string) *certificatesv1.CertificateSigningRequest {
	s.t.Helper()
	var o certificatesv1.CertificateSigningRequest
	if err := s.c.Get(s.ctx, csrPath+"/"+name, &o); err != nil {
		s.t.Fatal(err)
	}
	return &o
}

func (s *signer) put(o *certificatesv1.CertificateSigningRequest, sub string) {
	s.t.Helper()
	if err := s.c.Do(s.ctx, http.MethodPut, csrPath+"/"+o.Name+"/"+sub, o, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *signer) delete(name string) {
	s.t.Helper()
	if err := s.c.Do(s.ctx, http.MethodDelete, csrPath+"/"+name, nil, nil); err != nil {
		s.t.Fatal(err)
	}
}

// decide sets a condition: Approved or Denied by a person, Failed by a signer.
func (s *signer) decide(name string, condition certificatesv1.RequestConditionType, reason, message string) {
	s.t.Helper()
	o := s.get(name)
	o.Status.Conditions = append(o.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: condition, Status: corev1.ConditionTrue, Reason: reason, Message: message,
	})
	sub := "approval"
	if condition == certificatesv1.CertificateFailed {
		sub = "status"
	}
	s.put(o, sub)
}

// issue approves and signs; edit is what the signer gets wrong, with the key that
// is certified.
func (s *signer) issue(name string, edit func(template *x509.Certificate, key *any)) {
	s.t.Helper()
	s.decide(name, certificatesv1.CertificateApproved, "Lab", "by the scenario")
	s.sign(name, s.ca, s.key, edit)
}

func (s *signer) sign(name string, ca *x509.Certificate, caKey crypto.PrivateKey, edit func(template *x509.Certificate, key *any)) {
	s.t.Helper()
	o := s.get(name)
	block, _ := pem.Decode(o.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		s.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key := request.PublicKey
	if edit != nil {
		edit(template, &key)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key, caKey)
	if err != nil {
		s.t.Fatal(err)
	}
	o.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.put(o, "status")
}

// requestOf waits until the agent says which request it waits for, other than
// those named.
func (s *signer) requestOf(h *hostAgent, others ...string) string {
	s.t.Helper()
	return h.await("a request", 30*time.Second, func(status agent.Status) bool {
		if status.CSR == nil || status.Phase != agent.RequestingCertificate || status.CSR.Approve == "" {
			return false
		}
		for _, other := range others {
			if status.CSR.Name == other {
				return false
			}
		}
		return true
	}).CSR.Name
}

// serves ends a join as an ordinary cluster does.
func (s *signer) serves(h *hostAgent, others ...string) agent.Status {
	s.t.Helper()
	s.issue(s.requestOf(h, others...), nil)
	return h.joins()
}

// requests is how many the token made.
func (s *signer) requests(token cluster.Token, want int) {
	s.t.Helper()
	if made := csrsOf(s.t, s.ctx, s.c, token); len(made) != want {
		s.t.Errorf("requests of the token: %q, want %d", made, want)
	}
}

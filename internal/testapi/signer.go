package testapi

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"
)

// signerState is the approver and the signer; under the server's lock.
type signerState struct {
	approve, sign bool
	wrong         WrongMode
	created       []string // names that AwaitCSR has not returned yet
}

// WrongMode is what is wrong with the certificates that are issued.
type WrongMode int

// The wrong certificates, and two that are unusual but right.
const (
	WrongNothing           WrongMode = iota
	WrongKey                         // for another key
	WrongName                        // CN of another node
	WrongOrganization                // O is something else
	WrongExtraOrganization           // system:masters beside system:nodes
	WrongCA                          // signed by another cluster's CA
	WrongUsage                       // server auth only
	WrongExpired                     // ran out an hour ago
	WrongNotYetValid                 // becomes valid in an hour
	WrongGarbage                     // not PEM at all
	WrongDER                         // a CERTIFICATE block that does not parse
	WrongEmpty                       // approved, and an empty certificate: as if not signed
	WrongOrder                       // CA first, then the certificate
	WrongTrailing                    // text after the certificate
	WrongKeyInside                   // a private key block after the certificate
	WrongWithSAN                     // a DNS name that nobody asked for
	RightChain                       // legal: the certificate, then its CA
	RightText                        // legal PEM: text before the block
)

// SignWrong chooses what is wrong with the next certificates.
func (s *Server) SignWrong(mode WrongMode) { s.set(func() { s.signer.wrong = mode }) }

// control is the approver and then the signer for a new CSR; the lock is held.
func (s *Server) control(name string, id identity) {
	csr := stored[certv1.CertificateSigningRequest](s.store.get(csrs, "", name))
	if csr == nil || !s.signer.approve || len(csr.Status.Conditions) > 0 {
		return
	}
	req, err := parseRequest(csr.Spec.Request)
	if err != nil || csr.Spec.SignerName != certv1.KubeAPIServerClientKubeletSignerName || !isNodeClient(req, csr.Spec.Usages) {
		return // pending, without a word: as the real one
	}
	sub := "nodeclient"
	if id.name == req.Subject.CommonName {
		sub = "selfnodeclient"
	}
	ok, _ := s.allowed(id, attributes{verb: "create", group: csrs.group, resource: csrs.resource, sub: sub})
	if !ok {
		return
	}
	s.condition(name, certv1.CertificateApproved, "AutoApproved", "Auto approving kubelet client certificate after SubjectAccessReview.")
	s.signCSR(name)
}

// isNodeClient is the shape that approver and signer insist on.
func isNodeClient(req *x509.CertificateRequest, usages []certv1.KeyUsage) bool {
	if !slices.Equal(req.Subject.Organization, []string{nodesGroup}) || !strings.HasPrefix(req.Subject.CommonName, nodePrefix) {
		return false
	}
	if len(req.DNSNames)+len(req.IPAddresses)+len(req.EmailAddresses)+len(req.URIs) > 0 {
		return false
	}
	sorted := slices.Sorted(slices.Values(usages))
	return slices.Equal(sorted, []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageDigitalSignature}) ||
		slices.Equal(sorted, []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment})
}

// signCSR is the signer for an approved CSR; always true, for Approve. The lock
// is held.
func (s *Server) signCSR(name string) bool {
	if !s.signer.sign {
		return true
	}
	csr := stored[certv1.CertificateSigningRequest](s.store.get(csrs, "", name))
	if csr.Spec.SignerName != certv1.KubeAPIServerClientKubeletSignerName {
		return true // no signer of that name here
	}
	req, err := parseRequest(csr.Spec.Request)
	if err != nil || !isNodeClient(req, csr.Spec.Usages) {
		return s.condition(name, certv1.CertificateFailed, "SignerValidationFailure", "the request is not that of a kubelet client")
	}
	cert := s.issue(req, csr)
	return mutate(s, csrs, "", name, func(csr *certv1.CertificateSigningRequest) { csr.Status.Certificate = cert })
}

// issue makes the certificate, as the mode says.
func (s *Server) issue(req *x509.CertificateRequest, csr *certv1.CertificateSigningRequest) []byte {
	now, ca, mode := s.now(), s.pki.client, s.signer.wrong
	lifetime := s.opts.SigningDuration
	if n := csr.Spec.ExpirationSeconds; n != nil {
		lifetime = min(lifetime, time.Duration(*n)*time.Second)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: req.Subject,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if slices.Contains(csr.Spec.Usages, certv1.UsageKeyEncipherment) {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	public := req.PublicKey
	switch mode {
	case WrongKey:
		public = s.pki.foreign.cert.PublicKey
	case WrongName:
		template.Subject.CommonName += "-other"
	case WrongOrganization:
		template.Subject.Organization = []string{"system:masters"}
	case WrongExtraOrganization:
		template.Subject.Organization = []string{nodesGroup, "system:masters"}
	case WrongCA:
		ca = s.pki.foreign
	case WrongUsage:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case WrongExpired:
		template.NotBefore, template.NotAfter = now.Add(-24*time.Hour), now.Add(-time.Hour)
	case WrongNotYetValid:
		template.NotBefore, template.NotAfter = now.Add(time.Hour), now.Add(24*time.Hour)
	case WrongWithSAN:
		template.DNSNames = []string{"kubernetes.default.svc"}
	case WrongNothing, WrongGarbage, WrongDER, WrongEmpty, WrongOrder, WrongTrailing, WrongKeyInside, RightChain, RightText:
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	return wrap(mode, certPEM(newCertificate(template, ca, public)), ca)
}

// wrap puts the certificate into the text of status.certificate.
func wrap(mode WrongMode, leaf []byte, ca *authority) []byte {
	switch mode {
	case WrongGarbage:
		return []byte("this is no certificate\n")
	case WrongDER:
		return certPEM([]byte("neither is this"))
	case WrongEmpty:
		return nil
	case WrongOrder:
		return append(ca.pem(), leaf...)
	case WrongTrailing:
		return append(leaf, "and so on\n"...)
	case WrongKeyInside:
		return append(leaf, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("not a real key")})...)
	case RightChain:
		return append(leaf, ca.pem()...)
	case RightText:
		return append([]byte("issued by kubernetes\n"), leaf...)
	default:
		return leaf
	}
}

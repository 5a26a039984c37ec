package testapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AutoApprove switches the approver (on at the start). It approves what
// kube-controller-manager would: the right shape, made by somebody who may.
func (s *Server) AutoApprove(on bool) { s.set(func() { s.signer.approve = on }) }

// Signing switches the signer (on at the start): off, an approved CSR stays
// without certificate.
func (s *Server) Signing(on bool) { s.set(func() { s.signer.sign = on }) }

// Approve approves a CSR, and has it signed; false when there is none.
func (s *Server) Approve(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.condition(name, certv1.CertificateApproved, "AutoApproved", "approved by a test") && s.signCSR(name)
}

// Deny denies a CSR.
func (s *Server) Deny(name, message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.condition(name, certv1.CertificateDenied, "Denied", message)
}

// Fail marks a CSR as failed, as a signer does that cannot sign it.
func (s *Server) Fail(name, message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.condition(name, certv1.CertificateFailed, "SignerValidationFailure", message)
}

// Delete deletes a CSR, as the cleaner does.
func (s *Server) Delete(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(csrs, "", name)
}

// MutateCSR changes a CSR in any way, legal or not; false when there is none.
// change must not call the server.
func (s *Server) MutateCSR(name string, change func(*certv1.CertificateSigningRequest)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mutate(s, csrs, "", name, change)
}

// AddCSR puts a CSR there that somebody else has made (spec.username is taken
// from it). A CSR of that name is replaced.
func (s *Server) AddCSR(csr certv1.CertificateSigningRequest) {
	csr.TypeMeta = csrs.typeMeta()
	s.set(func() { s.put(csrs, &csr) })
}

// CSR returns a CSR, or nil.
func (s *Server) CSR(name string) *certv1.CertificateSigningRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stored[certv1.CertificateSigningRequest](s.store.get(csrs, "", name))
}

// AwaitCSR returns the name of a CSR that was created by request and that
// AwaitCSR has not returned yet, the oldest first.
func (s *Server) AwaitCSR(ctx context.Context) (string, error) {
	var name string
	err := s.await(ctx, "a certificate signing request", func() bool {
		if len(s.signer.created) == 0 {
			return false
		}
		name, s.signer.created = s.signer.created[0], s.signer.created[1:]
		return true
	})
	return name, err
}

// condition adds a condition; false when there is no such CSR. The lock is held.
func (s *Server) condition(name string, typ certv1.RequestConditionType, reason, message string) bool {
	return mutate(s, csrs, "", name, func(csr *certv1.CertificateSigningRequest) {
		now := metav1.NewTime(s.now().UTC().Truncate(time.Second))
		csr.Status.Conditions = append(csr.Status.Conditions, certv1.CertificateSigningRequestCondition{
			Type: typ, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
		})
	})
}

// createCSR is POST of a CSR.
func (c *call) createCSR() {
	var csr certv1.CertificateSigningRequest
	if err := c.read(&csr); err != nil {
		c.fail(err)
		return
	}
	s := c.s
	if csr.Name == "" && csr.GenerateName != "" {
		csr.Name = csr.GenerateName + hex.EncodeToString(randomBytes(3))[:5]
	}
	if err := validateCSR(&csr); err != nil {
		c.fail(err)
		return
	}
	csr.TypeMeta = csrs.typeMeta()
	csr.Status = certv1.CertificateSigningRequestStatus{}
	csr.Spec.Username, csr.Spec.Groups, csr.Spec.UID, csr.Spec.Extra = c.id.name, c.id.groups, "", nil
	s.mu.Lock()
	if s.store.get(csrs, "", csr.Name) != nil {
		s.mu.Unlock()
		c.fail(apierrors.NewAlreadyExists(csrs.gr(), csr.Name))
		return
	}
	raw := s.put(csrs, &csr)
	s.signer.created = append(s.signer.created, csr.Name)
	s.notify()
	if s.opts.Quiet {
		s.control(csr.Name, c.id)
		s.mu.Unlock()
	} else {
		s.mu.Unlock()
		s.controlLater(csr.Name, c.id, c.day.control)
	}
	c.body(http.StatusCreated, "application/json", raw)
}

// controlLater lets the controllers take their time, as they do.
func (s *Server) controlLater(name string, id identity, delay time.Duration) {
	s.wg.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.control(name, id)
		}
	})
}

// validateCSR is the API server's own check of a new CSR.
func validateCSR(csr *certv1.CertificateSigningRequest) error {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if csr.Name == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "name"), "name or generateName is required"))
	}
	if strings.ContainsAny(csr.Name, "/%") || csr.Name == "." || csr.Name == ".." {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), csr.Name, "may not contain '/' or '%'"))
	}
	domain, path, ok := strings.Cut(csr.Spec.SignerName, "/")
	switch {
	case csr.Spec.SignerName == "":
		errs = append(errs, field.Required(spec.Child("signerName"), ""))
	case !ok || path == "" || len(validation.IsDNS1123Subdomain(domain)) > 0 || !strings.Contains(domain, "."):
		errs = append(errs, field.Invalid(spec.Child("signerName"), csr.Spec.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	if len(csr.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec.Child("usages"), ""))
	}
	for i, u := range csr.Spec.Usages {
		if slices.Contains(csr.Spec.Usages[:i], u) {
			errs = append(errs, field.Duplicate(spec.Child("usages").Index(i), u))
		}
	}
	if n := csr.Spec.ExpirationSeconds; n != nil && *n < 600 {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *n, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	if _, err := parseRequest(csr.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), "<bytes>", err.Error()))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: csrs.group, Kind: csrs.kind}, csr.Name, errs)
}

func invalid(kind, group, name, path, message string) error {
	errs := field.ErrorList{field.Invalid(field.NewPath(path), "", message)}
	return apierrors.NewInvalid(schema.GroupKind{Group: group, Kind: kind}, name, errs)
}

func parseRequest(raw []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("something follows the PEM block")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot parse: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("cannot check the signature: %w", err)
	}
	return req, nil
}

func newCertificate(template *x509.Certificate, ca *authority, public any) []byte {
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		panic(fmt.Sprintf("testapi: cannot sign: %v", err)) // parseRequest has seen the key
	}
	return der
}

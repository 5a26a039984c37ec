package csr

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	signer       = certificatesv1.KubeAPIServerClientKubeletSignerName
	requestBlock = "CERTIFICATE REQUEST"
	userPrefix   = "system:node:"
	nodesGroup   = "system:nodes"
)

// usages are exactly what the approver wants for a key that is no RSA key: one
// more, and the request waits for ever without a word.
func usages() []certificatesv1.KeyUsage {
	return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
}

// request is what we ask for.
type request struct {
	name   string
	user   string // the certificate's CN
	der    []byte
	public []byte // SubjectPublicKeyInfo
}

func newRequest(k *pendingKey, nodeName string) (*request, error) {
	if nodeName == "" {
		return nil, errors.New("cannot request a certificate: there is no node name")
	}
	q := &request{user: userPrefix + nodeName}
	var err error
	if q.public, err = x509.MarshalPKIXPublicKey(k.private.Public()); err == nil {
		q.der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject: pkix.Name{CommonName: q.user, Organization: []string{nodesGroup}},
		}, k.private)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot request a certificate: %w", err)
	}
	q.name = digestName(q.public, q.user, []string{nodesGroup}, usages())
	return q, nil
}

// digestName is the kubelet's rule: the same question has the same name, so a
// crash after the create finds its own request again. Each part is encoded and
// ended by a character that the encoding lacks, so that none runs into the next.
func digestName(public []byte, user string, groups []string, usages []certificatesv1.KeyUsage) string {
	h := sha512.New512_256()
	write := func(part []byte) {
		h.Write([]byte(base64.RawURLEncoding.EncodeToString(part)))
		h.Write([]byte{'|'})
	}
	write(public)
	write([]byte(user))
	for _, g := range groups {
		write([]byte(g))
	}
	for _, u := range usages {
		write([]byte(u))
	}
	return "node-csr-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// object is the request as it is sent. No lifetime is asked for: the signer's
// own is meant.
func (q *request) object() *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: q.name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: q.der}),
			SignerName: signer,
			Usages:     usages(),
		},
	}
}

// adoptable says why a request that is there under our name is not the one we
// would have made, or cannot lead to a certificate any more; nil: it is ours.
func (q *request) adoptable(there *certificatesv1.CertificateSigningRequest, requester string) error {
	if err := q.same(there); err != nil {
		return fault.New(fault.CSRFailed, "certificate signing request %s exists and is not ours: %w", q.name, err)
	}
	state, condition := judge(there)
	if err := refusal(q.name, state, condition); err != nil {
		return err
	}
	// The approver judges whoever created the request, so an undecided one of
	// another token may wait for ever where ours would pass.
	switch {
	case state != pending || requester != "" && there.Spec.Username == requester:
		return nil
	case requester == "":
		return fault.New(fault.CSRFailed, "certificate signing request %s is undecided and was made by %s; whether that is us is not known",
			q.name, fault.Quote(there.Spec.Username))
	}
	return fault.New(fault.CSRFailed, "certificate signing request %s is undecided and was made by %s, not by %s",
		q.name, fault.Quote(there.Spec.Username), fault.Quote(requester))
}

func (q *request) same(there *certificatesv1.CertificateSigningRequest) error {
	spec := there.Spec
	block, rest := pem.Decode(spec.Request)
	if block == nil || block.Type != requestBlock || len(bytes.TrimSpace(rest)) != 0 {
		return errors.New("it holds no readable request")
	}
	theirs, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || theirs.CheckSignature() != nil {
		return errors.New("it holds no readable request")
	}
	ours, err := x509.ParseCertificateRequest(q.der)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(theirs.RawSubjectPublicKeyInfo, q.public):
		return errors.New("it is for another key")
	case !bytes.Equal(theirs.RawSubject, ours.RawSubject):
		return fmt.Errorf("it is for another subject, %s", fault.Quote(theirs.Subject.String()))
	case len(theirs.Extensions) != 0:
		return errors.New("it asks for extensions")
	case spec.SignerName != signer:
		return fmt.Errorf("it is for another signer, %s", fault.Quote(spec.SignerName))
	case !sameUsages(spec.Usages, usages()):
		return errors.New("it asks for other usages")
	case spec.ExpirationSeconds != nil:
		return fmt.Errorf("it asks for a lifetime of %d s", *spec.ExpirationSeconds)
	}
	return nil
}

func sameUsages(a, b []certificatesv1.KeyUsage) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

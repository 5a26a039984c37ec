package csr

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// state is how far a request has come.
type state int

const (
	pending  state = iota
	approved       // and not signed yet
	issued
	denied
	failed
)

// judge reads the state from the conditions. Only status True counts; Denied
// wins over all, then Failed; a certificate counts only with an approval.
func judge(o *certificatesv1.CertificateSigningRequest) (state, certificatesv1.CertificateSigningRequestCondition) {
	found := map[certificatesv1.RequestConditionType]certificatesv1.CertificateSigningRequestCondition{}
	for _, c := range o.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			found[c.Type] = c
		}
	}
	if c, ok := found[certificatesv1.CertificateDenied]; ok {
		return denied, c
	}
	if c, ok := found[certificatesv1.CertificateFailed]; ok {
		return failed, c
	}
	c, ok := found[certificatesv1.CertificateApproved]
	switch {
	case !ok:
		return pending, c
	case len(o.Status.Certificate) == 0:
		return approved, c
	}
	return issued, c
}

// refusal is the fault of a request that was refused, or nil.
func refusal(name string, s state, c certificatesv1.CertificateSigningRequestCondition) error {
	var f *fault.Error
	switch s {
	case denied:
		f = fault.New(fault.CSRDenied, "certificate signing request %s was denied: %s %s", name, fault.Quote(c.Reason), fault.Quote(c.Message))
	case failed:
		f = fault.New(fault.CSRFailed, "certificate signing request %s failed: %s %s", name, fault.Quote(c.Reason), fault.Quote(c.Message))
	default:
		return nil
	}
	return f.WithHint("Ask who refused it and why: `kubectl describe csr %s`. The agent asks again with a new key.", name)
}

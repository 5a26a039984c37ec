package csr

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func newTestRequest(t testing.TB) (*request, *pendingKey) {
	t.Helper()
	k := &pendingKey{private: newKeyPair(t, elliptic.P256())}
	q, err := newRequest(k, node)
	if err != nil {
		t.Fatal(err)
	}
	return q, k
}

func TestTheRequestIsExactlyWhatTheApproverWants(t *testing.T) {
	q, k := newTestRequest(t)
	o := q.object()
	block, rest := pem.Decode(o.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) != 0 {
		t.Fatal("the request is no PEM")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || parsed.CheckSignature() != nil {
		t.Fatal(err)
	}
	if parsed.Subject.String() != "CN=system:node:n1,O=system:nodes" || len(parsed.Extensions) != 0 || !k.private.PublicKey.Equal(parsed.PublicKey) {
		t.Errorf("the request is for %s with %d extensions", parsed.Subject, len(parsed.Extensions))
	}
	if o.Spec.SignerName != "kubernetes.io/kube-apiserver-client-kubelet" || o.Spec.ExpirationSeconds != nil ||
		len(o.Spec.Usages) != 2 || o.Spec.Usages[0] != "digital signature" || o.Spec.Usages[1] != "client auth" {
		t.Errorf("the object asks for %+v", o.Spec)
	}
}

func TestTheNameFollowsFromWhatIsAsked(t *testing.T) {
	// The kubelet's rule, worked out for fixed input by another program.
	const want = "node-csr-qHrZoGmz7n4QzFn42jbwGhrcJU9T-zkJb_IhDRCXqmo"
	if got := digestName([]byte("key"), "system:node:n1", []string{"system:nodes"}, usages()); got != want {
		t.Errorf("the name is %s, want %s", got, want)
	}
	q, k := newTestRequest(t)
	again, err := newRequest(k, node)
	if err != nil || again.name != q.name || bytes.Equal(again.der, q.der) {
		t.Error("the same question has another name, or the test proves nothing")
	}
	other, _ := newTestRequest(t)
	elsewhere, _ := newRequest(k, "n2")
	if other.name == q.name || elsewhere.name == q.name {
		t.Error("another question has the same name")
	}
	if digestName([]byte("k"), "ab", []string{"c"}, nil) == digestName([]byte("k"), "a", []string{"bc"}, nil) {
		t.Error("the parts run into each other")
	}
	if _, err := newRequest(k, ""); err == nil {
		t.Error("a certificate for no node was asked for")
	}
}

func TestARequestIsAdoptedOnlyWhenItIsOurs(t *testing.T) {
	q, k := newTestRequest(t)
	ca := newAuthority(t)
	stranger := newKeyPair(t, elliptic.P256())
	withRequest := func(o *certificatesv1.CertificateSigningRequest, key any, template x509.CertificateRequest) {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			t.Fatal(err)
		}
		o.Spec.Request = block(requestBlock, der)
	}
	ours := pkix.Name{CommonName: q.user, Organization: []string{nodesGroup}}
	lifetime := int32(86400)
	for name, test := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   fault.Reason // "": adopted
		say    string
	}{
		"the same": {},
		"usages in another order": {change: func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.Usages[0], o.Spec.Usages[1] = o.Spec.Usages[1], o.Spec.Usages[0]
		}},
		"signed anew by us": {change: func(o *certificatesv1.CertificateSigningRequest) {
			withRequest(o, k.private, x509.CertificateRequest{Subject: ours})
		}},
		"approved": {change: conditioned(certificatesv1.CertificateApproved)},
		"issued":   {change: ca.issued(t, nil)},
		"decided, of somebody else": {change: func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.Username = "admin"
			conditioned(certificatesv1.CertificateApproved)(o)
		}},
		"another key": {func(o *certificatesv1.CertificateSigningRequest) {
			withRequest(o, stranger, x509.CertificateRequest{Subject: ours})
		}, fault.CSRFailed, "another key"},
		"another name": {func(o *certificatesv1.CertificateSigningRequest) {
			withRequest(o, k.private, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n2", Organization: []string{nodesGroup}}})
		}, fault.CSRFailed, "another subject"},
		"another group": {func(o *certificatesv1.CertificateSigningRequest) {
			withRequest(o, k.private, x509.CertificateRequest{Subject: pkix.Name{CommonName: q.user, Organization: []string{"system:masters"}}})
		}, fault.CSRFailed, "another subject"},
		"a host name": {func(o *certificatesv1.CertificateSigningRequest) {
			withRequest(o, k.private, x509.CertificateRequest{Subject: ours, DNSNames: []string{"n1"}})
		}, fault.CSRFailed, "extensions"},
		"a usage more": {func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.Usages = append(o.Spec.Usages, certificatesv1.UsageKeyEncipherment)
		}, fault.CSRFailed, "usages"},
		"a usage less":  {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Usages = o.Spec.Usages[:1] }, fault.CSRFailed, "usages"},
		"a usage twice": {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Usages[0] = o.Spec.Usages[1] }, fault.CSRFailed, "usages"},
		"another signer": {func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
		}, fault.CSRFailed, "another signer"},
		"a lifetime":                  {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.ExpirationSeconds = &lifetime }, fault.CSRFailed, "lifetime"},
		"undecided, of another token": {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Username = "system:bootstrap:other0" }, fault.CSRFailed, "was made by"},
		"undecided, condition without True": {func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.Username = "admin"
			o.Status.Conditions = append(o.Status.Conditions, condition(certificatesv1.CertificateApproved, corev1.ConditionUnknown))
		}, fault.CSRFailed, "was made by"},
		"no PEM": {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Request = []byte("x") }, fault.CSRFailed, "no readable request"},
		"no DER": {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Request = block(requestBlock, []byte("x")) }, fault.CSRFailed, "no readable request"},
		"two requests": {func(o *certificatesv1.CertificateSigningRequest) {
			o.Spec.Request = append(o.Spec.Request, o.Spec.Request...)
		}, fault.CSRFailed, "no readable request"},
		"another block": {func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Request = ca.pem() }, fault.CSRFailed, "no readable request"},
		"a bad signature": {func(o *certificatesv1.CertificateSigningRequest) {
			b, _ := pem.Decode(o.Spec.Request)
			b.Bytes[len(b.Bytes)-1] ^= 1
			o.Spec.Request = pem.EncodeToMemory(b)
		}, fault.CSRFailed, "no readable request"},
		"denied": {conditioned(certificatesv1.CertificateDenied), fault.CSRDenied, `"of\nthis"`},
		"approved and denied": {func(o *certificatesv1.CertificateSigningRequest) {
			ca.issued(t, nil)(o)
			conditioned(certificatesv1.CertificateDenied)(o)
		}, fault.CSRDenied, "denied"},
		"failed": {conditioned(certificatesv1.CertificateApproved, certificatesv1.CertificateFailed), fault.CSRFailed, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			o := q.object()
			o.Spec.Username = requester
			if test.change != nil {
				test.change(o)
			}
			err := q.adoptable(o, requester)
			if fault.ReasonOf(err) != test.want || (test.want == "") != (err == nil) {
				t.Fatalf("adoptable() = %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), test.say) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("adoptable() = %v, want %q in it", err, test.say)
			}
		})
	}
}

func TestOnlyATrueApprovalWithACertificateCounts(t *testing.T) {
	const (
		yes = certificatesv1.CertificateApproved
		no  = certificatesv1.CertificateDenied
		bad = certificatesv1.CertificateFailed
	)
	type conditions []certificatesv1.CertificateSigningRequestCondition
	on := corev1.ConditionTrue
	for name, test := range map[string]struct {
		conditions conditions
		cert       string
		want       state
	}{
		"nothing":                     {want: pending},
		"a certificate, no approval":  {cert: "x", want: pending},
		"approved":                    {conditions: conditions{condition(yes, on)}, want: approved},
		"approved and signed":         {conditions: conditions{condition(yes, on)}, cert: "x", want: issued},
		"approved is False":           {conditions: conditions{condition(yes, corev1.ConditionFalse)}, cert: "x", want: pending},
		"approved is Unknown":         {conditions: conditions{condition(yes, corev1.ConditionUnknown)}, cert: "x", want: pending},
		"approved without a status":   {conditions: conditions{condition(yes, "")}, cert: "x", want: pending},
		"denied":                      {conditions: conditions{condition(no, on)}, want: denied},
		"denied is False":             {conditions: conditions{condition(no, corev1.ConditionFalse)}, want: pending},
		"denied is False, approved":   {conditions: conditions{condition(no, corev1.ConditionFalse), condition(yes, on)}, cert: "x", want: issued},
		"approved, then denied":       {conditions: conditions{condition(yes, on), condition(no, on)}, cert: "x", want: denied},
		"denied, then approved":       {conditions: conditions{condition(no, on), condition(yes, on)}, cert: "x", want: denied},
		"approved and failed":         {conditions: conditions{condition(yes, on), condition(bad, on)}, cert: "x", want: failed},
		"failed is Unknown, approved": {conditions: conditions{condition(bad, corev1.ConditionUnknown), condition(yes, on)}, want: approved},
		"failed and denied":           {conditions: conditions{condition(bad, on), condition(no, on)}, want: denied},
		"a condition of tomorrow":     {conditions: conditions{condition("Audited", on)}, cert: "x", want: pending},
	} {
		o := &certificatesv1.CertificateSigningRequest{Status: certificatesv1.CertificateSigningRequestStatus{Conditions: test.conditions, Certificate: []byte(test.cert)}}
		if got, _ := judge(o); got != test.want {
			t.Errorf("%s: judge() = %v, want %v", name, got, test.want)
		}
	}
}

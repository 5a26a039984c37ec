package csr

import (
	"encoding/json"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Whatever stands in a request's status: it is believed issued only with an
// approval and a certificate and without a refusal, and what is told of a refusal
// is one clean line.
func FuzzStatus(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"conditions":null,"certificate":"YQ=="}`,
		`{"conditions":[{"type":"Approved","status":"True"}]}`,
		`{"conditions":[{"type":"Approved","status":"True"}],"certificate":"YQ=="}`,
		`{"conditions":[{"type":"Approved","status":"True"},{"type":"Denied","status":"True","message":"\u001b[2J\n<0>x"}],"certificate":"YQ=="}`,
		`{"conditions":[{"type":"Denied","status":"False"},{"type":"Failed","status":"Unknown"},{"type":"Approved","status":"true"}],"certificate":"YQ=="}`,
		`{"conditions":[{"type":"Failed","status":"True","reason":"\u202e"},{"type":"Approved","status":"True"}]}`,
		`{"conditions":[{"type":"approved","status":"True"},{"type":"Approved","status":""}],"certificate":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o certificatesv1.CertificateSigningRequest
		if json.Unmarshal(data, &o.Status) != nil {
			return
		}
		has := func(kind certificatesv1.RequestConditionType) bool {
			for _, c := range o.Status.Conditions {
				if c.Type == kind && c.Status == corev1.ConditionTrue {
					return true
				}
			}
			return false
		}
		refused := has(certificatesv1.CertificateDenied) || has(certificatesv1.CertificateFailed)
		s, condition := judge(&o)
		if (s == issued) != (!refused && has(certificatesv1.CertificateApproved) && len(o.Status.Certificate) > 0) {
			t.Fatalf("state %d of %s", s, data)
		}
		err := refusal("node-csr-x", s, condition)
		if (err != nil) != refused {
			t.Fatalf("%v of %s", err, data)
		}
		if err == nil {
			return
		}
		if want := map[bool]fault.Reason{true: fault.CSRDenied, false: fault.CSRFailed}[has(certificatesv1.CertificateDenied)]; fault.ReasonOf(err) != want {
			t.Fatalf("%s, want %s", fault.ReasonOf(err), want)
		}
		if text := err.Error(); len(text) > 1200 || strings.ContainsAny(text, "\n\r\x00\x1b\u202e\u2028\u0085") {
			t.Fatalf("the text is not safe to show: %q", text)
		}
	})
}

package apiclient

import (
	"net/http"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// A list of as many requests as are asked for is read, each as large as the
// cluster makes them; one that would grow to hundreds of megabytes is not.
func TestAListIsBoundedInWhatItWouldBecome(t *testing.T) {
	const real = `{"metadata":{"name":"csr-%","uid":"1b4e28ba-2fa1-11d2-883f-0016d3cca427","creationTimestamp":"2026-01-02T03:04:05Z","managedFields":[{"manager":"kubelet","operation":"Update","apiVersion":"certificates.k8s.io/v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{}},"f:spec":{"f:request":{},"f:signerName":{},"f:usages":{}}}}]},` +
		`"spec":{"groups":["system:nodes","system:authenticated"],"extra":{"authentication.kubernetes.io/credential-id":["X509SHA256=ab"]},"request":"LS0t","signerName":"s","usages":["digital signature","server auth"],"username":"u"},"status":{}}`
	for name, c := range map[string]struct {
		items string
		want  fault.Reason
	}{
		"500 real ones":       {strings.Repeat(real+",", mostCSRs-1) + real, ""},
		"a flood of empty":    {strings.Repeat("{},", 600_000) + "{}", fault.ServerError},
		"a flood of refusals": {`{"status":{"conditions":[` + strings.Repeat("{},", 600_000) + "{}]}}", fault.ServerError},
	} {
		ca := newAuthority(t)
		s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, `{"items":[`+c.items+`]}`) })
		client := newClient(t, Options{Server: s.URL, CA: ca.pem(), Bearer: secretToken})
		found, err := client.PendingCSR(t.Context(), "s", "u")
		if fault.ReasonOf(err) != c.want || (found == nil) != (err != nil) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

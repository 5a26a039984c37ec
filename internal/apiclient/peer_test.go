package apiclient

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestAServerIsJudgedByAnotherBundleAsWell(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusForbidden, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":403,"reason":"Forbidden"}`)
	})
	c, err := New(Options{Server: s.URL, CA: ca.pem()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.VerifiesUnder(ca.pem()); err == nil {
		t.Error("judged before it has answered")
	}
	if _, err := c.ClusterInfo(t.Context()); err == nil {
		t.Fatal("no refusal")
	}
	for name, tc := range map[string]struct {
		bundle []byte
		want   string
	}{
		"its own CA":                {ca.pem(), ""},
		"its own beside another":    {slices.Concat(other.pem(), ca.pem()), ""},
		"another one, of that name": {other.pem(), "certificate"},
		"no CA at all":              {[]byte("x"), "no CA certificate"},
		"nothing":                   {nil, "no CA certificate"},
	} {
		err := c.VerifiesUnder(tc.bundle)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if tc.want == "certificate" && fault.ReasonOf(err) != fault.ServerCertificateInvalid {
			t.Errorf("%s: reason %q", name, fault.ReasonOf(err))
		}
	}
}

package discovery

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestInspectTellsEveryStep(t *testing.T) {
	r, ca, req := cluster(t, nil)
	rep, err := new(Discoverer).Inspect(t.Context(), req)
	if err != nil || len(rep.Endpoints) != 1 || rep.Cluster == nil || rep.Requests != 1 || rep.Handshakes != 1 {
		t.Fatalf("%+v, %v", rep, err)
	}
	e := rep.Endpoints[0]
	if e.Endpoint != r.endpoint.String() || e.Reached != StepVerified || e.Err != nil || e.Status != 200 || e.Server != r.endpoint.URL() || e.ServerTime.IsZero() {
		t.Errorf("got %+v", e)
	}
	if len(e.SignedFor) != 1 || e.SignedFor[0] != testID {
		t.Errorf("signed for %v", e.SignedFor)
	}
	if len(e.CAs) != 1 || !e.CAs[0].Pinned || e.CAs[0].Pin != SPKIPin(ca.cert) || e.CAs[0].Subject != "CN=kubernetes" {
		t.Errorf("CAs %+v", e.CAs)
	}
	if len(e.Peer) != 1 || e.Peer[0].Names[0] != "127.0.0.1" || e.Peer[0].Issuer != "CN=kubernetes" {
		t.Errorf("peer %+v", e.Peer)
	}
}

func TestInspectTellsWhatItSawWhenItFailsHalfWay(t *testing.T) {
	for name, tc := range map[string]struct {
		edit    func(ca *authority, self string) map[string]string
		req     func(*Request)
		reached Step
		reason  fault.Reason
		cas     int
	}{
		"unknown token": {func(*authority, string) map[string]string {
			return map[string]string{kubeconfigKey: "x", signaturePrefix + "a\x1b[2J": "y"}
		}, nil, StepAnswered, fault.TokenUnknown, 0},
		"bad kubeconfig": {func(*authority, string) map[string]string { return signed("x") }, nil, StepSigned, fault.ClusterInfoInvalid, 0},
		"no pins":        {nil, func(r *Request) { r.Pins = Pins{} }, StepRead, fault.PinRequired, 1},
		"other server": {func(*authority, string) map[string]string {
			return signed(kubeconfig("https://10.0.0.1", pemOf(newCA(t, "other"))))
		}, func(r *Request) { r.Pins, r.UnsafeSkipCAVerification = Pins{}, true }, StepAccepted, fault.ServerCertificateInvalid, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, req := cluster(t, tc.edit)
			tcReq := req
			if tc.req != nil {
				tc.req(&tcReq)
			}
			rep, err := new(Discoverer).Inspect(t.Context(), tcReq)
			wantReason(t, err, tc.reason)
			e := rep.Endpoints[0]
			if e.Reached != tc.reached || len(e.CAs) != tc.cas || len(e.Peer) != 1 || fault.ReasonOf(e.Err) != tc.reason || rep.Cluster != nil {
				t.Errorf("got %+v", e)
			}
			b, err := json.Marshal(rep)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), `"reached":"`+tc.reached.String()+`"`) || strings.Contains(string(b), `\u001b`) || strings.Contains(string(b), testSecret) {
				t.Errorf("report %s", b)
			}
		})
	}
}

// Unlike the race, Inspect takes every endpoint to its end, and one that passes
// is enough.
func TestInspectTriesAllEndpoints(t *testing.T) {
	good, ca, req := cluster(t, nil)
	down := newRogue(t, ca.serving(t, []string{"127.0.0.1"}), http.HandlerFunc(status(503)))
	req.Endpoints = []Endpoint{down.endpoint, good.endpoint}
	rep, err := new(Discoverer).Inspect(t.Context(), req)
	if err != nil || rep.Cluster == nil || rep.Cluster.Endpoint != good.endpoint.String() || rep.Requests != 2 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if rep.Endpoints[0].Endpoint != down.endpoint.String() || rep.Endpoints[0].Status != 503 || fault.ReasonOf(rep.Endpoints[0].Err) != fault.ServerError {
		t.Errorf("got %+v", rep.Endpoints[0])
	}
	if rep.Endpoints[1].Reached != StepVerified {
		t.Errorf("got %+v", rep.Endpoints[1])
	}
}

// T3: a report has an end, whatever a server shows.
func TestAReportIsBounded(t *testing.T) {
	got := reportList([]string{"a", "\x1b[2J", "c", "d"}, 2)
	if !slices.Equal(got, []string{"a", `\x1b[2J`, "and 2 more"}) || reportList(nil, 2) != nil {
		t.Errorf("got %q", got)
	}
	ca := newCA(t, "kubernetes")
	pair := ca.serving(t, []string{"127.0.0.1"}, func(c *x509.Certificate) {
		for i := range 1000 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("%d.e", i))
		}
	})
	for range 30 {
		pair.Certificate = append(pair.Certificate, ca.cert.Raw)
	}
	answer := signed(kubeconfig("https://10.0.0.1:6443", pemOf(ca)))
	for i := range 1000 {
		answer[fmt.Sprintf("%s%06d", signaturePrefix, i)] = "x"
	}
	r := newRogue(t, pair, answering(answer))
	rep, err := new(Discoverer).Inspect(t.Context(), Request{Endpoints: []Endpoint{r.endpoint}, Token: testToken(t), Pins: pinsOf(ca)})
	if err != nil && rep.Endpoints[0].Reached < StepVerified {
		t.Fatal(err)
	}
	e := rep.Endpoints[0]
	if len(e.Peer) != maxReportedPeers || len(e.Peer[0].Names) != maxReportedNames+1 || len(e.SignedFor) != maxReported+1 {
		t.Errorf("%d certificates, %d names, %d ids", len(e.Peer), len(e.Peer[0].Names), len(e.SignedFor))
	}
}

func TestStepNames(t *testing.T) {
	for s := StepNone; s <= StepVerified; s++ {
		if strings.Contains(s.String(), "step") {
			t.Errorf("step %d has no name", s)
		}
	}
	if Step(99).String() != "step 99" || Step(-1).String() != "step -1" {
		t.Error("unknown steps")
	}
}

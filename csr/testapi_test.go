package csr

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

type bearer string

func (b bearer) Bearer() string { return string(b) }

func startAPI(t *testing.T, o testapi.Options) (*testapi.Server, *apiclient.Client, Target) {
	t.Helper()
	o.Logf = t.Logf
	s, err := testapi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	c, err := apiclient.New(apiclient.Options{Server: s.URL(), CA: s.CA(), Bearer: bearer(s.Token())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	id, _, _ := strings.Cut(s.Token(), ".")
	return s, c, Target{API: c, NodeName: node, Requester: "system:bootstrap:" + id}
}

func keyIn(t *testing.T) *Requester {
	return &Requester{KeyPath: filepath.Join(t.TempDir(), "kubelet-client.key")}
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAPersonsApprovalCostsTwoRequestsAndOneHandshake(t *testing.T) {
	s, c, target := startAPI(t, testapi.Options{Quiet: true, SeparateClientCA: true})
	s.AutoApprove(false)
	ctx, r := limited(t), keyIn(t)
	approved := make(chan error, 1)
	go func() {
		name, err := s.AwaitCSR(ctx)
		if err == nil {
			err = s.AwaitWatches(ctx, 1)
		}
		if err == nil && !s.Approve(name) {
			err = errors.New("there is nothing to approve")
		}
		approved <- err
	}()
	got, err := r.Request(ctx, target)
	if err != nil || <-approved != nil {
		t.Fatal(err)
	}
	if stats := c.Stats(); stats != (apiclient.Stats{Requests: 2, Handshakes: 1}) {
		t.Errorf("it cost %+v", stats)
	}
	if _, err := tls.X509KeyPair(got.CertPEM, got.KeyPEM); err != nil {
		t.Fatal(err)
	}
	asNode, err := apiclient.New(apiclient.Options{Server: s.URL(), CA: s.CA(), CertPEM: got.CertPEM, KeyPEM: got.KeyPEM})
	if err != nil {
		t.Fatal(err)
	}
	defer asNode.Close()
	if _, err := asNode.GetNode(ctx, node); !apierrors.IsNotFound(err) {
		t.Errorf("the new node may not read its own Node: %v", err)
	}
}

func TestTheApproverTakesTheRequestAsItIs(t *testing.T) {
	_, c, target := startAPI(t, testapi.Options{Quiet: true})
	if _, err := keyIn(t).Request(limited(t), target); err != nil || c.Stats().Handshakes != 1 {
		t.Errorf("%v after %+v", err, c.Stats())
	}
}

func TestOnABadDayThereIsACertificateAndOneRequest(t *testing.T) {
	for seed := range int64(6) {
		s, _, target := startAPI(t, testapi.Options{Seed: seed + 1})
		ctx, r := limited(t), keyIn(t)
		for {
			_, err := r.Request(ctx, target)
			if err == nil {
				break
			}
			f, ok := fault.As(err)
			if row, _ := fault.Lookup(fault.ReasonOf(err)); !ok || row.Class != fault.Retry {
				t.Fatalf("seed %d: %v", seed+1, err)
			}
			if f.RetryAfter == 0 && f.Reason == fault.Throttled {
				t.Errorf("seed %d: a 429 without its Retry-After: %v", seed+1, err)
			}
		}
		if n := len(s.CSRs()); n != 1 {
			t.Errorf("seed %d: %d requests were made", seed+1, n)
		}
	}
}

func TestWhatTheSignerGetsWrongIsNotBelieved(t *testing.T) {
	for name, test := range map[string]struct {
		mode testapi.WrongMode
		want fault.Reason
	}{
		"nothing":            {testapi.WrongNothing, ""},
		"chain":              {testapi.RightChain, ""},
		"text before":        {testapi.RightText, ""},
		"text behind":        {testapi.WrongTrailing, ""}, // the API allows it; it is cut away
		"key":                {testapi.WrongKey, fault.CertificateInvalid},
		"name":               {testapi.WrongName, fault.CertificateInvalid},
		"organization":       {testapi.WrongOrganization, fault.CertificateInvalid},
		"extra organization": {testapi.WrongExtraOrganization, fault.CertificateInvalid},
		"usage":              {testapi.WrongUsage, fault.CertificateInvalid},
		"expired":            {testapi.WrongExpired, fault.CertificateInvalid},
		"not yet valid":      {testapi.WrongNotYetValid, fault.CertificateInvalid},
		"garbage":            {testapi.WrongGarbage, fault.CertificateInvalid},
		"DER":                {testapi.WrongDER, fault.CertificateInvalid},
		"order":              {testapi.WrongOrder, fault.CertificateInvalid},
		"key inside":         {testapi.WrongKeyInside, fault.CertificateInvalid},
		"with SAN":           {testapi.WrongWithSAN, fault.CertificateInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, target := startAPI(t, testapi.Options{Quiet: true})
			s.SignWrong(test.mode)
			got, err := keyIn(t).Request(limited(t), target)
			if fault.ReasonOf(err) != test.want || (test.want == "") != (err == nil) {
				t.Fatalf("got %v", err)
			}
			if err == nil && strings.Count(string(got.CertPEM), "\n-----") != 2*strings.Count(string(got.CertPEM), "BEGIN")-1 {
				t.Errorf("there is more than certificates: %q", got.CertPEM)
			}
		})
	}
}

func TestARefusalReachesTheWaiterThroughTheWatch(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(s *testapi.Server, name string) bool
		want fault.Reason
	}{
		"denied":  {func(s *testapi.Server, name string) bool { return s.Deny(name, "not this one") }, fault.CSRDenied},
		"failed":  {func(s *testapi.Server, name string) bool { return s.Fail(name, "bad usages") }, fault.CSRFailed},
		"deleted": {func(s *testapi.Server, name string) bool { return s.Delete(name) }, fault.CSRDeleted},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, target := startAPI(t, testapi.Options{Quiet: true})
			s.AutoApprove(false)
			ctx := limited(t)
			done := make(chan bool, 1)
			go func() {
				name, err := s.AwaitCSR(ctx)
				done <- err == nil && s.AwaitWatches(ctx, 1) == nil && test.do(s, name)
			}()
			_, err := keyIn(t).Request(ctx, target)
			if fault.ReasonOf(err) != test.want || !<-done {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestATokenWithoutTheRightsIsToldWhichBindingIsMissing(t *testing.T) {
	s, _, target := startAPI(t, testapi.Options{Quiet: true})
	s.CreateForbidden(true)
	_, err := keyIn(t).Request(limited(t), target)
	const command = "kubectl create clusterrolebinding bootstrap-agent:create-csrs:kubeadm:default-node-token " +
		"--clusterrole=system:node-bootstrapper --group=system:bootstrappers:kubeadm:default-node-token"
	if fault.ReasonOf(err) != fault.CSRForbidden || !strings.Contains(fault.HintOf(err), command) {
		t.Errorf("without the right to create: %v, hint %q", err, fault.HintOf(err))
	}
	if groups := `"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"`; err == nil || !strings.Contains(err.Error(), groups) {
		t.Errorf("the message does not name the token's groups: %v", err)
	}
	s.TokenAuth(false)
	_, err = keyIn(t).Request(limited(t), target)
	id, _, _ := strings.Cut(s.Token(), ".")
	if fault.ReasonOf(err) != fault.TokenRejected {
		t.Errorf("without token authentication: %v", err)
	}
	for _, part := range []string{"get secret bootstrap-token-" + id, "usage-bootstrap-authentication", "kubeadm token create"} {
		if !strings.Contains(fault.HintOf(err), part) {
			t.Errorf("the hint lacks %q: %s", part, fault.HintOf(err))
		}
	}
}

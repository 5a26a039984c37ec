package testapi

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestACreatedCSRIsApprovedAndSigned(t *testing.T) {
	s := start(t, Options{Quiet: true, Token: quietToken})
	c := s.as(t, quietToken)
	created := c.createCSR("node-csr-x", "a", func(csr *certv1.CertificateSigningRequest) {
		csr.Spec.Username = "somebody-else"
		csr.Status.Certificate = []byte("mine")
	})
	if created.Spec.Username != "system:bootstrap:abcdef" || !slices.Contains(created.Spec.Groups, kubeadmGroup) ||
		len(created.Status.Conditions)+len(created.Status.Certificate) != 0 || created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() {
		t.Errorf("created %+v", created)
	}
	if name, err := s.AwaitCSR(soon(t)); err != nil || name != "node-csr-x" {
		t.Errorf("AwaitCSR: %s, %v", name, err)
	}
	done := decode[certv1.CertificateSigningRequest](c.get(csrPath + "/node-csr-x").body)
	if len(done.Status.Conditions) != 1 || done.Status.Conditions[0].Type != certv1.CertificateApproved {
		t.Errorf("conditions %+v", done.Status.Conditions)
	}
	leaf := parse(t, done.Status.Certificate)
	if leaf.Subject.CommonName != "system:node:a" || !slices.Equal(leaf.Subject.Organization, []string{"system:nodes"}) ||
		leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || leaf.IsCA {
		t.Errorf("certificate %+v", leaf.Subject)
	}
	if back := time.Since(leaf.NotBefore); back < 4*time.Minute || back > 6*time.Minute {
		t.Errorf("backdated by %s", back)
	}
	a := c.do(http.MethodPost, csrPath, newCSR(t, "node-csr-x", "a", nil), "Content-Type", "application/json")
	if a.status != 409 || a.object(t).Reason != "AlreadyExists" || a.object(t).Details.Name != "node-csr-x" {
		t.Errorf("a second time: %s", a.body)
	}
	if list := s.CSRs(); len(list) != 1 || list[0].Name != "node-csr-x" {
		t.Errorf("list %v", list)
	}
}

func parse(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("no PEM: %q", raw)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestAnInvalidCSRIsRefused(t *testing.T) {
	s := quiet(t)
	c := s.as(t, s.Token())
	short := int32(599)
	for name, tc := range map[string]struct {
		change func(*certv1.CertificateSigningRequest)
		field  string
	}{
		"no name":               {func(c *certv1.CertificateSigningRequest) { c.Name = "" }, "metadata.name"},
		"slash in name":         {func(c *certv1.CertificateSigningRequest) { c.Name = "a/b" }, "metadata.name"},
		"no signer":             {func(c *certv1.CertificateSigningRequest) { c.Spec.SignerName = "" }, "spec.signerName"},
		"signer without domain": {func(c *certv1.CertificateSigningRequest) { c.Spec.SignerName = "kubelet" }, "spec.signerName"},
		"no usages":             {func(c *certv1.CertificateSigningRequest) { c.Spec.Usages = nil }, "spec.usages"},
		"usage twice":           {func(c *certv1.CertificateSigningRequest) { c.Spec.Usages = append(c.Spec.Usages, c.Spec.Usages[0]) }, "spec.usages[2]"},
		"expires too soon":      {func(c *certv1.CertificateSigningRequest) { c.Spec.ExpirationSeconds = &short }, "spec.expirationSeconds"},
		"request is garbage":    {func(c *certv1.CertificateSigningRequest) { c.Spec.Request = []byte("x") }, "spec.request"},
		"request is DER": {func(c *certv1.CertificateSigningRequest) {
			b, _ := pem.Decode(c.Spec.Request)
			c.Spec.Request = b.Bytes
		}, "spec.request"},
		"two requests": {func(c *certv1.CertificateSigningRequest) { c.Spec.Request = bytes.Repeat(c.Spec.Request, 2) }, "spec.request"},
		"broken signature": {func(c *certv1.CertificateSigningRequest) {
			b, _ := pem.Decode(c.Spec.Request)
			b.Bytes[len(b.Bytes)-1] ^= 1
			c.Spec.Request = pem.EncodeToMemory(b)
		}, "spec.request"},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.do(http.MethodPost, csrPath, newCSR(t, "x", "a", tc.change), "Content-Type", "application/json")
			st := a.object(t)
			if a.status != 422 || st.Reason != "Invalid" || len(st.Details.Causes) == 0 || st.Details.Causes[0].Field != tc.field {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	if len(s.CSRs()) != 0 {
		t.Error("something was stored")
	}
}

func TestFormsOfBodiesAndAnswers(t *testing.T) {
	s := quiet(t)
	c := s.as(t, s.Token())
	csr := decode[certv1.CertificateSigningRequest](newCSR(t, "proto", "a", nil))
	raw, err := csr.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"}, Raw: raw}
	proto, err := envelope.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	proto = append([]byte(protobufMagic), proto...)
	for name, tc := range map[string]struct {
		body         []byte
		kind, accept string
		want         int
	}{
		"protobuf in, JSON out":      {proto, runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf + ",application/json", 201},
		"JSON without content type":  {newCSR(t, "j", "a", nil), "", "", 201},
		"YAML":                       {[]byte("a: b"), "application/yaml", "", 415},
		"protobuf without envelope":  {raw, runtime.ContentTypeProtobuf, "", 400},
		"broken JSON":                {[]byte("{"), "application/json", "", 400},
		"only protobuf is accepted":  {proto, runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf, 406},
		"a table is asked for":       {proto, runtime.ContentTypeProtobuf, "application/json;as=Table;g=meta.k8s.io;v=v1", 406},
		"anything is accepted":       {newCSR(t, "k", "a", nil), "application/json", "*/*", 201},
		"larger than the server may": {bytes.Repeat([]byte(" "), maxBody+1), "application/json", "", 413},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.do(http.MethodPost, csrPath, tc.body, "Content-Type", tc.kind, "Accept", tc.accept)
			if a.status != tc.want || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	for method, path := range map[string]string{"DELETE": csrPath + "/j", "PUT": csrPath + "/j/approval", "PATCH": nodesPath + "/a"} {
		if a := c.do(method, path, []byte("{}")); a.status != 403 {
			t.Errorf("%s %s: %d", method, path, a.status)
		}
	}
}

func TestTheApproverJudgesAsTheRealOne(t *testing.T) {
	for name, tc := range map[string]struct {
		before   func(*Server)
		change   func(*certv1.CertificateSigningRequest)
		approved bool
	}{
		"as it should be": {nil, nil, true},
		"with encipherment": {nil, func(c *certv1.CertificateSigningRequest) {
			c.Spec.Usages = append(c.Spec.Usages, certv1.UsageKeyEncipherment)
		}, true},
		"usage too many": {nil, func(c *certv1.CertificateSigningRequest) {
			c.Spec.Usages = append(c.Spec.Usages, certv1.UsageServerAuth)
		}, false},
		"usage missing":  {nil, func(c *certv1.CertificateSigningRequest) { c.Spec.Usages = c.Spec.Usages[:1] }, false},
		"another signer": {nil, func(c *certv1.CertificateSigningRequest) { c.Spec.SignerName = "example.com/other" }, false},
		"no nodeclient":  {func(s *Server) { s.NodeClientAllowed(false) }, nil, false},
		"approver off":   {func(s *Server) { s.AutoApprove(false) }, nil, false},
		"with a DNS name": {nil, func(c *certv1.CertificateSigningRequest) {
			c.Spec.Request = requestPEM(t, x509.CertificateRequest{
				Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}, DNSNames: []string{"a"},
			})
		}, false},
		"another organisation": {nil, func(c *certv1.CertificateSigningRequest) {
			c.Spec.Request = requestPEM(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:masters"}}})
		}, false},
		"no node's name": {nil, func(c *certv1.CertificateSigningRequest) {
			c.Spec.Request = requestPEM(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "a", Organization: []string{"system:nodes"}}})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := quiet(t)
			if tc.before != nil {
				tc.before(s)
			}
			s.as(t, s.Token()).createCSR("x", "a", tc.change)
			status := s.CSR("x").Status
			if (len(status.Conditions) == 1) != tc.approved || (len(status.Certificate) > 0) != tc.approved {
				t.Errorf("status %+v", status)
			}
		})
	}
}

func TestANodeRenewsByItself(t *testing.T) {
	s := quiet(t)
	c := s.node(t, "a")
	c.createCSR("own", "a", nil)
	c.createCSR("other", "b", nil)
	if len(s.CSR("own").Status.Certificate) == 0 || len(s.CSR("other").Status.Conditions) != 0 {
		t.Error("a node renews its own certificate and no other")
	}
	s.SelfNodeClientAllowed(false)
	c.createCSR("late", "a", nil)
	if len(s.CSR("late").Status.Conditions) != 0 {
		t.Error("selfnodeclient was taken away")
	}
}

func TestDecisionsByHand(t *testing.T) {
	s := quiet(t)
	s.AutoApprove(false)
	c := s.as(t, s.Token())
	for _, name := range []string{"approve", "deny", "fail", "delete", "unsigned", "mutate"} {
		c.createCSR(name, "a", nil)
	}
	c.createCSR("shape", "a", func(c *certv1.CertificateSigningRequest) { c.Spec.Usages = c.Spec.Usages[:1] })
	if !s.Approve("approve") || len(s.CSR("approve").Status.Certificate) == 0 {
		t.Error("Approve")
	}
	if !s.Deny("deny", "no") || s.CSR("deny").Status.Conditions[0].Type != certv1.CertificateDenied || s.CSR("deny").Status.Conditions[0].Message != "no" {
		t.Error("Deny")
	}
	if !s.Fail("fail", "no") || s.CSR("fail").Status.Conditions[0].Type != certv1.CertificateFailed {
		t.Error("Fail")
	}
	if !s.Approve("shape") || len(s.CSR("shape").Status.Conditions) != 2 || len(s.CSR("shape").Status.Certificate) != 0 {
		t.Error("the signer signs what it must not")
	}
	s.Signing(false)
	if !s.Approve("unsigned") || len(s.CSR("unsigned").Status.Certificate) != 0 {
		t.Error("the signer is off")
	}
	if !s.Delete("delete") || s.CSR("delete") != nil || s.Delete("delete") || s.Approve("none") || s.Deny("none", "") {
		t.Error("Delete, or a CSR that is not there")
	}
	if !s.MutateCSR("mutate", func(c *certv1.CertificateSigningRequest) { c.Spec.Username = "x" }) || s.CSR("mutate").Spec.Username != "x" {
		t.Error("MutateCSR")
	}
	s.AddCSR(certv1.CertificateSigningRequest{ObjectMeta: s.CSR("mutate").ObjectMeta, Spec: certv1.CertificateSigningRequestSpec{Username: "system:bootstrap:other"}})
	if s.CSR("mutate").Spec.Username != "system:bootstrap:other" {
		t.Error("AddCSR")
	}
	s.CreateForbidden(true)
	if a := c.do(http.MethodPost, csrPath, newCSR(t, "x", "a", nil), "Content-Type", "application/json"); a.status != 403 {
		t.Errorf("CreateForbidden: %d", a.status)
	}
}

func TestWrongCertificatesAreWrongAsTheyClaim(t *testing.T) {
	for name, tc := range map[string]struct {
		mode  WrongMode
		check func(s *Server, raw []byte, leaf *x509.Certificate) bool
	}{
		"key": {WrongKey, func(s *Server, _ []byte, c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubjectPublicKeyInfo, s.pki.foreign.cert.RawSubjectPublicKeyInfo)
		}},
		"name": {WrongName, func(_ *Server, _ []byte, c *x509.Certificate) bool {
			return c.Subject.CommonName == "system:node:a-other"
		}},
		"org": {WrongOrganization, func(_ *Server, _ []byte, c *x509.Certificate) bool {
			return c.Subject.Organization[0] == "system:masters"
		}},
		"extra": {WrongExtraOrganization, func(_ *Server, _ []byte, c *x509.Certificate) bool { return len(c.Subject.Organization) == 2 }},
		"CA": {WrongCA, func(s *Server, _ []byte, c *x509.Certificate) bool {
			return c.CheckSignatureFrom(s.pki.foreign.cert) == nil && c.CheckSignatureFrom(s.pki.client.cert) != nil
		}},
		"usage": {WrongUsage, func(_ *Server, _ []byte, c *x509.Certificate) bool {
			return c.ExtKeyUsage[0] == x509.ExtKeyUsageServerAuth
		}},
		"expired": {WrongExpired, func(_ *Server, _ []byte, c *x509.Certificate) bool { return c.NotAfter.Before(time.Now()) }},
		"not yet": {WrongNotYetValid, func(_ *Server, _ []byte, c *x509.Certificate) bool { return c.NotBefore.After(time.Now()) }},
		"SAN":     {WrongWithSAN, func(_ *Server, _ []byte, c *x509.Certificate) bool { return len(c.DNSNames) == 1 }},
		"garbage": {WrongGarbage, func(_ *Server, raw []byte, c *x509.Certificate) bool { return c == nil && len(raw) > 0 }},
		"DER":     {WrongDER, func(_ *Server, raw []byte, c *x509.Certificate) bool { return c == nil && len(raw) > 0 }},
		"empty":   {WrongEmpty, func(_ *Server, raw []byte, _ *x509.Certificate) bool { return len(raw) == 0 }},
		"order": {WrongOrder, func(_ *Server, raw []byte, c *x509.Certificate) bool {
			return c.IsCA && bytes.Count(raw, []byte("BEGIN")) == 2
		}},
		"trailing": {WrongTrailing, func(_ *Server, raw []byte, c *x509.Certificate) bool {
			return c != nil && strings.HasSuffix(string(raw), "and so on\n")
		}},
		"key inside": {WrongKeyInside, func(_ *Server, raw []byte, c *x509.Certificate) bool {
			return c != nil && bytes.Contains(raw, []byte("PRIVATE KEY"))
		}},
		"chain": {RightChain, func(_ *Server, raw []byte, c *x509.Certificate) bool {
			return !c.IsCA && bytes.Count(raw, []byte("BEGIN")) == 2
		}},
		"text": {RightText, func(_ *Server, raw []byte, c *x509.Certificate) bool { return c != nil && raw[0] == 'i' }},
	} {
		t.Run(name, func(t *testing.T) {
			s := quiet(t)
			s.SignWrong(tc.mode)
			s.as(t, s.Token()).createCSR("x", "a", nil)
			raw := s.CSR("x").Status.Certificate
			var leaf *x509.Certificate
			if block, _ := pem.Decode(raw); block != nil {
				leaf, _ = x509.ParseCertificate(block.Bytes)
			}
			if !tc.check(s, raw, leaf) {
				t.Errorf("got %s", raw)
			}
		})
	}
}

func TestTheSignerKeepsItsLimits(t *testing.T) {
	s := start(t, Options{Quiet: true, SigningDuration: time.Hour})
	short, long := int32(600), int32(7*24*3600)
	c := s.as(t, s.Token())
	for name, seconds := range map[string]*int32{"short": &short, "long": &long, "none": nil} {
		c.createCSR(name, "a", func(c *certv1.CertificateSigningRequest) { c.Spec.ExpirationSeconds = seconds })
		left := time.Until(parse(t, s.CSR(name).Status.Certificate).NotAfter)
		if want := map[string]time.Duration{"short": 10 * time.Minute}[name]; want == 0 && left < 59*time.Minute || left > max(want, time.Hour) || want != 0 && left > want {
			t.Errorf("%s: %s left", name, left)
		}
	}
}

// Whatever is sent, the server answers with a Status and does not panic.
func FuzzCSRBody(f *testing.F) {
	f.Add(newCSR(f, "x", "a", nil))
	f.Add([]byte(`{"metadata":{"generateName":"csr-"},"spec":{"request":"eA=="}}`))
	f.Add([]byte("{"))
	f.Add([]byte(`{"spec":{"expirationSeconds":-1,"usages":["",""]}}`))
	s := quiet(f)
	c := s.as(f, s.Token())
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := c.try(t.Context(), http.MethodPost, csrPath, body, "Content-Type", "application/json")
		if err != nil || !slices.Contains([]int{201, 400, 409, 413, 422}, a.status) {
			t.Errorf("%d %s %v", a.status, a.body, err)
		}
	})
}

func TestAStaticTokenIsAUserOfItsOwn(t *testing.T) {
	s := start(t, Options{Quiet: true, HandMade: true})
	s.AddStaticToken(StaticToken{Token: "any-word", User: "kubelet-bootstrap"})
	s.AddStaticToken(StaticToken{Token: "other", User: "somebody", Groups: []string{"strangers"}})
	s.as(t, "any-word").createCSR("mine", "a", nil)
	csr := s.CSR("mine")
	if csr == nil || csr.Spec.Username != "kubelet-bootstrap" || !slices.Contains(csr.Spec.Groups, bootstrapGroup) || len(csr.Status.Certificate) == 0 {
		t.Errorf("got %+v", csr)
	}
	if got := s.as(t, "other").do(http.MethodGet, csrPath+"/mine", nil); got.status != http.StatusForbidden {
		t.Errorf("another group: %d", got.status)
	}
	s.DeleteStaticToken("any-word")
	if got := s.as(t, "any-word").do(http.MethodGet, csrPath+"/mine", nil); got.status != http.StatusUnauthorized {
		t.Errorf("a token that was taken away: %d", got.status)
	}
}

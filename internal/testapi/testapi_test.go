package testapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cluster-bootstrap/token/jws"
)

func TestTheZeroOptionsWork(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Seed() == 0 || s.Token() == "" || !strings.HasPrefix(s.Pin(), "sha256:") || !strings.HasSuffix(s.URL(), s.Host()) {
		t.Errorf("%s, token %q, pin %q", s, s.Token(), s.Pin())
	}
	s.Close()
	s.Close()
}

func TestABadTokenOrAddressIsRefused(t *testing.T) {
	if _, err := New(Options{Token: "UPPER.case"}); err == nil || strings.Contains(err.Error(), "UPPER") {
		t.Errorf("got %v", err)
	}
	if _, err := New(Options{Listen: "127.0.0.1:none"}); err == nil {
		t.Error("no error")
	}
}

func TestClusterInfoIsSignedAsTheRealOne(t *testing.T) {
	id, secret, _ := strings.Cut(quietToken, ".")
	for name, tc := range map[string]struct {
		change  func(*Server)
		present bool
		valid   bool
	}{
		"by default":               {func(*Server) {}, true, true},
		"content changed":          {func(s *Server) { s.SetClusterInfo("kind: Config\n") }, true, true},
		"server changed":           {func(s *Server) { s.SetClusterInfoServer("https://192.0.2.1:6443") }, true, true},
		"CA added":                 {func(s *Server) { s.AddClusterInfoCA(s.ForeignCA()) }, true, true},
		"signer off":               {func(s *Server) { s.RemoveSignatures() }, false, false},
		"another secret":           {func(s *Server) { s.SignWith("0000000000000000") }, true, false},
		"the full token":           {func(s *Server) { s.SignWithFullToken() }, true, false},
		"any text":                 {func(s *Server) { s.SetSignature(id, "a..b") }, true, false},
		"token without signing":    {func(s *Server) { s.AddToken(Token{ID: id, Secret: secret, NoSigning: true}) }, false, false},
		"token expired":            {func(s *Server) { s.AddToken(Token{ID: id, Secret: secret, Expires: time.Now().Add(-time.Second)}) }, false, false},
		"token deleted":            {func(s *Server) { s.DeleteToken(id) }, false, false},
		"all wrong and then reset": {func(s *Server) { s.SignWith("x"); s.RemoveSignatures(); s.ResetClusterInfo() }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Quiet: true, Token: quietToken})
			tc.change(s)
			cm := decode[corev1.ConfigMap](s.as(t, "").get(infoPath).body)
			signature, ok := cm.Data["jws-kubeconfig-"+id]
			if ok != tc.present || jws.DetachedTokenIsValid(signature, cm.Data["kubeconfig"], id, secret) != tc.valid {
				t.Errorf("signature %q (%t), want present %t and valid %t", signature, ok, tc.present, tc.valid)
			}
			if cm.Data["kubeconfig"] != s.Kubeconfig() || cm.Kind != "ConfigMap" || cm.ResourceVersion == "" {
				t.Errorf("ConfigMap %+v", cm)
			}
		})
	}
}

const quietToken = "abcdef.abcdef0123456789"

func TestATokenExpiresWhileTheServerRuns(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := start(t, Options{Quiet: true, NoToken: true, Now: clock})
	s.AddToken(Token{ID: "abcdef", Secret: "abcdef0123456789", Expires: now.Add(time.Minute)})
	anonymous, bearer := s.as(t, ""), s.as(t, quietToken)
	if !strings.Contains(string(anonymous.get(infoPath).body), "jws-kubeconfig-abcdef") || bearer.get(csrPath).status != 200 {
		t.Fatal("the token does not work yet")
	}
	mu.Lock()
	now = now.Add(2 * time.Minute)
	mu.Unlock()
	if strings.Contains(string(anonymous.get(infoPath).body), "jws-kubeconfig-abcdef") || bearer.get(csrPath).status != 401 {
		t.Error("the token still works")
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	s := start(t, Options{Quiet: true, Token: quietToken, SeparateClientCA: true})
	s.RegisterNode("a", corev1.NodeSystemInfo{})
	s.AddToken(Token{ID: "groups", Secret: "abcdef0123456789", Groups: []string{}})
	s.AddToken(Token{ID: "noauth", Secret: "abcdef0123456789", NoAuthentication: true})
	cert, key, err := s.ForeignNodeCertificate("a")
	if err != nil {
		t.Fatal(err)
	}
	oldCert, oldKey, err := s.ClientCertificate("system:node:a", []string{"system:nodes"}, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	who := map[string]*client{
		"anonymous": s.as(t, ""), "token": s.as(t, quietToken), "node": s.node(t, "a"),
		"unknown token": s.as(t, "zzzzzz.abcdef0123456789"), "wrong secret": s.as(t, "abcdef.0000000000000000"), "malformed": s.as(t, "x"),
		"token without group": s.as(t, "groups.abcdef0123456789"), "signing-only token": s.as(t, "noauth.abcdef0123456789"),
		"foreign certificate": s.as(t, "", cert, key), "expired certificate": s.as(t, "", oldCert, oldKey),
		"foreign certificate, good token": s.as(t, quietToken, cert, key),
	}
	for _, tc := range []struct {
		who, path string
		want      int
	}{
		{"anonymous", infoPath, 200}, {"anonymous", "/version", 200}, {"anonymous", "/readyz", 200},
		{"anonymous", kubeletCfg, 403}, {"anonymous", csrPath, 403}, {"anonymous", nodesPath, 403}, {"anonymous", "/metrics", 403}, {"anonymous", "/api", 403},
		{"anonymous", "/api/v1/namespaces/kube-public/configmaps", 403}, {"anonymous", "/api/v1/namespaces/kube-public/configmaps/other", 403},
		{"token", infoPath, 403}, {"token", csrPath, 200}, {"token", csrPath + "/none", 404}, {"token", kubeletCfg, 200},
		{"token", nodesPath, 403}, {"token", nodesPath + "/a", 200}, {"token", leasePath + "/a", 403}, {"token", "/api", 404},
		{"node", nodesPath + "/a", 200}, {"node", nodesPath + "/b", 403}, {"node", nodesPath, 403},
		{"node", nodesPath + "?fieldSelector=metadata.name%3Da", 200}, {"node", nodesPath + "?fieldSelector=metadata.name%3Db", 403},
		{"node", leasePath + "/a", 200}, {"node", leasePath + "/b", 403}, {"node", leasePath, 403},
		{"node", kubeletCfg, 200}, {"node", infoPath, 403}, {"node", csrPath + "/none", 404}, {"node", "/api/v1/namespaces/default/secrets/x", 403},
		{"token", csrPath + "?fieldSelector=spec.username%3Dx", 400},
		{"unknown token", csrPath, 401}, {"unknown token", infoPath, 401}, {"wrong secret", csrPath, 401}, {"malformed", csrPath, 401},
		{"signing-only token", csrPath, 401}, {"token without group", csrPath, 403},
		{"foreign certificate", nodesPath + "/a", 401}, {"foreign certificate", "/version", 401}, {"expired certificate", nodesPath + "/a", 401},
		{"foreign certificate, good token", csrPath, 200},
	} {
		t.Run(tc.who+" "+tc.path, func(t *testing.T) {
			a := who[tc.who].get(tc.path)
			if a.status != tc.want {
				t.Fatalf("status %d, want %d: %s", a.status, tc.want, a.body)
			}
			if a.status >= 400 {
				reasons := map[int]metav1.StatusReason{400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound"}
				st := a.object(t)
				if st.Kind != "Status" || st.APIVersion != "v1" || st.Status != "Failure" || int(st.Code) != tc.want || st.Reason != reasons[tc.want] {
					t.Errorf("Status object %s", a.body)
				}
			}
		})
	}
	for _, r := range s.Requests() {
		if (r.Status == 401) != (r.Identity == "") {
			t.Errorf("identity %q with status %d", r.Identity, r.Status)
		}
	}
}

func TestAccessIsTakenAwayByName(t *testing.T) {
	for name, tc := range map[string]struct {
		options Options
		change  func(*Server)
		who     string
		path    string
		want    int
	}{
		"no anonymous access":            {Options{}, func(s *Server) { s.Anonymous(false) }, "", infoPath, 401},
		"no RBAC for cluster-info":       {Options{}, func(s *Server) { s.ClusterInfoForbidden(true) }, "", infoPath, 403},
		"no cluster-info":                {Options{}, func(s *Server) { s.DeleteClusterInfo() }, "", infoPath, 404},
		"no token authentication":        {Options{}, func(s *Server) { s.TokenAuth(false) }, "token", csrPath, 401},
		"certificates rejected":          {Options{}, func(s *Server) { s.RejectCertificates(true) }, "node", nodesPath + "/a", 401},
		"client CA rotated":              {Options{}, func(s *Server) { _ = s.RotateClientCA() }, "node", nodesPath + "/a", 401},
		"kubelet-config forbidden":       {Options{}, func(s *Server) { s.KubeletConfigForbidden(true) }, "node", kubeletCfg, 403},
		"kubelet-config removed":         {Options{}, func(s *Server) { s.RemoveKubeletConfig() }, "node", kubeletCfg, 404},
		"hand-made: no kubelet-config":   {Options{HandMade: true}, func(*Server) {}, "node", kubeletCfg, 403},
		"hand-made: token and Node":      {Options{HandMade: true}, func(*Server) {}, "token", nodesPath + "/a", 403},
		"hand-made: token and CSRs":      {Options{HandMade: true}, func(*Server) {}, "token", csrPath, 200},
		"hand-made: node and own Node":   {Options{HandMade: true}, func(*Server) {}, "node", nodesPath + "/a", 404},
		"kubelet-config of another kind": {Options{}, func(s *Server) { s.SetKubeletConfig("x: 1") }, "node", kubeletCfg, 200},
	} {
		t.Run(name, func(t *testing.T) {
			tc.options.Quiet = true
			s := start(t, tc.options)
			clients := map[string]*client{"": s.as(t, ""), "token": s.as(t, s.Token()), "node": s.node(t, "a")}
			tc.change(s)
			if a := clients[tc.who].get(tc.path); a.status != tc.want {
				t.Errorf("status %d, want %d: %s", a.status, tc.want, a.body)
			}
		})
	}
}

func TestAccessReviews(t *testing.T) {
	s := start(t, Options{Quiet: true, Token: quietToken})
	ask := func(c *client, sub, verb string) (int, bool) {
		review := authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: csrs.group, Resource: csrs.resource, Subresource: sub, Verb: verb},
		}}
		a := c.do(http.MethodPost, ssarPath, encode(review), "Content-Type", "application/json")
		return a.status, a.status == 201 && decode[authorizationv1.SelfSubjectAccessReview](a.body).Status.Allowed
	}
	token, node := s.as(t, quietToken), s.node(t, "a")
	if _, ok := ask(token, "nodeclient", "create"); !ok {
		t.Error("a token may have its certificate approved")
	}
	if _, ok := ask(token, "selfnodeclient", "create"); ok {
		t.Error("a token may not renew")
	}
	if _, ok := ask(node, "selfnodeclient", "create"); !ok {
		t.Error("a node may renew")
	}
	if _, ok := ask(token, "", "delete"); ok {
		t.Error("nobody may delete a CSR")
	}
	s.NodeClientAllowed(false)
	s.SelfNodeClientAllowed(false)
	if _, ok := ask(token, "nodeclient", "create"); ok {
		t.Error("nodeclient was taken away")
	}
	if _, ok := ask(node, "selfnodeclient", "create"); ok {
		t.Error("selfnodeclient was taken away")
	}
	if status, _ := ask(s.as(t, ""), "nodeclient", "create"); status != 403 {
		t.Errorf("anonymous asks: %d", status)
	}
	if a := token.do(http.MethodPost, ssarPath, []byte(`{}`), "Content-Type", "application/json"); a.status != 422 {
		t.Errorf("an empty review: %d", a.status)
	}
}

func TestServingCertificates(t *testing.T) {
	s := quiet(t)
	verify := func() error {
		_, err := s.as(t, "").try(t.Context(), http.MethodGet, "/version", nil)
		return err
	}
	for mode, check := range map[ServingMode]func(error) bool{
		ServingGood:      func(err error) bool { return err == nil },
		ServingWrongName: func(err error) bool { var e x509.HostnameError; return errors.As(err, &e) },
		ServingExpired: func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == x509.Expired
		},
		ServingNotYet: func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == x509.Expired
		},
		ServingForeignCA: func(err error) bool { var e *tls.CertificateVerificationError; return errors.As(err, &e) },
	} {
		if err := s.SetServing(mode); err != nil {
			t.Fatal(err)
		}
		if err := verify(); !check(err) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
	if got := s.Handshakes(); got != 1 {
		t.Errorf("%d handshakes were accepted, want 1 of %d", got, s.Connections())
	}
	old := s.Pin()
	if err := s.RotateServingCA(true); err != nil {
		t.Fatal(err)
	}
	if s.Pin() == old || verify() != nil {
		t.Error("the CA did not rotate")
	}
	if err := s.SetServingWindow(time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)); err != nil || verify() == nil {
		t.Errorf("window: %v", err)
	}
}

func TestHeadersAndDate(t *testing.T) {
	s := quiet(t)
	c := s.as(t, "")
	a := c.get("/version")
	if a.proto != "HTTP/2.0" || a.header.Get("Audit-Id") == "" {
		t.Errorf("proto %s, header %v", a.proto, a.header)
	}
	var v struct{ Major, Minor, GitVersion string }
	if json.Unmarshal(a.body, &v) != nil || v.Major != "1" || v.Minor != "36" || v.GitVersion != "v1.36.3" {
		t.Errorf("version %s", a.body)
	}
	s.SetDateOffset(-3 * time.Hour)
	date, err := http.ParseTime(c.get("/version").header.Get("Date"))
	if err != nil || time.Since(date) < 2*time.Hour {
		t.Errorf("Date %v, %v", date, err)
	}
}

func TestTheRequestLog(t *testing.T) {
	s := start(t, Options{Quiet: true, Token: quietToken})
	c := s.as(t, quietToken)
	c.get(csrPath + "?fieldSelector=metadata.name%3Dx")
	s.as(t, "").get(infoPath)
	got := s.Requests()
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	first, second := got[0], got[1]
	if first.Seq != 1 || first.Verb != "list" || first.Resource != csrs.resource || first.Name != "x" || first.Identity != "system:bootstrap:abcdef" ||
		!first.Authorization || first.Certificate || first.Status != 200 || first.Query != "fieldSelector=metadata.name%3Dx" {
		t.Errorf("%+v", first)
	}
	if second.Authorization || second.Identity != anonymousName || second.Conn == first.Conn {
		t.Errorf("%+v", second)
	}
	r, err := s.AwaitRequest(soon(t), IsPath(infoPath))
	if err != nil || r.Seq != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := s.AwaitRequest(soon(t), Is("list", csrs.resource)); err != nil || r.Seq != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestAwaitEndsWithItsContextAndWithTheServer(t *testing.T) {
	s := quiet(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.AwaitCSR(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.Close()
	if _, err := s.AwaitRequest(t.Context(), Is("get", "nodes")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestNodesAndLeases(t *testing.T) {
	s := quiet(t)
	c := s.node(t, "a")
	w := c.watch(nodesPath, "fieldSelector=metadata.name%3Da")
	if c.get(nodesPath+"/a").status != 404 {
		t.Error("the Node exists too early")
	}
	s.RegisterNode("b", corev1.NodeSystemInfo{})
	first := s.RegisterNode("a", corev1.NodeSystemInfo{BootID: "one"})
	if e := w.want("ADDED", "a"); e.meta().UID != first.UID {
		t.Errorf("UID %s, want %s", e.meta().UID, first.UID)
	}
	second := s.RegisterNode("a", corev1.NodeSystemInfo{BootID: "two"})
	w.want("MODIFIED", "a")
	if second.UID != first.UID || second.Status.NodeInfo.BootID != "two" || s.Node("a").Status.NodeInfo.KubeletVersion != "v1.36.3" {
		t.Errorf("%+v", second)
	}
	if !s.SetNodeReady("a", true, "kubelet is posting ready status") || s.SetNodeReady("none", true, "") {
		t.Error("SetNodeReady")
	}
	w.want("MODIFIED", "a")
	before := c.get(leasePath + "/a")
	s.RenewLease("a")
	if after := c.get(leasePath + "/a"); before.status != 200 || string(after.body) == string(before.body) {
		t.Errorf("the lease stands still: %s", after.body)
	}
	if n, err := s.AwaitNode(soon(t), "a"); err != nil || n.Name != "a" {
		t.Errorf("%v, %v", n, err)
	}
	if !s.DeleteNode("a") || s.DeleteNode("a") || s.DeleteLease("a") || s.Node("a") != nil {
		t.Error("DeleteNode")
	}
	w.want("DELETED", "a")
	if c.get(leasePath+"/a").status != 404 {
		t.Error("the Lease outlives its Node")
	}
}

func TestDeadAddresses(t *testing.T) {
	for name, start := range map[string]func() (*Dead, error){
		"black hole": NewBlackHole, "dropper": NewDropper, "talker": func() (*Dead, error) { return NewTalker("SSH-2.0-x\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			d, err := start()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
			conn, err := dialer.DialContext(ctx, "tcp", d.Host())
			if err == nil {
				_ = conn.Close()
				t.Fatal("TLS with nobody")
			}
			if late := errors.Is(err, context.DeadlineExceeded); late != (name == "black hole") {
				t.Errorf("got %v", err)
			}
		})
	}
}

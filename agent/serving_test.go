package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/csr"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

func noteOf(s Status, r fault.Reason) (Note, bool) {
	i := slices.IndexFunc(s.Notes, func(n Note) bool { return n.Reason == r })
	if i < 0 {
		return Note{}, false
	}
	return s.Notes[i], true
}

// kubeletAsks makes a request as the kubelet of a node would.
func (r *rig) kubeletAsks(name, node, signer string) {
	r.api.AddCSR(certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(r.deps.Clock.Now().Truncate(time.Second))},
		Spec:       certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Username: "system:node:" + node},
	})
}

// servingPair is what the kubelet keeps once the cluster has signed it.
func servingPair(t *testing.T, node string, notAfter time.Time) []byte {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	keyDER := must(x509.MarshalECPrivateKey(key))
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
}

// The kubelet asks for its serving certificate by itself, and nothing in
// Kubernetes approves that: who looks at the node is told the request and the
// command, and no longer once the certificate is there.
func TestAPendingServingCertificateIsNamedWithItsApproveLine(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.Kubelet.ServingCertificate = AfterJoinHeal, "cluster"
	r.kubeletAsks("csr-other", "worker-2", servingSigner)
	r.kubeletAsks("csr-mine", nodeName, servingSigner)
	_, stop := r.start()
	s := r.await("the note", func(s Status) bool {
		n, ok := noteOf(s, fault.ServingCertificatePending)
		return ok && strings.Contains(n.Message, "csr-mine")
	})
	const approve = "kubectl certificate approve csr-mine"
	if n, _ := noteOf(s, fault.ServingCertificatePending); n.Hint != approve || s.Phase != Joined {
		t.Errorf("phase %s, note %+v", s.Phase, n)
	}
	if c := s.ServingCSR; c == nil || c.Name != "csr-mine" || c.Approve != approve || c.Created.IsZero() {
		t.Errorf("the request in status: %+v", c)
	}
	path := filepath.Join(r.cfg.Paths.Kubelet, "pki/kubelet-server-current.pem")
	target := filepath.Join(filepath.Dir(path), "kubelet-server-2026-01-01-00-00-00.pem") // the kubelet's FileStore makes a link
	if err := errors.Join(os.WriteFile(target, servingPair(t, nodeName, time.Now().Add(100*time.Hour)), 0o600), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
	r.await("the end of the note", func(s Status) bool {
		_, ok := noteOf(s, fault.ServingCertificatePending)
		return !ok && s.ServingCSR == nil && s.Phase == Joined
	})
	r.api.Delete("csr-mine")
	if err := os.WriteFile(target, servingPair(t, nodeName, time.Now().Add(-time.Minute)), 0o600); err != nil {
		t.Fatal(err)
	}
	// No request is known to wait: then nobody is sent to approve one.
	s = r.await("the note about an expired one", func(s Status) bool { _, ok := noteOf(s, fault.ServingCertificatePending); return ok })
	if n, _ := noteOf(s, fault.ServingCertificatePending); !strings.Contains(n.Hint, "kubectl get csr") || s.ServingCSR != nil {
		t.Errorf("note %+v, request %+v", n, s.ServingCSR)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestASelfSignedServingCertificateAsksNothingOfThePersonOrTheAPI(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.kubeletAsks("csr-mine", nodeName, servingSigner)
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	s := r.await("Ready", func(s Status) bool { return s.Node.Ready != nil && *s.Node.Ready })
	if _, ok := noteOf(s, fault.ServingCertificatePending); ok {
		t.Errorf("notes %+v", s.Notes)
	}
	for _, q := range r.api.Requests() {
		if q.Verb == "list" {
			t.Errorf("asked %+v", q)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A node where everything waits for a person asks no more often than one where
// nothing does, and learns of what was mended.
func TestWhatWaitsForAPersonCostsOneRequestInFiveMinutesAtMost(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.Kubelet.ServingCertificate = AfterJoinHeal, "cluster"
	r.deps.Jitter = func(d time.Duration) time.Duration { return 0 } // the most that can be
	r.api.SelfNodeClientAllowed(false)
	r.kubeletAsks("csr-mine", nodeName, servingSigner)
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	s := r.await("both notes", func(s Status) bool {
		_, pending := noteOf(s, fault.ServingCertificatePending)
		_, manual := noteOf(s, fault.RenewalNotAutomatic)
		return pending && manual && s.Node.Ready != nil && *s.Node.Ready
	})
	if n, _ := noteOf(s, fault.RenewalNotAutomatic); !strings.Contains(n.Hint, "kubectl create clusterrolebinding bootstrap-agent:approve-renewals --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient --group=system:nodes") {
		t.Errorf("the remedy: %s", n.Hint)
	}
	// The look that has found both ends with writing them to the Node.
	awaitTrue(t, "both notes on the Node", func() bool { return r.ours()["reason"] == "RenewalNotAutomatic,ServingCertificatePending" })
	began, before := r.deps.Clock.Now(), len(r.api.Requests())
	const hour = 60 * time.Minute
	r.await("an hour", func(Status) bool { return r.deps.Clock.Now().Sub(began) > hour })
	passed := r.deps.Clock.Now().Sub(began)
	asked := r.api.Requests()[before:]
	kinds := map[string]int{}
	for _, q := range asked {
		kinds[q.Verb+" "+q.Resource]++
	}
	looks := kinds["get nodes"]
	if len(asked) > 3*looks || float64(looks) > passed.Minutes()/15 {
		t.Errorf("%d requests with %d looks in %s: %v", len(asked), looks, passed, kinds)
	}
	if kinds["list certificatesigningrequests"] == 0 || kinds["create selfsubjectaccessreviews"] == 0 || kinds["get configmaps"] == 0 {
		t.Errorf("something was never asked in %d looks: %v", looks, kinds)
	}
	r.api.SelfNodeClientAllowed(true)
	r.await("the binding to be noticed", func(s Status) bool { _, manual := noteOf(s, fault.RenewalNotAutomatic); return !manual })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A kubelet that cannot renew waits for the same person: past 90 % of the
// lifetime its request is named.
func TestAnOverdueRenewalNamesTheRequestThatWaits(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, SigningDuration: time.Hour})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.SelfNodeClientAllowed(false)
	_, stop := r.start()
	r.await("the join", phase(Joined))
	late := r.deps.Clock.Now().Add(48 * time.Minute)
	r.await("the hour to pass", func(Status) bool { return r.deps.Clock.Now().After(late) })
	r.kubeletAsks("csr-renewal", nodeName, clientSigner)
	r.await("the request to be named", func(s Status) bool {
		n, ok := noteOf(s, fault.RenewalOverdue)
		return ok && n.Hint == "kubectl certificate approve csr-renewal" && strings.Contains(n.Message, "csr-renewal")
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// An API server that does not answer is not asked more often because there is
// something to ask.
func TestSomethingNewIsAskedOnceAlsoWhereTheAPIIsDown(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.Kubelet.ServingCertificate = AfterJoinHeal, "cluster"
	path := filepath.Join(r.cfg.Paths.Kubelet, "pki/kubelet-server-current.pem")
	onStart := r.units.OnStart
	r.units.OnStart = func(argv []string) error {
		return errors.Join(onStart(argv), os.WriteFile(path, servingPair(t, nodeName, time.Now().Add(100*time.Hour)), 0o600))
	}
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.await("Ready", func(s Status) bool { return s.Node.Ready != nil && *s.Node.Ready })
	r.api.FailNext(1000, 503)
	before := len(r.api.Requests())
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.await("the note", withNote(fault.ServingCertificatePending, "could not be asked"))
	began := r.deps.Clock.Now()
	r.await("ten minutes", func(Status) bool { return r.deps.Clock.Now().Sub(began) > 10*time.Minute })
	if n := len(r.api.Requests()) - before; n > 2 {
		t.Errorf("%d requests", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func withNote(r fault.Reason, says string) func(Status) bool {
	return func(s Status) bool {
		n, ok := noteOf(s, r)
		return ok && strings.Contains(n.Message, says)
	}
}

func TestAClientCAThatTheKubeletDoesNotKnowIsToldFromTheFirstDay(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, SeparateClientCA: true})
	r.mustJoin()
	s, _ := r.last()
	n, ok := noteOf(s, fault.ClientCAMissing)
	if !ok || !strings.Contains(n.Hint, "kubelet.clientCAFile") || !strings.Contains(n.Message, `"CN=`) {
		t.Errorf("notes %+v", s.Notes)
	}

	known := newRig(t, testapi.Options{Quiet: true, SeparateClientCA: true})
	known.cfg.Kubelet.ClientCAFile = filepath.Join(t.TempDir(), "client-ca.crt")
	known.deps.StopWhenBlocked = true
	if err := known.run(); fault.ReasonOf(err) != fault.ConfigInvalid || len(known.api.Requests()) != 0 {
		t.Errorf("a missing clientCAFile: %v, after %d requests", err, len(known.api.Requests()))
	}
	if err := os.WriteFile(known.cfg.Kubelet.ClientCAFile, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	known.mustJoin()
	if s, _ := known.last(); len(s.Notes) > 0 {
		if n, ok := noteOf(s, fault.ClientCAMissing); ok {
			t.Errorf("note %+v", n)
		}
	}
}

// A request that nobody will approve shows both ways out: this once, and for
// every machine after it. Neither is shown any longer than it helps.
func TestARequestThatNobodyWillApproveShowsBothWaysOut(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	a := must(New(r.cfg, r.deps))
	no, now := false, r.deps.Clock.Now()
	p := csr.Progress{Name: "node-csr-x", Created: now, WillBeApproved: &no, Bind: "kubectl create clusterrolebinding y"}
	a.progress(t.Context(), p, Observation{})
	s, _ := r.last()
	const approve = "kubectl certificate approve node-csr-x"
	if s.Reason != fault.CSRPending || !strings.HasPrefix(s.Hint, approve+";") || !strings.HasSuffix(s.Hint, " "+p.Bind) || s.CSR.Approve != approve || s.CSR.Bind != p.Bind {
		t.Errorf("hint %q, request %+v", s.Hint, s.CSR)
	}
	p.Approved = now
	a.progress(t.Context(), p, Observation{})
	if s, _ := r.last(); s.CSR.Approve+s.CSR.Bind != "" {
		t.Errorf("still shown: %+v", s.CSR)
	}
}

// A CA that the pins left out at the join was there from the first day: nobody
// has changed cluster-info, and where pins decide, they have decided.
func TestACAThatThePinsLeftOutIsNotOnOfferWherePinsDecide(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.CARotation = AfterJoinHeal, CARotationPinned
	r.api.AddClusterInfoCA(r.api.ForeignCA())
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	if _, err := r.api.AwaitRequest(t.Context(), func(q testapi.Request) bool { return q.Name == "cluster-info" && q.Proto == "HTTP/2.0" && q.Done }); err != nil {
		t.Fatal(err)
	}
	asked := r.deps.Clock.Now()
	s := r.await("the next status", func(s Status) bool { return s.Time.After(asked.Add(time.Minute)) })
	if n, ok := noteOf(s, fault.CAOffered); ok || restarts(r) > 0 {
		t.Errorf("note %+v, %v", n, r.units.Calls())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

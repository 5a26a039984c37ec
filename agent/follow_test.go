package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// member starts an agent on a quiet cluster and waits until its node is Ready and
// at rest. The one token is gone from then on, and the API is asked often.
func member(t *testing.T, change func(r *rig)) (r *rig, a *Agent) {
	t.Helper()
	return memberOf(t, testapi.Options{Quiet: true}, change)
}

func memberOf(t *testing.T, o testapi.Options, change func(r *rig)) (r *rig, a *Agent) {
	t.Helper()
	r = newRig(t, o)
	r.cfg.AfterJoin = AfterJoinHeal
	r.deps.Pace = Pace{APICheck: 2 * time.Minute, ChangeGap: 30 * time.Minute}
	if change != nil {
		change(r)
	}
	a, _ = r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.await("a Ready node", func(s Status) bool { return s.Node.Ready != nil && *s.Node.Ready })
	id, _, _ := strings.Cut(r.api.Token(), ".")
	r.api.DeleteToken(id)
	return r, a
}

func (r *rig) read(path string) string {
	r.t.Helper()
	return string(must(readSmall(path)))
}

// trusts accepts a status of a node at rest that trusts just these CAs.
func trusts(pins ...string) func(Status) bool {
	slices.Sort(pins)
	return func(s Status) bool {
		return s.Phase == Joined && s.Cluster != nil && slices.Equal(s.Cluster.CAPins, pins)
	}
}

// mustStayAsItIs lets more looks at the API pass and wants nothing to have changed.
func (r *rig) mustStayAsItIs() {
	r.t.Helper()
	trust, calls := r.read(r.cfg.Paths.TrustFile()), len(r.units.Calls())
	r.awaitLater(15 * time.Minute)
	if got := r.units.Calls()[calls:]; len(got) > 0 {
		r.t.Errorf("the unit was touched: %v", got)
	}
	if again := r.read(r.cfg.Paths.TrustFile()); again != trust {
		r.t.Errorf("the trust record was\n%s\nand is\n%s", trust, again)
	}
}

func (r *rig) awaitLater(d time.Duration) Status {
	r.t.Helper()
	begun := r.deps.Clock.Now()
	return r.await("time to pass", func(s Status) bool { return s.Time.Sub(begun) > d })
}

// The whole way of docs/operations.md, with a pin of the first CA alone, and no
// token from the join on.
func TestARotationOfTheClustersCANeedsNoTokenAndOneRestartAStep(t *testing.T) {
	r, _ := member(t, nil)
	old := r.api.Pin()
	next := must(r.api.PrepareServingCA())
	r.await("both CAs", trusts(old, next))
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts for one bundle: %v", n, r.units.Calls())
	}
	if kept := r.read(r.files().CACert()); strings.Count(kept, "BEGIN CERTIFICATE") != 2 || !strings.Contains(kept, string(r.api.CA())) {
		t.Errorf("ca.crt: %s", kept)
	}
	trust := must(record.ReadTrust(r.cfg.Paths))
	if !slices.Equal(trust.Pins, []string{old}) || len(trust.Endpoints) != 1 || trust.NodeUID == "" {
		t.Errorf("the grounds of the record: %+v", trust)
	}
	r.awaitMetrics("nothing on offer", sample("bootstrap_agent_ca_offered", "0"))
	r.awaitMetrics("two CAs", sample("bootstrap_agent_trusted_cas", "2"))

	// Another certificate of the server, and another signer: nobody's business.
	if err := r.api.SwitchServingCA(); err != nil {
		t.Fatal(err)
	}
	r.api.SignClientsWithServingCA()
	r.mustStayAsItIs()

	// The old one goes: the pair is of it, and is replaced with itself.
	serial := r.pair().Serial
	r.api.DropRetiredCAs()
	s := r.await("the new CA alone", trusts(next))
	r.await("a pair of the new CA", func(s Status) bool { return s.Phase == Joined && s.Certificate.Serial != serial && r.signedNow() })
	if s.Cluster.CATaken == nil {
		t.Error("status does not tell when")
	}
	if made := r.by(kubelet.NodeUser(nodeName)); len(made) != 1 || len(r.api.CSRs()) != 2 {
		t.Errorf("requests of the node: %v, of all: %d", made, len(r.api.CSRs()))
	}
	starts := len(slices.DeleteFunc(r.units.Calls(), func(call string) bool {
		return !strings.HasPrefix(call, "start") && !strings.HasPrefix(call, "restart")
	}))
	if starts > 3 { // the join, the first bundle, the second one with the pair
		t.Errorf("%d starts: %v", starts, r.units.Calls())
	}
	r.api.DropFormerSigners()
	r.mustStayAsItIs()
}

// Whoever stands in the middle has no certificate of the CA that is held: what he
// shows is not even read, and he does not get the node's certificate either.
func TestABundleOfAManInTheMiddleIsNeverTaken(t *testing.T) {
	r, _ := member(t, nil)
	r.api.AddClusterInfoCA(r.api.ForeignCA())
	if err := r.api.SetServing(testapi.ServingForeignCA); err != nil {
		t.Fatal(err)
	}
	r.api.DropConnections()
	s := r.await("the cause", func(s Status) bool {
		return noted(fault.TokenUnknown, "does not verify")(s) || noted(fault.NoSignatures, "")(s)
	})
	if s.Phase != Joined {
		t.Errorf("phase %s", s.Phase)
	}
	r.mustStayAsItIs()
	if err := r.api.SetServing(testapi.ServingGood); err != nil {
		t.Fatal(err)
	}
	r.api.ResetClusterInfo()
	r.await("no word of it", func(s Status) bool { return len(s.Notes) == 0 })
}

func TestABundleIsHeldBack(t *testing.T) {
	onlyForeign := func(r *rig) string { return bootstrapKubeconfig(r.api.URL(), r.api.ForeignCA(), "") }
	for name, tc := range map[string]struct {
		change func(r *rig)
		show   func(r *rig)
		reason fault.Reason
		says   string
	}{
		"when the server that shows it would not verify under it": {
			show: func(r *rig) { r.api.SetClusterInfo(onlyForeign(r)) }, reason: fault.CAOffered, says: "would not verify under it",
		},
		"when it has a hundred certificates and more": {
			show: func(r *rig) {
				r.api.SetClusterInfo(bootstrapKubeconfig(r.api.URL(), []byte(strings.Repeat(string(r.api.CA()), 1000)), ""))
			}, reason: fault.ClusterInfoInvalid, says: "more than 100 certificates",
		},
		"when it is empty": {
			show: func(r *rig) { r.api.SetClusterInfo(bootstrapKubeconfig(r.api.URL(), nil, "")) }, reason: fault.ClusterInfoInvalid, says: "missing or empty",
		},
		"when it is no bundle of CAs": {
			show: func(r *rig) {
				cert, _, err := r.api.NodeCertificate("other")
				if err != nil {
					r.t.Fatal(err)
				}
				r.api.AddClusterInfoCA(cert)
			}, reason: fault.ClusterInfoInvalid, says: "is no CA certificate",
		},
		"when a person has edited ca.crt": {
			show: func(r *rig) {
				path := r.files().CACert()
				mustWrite(r.t, path, "# mine\n"+r.read(path))
				r.api.AddClusterInfoCA(r.api.ForeignCA())
			}, reason: fault.CAOffered, says: "ca.crt was edited: `bootstrap-agent apply` first",
		},
		"when the node is only observed": {
			change: func(r *rig) { r.cfg.AfterJoin = AfterJoinObserve },
			show:   func(r *rig) { r.api.AddClusterInfoCA(r.api.ForeignCA()) }, reason: fault.CAOffered, says: "afterJoin is observe",
		},
		"when its pin is not configured and pins decide": {
			change: func(r *rig) { r.cfg.CARotation = CARotationPinned },
			show:   func(r *rig) { r.api.AddClusterInfoCA(r.api.ForeignCA()) }, reason: fault.CAOffered, says: "caRotation is pinned",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := member(t, tc.change)
			tc.show(r)
			r.await("the note", func(s Status) bool { return s.Phase == Joined && noted(tc.reason, tc.says)(s) })
			r.mustStayAsItIs()
		})
	}
}

func TestWherePinsDecideACAIsTakenOnceItsPinIsConfigured(t *testing.T) {
	r, a := member(t, func(r *rig) { r.cfg.CARotation = CARotationPinned })
	old, next := r.api.Pin(), must(r.api.PrepareServingCA())
	want := `caCertHashes: ["` + old + `", "` + next + `"]`
	s := r.await("the pin to paste", noted(fault.CAOffered, want))
	if n, _ := noteOf(s, fault.CAOffered); !strings.Contains(n.Hint, "taken on the control plane") {
		t.Errorf("hint %q", n.Hint)
	}
	r.awaitMetrics("a CA on offer", sample("bootstrap_agent_ca_offered", "1"))
	r.cfg.Pins = must(discovery.ParsePins([]string{old, next}))
	a.Reload(r.cfg, nil)
	r.await("both CAs", trusts(old, next))
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts", n)
	}
	// The old one goes without a word: a pin allows, it does not demand.
	if err := r.api.SwitchServingCA(); err != nil {
		t.Fatal(err)
	}
	r.api.DropRetiredCAs()
	r.await("the new CA alone", trusts(next))
}

// Pins decide the first contact only: a node that joined while the bundle held
// both already, with a pin of the old one, is not lost when the old one goes.
func TestACAThatThePinsLeftOutIsTakenWithTheBundle(t *testing.T) {
	var next string
	r, _ := member(t, func(r *rig) { next = must(r.api.PrepareServingCA()) })
	r.await("both CAs", trusts(r.api.Pin(), next))
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts", n)
	}
}

// 429s, slow answers and closed connections: it takes longer, and is done once.
func TestABundleIsTakenOnABadDay(t *testing.T) {
	r, _ := memberOf(t, testapi.Options{}, nil)
	next := must(r.api.PrepareServingCA())
	r.await("both CAs", trusts(r.api.Pin(), next))
	r.mustStayAsItIs()
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts", n)
	}
}

func TestChangedEndpointsAreAskedBeforeTheServerInUse(t *testing.T) {
	parse := func(list ...string) (out []discovery.Endpoint) {
		for _, text := range list {
			out = append(out, must(discovery.ParseEndpoint(text)))
		}
		return out
	}
	trust := &record.Trust{Endpoints: []string{"10.0.0.1:6443", "10.0.0.2:6443"}, Server: "https://10.0.0.9:6443"}
	for name, tc := range map[string]struct {
		cfg  Config
		want []string
	}{
		"the same ones, in another order":      {Config{Endpoints: parse("10.0.0.2", "10.0.0.1")}, []string{trust.Server}},
		"others":                               {Config{Endpoints: parse("10.0.0.3")}, []string{"https://10.0.0.3:6443", trust.Server}},
		"others, the server in use among them": {Config{Endpoints: parse("10.0.0.9", "10.0.0.3")}, []string{"https://10.0.0.3:6443", trust.Server}},
		"others, where server overrides all":   {Config{Endpoints: parse("10.0.0.3"), Server: "https://10.0.0.4:6443"}, []string{trust.Server}},
		"none: a discovery file names it":      {Config{Discovery: &DiscoveryFile{}}, []string{trust.Server}},
	} {
		a := &Agent{cfg: tc.cfg, trust: trust}
		if got := a.sources(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestABundleThatComesAndGoesRestartsNothing(t *testing.T) {
	r, _ := member(t, func(r *rig) { r.cfg.RestartSplay = 1000 * time.Hour })
	calls := len(r.units.Calls())
	for range 3 {
		r.api.AddClusterInfoCA(r.api.ForeignCA())
		r.await("the note", noted(fault.CAOffered, "followed at"))
		r.api.ResetClusterInfo()
		r.await("no note", func(s Status) bool { return !hasNote(s, fault.CAOffered) })
	}
	if got := r.units.Calls()[calls:]; len(got) > 0 {
		t.Errorf("the unit was touched: %v", got)
	}
}

// With no splay at all each bundle would be taken as it is seen: one change, and
// the next one of its kind after a while.
func TestBundlesThatFlapAreDamped(t *testing.T) {
	r, _ := member(t, func(r *rig) { r.deps.Pace.ChangeGap = 6 * time.Hour })
	for range 4 {
		r.api.AddClusterInfoCA(r.api.ForeignCA())
		r.awaitLater(8 * time.Minute)
		r.api.ResetClusterInfo()
		r.awaitLater(8 * time.Minute)
	}
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts in an hour: %v", n, r.units.Calls())
	}
}

// The cluster was quicker than its nodes: the new certificate came before they had
// taken the bundle that they had seen. The kubelet is cut off then, so nobody waits.
func TestABundleThatWaitsIsTakenAtOnceWhenTheServerNeedsIt(t *testing.T) {
	r, _ := member(t, func(r *rig) { r.cfg.RestartSplay = 1000 * time.Hour })
	next := must(r.api.PrepareServingCA())
	r.await("the note", noted(fault.CAOffered, "followed at"))
	if err := r.api.SwitchServingCA(); err != nil {
		t.Fatal(err)
	}
	r.api.DropConnections()
	r.await("both CAs", func(s Status) bool { return s.Phase == Joined && contains(s.Cluster.CAPins, next) })
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts", n)
	}
}

// Nothing is trusted silently, the error prints the pin, and with a
// signature and the pin it goes on by itself, with the identity that it has.
func TestACAThatChangedWithoutAnOverlapNeedsASignatureAndAPin(t *testing.T) {
	r, a := memberOf(t, testapi.Options{Quiet: true, SeparateClientCA: true}, nil)
	old := r.api.Pin()
	if err := r.api.RotateServingCA(false); err != nil {
		t.Fatal(err)
	}
	r.api.DropConnections()
	s := r.await("no signature", func(s Status) bool { return noted(fault.NoSignatures, "")(s) || noted(fault.TokenUnknown, "")(s) })
	if s.Phase != Joined || !trusts(old)(s) {
		t.Errorf("phase %s, %+v", s.Phase, s.Cluster)
	}
	// A fresh token: it vouches, and the pin is missing.
	r.api.SetToken("fresh1", "0123456789abcdef")
	r.cfg.Tokens = []TokenSource{TokenInline(must(discovery.ParseToken("fresh1.0123456789abcdef")))}
	a.Reload(r.cfg, nil)
	r.await("the pin to paste", noted(fault.CAPinMismatch, `caCertHashes: ["`+r.api.Pin()+`"]`))
	if n := restarts(r); n != 0 {
		t.Errorf("%d restarts before there is a pin", n)
	}
	r.cfg.Pins = must(discovery.ParsePins([]string{old, r.api.Pin()}))
	a.Reload(r.cfg, nil)
	r.await("the new CA", trusts(r.api.Pin()))
	if n, made := restarts(r), len(r.api.CSRs()); n != 1 || made != 1 {
		t.Errorf("%d restarts, %d requests: %v", n, made, r.units.Calls())
	}
	if trust := must(record.ReadTrust(r.cfg.Paths)); trust.FormerCA == "" || trust.NodeUID == "" || trust.TokenID != "fresh1" || trust.UnitBefore == "" {
		t.Errorf("record: %+v", trust)
	}
	r.await("nothing to tell", func(s Status) bool { return s.Phase == Joined && !hasNote(s, fault.CAPinMismatch) })
}

// An end that is over is no reason for anything: neither to leave a bundle, nor to
// drop a CA that is on show.
func TestAnExpiredCAInTheBundleIsNoReason(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	expired := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))})
	r, _ := member(t, func(r *rig) { r.api.AddClusterInfoCA(expired) })
	r.await("both CAs", func(s Status) bool { return s.Phase == Joined && len(s.Cluster.CAPins) == 2 })
	r.mustStayAsItIs()
}

// Record before files: wherever the agent dies, the next one ends with the new CA
// in ca.crt and one restart of the kubelet, in this boot or after the next.
func TestACrashWhileABundleIsTakenEndsWithIt(t *testing.T) {
	for name, crash := range map[string]func(r *rig, m *record.Manifest, next string){
		"between record and manifest": func(*rig, *record.Manifest, string) {},
		"between manifest and file": func(r *rig, m *record.Manifest, next string) {
			path := r.files().CACert()
			m.Replaced = map[string]string{path: m.Files[path]}
			m.Files[path], m.Inputs = record.HashOf([]byte(next)), record.Moment{BootID: r.boot, Monotonic: r.deps.Clock.Monotonic()}
		},
		"between manifest and file, and then the power went": func(r *rig, m *record.Manifest, next string) {
			path := r.files().CACert()
			m.Replaced = map[string]string{path: m.Files[path]}
			m.Files[path], m.Inputs = record.HashOf([]byte(next)), record.Moment{BootID: "another boot", Monotonic: time.Hour}
		},
		"between file and restart": func(r *rig, m *record.Manifest, next string) {
			path := r.files().CACert()
			m.Replaced = map[string]string{path: m.Files[path]}
			m.Files[path], m.Inputs = record.HashOf([]byte(next)), record.Moment{BootID: r.boot, Monotonic: r.deps.Clock.Monotonic()}
			if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			pin := must(r.api.PrepareServingCA())
			trust, m := must(record.ReadTrust(r.cfg.Paths)), must(record.ReadManifest(r.cfg.Paths))
			offer := must(discovery.Offered(r.api.Kubeconfig()))
			next := string(offer.Bundle.PEM())
			trust.TakeCA(next, offer.Bundle.Pins())
			crash(r, m, next)
			if err := trust.Write(r.cfg.Paths); err != nil {
				t.Fatal(err)
			}
			if err := m.Write(r.cfg.Paths); err != nil {
				t.Fatal(err)
			}
			r.cfg.AfterJoin = AfterJoinHeal
			_, stop := r.start()
			s := r.await("both CAs", func(s Status) bool { return trusts(r.api.Pin(), pin)(s) && restarts(r) > 0 })
			if err := stop(); err != nil {
				t.Error(err)
			}
			if n := restarts(r); n != 1 || r.read(r.files().CACert()) != next || hasNote(s, fault.Drifted) {
				t.Errorf("%d restarts, notes %+v, ca.crt as it should be: %t", n, s.Notes, r.read(r.files().CACert()) == next)
			}
		})
	}
}

package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// rotated joins a node, gives the cluster another CA for everything and leaves a
// trust record that has followed it: the old CA is dropped. No token is left.
func rotated(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.rotateCA()
	r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, nil
	return r
}

func (r *rig) rotateCA() {
	r.t.Helper()
	if err := r.api.RotateServingCA(false); err != nil {
		r.t.Fatal(err)
	}
	r.api.SignClientsWithServingCA()
	// A rotation changes the pins, too: the record's grounds are others than the config's.
	r.cfg.Pins = must(discovery.ParsePins([]string{r.api.Pin()}))
	trust, manifest := must(record.ReadTrust(r.cfg.Paths)), must(record.ReadManifest(r.cfg.Paths))
	trust.TakeCA(string(r.api.CA()), []string{r.api.Pin()})
	trust.Generation++
	manifest.Generation = trust.Generation
	manifest.Wrote(r.files().CACert(), r.api.CA())
	if err := errors.Join(trust.Write(r.cfg.Paths), manifest.Write(r.cfg.Paths), os.WriteFile(r.files().CACert(), r.api.CA(), 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// reissueDue is the story of a node whose certificate is of a dropped CA, for the
// crash property.
func reissueDue(r *rig) {
	r.cfg.AfterJoin = AfterJoinExit
	r.mustJoin()
	r.awaitLock()
	r.rotateCA()
	manifest := must(record.ReadManifest(r.cfg.Paths)) // the CA is an input, and the kubelet older than it
	manifest.Inputs = record.Moment{BootID: r.boot, Monotonic: r.deps.Clock.Monotonic()}
	if err := manifest.Write(r.cfg.Paths); err != nil {
		r.t.Fatal(err)
	}
	r.cfg.AfterJoin = AfterJoinHeal
}

func TestACrashAnywhereInAReissueEndsWithTheNewPair(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	reissueDue(r)
	points := r.crashAt(0)
	if !r.signedNow() || !slices.Contains(points, "after stop") {
		t.Fatalf("nothing happened: %v", points)
	}
	for at := range points {
		t.Run(fmt.Sprintf("%02d %s", at, points[at]), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			reissueDue(r)
			r.cfg.Tokens = nil
			loaded := r.watchKubelet()
			r.crashAt(at + 1)
			if at%2 == 0 {
				r.boot = "22222222-0000-0000-0000-000000000000"
				r.deps.Machine.BootID = r.boot
				r.units.Reboot()
			}
			r.mu.Lock()
			r.statuses = nil // of the run that crashed
			r.mu.Unlock()
			_, stop := r.start()
			r.await("the new pair at work", func(s Status) bool { return s.Phase == Joined && r.signedNow() && *loaded == r.kubeletInputs() })
			_ = stop()
			if n := len(r.by(kubelet.NodeUser(nodeName))); n > 2 {
				t.Errorf("%d requests", n)
			}
			if m := must(record.ReadManifest(r.cfg.Paths)); m.Before != "" {
				t.Errorf("before: %s", m.Before)
			}
		})
	}
}

func (r *rig) pair() kubelet.PairState {
	data, _ := os.ReadFile(r.files().CurrentPair())
	return kubelet.JudgePair(data, nodeName, r.deps.Clock.Now())
}

// signedNow: the pair in use is of the cluster's CA of now.
func (r *rig) signedNow() bool {
	leaf := r.pair().Leaf
	return leaf != nil && signedBy(leaf, string(r.api.CA()))
}

func noted(want fault.Reason, text string) func(Status) bool {
	return func(s Status) bool {
		return slices.ContainsFunc(s.Notes, func(n Note) bool {
			return n.Reason == want && (strings.Contains(n.Message, text) || strings.Contains(n.Hint, text))
		})
	}
}

func joinedWith(want fault.Reason, text string) func(Status) bool {
	return func(s Status) bool { return s.Phase == Joined && noted(want, text)(s) }
}

func (r *rig) by(user string) (names []string) {
	for _, c := range r.api.CSRs() {
		if c.Spec.Username == user {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestACertificateOfADroppedCAIsReplacedWithItselfAndWithoutAToken(t *testing.T) {
	r := rotated(t)
	old := r.pair()
	calls := len(r.units.Calls())
	config := must(os.ReadFile(r.files().ConfigFile()))
	r.api.SetKubeletConfig("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 7\n")
	_, stop := r.start()
	s := r.await("the new certificate", func(s Status) bool {
		return s.Phase == Joined && s.Certificate.Serial != old.Serial && len(s.Notes) == 1
	})
	if !r.signedNow() {
		t.Error("it is still one of the dropped CA")
	}
	if now := must(os.ReadFile(r.files().ConfigFile())); string(now) != string(config) {
		t.Errorf("the cluster's kubelet-config was read anew:\n%s", now)
	}
	if got := r.units.Calls()[calls:]; !slices.Equal(got, []string{"stop", "start"}) {
		t.Errorf("calls %v, want one restart", got)
	}
	asked := r.by(kubelet.NodeUser(nodeName))
	if len(asked) != 1 {
		t.Fatalf("%d requests of the node", len(asked))
	}
	request := r.api.CSR(asked[0])
	want := []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth}
	if request.Spec.SignerName != certv1.KubeAPIServerClientKubeletSignerName || !slices.Equal(request.Spec.Usages, want) {
		t.Errorf("asked %s for %v", request.Spec.SignerName, request.Spec.Usages)
	}
	if _, err := os.Stat(old.Path); old.Path != "" && err != nil {
		t.Errorf("the old pair: %v", err)
	}
	if s.Notes[0].Reason == fault.ReissuePending {
		t.Errorf("it is still said to be pending: %+v", s.Notes)
	}
	if m := must(record.ReadManifest(r.cfg.Paths)); m.Before != "" {
		t.Errorf("the way back is still kept: %s", m.Before)
	}
	_ = stop()
	r.api.DropFormerSigners() // the last step of a rotation harms nobody now
	r.mustStayJoined()
}

// mustStayJoined runs the agent through a few looks at the API.
func (r *rig) mustStayJoined() {
	r.t.Helper()
	csrs, calls := len(r.api.CSRs()), len(r.units.Calls())
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	begun := r.deps.Clock.Now()
	_, stop := r.start()
	r.await("a look at the API at rest", func(s Status) bool { return s.Phase == Joined && s.Time.Sub(begun) > 25*time.Minute })
	_ = stop()
	if n := len(r.api.CSRs()); n != csrs || len(r.units.Calls()) != calls {
		r.t.Errorf("%d requests more, calls %v", n-csrs, r.units.Calls()[calls:])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.statuses {
		if s.Phase == Discovering || s.Phase == RequestingCertificate || s.Phase == Blocked {
			r.t.Errorf("phase %s: %s %s", s.Phase, s.Reason, s.Message)
		}
	}
}

func TestAnUnapprovedReissueWaitsSaysSoAndTheOldPairGoesOn(t *testing.T) {
	r := rotated(t)
	r.api.AutoApprove(false)
	old := r.pair().Serial
	calls := len(r.units.Calls())
	_, stop := r.start()
	s := r.await("the note", joinedWith(fault.ReissuePending, "kubectl certificate approve node-csr-"))
	if s.Certificate.Serial != old || len(r.units.Calls()) != calls {
		t.Errorf("calls %v", r.units.Calls()[calls:])
	}
	_ = stop()
	// An agent that is started anew finds its request again, and its key.
	_, stop = r.start()
	r.await("the note again", noted(fault.ReissuePending, "waits for approval"))
	asked := r.by(kubelet.NodeUser(nodeName))
	if len(asked) != 1 {
		t.Fatalf("requests: %v", asked)
	}
	r.api.Approve(asked[0])
	r.await("the new certificate", func(s Status) bool { return s.Phase == Joined && s.Certificate.Serial != old })
	if n := len(r.by(kubelet.NodeUser(nodeName))); n != 1 || !r.signedNow() {
		t.Errorf("%d requests", n)
	}
	_ = stop()
}

func TestAReissueIsSplayedWhereTheKubeletRunsAndNotWhereItIsDown(t *testing.T) {
	for name, down := range map[string]bool{"runs": false, "is held back by a person": true} {
		t.Run(name, func(t *testing.T) {
			r := rotated(t)
			r.cfg.RestartSplay = 1000 * time.Hour
			after := splay("m1"+nodeName, r.cfg.RestartSplay)
			if down {
				r.units.StopByHand()
			}
			began := r.deps.Clock.Now()
			calls := len(r.units.Calls())
			_, stop := r.start()
			if !down {
				r.await("the note", joinedWith(fault.ReissuePending, "a new one is asked for at"))
				if len(r.by(kubelet.NodeUser(nodeName))) != 0 || after < time.Hour {
					t.Errorf("asked at once; splay %s", after)
				}
			} else {
				r.await("the new certificate", func(Status) bool { return r.signedNow() })
				if took := r.deps.Clock.Now().Sub(began); took > time.Hour || len(r.units.Calls()) != calls {
					t.Errorf("after %s, calls %v: what a person stopped is not started", took, r.units.Calls()[calls:])
				}
			}
			_ = stop()
		})
	}
}

// A signer that has not been given the new CA yet returns what cures nothing: no
// restart, and no flood of requests.
func TestANewCertificateOfTheDroppedCAIsNotInstalled(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, SeparateClientCA: true})
	r.mustJoin()
	trust := must(record.ReadTrust(r.cfg.Paths))
	trust.TakeCA(trust.CA+string(r.api.ClientCA()), nil)
	trust.TakeCA(string(r.api.CA()), []string{r.api.Pin()}) // dropped too early
	if err := trust.Write(r.cfg.Paths); err != nil {
		t.Fatal(err)
	}
	r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, nil
	old, calls := r.pair().Serial, len(r.units.Calls())
	begun := r.deps.Clock.Now()
	_, stop := r.start()
	s := r.await("two hours", func(s Status) bool { return s.Phase == Joined && s.Time.Sub(begun) > 2*time.Hour })
	if !noted(fault.ReissuePending, "--cluster-signing-cert-file")(s) || s.Certificate.Serial != old || len(r.units.Calls()) != calls {
		t.Errorf("%+v, calls %v", s.Notes, r.units.Calls()[calls:])
	}
	if n := len(r.by(kubelet.NodeUser(nodeName))); n != 2 {
		t.Errorf("%d requests in two hours, want one, another an hour later, and the next only after two more", n)
	}
	_ = stop()
}

func TestANewCertificateThatTheAPIRefusesDoesNotCostTheNode(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.rotateCA()
	r.api.SignWrong(testapi.WrongCA) // signed by a CA that the API does not accept
	r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, nil
	old, calls := r.pair().Serial, len(r.units.Calls())
	_, stop := r.start()
	s := r.await("the note", joinedWith(fault.ReissuePending, "the new certificate is not installed"))
	if s.Certificate.Serial != old || len(r.units.Calls()) != calls {
		t.Errorf("calls %v", r.units.Calls()[calls:])
	}
	_ = stop()
	r.api.SignWrong(testapi.WrongNothing)
	_ = os.Remove(r.cfg.Paths.PendingKey())
	_, stop = r.start()
	r.await("the new certificate", func(s Status) bool { return s.Phase == Joined && s.Certificate.Serial != old })
	_ = stop()
}

func TestNoReissueWhereItIsNotDue(t *testing.T) {
	for name, prepare := range map[string]func(*rig){
		"afterJoin: observe":           func(r *rig) { r.cfg.AfterJoin = AfterJoinObserve },
		"the kubelet is rotating":      func(r *rig) { _ = os.Symlink("x", r.files().UpdatedPair()) },
		"disabled, but running":        func(r *rig) { r.units.Change(func(u *systemd.Unit) { u.UnitFileState = "disabled" }) },
		"its Node was deleted":         func(r *rig) { r.api.DeleteNode(nodeName) },
		"the kubelet's own is pending": func(r *rig) { r.kubeletRenews() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rotated(t)
			prepare(r)
			before := len(r.api.CSRs())
			old, calls := r.pair().Serial, len(r.units.Calls())
			begun := r.deps.Clock.Now()
			_, stop := r.start()
			r.await("ten minutes", func(s Status) bool {
				// A Node that is not there is waited for in real time.
				return s.Time.Sub(begun) > 10*time.Minute || noted(fault.ReissuePending, "its Node is not in the API")(s)
			})
			_ = stop()
			if n := len(r.api.CSRs()); n != before || r.pair().Serial != old || len(r.units.Calls()) != calls {
				t.Errorf("%d requests, calls %v", n-before, r.units.Calls()[calls:])
			}
		})
	}
}

// kubeletRenews is a renewal that the kubelet has begun and nobody approves.
func (r *rig) kubeletRenews() {
	r.api.AutoApprove(false)
	csr := certv1.CertificateSigningRequest{}
	csr.Name = "csr-abcde"
	csr.CreationTimestamp.Time = r.deps.Clock.Now()
	csr.Spec.SignerName, csr.Spec.Username = certv1.KubeAPIServerClientKubeletSignerName, kubelet.NodeUser(nodeName)
	r.api.AddCSR(csr)
}

// overdue puts a pair of the cluster's CA in place of the joined node's that is
// past 90 % of its lifetime.
func (r *rig) overdue(left time.Duration) {
	r.t.Helper()
	now := r.deps.Clock.Now()
	cert, key, err := r.api.ClientCertificate(kubelet.NodeUser(nodeName), []string{"system:nodes"}, now.Add(-20*left), now.Add(left))
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.files().WritePair(cert, key); err != nil {
		r.t.Fatal(err)
	}
}

func TestAnOverdueRenewalIsMadeUpForWhileTheKubeletDoesNotRunAndOnlyThen(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*rig)
		want    bool
	}{
		"stopped by a person": {func(r *rig) { r.units.StopByHand() }, true},
		"crashing in a loop": {func(r *rig) {
			r.units.Change(func(u *systemd.Unit) { u.ActiveState, u.SubState, u.MainPID = "activating", "auto-restart", 0 })
		}, true},
		"it runs": {func(*rig) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			r.overdue(10 * time.Hour)
			r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, nil
			tc.prepare(r)
			old, calls := r.pair().Serial, len(r.units.Calls())
			begun := r.deps.Clock.Now()
			_, stop := r.start()
			if tc.want {
				r.await("a new certificate", func(Status) bool { p := r.pair(); return p.Status == kubelet.PairUsable && p.Serial != old })
				r.await("no note any more", func(s Status) bool { return !noted(fault.ReissuePending, "")(s) })
			} else {
				r.await("two hours", func(s Status) bool { return s.Time.Sub(begun) > 2*time.Hour && noted(fault.RenewalOverdue, "")(s) })
				if n := len(r.by(kubelet.NodeUser(nodeName))); n != 0 || r.pair().Serial != old {
					t.Errorf("%d requests: the kubelet alone rotates", n)
				}
			}
			_ = stop()
			if name == "stopped by a person" && len(r.units.Calls()) != calls {
				t.Errorf("calls %v", r.units.Calls()[calls:])
			}
		})
	}
}

// An API server behind the same balancer may not know the new CA yet: what was
// accepted once is refused later. The old pair is still accepted, and taken back.
func TestANewPairThatIsRefusedBeforeItEverWorkedGivesWayToTheOldOne(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.overdue(1000 * time.Hour)
	old := r.pair().Serial
	r.rotateCA()
	r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, nil
	inner := r.units.OnStart
	r.units.OnStart = func(argv []string) error {
		if r.signedNow() {
			r.api.RefuseSigner(true) // from now on
		}
		return inner(argv)
	}
	_, stop := r.start()
	r.await("the old pair back", func(s Status) bool {
		return s.Phase == Joined && s.Certificate.Serial == old && slices.Contains(r.units.Calls(), "stop") && noted(fault.ReissuePending, "refused")(s)
	})
	_ = stop()
	if m := must(record.ReadManifest(r.cfg.Paths)); m.Before != "" {
		t.Errorf("before: %s", m.Before)
	}
	if node := r.api.Node(nodeName); node == nil || node.Status.NodeInfo == (corev1.NodeSystemInfo{}) {
		t.Error("no node")
	}
}

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// expire puts a pair in place of the node's that ended two months ago, as on a
// machine that was off for 14.
func (r *rig) expire() error {
	now := r.deps.Clock.Now()
	return r.replacePair(kubelet.NodeUser(nodeName), now.Add(-14*30*24*time.Hour), now.Add(-2*30*24*time.Hour))
}

func (r *rig) replacePair(user string, notBefore, notAfter time.Time) error {
	cert, key, err := r.api.ClientCertificate(user, []string{"system:nodes"}, notBefore, notAfter)
	if err != nil {
		return err
	}
	_, err = r.files().WritePair(cert, key)
	return err
}

// lostIdentities are the ways in which a node loses its identity, each with what
// status says of it.
func lostIdentities() map[string]struct {
	lose func(*rig) error
	says string
} {
	return map[string]struct {
		lose func(*rig) error
		says string
	}{
		"its certificate has expired": {(*rig).expire, "has expired at 20"},
		"its pair was deleted":        {func(r *rig) error { return os.Remove(r.files().CurrentPair()) }, "is gone"},
		"its pair is of another name": {func(r *rig) error {
			now := r.deps.Clock.Now()
			return r.replacePair(kubelet.NodeUser("another"), now.Add(-time.Hour), now.Add(time.Hour))
		}, "is that of another name"},
		"its folder of pairs was wiped": {func(r *rig) error { return os.RemoveAll(r.files().PKI()) }, "is gone"},
		"its pair and kubeconfig were wiped": {func(r *rig) error {
			return errors.Join(os.RemoveAll(r.files().PKI()), os.Remove(r.files().Kubeconfig()))
		}, "is gone"},
		"the API refuses it": {func(r *rig) error {
			r.units.SetLines(refusedLines...)
			return r.api.RotateClientCA()
		}, "is refused by the API server"},
	}
}

// F21, F22, F23 and their kin, with a token that serves: at the agent's start and
// within a minute while it runs (a refusal by what the kubelet writes about it; a
// second one, a minute later, makes it sure).
func TestALostIdentityIsReplacedWithATokenAndOneRestart(t *testing.T) {
	for name, lost := range lostIdentities() {
		for _, when := range []string{"seen at start", "seen while running"} {
			t.Run(name+", "+when, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, testapi.Options{Quiet: true})
				r.mustJoin()
				r.cfg.AfterJoin = AfterJoinHeal
				if when == "seen at start" {
					if err := lost.lose(r); err != nil {
						t.Fatal(err)
					}
				}
				begun := r.deps.Clock.Now()
				_, stop := r.start()
				if when != "seen at start" {
					r.await("the node at rest", func(s Status) bool { return s.Phase == Joined && s.Time.After(begun) })
					begun = r.deps.Clock.Now()
					if err := lost.lose(r); err != nil {
						t.Fatal(err)
					}
				}
				var seen time.Time
				r.await("the second join", func(s Status) bool {
					if at := r.phaseAt(RequestingCertificate, begun); seen.IsZero() {
						seen = at
					}
					return s.Phase == Joined && len(r.api.CSRs()) == 2 && slices.Contains(r.units.Calls(), "stop")
				})
				most := 2 * time.Minute
				if name == "the API refuses it" {
					most += DefaultPace.UnauthorizedGap
				}
				if seen.Sub(begun) > most {
					t.Errorf("seen after %s", seen.Sub(begun))
				}
				if calls := r.units.Calls(); !slices.Equal(calls, []string{"install", "start", "stop", "start"}) {
					t.Errorf("calls %v, want one restart", calls)
				}
				_ = stop()
				r.mustStayJoined()
			})
		}
	}
}

// phaseAt is when a phase was published first after a moment; zero: never.
func (r *rig) phaseAt(want Phase, since time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.statuses {
		if s.Phase == want && s.Time.After(since) {
			return s.Time
		}
	}
	return time.Time{}
}

// The same without a token: Blocked, with what happened and the commands for both
// sides; the kubelet is left alone; a fresh token ends it without waiting out the
// pause of five minutes.
func TestALostIdentityWithoutATokenIsNamedWithBothCommandsAndGoesOnWithOne(t *testing.T) {
	for name, lost := range lostIdentities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			if err := lost.lose(r); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "token")
			good := r.api.Token()
			r.cfg.AfterJoin, r.cfg.Tokens = AfterJoinHeal, []TokenSource{TokenFile(file)}
			a, stop := r.start()
			s := r.await("the fault", reason(fault.TokenMissing))
			if s.Phase != Blocked || !strings.Contains(s.Message, "this node's certificate "+lost.says) {
				t.Errorf("%s: %s", s.Phase, s.Message)
			}
			for _, command := range []string{"`kubeadm token create`", "bootstrap-token.yaml", "`bootstrap-agent token set`"} {
				if !strings.Contains(s.Hint, command) {
					t.Errorf("%s is not in the hint: %s", command, s.Hint)
				}
			}
			if calls := r.units.Calls(); !slices.Equal(calls, []string{"install", "start"}) {
				t.Errorf("calls %v", calls)
			}
			if err := os.WriteFile(file, []byte(good+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a.Reload(r.cfg, nil) // what the watch of the file does
			r.await("the second join", func(s Status) bool { return s.Phase == Joined && len(r.api.CSRs()) == 2 })
			_ = stop()
		})
	}
}

// The state folder is wiped under the agent, or with all the rest: what is left
// decides between a join and the stop that names what is there.
func TestAWipedStateFolderEndsInAJoinOrInANamedStop(t *testing.T) {
	wipe := func(paths ...string) error {
		var errs []error
		for _, p := range paths {
			errs = append(errs, os.RemoveAll(p))
		}
		return errors.Join(errs...)
	}
	for name, tc := range map[string]struct {
		wipe func(*rig) error
		want fault.Reason // "": joined
		csrs int
	}{
		"pairs, kubeconfig and state": {func(r *rig) error {
			return wipe(r.files().PKI(), r.files().Kubeconfig(), r.cfg.Paths.State)
		}, "", 2},
		"all of the kubelet's folder, and the state": {func(r *rig) error { return wipe(r.cfg.Paths.Kubelet, r.cfg.Paths.State) }, "", 2},
		"only the state":                   {func(r *rig) error { return wipe(r.cfg.Paths.State) }, fault.ForeignKubelet, 1},
		"the state and the pairs":          {func(r *rig) error { return wipe(r.cfg.Paths.State, r.files().PKI()) }, fault.ForeignKubelet, 1},
		"the records, not the trust":       {func(r *rig) error { return wipe(r.cfg.Paths.ManifestFile()) }, fault.ForeignKubelet, 1},
		"the trust, not the records":       {func(r *rig) error { return wipe(r.cfg.Paths.TrustFile()) }, "", 1},
		"the trust and the pair":           {func(r *rig) error { return wipe(r.cfg.Paths.TrustFile(), r.files().PKI()) }, "", 2},
		"everything but what the unit has": {func(r *rig) error { return wipe(r.cfg.Paths.Kubelet, r.cfg.Paths.State, r.cfg.Paths.Run) }, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			loaded := r.watchKubelet()
			*loaded = r.kubeletInputs()
			r.cfg.AfterJoin = AfterJoinHeal
			if err := tc.wipe(r); err != nil {
				t.Fatal(err)
			}
			r.mu.Lock()
			r.statuses = nil
			r.mu.Unlock()
			_, stop := r.start()
			s := r.await("an end", func(s Status) bool { return s.Phase == Joined || s.Phase == Blocked })
			if s.Reason != tc.want {
				t.Errorf("%s: %s %s", s.Phase, s.Reason, s.Message)
			}
			if n := len(r.api.CSRs()); n != tc.csrs {
				t.Errorf("%d requests, want %d", n, tc.csrs)
			}
			if tc.want == "" && *loaded != r.kubeletInputs() {
				t.Error("the kubelet runs on other files than those that lie there")
			}
			_ = stop()
		})
	}
}

func TestTheStateFolderWipedUnderTheAgentIsMadeAgainWhenItIsNeeded(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	for _, path := range []string{r.cfg.Paths.State, r.files().PKI(), r.files().Kubeconfig()} {
		// Again where the agent has just put something into it.
		if !r.eventually(func() bool { return os.RemoveAll(path) == nil }) {
			t.Fatalf("cannot remove %s", path)
		}
	}
	r.await("the second join", func(s Status) bool { return s.Phase == Joined && len(r.api.CSRs()) == 2 })
	_ = stop()
	r.mustStayJoined()
}

// Everything is wrong at once after 14 months: each thing is named with its
// reason, one after the other, each is put right by a person, and it ends Joined.
func TestEverythingWrongAtOnceIsNamedOneAfterTheOther(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true, Names: []string{"localhost"}})
	r.mustJoin()
	if err := r.expire(); err != nil {
		t.Fatal(err)
	}
	if err := r.api.RotateServingCA(false); err != nil { // the pin is stale
		t.Fatal(err)
	}
	id, _, _ := strings.Cut(r.api.Token(), ".")
	r.api.DeleteToken(id) // so is the token
	r.api.SetToken("fresh1", "0123456789abcdef")
	fast := r.deps.Clock.(*fastClock)
	slow := &shiftedClock{fastClock: fast, by: -48 * time.Hour} // and the clock is off
	r.deps.Clock = slow
	r.deps.Discoverer = &discovery.Discoverer{Log: r.deps.Log, Now: slow.Now}
	r.units.Change(func(u *systemd.Unit) { // and the kubelet crashes beside us
		u.ActiveState, u.SubState, u.MainPID = "activating", "auto-restart", 0
	})
	r.cfg.AfterJoin = AfterJoinHeal
	a, stop := r.start()
	r.await("the token's fault", func(s Status) bool {
		return s.Reason == fault.TokenUnknown && strings.Contains(s.Hint, "kubeadm token create") && strings.Contains(s.Message, "has expired at")
	})
	r.cfg.Tokens = []TokenSource{TokenInline(must(discovery.ParseToken("fresh1.0123456789abcdef")))}
	a.Reload(r.cfg, nil)
	r.await("the pin's fault", func(s Status) bool {
		return s.Reason == fault.CAPinMismatch && s.Phase == Blocked && strings.Contains(s.Message, r.api.Pin())
	})
	r.cfg.Pins = must(discovery.ParsePins([]string{r.api.Pin()}))
	a.Reload(r.cfg, nil)
	r.await("the clock's fault", reason(fault.ClockSkew))
	slow.set(0)
	a.Reload(r.cfg, nil)
	r.await("the node", phase(Joined))
	_ = stop()
	if trust := must(record.ReadTrust(r.cfg.Paths)); trust.TokenID != "fresh1" || trust.CAPins[0] != r.api.Pin() {
		t.Errorf("%+v", trust)
	}
}

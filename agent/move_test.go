package agent

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// behind starts a member whose server is a balancer before the API server, which
// is its endpoint. Another address of the same server waits to be opened.
func behind(t *testing.T, change func(r *rig)) (r *rig, a *Agent, one, two *balancer) {
	t.Helper()
	one, two = newBalancer(t), newBalancer(t)
	r, a = member(t, func(r *rig) {
		r.api.SetClusterInfoServer(one.url())
		one.open(r.api.Host())
		if change != nil {
			change(r)
		}
	})
	r.await("the balancer in use", at(one.url()))
	return r, a, one, two
}

// at accepts a status of a node at rest that uses this server.
func at(server string) func(Status) bool {
	return func(s Status) bool { return s.Phase == Joined && s.Cluster != nil && s.Cluster.Server == server }
}

func (r *rig) mustUse(server string, moves int) {
	r.t.Helper()
	if text := r.read(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")); !strings.Contains(text, server) {
		r.t.Errorf("kubeconfig: %s", text)
	}
	if n := restarts(r); n != moves {
		r.t.Errorf("%d restarts, want %d: %v", n, moves, r.units.Calls())
	}
	if n := len(r.api.CSRs()); n != 1 {
		r.t.Errorf("%d requests", n)
	}
}

func TestAServerThatClusterInfoNamesAnewIsFollowedSplayed(t *testing.T) {
	r, _, _, two := behind(t, func(r *rig) { r.cfg.RestartSplay = time.Hour })
	two.open(r.api.Host())
	r.api.SetClusterInfoServer(two.url())
	s := r.await("the note", noted(fault.ServerOffered, "followed at"))
	seen := s.Time
	s = r.await("the move", at(two.url()))
	if wait, want := s.Time.Sub(seen), splay("m1"+nodeName, time.Hour); wait < want-5*time.Minute {
		t.Errorf("moved after %s, its splay is %s", wait, want)
	}
	r.mustUse(two.url(), 1)
	if hasNote(s, fault.ServerOffered) || s.Cluster.ServerMoved == nil {
		t.Errorf("%+v %+v", s.Notes, s.Cluster)
	}
}

func TestAServerIsNotFollowed(t *testing.T) {
	stranger, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stranger.Close)
	for name, tc := range map[string]struct {
		change func(r *rig)
		open   func(two *balancer, r *rig)
		says   string
	}{
		"that does not answer":                        {says: "not followed: it does not answer"},
		"that the trust record does not verify":       {open: func(two *balancer, _ *rig) { two.open(stranger.Host()) }, says: "not followed: it does not answer as a server of this cluster"},
		"by a node that is only observed":             {change: func(r *rig) { r.cfg.AfterJoin = AfterJoinObserve }, open: func(two *balancer, r *rig) { two.open(r.api.Host()) }, says: "afterJoin is observe"},
		"while the cluster does not name it for good": {change: func(r *rig) { r.cfg.RestartSplay = 1000 * time.Hour }, open: func(two *balancer, r *rig) { two.open(r.api.Host()) }, says: "followed at"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _, one, two := behind(t, tc.change)
			if tc.open != nil {
				tc.open(two, r)
			}
			r.api.SetClusterInfoServer(two.url())
			r.await("the note", noted(fault.ServerOffered, tc.says))
			r.mustStayAsItIs()
			r.mustUse(one.url(), 0)
			r.api.SetClusterInfoServer(one.url())
			r.await("no note", func(s Status) bool { return !hasNote(s, fault.ServerOffered) })
		})
	}
	for _, request := range stranger.Requests() {
		t.Errorf("the stranger was asked: %+v", request)
	}
}

// Two names in turn, each of them good: one move, and the next one hours later.
func TestServersThatFlapAreDamped(t *testing.T) {
	r, _, one, two := behind(t, func(r *rig) { r.deps.Pace.ChangeGap = 6 * time.Hour })
	two.open(r.api.Host())
	for range 4 {
		r.api.SetClusterInfoServer(two.url())
		r.awaitLater(8 * time.Minute)
		r.api.SetClusterInfoServer(one.url())
		r.awaitLater(8 * time.Minute)
	}
	if n := restarts(r); n != 1 {
		t.Errorf("%d restarts in an hour: %v", n, r.units.Calls())
	}
}

// Another certificate of the same CA under the same name: nothing to do.
func TestAnotherMachineUnderTheSameAddressIsNobodysBusiness(t *testing.T) {
	r, _, one, _ := behind(t, nil)
	if err := r.api.SetServing(testapi.ServingGood); err != nil {
		t.Fatal(err)
	}
	one.close()
	one.open(r.api.Host())
	r.mustStayAsItIs()
	if s, _ := r.last(); len(s.Notes) > 0 {
		t.Errorf("notes: %+v", s.Notes)
	}
}

func TestABlipOfTheServerChangesNothing(t *testing.T) {
	r, _, one, _ := behind(t, nil)
	one.close()
	r.awaitLater(3 * time.Minute) // at most one question has failed since
	one.open(r.api.Host())
	r.mustStayAsItIs()
	r.mustUse(one.url(), 0)
}

// Dead for minutes: the node is down already, so what heals it is done at once,
// whatever the splay. The cluster itself says where to go.
func TestADeadServerIsLeftAtOnceForTheOneThatTheClusterNames(t *testing.T) {
	r, _, one, two := behind(t, func(r *rig) { r.cfg.RestartSplay = 1000 * time.Hour })
	two.open(r.api.Host())
	one.close()
	r.api.SetClusterInfoServer(two.url())
	s := r.await("the move", at(two.url()))
	if s.Cluster.Provisional {
		t.Errorf("%+v", s.Cluster)
	}
	r.mustUse(two.url(), 1)
}

// Nobody names another one: the endpoint that answers serves for the time being,
// and the balancer is taken back when it is there again, with a pause.
func TestADeadServerIsReplacedByTheEndpointForTheTimeBeing(t *testing.T) {
	r, _, one, _ := behind(t, nil)
	one.close()
	s := r.await("the endpoint", at(r.api.URL()))
	if !s.Cluster.Provisional {
		t.Errorf("%+v", s.Cluster)
	}
	r.mustUse(r.api.URL(), 1)
	moved := s.Time
	one.open(r.api.Host())
	s = r.await("the balancer again", at(one.url()))
	if s.Cluster.Provisional || s.Time.Sub(moved) < 25*time.Minute { // ChangeGap is 30
		t.Errorf("%+v after %s", s.Cluster, s.Time.Sub(moved))
	}
	r.mustUse(one.url(), 2)
}

// The machine was off while the API moved: the kubelet runs and reaches nobody,
// and no agent remembers anything.
func TestANodeThatWakesUpToADeadServerFindsTheOtherOne(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	one, two := newBalancer(t), newBalancer(t)
	r.api.SetClusterInfoServer(one.url())
	one.open(r.api.Host())
	r.mustJoin()
	one.close()
	two.open(r.api.Host())
	r.api.SetClusterInfoServer(two.url())
	r.cfg.AfterJoin, r.cfg.Tokens, r.cfg.RestartSplay = AfterJoinHeal, nil, 1000*time.Hour
	r.start()
	r.await("the move", at(two.url()))
	r.mustUse(two.url(), 1)
}

func TestEndpointsThatWereChangedAreFollowedWithADeadToken(t *testing.T) {
	t.Run("where the server in use is dead", func(t *testing.T) {
		r, a, one, two := behind(t, nil)
		two.open(r.api.Host())
		r.cfg.Endpoints = []discovery.Endpoint{must(discovery.ParseEndpoint(two.addr))}
		a.Reload(r.cfg, nil)
		r.mustStayAsItIs() // it answers, and the cluster names no other one
		one.close()
		s := r.await("the move", at(two.url()))
		if !s.Cluster.Provisional {
			t.Errorf("%+v", s.Cluster)
		}
		r.mustUse(two.url(), 1)
		r.mustStayAsItIs()
	})
	t.Run("but never to a server that the trust record does not verify", func(t *testing.T) {
		stranger, err := testapi.New(testapi.Options{Quiet: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stranger.Close)
		r, a, one, _ := behind(t, nil)
		r.cfg.Endpoints = []discovery.Endpoint{must(discovery.ParseEndpoint(stranger.Host()))}
		a.Reload(r.cfg, nil)
		r.await("the note", noted(fault.ServerOffered, "the configured endpoints are others now, and are not followed"))
		one.close()
		r.await("a cause", func(s Status) bool {
			return noted(fault.EndpointUnreachable, "")(s) || noted(fault.TokenUnknown, "")(s)
		})
		r.mustStayAsItIs()
		for _, request := range stranger.Requests() {
			if request.Authorization {
				t.Errorf("the stranger has seen a credential: %+v", request)
			}
		}
	})
	// The endpoint of a node that joined by one is another one now.
	t.Run("where the node is at an endpoint for the time being", func(t *testing.T) {
		r, _ := provisional(t, func(r *rig) { r.cfg.RestartSplay, r.deps.Pace = 0, Pace{APICheck: 2 * time.Minute} })
		two := newBalancer(t)
		two.open(r.api.Host())
		r.cfg.Endpoints = []discovery.Endpoint{must(discovery.ParseEndpoint(two.addr))}
		r.agent.Reload(r.cfg, nil)
		s := r.await("the move", at(two.url()))
		if !s.Cluster.Provisional {
			t.Errorf("%+v", s.Cluster)
		}
	})
}

func TestTheServerOfTheConfigOverridesAll(t *testing.T) {
	r, a, one, two := behind(t, nil)
	two.open(r.api.Host())
	r.cfg.Server = two.url()
	a.Reload(r.cfg, nil)
	r.await("the move", at(two.url()))
	r.mustUse(two.url(), 1)
	// What the cluster names is nobody's business then, also where the server dies.
	r.api.SetClusterInfoServer(r.api.URL())
	r.awaitLater(10 * time.Minute) // it is noted
	r.mustStayAsItIs()
	two.close()
	r.await("the cause", noted(fault.EndpointUnreachable, "the API server in use fails since"))
	r.mustStayAsItIs()
	// Without it, cluster-info decides again.
	two.open(r.api.Host())
	r.api.SetClusterInfoServer(one.url())
	r.cfg.Server = ""
	a.Reload(r.cfg, nil)
	r.await("the balancer again", at(one.url()))
	r.mustUse(one.url(), 2)
}

// A discovery file is the operator's word: another CA in it is taken where nothing
// vouches for it but the file, as at the join.
func TestADiscoveryFileWithAnotherCAHealsANode(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true, SeparateClientCA: true}, "")
	r.cfg.AfterJoin, r.deps.Pace = AfterJoinHeal, Pace{APICheck: 2 * time.Minute}
	a, _ := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	if err := r.api.RotateServingCA(false); err != nil {
		t.Fatal(err)
	}
	r.api.DropConnections()
	r.await("the cause", noted(fault.ServerCertificateInvalid, "to discover the cluster anew"))
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), r.api.CA(), ""))
	r.cfg.Tokens = nil
	a.Reload(r.cfg, nil)
	r.await("the new CA", trusts(r.api.Pin()))
	r.mustUse(r.api.URL(), 1)
}

package agent

import (
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// balancer is the address that cluster-info names: nothing listens there until
// it is opened, then it leads to a server.
type balancer struct {
	t    *testing.T
	addr string
	all  sync.WaitGroup
	shut func()
}

func (b *balancer) url() string { return "https://" + b.addr }

// close leaves nobody there, and ends what is open.
func (b *balancer) close() { b.shut() }

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return &balancer{t: t, addr: l.Addr().String()}
}

func (b *balancer) open(to string) {
	b.t.Helper()
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	b.shut = func() {
		_ = l.Close()
		mu.Lock()
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		b.all.Wait()
	}
	b.t.Cleanup(b.shut)
	b.all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				b.all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_, _ = way[0].Close(), way[1].Close()
				})
			}
		}
	})
}

// provisional starts an agent on a cluster whose own server does not answer and
// waits until the node has joined by the endpoint.
func provisional(t *testing.T, change func(r *rig)) (*rig, *balancer) {
	t.Helper()
	r := newRig(t, testapi.Options{Quiet: true})
	b := newBalancer(t)
	r.api.SetClusterInfoServer("https://" + b.addr)
	r.cfg.AfterJoin, r.cfg.RestartSplay = AfterJoinHeal, 30*time.Minute
	if change != nil {
		change(r)
	}
	r.agent, _ = r.start()
	s := r.await("join by the endpoint", phase(Joined))
	if s.Cluster == nil || !s.Cluster.Provisional || !strings.Contains(s.Cluster.Server, r.api.Host()) {
		t.Fatalf("cluster: %+v", s.Cluster)
	}
	r.api.SetNodeReady(nodeName, true, "")
	return r, b
}

// awaitCheck waits until the agent has read cluster-info once more, and some
// looks longer: what it would do about it is done.
func awaitCheck(r *rig) {
	r.t.Helper()
	reads := func() (n int) {
		for _, request := range r.api.Requests() {
			if strings.Contains(request.Path, "/configmaps/cluster-info") {
				n++
			}
		}
		return n
	}
	before, seen := reads(), time.Time{}
	r.await("another look at cluster-info", func(s Status) bool {
		if seen.IsZero() && reads() > before {
			seen = s.Time
		}
		return !seen.IsZero() && s.Time.Sub(seen) > 3*DefaultPace.LocalCheck
	})
}

func restarts(r *rig) int {
	return len(slices.DeleteFunc(r.units.Calls(), func(call string) bool { return !strings.HasPrefix(call, "restart") }))
}

func TestTheClustersOwnServerIsTakenBackWhenItAnswers(t *testing.T) {
	r, b := provisional(t, nil)
	b.open(r.api.Host())
	s := r.await("move to the cluster's own server", func(s Status) bool {
		return s.Phase == Joined && s.Cluster != nil && !s.Cluster.Provisional
	})
	if s.Cluster.Server != "https://"+b.addr {
		t.Errorf("server %s", s.Cluster.Server)
	}
	if text := string(must(readSmall(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")))); !strings.Contains(text, b.addr) || strings.Contains(text, r.api.Host()) {
		t.Errorf("kubeconfig: %s", text)
	}
	if n := restarts(r); n != 1 {
		t.Errorf("the kubelet was restarted %d times: %v", n, r.units.Calls())
	}
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
	r.awaitMetrics("the restart and its cause", sample(`bootstrap_agent_kubelet_restarts_total{cause="inputs"}`, "1"))
}

func TestAServerThatTheTrustRecordDoesNotVerifyIsNotTakenBack(t *testing.T) {
	r, b := provisional(t, func(r *rig) { r.cfg.RestartSplay = 0 })
	stranger, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	b.open(stranger.Host())
	awaitCheck(r)
	s, _ := r.last()
	if !s.Cluster.Provisional || s.Phase != Joined || restarts(r) != 0 {
		t.Errorf("phase %s, cluster %+v, calls %v", s.Phase, s.Cluster, r.units.Calls())
	}
	for _, request := range stranger.Requests() {
		t.Errorf("the stranger was asked: %+v", request)
	}
}

func TestAnObserverTakesNoServerBack(t *testing.T) {
	r, b := provisional(t, func(r *rig) { r.cfg.AfterJoin, r.cfg.RestartSplay = AfterJoinObserve, 0 })
	b.open(r.api.Host())
	awaitCheck(r)
	if s, _ := r.last(); !s.Cluster.Provisional || restarts(r) != 0 {
		t.Errorf("cluster %+v, calls %v", s.Cluster, r.units.Calls())
	}
}

func TestSplaySpreadsAFleetAndKeepsAMachineWhereItIs(t *testing.T) {
	const over = 30 * time.Minute
	var quarters [4]int
	for i := range 1000 {
		machine := strings.Repeat("m", i)
		d := splay(machine, over)
		if d < 0 || d >= over || d != splay(machine, over) {
			t.Fatalf("%s", d)
		}
		quarters[int(4*d/over)]++
	}
	if slices.Min(quarters[:]) < 200 {
		t.Errorf("of 1000 machines in each quarter: %v", quarters)
	}
	if splay("m", 0) != 0 {
		t.Error("no splay is no pause")
	}
}

//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
)

// patientCluster is a control plane that approves and signs nothing by itself:
// the scenario does. Everything else runs, the signer of cluster-info and the
// cleaner of tokens among it.
func patientCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	return ownCluster(t, cluster.Options{
		Controllers: []string{"*", "bootstrapsigner", "tokencleaner", "-" + signing, "-" + approver}, ExtraSANs: []string{apiName},
	})
}

// faultCase is one row of the fault matrix, or several.
type faultCase struct {
	name string
	run  func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string)
}

// sideBySide plays cases at the same time: most of their seconds are waits.
func sideBySide(t *testing.T, ctx context.Context, c *cluster.Cluster, cases []faultCase) {
	t.Helper()
	s := newSigner(t, ctx, c)
	var all sync.WaitGroup
	for i, row := range cases {
		all.Go(func() {
			t.Run(row.name, func(t *testing.T) { row.run(t, ctx, c, s.in(t, ctx), "fault-"+strconv.Itoa(i)) })
		})
	}
	all.Wait()
}

// signedToken is a token that cluster-info vouches for.
func signedToken(t *testing.T, ctx context.Context, c *cluster.Cluster) cluster.Token {
	t.Helper()
	token := newToken(t, ctx, c)
	if err := c.AwaitSignature(ctx, token); err != nil {
		t.Fatal(err)
	}
	return token
}

// The network, the API server and the signer fail in every way of the fault
// matrix, on the way to the cluster and while the request waits. Each agent says
// what it is, asks for no more certificates than it has to, and joins once it is
// over.
func TestWhateverTheClusterDoesAJoinGoesOnWhereItWas(t *testing.T) {
	ctx := aside(t, 4*time.Minute)
	c := patientCluster(t)
	t.Run("F1 F7 F10 F11: the API server is away, restarts under a watch, has forgotten", func(t *testing.T) { apiRestarts(t, ctx, c) })
	cases := []faultCase{
		{"F4: the name does not resolve, then it does", nameResolvesLate},
		{"F6: the handshake stalls", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			slowHandshake(t, ctx, c, s, node, proxy.Silent)
		}},
		{"F6: a byte a second", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			slowHandshake(t, ctx, c, s, node, proxy.Drip)
		}},
		{"F8: the connection of the watch goes deaf", watchGoesDeaf},
		{"F8: the watch says nothing", watchSaysNothing},
		{"F9: 429 with Retry-After", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			answersBadly(t, ctx, c, s, node, http.StatusTooManyRequests, fault.Throttled)
		}},
		{"F9: 500", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			answersBadly(t, ctx, c, s, node, http.StatusInternalServerError, fault.ServerError)
		}},
		{"F9: 503", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			answersBadly(t, ctx, c, s, node, http.StatusServiceUnavailable, fault.ServerError)
		}},
		{"F9: 504", func(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
			answersBadly(t, ctx, c, s, node, http.StatusGatewayTimeout, fault.ServerError)
		}},
		{"F13: the token is made late", tokenComesLate},
		{"a storm: each second request is refused", storm},
	}
	sideBySide(t, ctx, c, slices.Concat(cases, certificateFaults, identityFaults))
}

// apiRestarts: one agent waits for its certificate, one comes while nobody is
// there; a third one's watch begins where the server remembers nothing any more.
func apiRestarts(t *testing.T, ctx context.Context, c *cluster.Cluster) {
	s := newSigner(t, ctx, c)
	// F11
	var info corev1.ConfigMap
	if err := c.Get(ctx, clusterInfo, &info); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(ctx, http.MethodDelete, clusterInfo, nil, nil); err != nil {
		t.Fatal(err)
	}
	token := newToken(t, ctx, c)
	waits := newHostAgent(t, ctx, c, "waits", token)
	waits.start()
	waits.fails(fault.ClusterInfoMissing, 10*time.Second)
	info.ResourceVersion, info.UID = "", ""
	if err := c.Do(ctx, http.MethodPost, strings.TrimSuffix(clusterInfo, "/cluster-info"), info, nil); err != nil {
		t.Fatal(err)
	}
	request := s.get(s.requestOf(waits))
	other := signedToken(t, ctx, c)

	c.StopAPI()
	comes := newHostAgent(t, ctx, c, "comes", other)
	comes.start()
	if told := comes.fails(fault.EndpointUnreachable, 10*time.Second); !strings.Contains(told.Message, c.Endpoint()) {
		t.Errorf("%q does not name the endpoint", told.Message)
	}
	if err := c.StartAPI(ctx); err != nil {
		t.Fatal(err)
	}
	served := time.Now()
	s.serves(comes)
	t.Logf("F1: joined %.1f s after the API server was there", time.Since(served).Seconds())
	s.issue(request.Name, nil)
	waits.joins()
	t.Logf("F7: joined %.1f s after the API server was there", time.Since(served).Seconds())
	s.requests(token, 1)
	s.requests(other, 1)
	if now := s.get(request.Name); now.UID != request.UID {
		t.Error("the request of the agent that waited is another one")
	}

	// F10: a watch from a version of long ago, to which the real server answers 410.
	front := newFront(t, ctx, c, nil)
	var watches atomic.Int32
	front.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if query := r.URL.Query(); query.Get("watch") != "" && watches.Add(1) == 1 {
			query.Set("resourceVersion", "1")
			r.URL.RawQuery = query.Encode()
		}
		return false
	})
	late := signedToken(t, ctx, c)
	forgotten := newHostAgent(t, ctx, c, "forgotten", late, front.Endpoint())
	forgotten.cfg.Server = "https://" + front.Endpoint()
	forgotten.deps.Pace.Backstop = time.Hour
	forgotten.start()
	name := s.requestOf(forgotten)
	for watches.Load() < 2 && ctx.Err() == nil {
		pause(t, ctx, 20*time.Millisecond)
	}
	s.issue(name, nil)
	isIssued(forgotten)
	t.Logf("F10: %d watches", watches.Load())
	s.requests(late, 1)
}

// isIssued waits for a certificate. (A Front ends TLS, so what comes after it,
// with the certificate, does not go through.)
func isIssued(h *hostAgent) {
	h.t.Helper()
	h.await("a certificate", 30*time.Second, inPhase(agent.CheckingName))
}

// apiName is in the certificate of patientCluster's API server.
const apiName = "api.lab.test"

// nameResolvesLate asks a name server of the scenario's own, with the resolver
// that the shipped program has (it is built without libc).
func nameResolvesLate(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	server, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	var there atomic.Bool
	go answerNames(server, &there, net.ParseIP(c.Address).To4())
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	_, port, _ := net.SplitHostPort(c.Endpoint())
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, net.JoinHostPort(apiName, port))
	h.deps.Discoverer = &discovery.Discoverer{Log: h.deps.Log, Dial: (&net.Dialer{Resolver: resolver}).DialContext}
	h.start()
	if told := h.fails(fault.DNSFailure, 20*time.Second); !strings.Contains(told.Message, apiName) {
		t.Errorf("%q does not name the name", told.Message)
	}
	there.Store(true)
	s.serves(h)
	s.requests(token, 1)
}

// answerNames answers NXDOMAIN, or the address once it is there.
func answerNames(server net.PacketConn, there *atomic.Bool, address net.IP) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := server.ReadFrom(buffer)
		if err != nil {
			return // closed
		}
		question := 12
		for question < n && buffer[question] != 0 {
			question += int(buffer[question]) + 1
		}
		end := question + 5 // the root, type, class
		if end > n {
			continue
		}
		answer := append([]byte(nil), buffer[:end]...)
		answer[2], answer[3] = 0x84, 0x80            // an answer, with authority, recursion is there
		copy(answer[6:12], []byte{0, 0, 0, 0, 0, 0}) // no records, not even what the client added
		kind := binary.BigEndian.Uint16(buffer[question+1:])
		switch {
		case !there.Load():
			answer[3] |= 3 // no such name
		case kind == 1:
			answer[7] = 1
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4)
			answer = append(answer, address...)
		}
		_, _ = server.WriteTo(answer, from) // a client that is gone asks no more
	}
}

func slowHandshake(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string, mode proxy.Mode) {
	pipe := newPipe(t, ctx, c)
	pipe.Set(mode)
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, pipe.Endpoint())
	began := time.Now()
	h.start()
	h.fails(fault.TLSHandshakeFailed, 25*time.Second)
	if took := time.Since(began); took < 9*time.Second {
		t.Errorf("given up after %s", took)
	}
	pipe.Set(proxy.Pass)
	s.serves(h)
	s.requests(token, 1)
}

// watchSaysNothing: the connection is well, and the watch never delivers. The
// approval is found by the read that stands behind it.
func watchSaysNothing(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	front := newFront(t, ctx, c, nil)
	front.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("watch") == "" {
			return false
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // a client that is gone ends the next line, too
		select {
		case <-r.Context().Done():
		case <-ctx.Done():
		}
		return true
	})
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, front.Endpoint())
	h.cfg.Server = "https://" + front.Endpoint()
	h.start()
	s.issue(s.requestOf(h), nil)
	isIssued(h)
	s.requests(token, 1)
}

// watchGoesDeaf: nothing arrives any more on the connection of the watch (nor of
// anything else that goes over it), and nobody says so. A connection that stays
// silent is pinged, and ends when that is not answered.
func watchGoesDeaf(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	pipe := newPipe(t, ctx, c)
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, pipe.Endpoint())
	h.cfg.Server = "https://" + pipe.Endpoint()
	h.start()
	name := s.requestOf(h)
	pipe.Deafen()
	s.issue(name, nil)
	approved := time.Now()
	h.joins()
	t.Logf("joined %.1f s after an approval that the watch did not deliver", time.Since(approved).Seconds())
	s.requests(token, 1)
}

// answersBadly: the server, or a balancer before it, answers with an error where
// cluster-info, the request and its state are asked for, each time for the first
// time. It is waited as long as it was told, and nobody takes it for a refusal.
func answersBadly(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string, code int, want fault.Reason) {
	const told = 4 * time.Second
	front := newFront(t, ctx, c, nil)
	var mu sync.Mutex
	times := map[string][]time.Time{} // of what kind of question
	front.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		kind := r.Method + " " + strings.TrimRight(r.URL.Path, "/")
		if strings.HasPrefix(r.URL.Path, csrPath+"/") {
			kind = "read"
		}
		if r.URL.Query().Get("watch") != "" {
			kind = "watch"
		}
		mu.Lock()
		defer mu.Unlock()
		times[kind] = append(times[kind], time.Now())
		if len(times[kind]) > 1 || kind != "GET "+clusterInfo && kind != "POST "+csrPath && kind != "watch" && kind != "read" {
			return false
		}
		if code == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", strconv.Itoa(int(told.Seconds())))
		}
		w.WriteHeader(code)
		return true
	})
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, front.Endpoint())
	h.cfg.Server = "https://" + front.Endpoint()
	h.start()
	h.fails(want, 10*time.Second)
	h.await("the second fault", 30*time.Second, func(s agent.Status) bool { return s.Reason == want && s.Phase == agent.RequestingCertificate })
	name := s.requestOf(h)
	key := h.pendingKey()
	h.await("a good read", 30*time.Second, func(agent.Status) bool {
		mu.Lock()
		defer mu.Unlock()
		return len(times["read"]) > 1 && len(times["watch"]) > 1
	})
	if again := h.pendingKey(); again != key {
		t.Error("an error of the server cost the key")
	}
	s.issue(name, nil)
	isIssued(h)
	s.requests(token, 1)
	if code != http.StatusTooManyRequests {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	for _, kind := range []string{"GET " + clusterInfo, "POST " + csrPath} {
		if waited := times[kind][1].Sub(times[kind][0]); waited < told {
			t.Errorf("%s was asked again after %s, told were %s", kind, waited, told)
		}
	}
}

// tokenComesLate: cluster-info does not know the token yet (F13).
func tokenComesLate(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := cluster.RandomToken()
	h := newHostAgent(t, ctx, c, node, token)
	h.start()
	told := h.fails(fault.TokenUnknown, 10*time.Second)
	if !strings.Contains(told.Message, token.ID) || strings.Contains(told.Message+told.Hint, token.Secret) {
		t.Errorf("%q, %q", told.Message, told.Hint)
	}
	secret := corev1.Secret{Type: "bootstrap.kubernetes.io/token", StringData: map[string]string{
		"token-id": token.ID, "token-secret": token.Secret, "usage-bootstrap-signing": "true", "usage-bootstrap-authentication": "true",
		"auth-extra-groups": kubeadmGroup,
	}}
	secret.Name, secret.Namespace = "bootstrap-token-"+token.ID, "kube-system"
	if err := c.Do(ctx, http.MethodPost, "/api/v1/namespaces/kube-system/secrets", secret, nil); err != nil {
		t.Fatal(err)
	}
	s.serves(h)
	s.requests(token, 1)
}

// storm: for as long as the join takes, every second request is answered 429.
func storm(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	front := newFront(t, ctx, c, nil)
	var asked atomic.Int32
	front.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		if asked.Add(1)%2 == 0 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token, front.Endpoint())
	h.cfg.Server = "https://" + front.Endpoint()
	h.start()
	s.issue(s.requestOf(h), nil)
	isIssued(h)
	s.requests(token, 1)
	t.Logf("%d requests, half of them refused", asked.Load())
}

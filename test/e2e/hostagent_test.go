//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	kubeletfiles "github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/standin"
)

// hostAgent is the agent on a machine that is a folder of this host: its rooms
// are the shipped ones and the cluster is real, so what crosses the network is
// what crosses it in life; systemd is a double, and so is the kubelet, which
// registers its Node with the certificate that the agent put there. Many of them
// run side by side, which machines cannot do in that time. What is claimed of
// systemd or of the kubelet is shown on machines, never here.
type hostAgent struct {
	t    *testing.T
	ctx  context.Context
	c    *cluster.Cluster
	cfg  agent.Config
	deps agent.Deps

	units *testsystemd.Manager

	token string // path of the token file
	stop  func() error

	mu       sync.Mutex // guards what follows
	statuses []agent.Status
}

// quickPace makes quarters of an hour seconds.
var quickPace = agent.Pace{
	LocalCheck: time.Second, VanishGrace: time.Second, UnauthorizedGap: time.Second, EagerFirst: time.Second,
	NamesakeAtLeast: time.Second, NamesakeEvery: 250 * time.Millisecond,
	Backstop: 2 * time.Second, Signed: 2 * time.Second, Slow: time.Second, Blocked: time.Second,
}

// newHostAgent prepares a machine on which nothing has happened, which finds the
// cluster at the endpoint, or at its own. Its fields may be changed until it is
// started.
func newHostAgent(t *testing.T, ctx context.Context, c *cluster.Cluster, name string, token cluster.Token, endpoint ...string) *hostAgent {
	t.Helper()
	dir := t.TempDir()
	h := &hostAgent{t: t, ctx: ctx, c: c, token: filepath.Join(dir, "token"), stop: func() error { return nil }}
	endpoint = append(endpoint, c.Endpoint())
	who := agent.ReadMachine("/", "")
	m, err := standin.New(standin.Options{
		Folder: dir, NodeName: name, Endpoint: endpoint[0], Token: token.String(), Pin: c.Pin(), Who: who,
		OnStart: func([]string) error { return h.register(who.BootID) },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.cfg, h.deps, h.units = m.Config, m.Deps, m.Units
	h.setToken(token)
	h.cfg.Tokens, h.cfg.AfterJoin = []agent.TokenSource{agent.TokenFile(h.token)}, agent.AfterJoinHeal
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.DebugLevel)
	h.deps.Log, h.deps.Discoverer, h.deps.Pace = log, &discovery.Discoverer{Log: log}, quickPace
	h.deps.Connect = func(id agent.Identity) (agent.API, error) {
		options := standin.ClientOptions(id)
		options.PingAfter = 2 * time.Second
		return apiclient.New(options)
	}
	h.deps.OnStatus = func(s agent.Status) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.statuses = append(h.statuses, s)
	}
	t.Cleanup(func() {
		_ = h.stop() // perhaps for the second time
		if err := c.DeleteNode(context.WithoutCancel(ctx), name); err != nil {
			t.Error(err)
		}
	})
	return h
}

// setToken writes the token file.
func (h *hostAgent) setToken(token cluster.Token) {
	h.t.Helper()
	if err := os.WriteFile(h.token, []byte(token.String()+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// start starts the agent, stop ends it.
func (h *hostAgent) start() {
	h.t.Helper()
	one, err := agent.New(h.cfg, h.deps)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.ctx)
	done := make(chan error, 1)
	go func() { done <- one.Run(ctx) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-done })
}

// await waits for a status; what was published before counts.
func (h *hostAgent) await(what string, within time.Duration, want func(agent.Status) bool) agent.Status {
	h.t.Helper()
	deadline := time.Now().Add(within)
	for {
		h.mu.Lock()
		i := slices.IndexFunc(h.statuses, want)
		var found agent.Status
		if i >= 0 {
			found = h.statuses[i]
		} else if n := len(h.statuses); n > 0 {
			found = h.statuses[n-1]
		}
		h.mu.Unlock()
		if i >= 0 {
			return found
		}
		if time.Now().After(deadline) || h.ctx.Err() != nil {
			h.t.Fatalf("%s: not within %s; last status: phase %s, reason %s, message %q", what, within, found.Phase, found.Reason, found.Message)
		}
		pause(h.t, h.ctx, 10*time.Millisecond)
	}
}

// forget makes await look only at what is published from here on.
func (h *hostAgent) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = nil
}

// joins waits for the end of a join.
func (h *hostAgent) joins() agent.Status {
	h.t.Helper()
	s := h.await("the join", 60*time.Second, inPhase(agent.Joined))
	if _, err := h.c.Node(h.ctx, h.cfg.NodeName); err != nil {
		h.t.Error(err)
	}
	return s
}

// fails waits for a reason and its remedy.
func (h *hostAgent) fails(reason fault.Reason, within time.Duration) agent.Status {
	h.t.Helper()
	began := time.Now()
	s := h.await(string(reason), within, hasReason(reason))
	h.t.Logf("%s after %.2f s: %s -> %s", reason, time.Since(began).Seconds(), s.Message, s.Hint)
	if s.Hint == "" || s.NextRetry == nil {
		h.t.Errorf("nobody is told what to do (%q) or when it tries again (%v)", s.Hint, s.NextRetry)
	}
	return s
}

// nothingForTheKubelet: no pair, no kubeconfig, no start.
func (h *hostAgent) nothingForTheKubelet() {
	h.t.Helper()
	for _, path := range []string{h.files().CurrentPair(), h.files().Kubeconfig()} {
		if _, err := os.Lstat(path); err == nil {
			h.t.Errorf("%s is there", path)
		}
	}
	if calls := h.units.Calls(); slices.Contains(calls, "start") {
		h.t.Errorf("the kubelet was started: %v", calls)
	}
}

func (h *hostAgent) files() kubeletfiles.Files {
	return kubeletfiles.Files{Layout: kubeletfiles.Layout{Dir: h.cfg.Paths.Kubelet}}
}

// pendingKey is the content of the key that waits for its certificate.
func (h *hostAgent) pendingKey() string {
	h.t.Helper()
	text, err := os.ReadFile(h.cfg.Paths.PendingKey())
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// register is what the kubelet does at its start: a Node and its Lease, made with
// the pair that lies there.
func (h *hostAgent) register(bootID string) error {
	pair, err := tls.LoadX509KeyPair(h.files().CurrentPair(), h.files().CurrentPair())
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.c.CA())
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}
	defer client.CloseIdleConnections()
	name, seconds, now := h.cfg.NodeName, int32(40), metav1.NowMicro()
	for path, object := range map[string]any{
		"/api/v1/nodes": corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: bootID}}},
		"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases": coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-node-lease"},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		},
	} {
		text, err := json.Marshal(object)
		if err != nil {
			return err
		}
		resp, err := client.Post("https://"+h.c.Endpoint()+path, "application/json", bytes.NewReader(text))
		if err != nil {
			return err
		}
		_ = resp.Body.Close() // only the code counts
		if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusConflict {
			return fmt.Errorf("POST %s: %s", path, resp.Status)
		}
	}
	return nil
}

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
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
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

// newHostAgent prepares a machine on which nothing has happened. Its fields may
// be changed until it is started.
func newHostAgent(t *testing.T, ctx context.Context, c *cluster.Cluster, name string, token cluster.Token, endpoints ...string) *hostAgent {
	t.Helper()
	dir := t.TempDir()
	h := &hostAgent{t: t, ctx: ctx, c: c, token: filepath.Join(dir, "token"), stop: func() error { return nil }}
	paths := agent.Paths{State: dir + "/state", Run: dir + "/run", Kubelet: dir + "/kubelet", Units: dir + "/units", Etc: dir + "/etc"}
	binary := dir + "/kubelet-binary"
	if err := os.Mkdir(paths.Units, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o700); err != nil { // it is looked for, and never run
		t.Fatal(err)
	}
	h.setToken(token)
	if len(endpoints) == 0 {
		endpoints = []string{c.Endpoint()}
	}
	pins, err := discovery.ParsePins([]string{c.Pin()})
	if err != nil {
		t.Fatal(err)
	}
	h.cfg = agent.Config{
		Tokens: []agent.TokenSource{agent.TokenFile(h.token)}, Pins: pins, NodeName: name, AfterJoin: agent.AfterJoinHeal,
		Paths: paths, Kubelet: agent.KubeletConfig{RuntimeEndpoint: "unix:///run/containerd/containerd.sock"},
	}
	for _, text := range endpoints {
		endpoint, err := discovery.ParseEndpoint(text)
		if err != nil {
			t.Fatal(err)
		}
		h.cfg.Endpoints = append(h.cfg.Endpoints, endpoint)
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.DebugLevel)
	who := agent.ReadMachine("/", "")
	h.deps = agent.Deps{
		Discoverer: &discovery.Discoverer{Log: log},
		Connect: func(id agent.Identity) (agent.API, error) {
			return apiclient.New(apiclient.Options{
				Server: id.Server, CA: id.CA, Bearer: id.Bearer, CertPEM: id.Pair, KeyPEM: id.Pair, PingAfter: 2 * time.Second,
			})
		},
		Units:  &testsystemd.Manager{Monotonic: agent.Monotonic, OnStart: func([]string) error { return h.register(who.BootID) }},
		Notify: systemd.NewNotifier("", 0), Health: func(ctx context.Context, _ string) error { return ctx.Err() },
		Clock: agent.SystemClock{}, Pace: quickPace, Log: log, Version: "e2e", Machine: who,
		Host: agent.Host{
			Host: kubeletfiles.Host{Root: dir}, Binaries: []string{binary}, Runtimes: kubeletfiles.Runtimes(),
			AskRuntime: func(ctx context.Context, _ string) (kubeletfiles.Answer, error) {
				return kubeletfiles.Answer{}, ctx.Err()
			},
			RunKubelet: func(ctx context.Context, _ string, _ ...string) ([]byte, error) {
				return []byte("Kubernetes v1.36.3\n"), ctx.Err()
			},
		},
		OnStatus: func(s agent.Status) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.statuses = append(h.statuses, s)
		},
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
	if calls := h.deps.Units.(*testsystemd.Manager).Calls(); slices.Contains(calls, "start") {
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

//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

// identityFaults are the rows about who the machine is, and whose: see
// TestWhateverTheClusterDoesAJoinGoesOnWhereItWas.
var identityFaults = []faultCase{
	{"F46: configured for another cluster", otherCluster},
	{"F47: another host name", otherHostName},
}

// otherCluster: a node whose config names another cluster stays the node that it
// is, for as long as its certificate works, and shows the other cluster nothing.
// With no certificate any more it is what its config says.
func otherCluster(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	h := newHostAgent(t, ctx, c, node, signedToken(t, ctx, c))
	h.start()
	s.serves(h)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(h.files().Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}

	other := sharedCluster(t, ctx, cluster.Kubeadm)
	front := newFront(t, ctx, other, nil)
	token := signedToken(t, ctx, other)
	h.setToken(token)
	endpoint, err := discovery.ParseEndpoint(front.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Endpoints = []discovery.Endpoint{endpoint}
	if h.cfg.Pins, err = discovery.ParsePins([]string{other.Pin()}); err != nil {
		t.Fatal(err)
	}
	h.deps.Pace.APICheck = time.Second
	h.forget()
	h.start()
	told := h.await("the other endpoint to be told", 20*time.Second, func(s agent.Status) bool {
		return s.Phase == agent.Joined && withNote(fault.ServerOffered, "are not followed", front.Endpoint())(s)
	})
	t.Logf("%+v", told.Notes)
	pause(t, ctx, 3*time.Second) // some looks at the machine
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(h.files().Kubeconfig()); err != nil || string(after) != string(before) {
		t.Errorf("the kubeconfig was changed: %v", err)
	}
	for _, seen := range front.Requests() {
		t.Errorf("the other cluster was asked %s %s (credential %t, certificate %t)", seen.Method, seen.Path, seen.Authorization, seen.Certificate)
	}
	if _, err := other.Node(ctx, node); err == nil {
		t.Error("it is a node of the other cluster, too")
	}

	pairs, err := filepath.Glob(filepath.Join(h.cfg.Paths.Kubelet, "pki", "kubelet-client*"))
	if err != nil || len(pairs) == 0 {
		t.Fatalf("pairs %v, %v", pairs, err)
	}
	for _, path := range pairs {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h.c = other
	h.forget()
	h.start()
	if s := h.joins(); !strings.Contains(s.Cluster.Server, other.Endpoint()) {
		t.Errorf("joined to %+v", s.Cluster)
	}
	_ = h.stop() // its end is no error
	if err := other.DeleteNode(ctx, node); err != nil {
		t.Error(err)
	}
}

// otherHostName: before its kubelet was started for the first time a machine has
// no name to lose; after that it keeps the one that it has.
func otherHostName(t *testing.T, ctx context.Context, c *cluster.Cluster, s *signer, node string) {
	token := signedToken(t, ctx, c)
	h := newHostAgent(t, ctx, c, node, token)
	restart := func(name string) {
		t.Helper()
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
		h.cfg.NodeName = name
		h.forget()
		h.start()
	}
	h.start()
	first := s.requestOf(h)
	key := h.pendingKey()
	restart(node + "-dhcp")
	second := s.requestOf(h, first)
	if h.pendingKey() != key {
		t.Error("the name cost the key")
	}
	s.issue(second, nil)
	h.joins()
	s.requests(token, 2)

	restart(node + "-third")
	told := h.await("the name to be told", 20*time.Second, func(s agent.Status) bool { return s.Phase == agent.Joined && notesConfigInvalid(s) })
	for _, note := range told.Notes {
		if note.Reason == fault.ConfigInvalid && (!strings.Contains(note.Message, node+"-dhcp") || !strings.Contains(note.Message, node+"-third")) {
			t.Errorf("%q does not name both", note.Message)
		}
	}
	if _, err := c.Node(ctx, node+"-third"); err == nil {
		t.Error("there is a Node of the new name")
	}
	s.requests(token, 2)
}

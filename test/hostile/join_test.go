//go:build e2e

package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// cluster is a quiet API server that signs cluster-info with our token.
func cluster(t *testing.T, old bool) *testapi.Server {
	t.Helper()
	s, err := testapi.New(testapi.Options{Quiet: true, Token: tokenID + "." + secret, OldHTTP: old})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// configFor is the config of a machine that joins it.
func configFor(s *testapi.Server, rest string) string {
	return fmt.Sprintf("apiVersion: bootstrap-agent/v1\nendpoints: [%q]\ntokenFile: /etc/bootstrap-agent/token\ncaCertHashes: [%q]\n%s", s.Host(), s.Pin(), rest)
}

// registers makes the Node, as a kubelet would, when the fake one has been started.
func registers(t *testing.T, m *small, s *testapi.Server, node string) (stop func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-done:
				return
			case <-time.After(30 * time.Millisecond):
			}
			if _, err := os.Stat(filepath.Join(m.dir, "run/fakekubelet.json")); err == nil {
				boot := must(os.ReadFile("/proc/sys/kernel/random/boot_id"))
				s.RegisterNode(node, corev1.NodeSystemInfo{BootID: string(boot[:36])})
				s.RenewLease(node)
				return
			}
		}
	}()
	return func() { close(done); <-gone }
}

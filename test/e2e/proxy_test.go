//go:build e2e

package e2e

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
)

// newPipe stands between machines and the API server and passes bytes; its
// address is in the API server's certificate, since it is the same.
func newPipe(t *testing.T, ctx context.Context, c *cluster.Cluster) *proxy.Pipe {
	t.Helper()
	pipe, err := proxy.NewPipe(ctx, net.JoinHostPort(lab.Address, "0"), c.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pipe.Close(); err != nil {
			t.Error(err)
		}
	})
	return pipe
}

// newFront stands between machines and the API server and sees each request. It
// serves with the API server's own key pair, or as an impostor with a
// certificate of another authority.
func newFront(t *testing.T, ctx context.Context, c *cluster.Cluster, impostor *cluster.Authority) *proxy.Front {
	t.Helper()
	cert, key := readOrFail(t, c, "pki/apiserver.crt"), readOrFail(t, c, "pki/apiserver.key")
	if impostor != nil {
		var err error
		if cert, key, err = impostor.Server(lab.Address); err != nil {
			t.Fatal(err)
		}
	}
	front, err := proxy.NewFront(ctx, net.JoinHostPort(lab.Address, "0"), cert, key, c.Endpoint(), c.CA())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	})
	return front
}

func readOrFail(t *testing.T, c *cluster.Cluster, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

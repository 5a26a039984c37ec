package crowd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// kubelets are the stand-ins of all kubelets: each makes its Node, once, with
// the pair that the agent has installed. A pair that the API server does not
// take makes no Node, and the join does not end.
type kubelets struct {
	ctx     context.Context
	cluster *cluster.Cluster
	running sync.WaitGroup
}

func newKubelets(ctx context.Context, c *cluster.Cluster) (k *kubelets, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	k = &kubelets{ctx: ctx, cluster: c}
	return k, func() {
		cancel()
		k.running.Wait()
	}
}

func (k *kubelets) start(name, bootID, dir string) {
	k.running.Go(func() {
		// What it was told last nobody reads: without its Node the join fails and is
		// reported as that.
		_ = await.Until(k.ctx, "the Node of "+name, time.Second, func(ctx context.Context) error {
			return k.register(ctx, name, bootID, dir)
		})
	})
}

// register is the one request that a kubelet begins with.
func (k *kubelets) register(ctx context.Context, name, bootID, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	path := filepath.Join(dir, "pki/kubelet-client-current.pem")
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(dir, "pki/ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	text, err := json.Marshal(corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: bootID},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "StandIn"}},
		},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+k.cluster.Endpoint()+"/api/v1/nodes", bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusConflict {
		return fmt.Errorf("the Node: %s", resp.Status)
	}
	return nil
}

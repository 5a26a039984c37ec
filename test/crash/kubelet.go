package crash

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// leaseSeconds is what a kubelet's Lease says.
const leaseSeconds = 40

// start is the kubelet's start: it loads the kubeconfig that its command line
// names with the kubelet's own code, and what that names, and registers its Node
// with it. What cannot be loaded ends the start.
func (m *Machine) start(argv []string) error {
	path := ""
	for _, word := range argv {
		if value, ok := strings.CutPrefix(word, "--kubeconfig="); ok {
			path = value
		}
	}
	config, err := LoadKubeconfig(path)
	if err != nil {
		return m.failed(err)
	}
	for _, needed := range []string{m.Files().ConfigFile(), m.Files().CACert()} {
		if info, err := os.Stat(needed); err != nil || info.Size() == 0 {
			return m.failed(fmt.Errorf("%s: %w", needed, errors.Join(err, errors.New("is not there, or empty"))))
		}
	}
	loaded := m.inputs()
	if m.Register != nil {
		err = m.Register()
	} else {
		err = register(config, m.Spec.NodeName, m.Spec.BootID)
	}
	if err != nil {
		return m.failed(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loaded = loaded
	return nil
}

func (m *Machine) failed(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = append(m.failures, err.Error())
	return err
}

// LoadKubeconfig loads a kubeconfig and what it names as the kubelet does; an
// error says what is missing or does not fit together.
func LoadKubeconfig(path string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	if config.CertFile == "" || config.KeyFile == "" {
		return nil, errors.New(path + " names no client certificate")
	}
	if _, err := rest.TransportFor(config); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// register makes the Node and renews the Lease, as a kubelet does at its start.
func register(config *rest.Config, name, bootID string) error {
	config.Timeout = 10 * time.Second
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	do := func(method, path string, in, out any) (int, error) {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		req, err := http.NewRequest(method, strings.TrimSuffix(config.Host, "/")+path, bytes.NewReader(text)) //nolint:noctx // its client has a timeout
		if err != nil {
			return 0, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer func() { _ = resp.Body.Close() }() // read to its end below
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 && resp.StatusCode != http.StatusConflict && resp.StatusCode != http.StatusNotFound {
			err = fmt.Errorf("%s %s: %d: %s", method, path, resp.StatusCode, body)
		}
		if err == nil && out != nil && resp.StatusCode < 300 {
			err = json.Unmarshal(body, out)
		}
		return resp.StatusCode, err
	}
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: bootID}}}
	code, err := do(http.MethodPost, "/api/v1/nodes", node, nil)
	if err == nil && code == http.StatusConflict {
		if _, err = do(http.MethodGet, "/api/v1/nodes/"+name, nil, &node); err == nil {
			node.Status.NodeInfo.BootID = bootID
			_, err = do(http.MethodPut, "/api/v1/nodes/"+name+"/status", node, nil)
		}
	}
	if err != nil {
		return err
	}
	const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	var seconds int32 = leaseSeconds
	now := metav1.NowMicro()
	lease := coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-node-lease"}}
	if code, err = do(http.MethodGet, leases+"/"+name, nil, &lease); err != nil {
		return err
	}
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now}
	if code == http.StatusNotFound {
		_, err = do(http.MethodPost, leases, lease, nil)
	} else {
		_, err = do(http.MethodPut, leases+"/"+name, lease, nil)
	}
	return err
}

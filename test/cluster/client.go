package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// Kubectl runs the real kubectl as administrator and returns its stdout.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.tool(ctx, "kubectl", nil, args...)
}

// KubectlInput is Kubectl with something on stdin.
func (c *Cluster) KubectlInput(ctx context.Context, stdin string, args ...string) (string, error) {
	return c.tool(ctx, "kubectl", []byte(stdin), args...)
}

// PrintJoinLine returns the line that kubeadm prints for a new token of its own,
// and nothing else.
func (c *Cluster) PrintJoinLine(ctx context.Context) (string, error) {
	out, err := c.kubeadm(ctx, "--kubeconfig", c.AdminKubeconfig(), "token", "create", "--print-join-command")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(out), nil
}

// StatusError is an answer of the API server that is not a success.
type StatusError struct {
	Code    int
	Message string
}

// Error is the code and the message, as kubectl shows them.
func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Code, e.Message) }

// IsStatus tells whether err is an answer with this HTTP status.
func IsStatus(err error, code int) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == code
}

// Get reads a path of the API as administrator into out (nil: only whether it
// is there). Far quicker than kubectl, so waiting uses it.
func (c *Cluster) Get(ctx context.Context, path string, out any) error {
	return c.Do(ctx, http.MethodGet, path, nil, out)
}

// Do sends one request as administrator, JSON both ways.
func (c *Cluster) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.Endpoint()+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.admin.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &StatusError{resp.StatusCode, string(text)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// Refuses returns nil when the API server answers 401 to a token.
func (c *Cluster) Refuses(ctx context.Context, token Token) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Endpoint()+"/version", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token.String())
	resp, err := c.nobody.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // nothing in it is of interest
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("the API server answers %d to the token", resp.StatusCode)
	}
	return nil
}

func (c *Cluster) awaitPath(ctx context.Context, path string) error {
	return await.Until(ctx, path, 25*time.Millisecond, func(ctx context.Context) error { return c.Get(ctx, path, nil) })
}

// Node reads a node.
func (c *Cluster) Node(ctx context.Context, name string) (*corev1.Node, error) {
	var node corev1.Node
	if err := c.Get(ctx, "/api/v1/nodes/"+name, &node); err != nil {
		return nil, err
	}
	return &node, nil
}

// DeleteNode removes a node, so that its name is free for the next test.
func (c *Cluster) DeleteNode(ctx context.Context, name string) error {
	err := c.Do(ctx, http.MethodDelete, "/api/v1/nodes/"+name, nil, nil)
	if IsStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// AwaitNode waits until the node exists.
func (c *Cluster) AwaitNode(ctx context.Context, name string) (node *corev1.Node, err error) {
	err = await.Until(ctx, "node "+name, 25*time.Millisecond, func(ctx context.Context) (err error) {
		node, err = c.Node(ctx, name)
		return err
	})
	return node, err
}

// AwaitReady waits until the node is Ready.
func (c *Cluster) AwaitReady(ctx context.Context, name string) (node *corev1.Node, err error) {
	err = await.Until(ctx, "node "+name+" to be Ready", 25*time.Millisecond, func(ctx context.Context) (err error) {
		if node, err = c.Node(ctx, name); err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type != corev1.NodeReady {
				continue
			}
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
		}
		return errors.New("the node has not said whether it is ready")
	})
	return node, err
}

// CSRs lists the certificate signing requests, the oldest first.
func (c *Cluster) CSRs(ctx context.Context) ([]certificatesv1.CertificateSigningRequest, error) {
	var list certificatesv1.CertificateSigningRequestList
	if err := c.Get(ctx, "/apis/certificates.k8s.io/v1/certificatesigningrequests", &list); err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.Items, func(a, b certificatesv1.CertificateSigningRequest) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return list.Items, nil
}

// AwaitCSR waits for a CSR that wanted accepts and returns it.
func (c *Cluster) AwaitCSR(ctx context.Context, wanted func(*certificatesv1.CertificateSigningRequest) bool) (found *certificatesv1.CertificateSigningRequest, err error) {
	err = await.Until(ctx, "a CSR", 25*time.Millisecond, func(ctx context.Context) error {
		all, err := c.CSRs(ctx)
		if err != nil {
			return err
		}
		for i := range all {
			if wanted(&all[i]) {
				found = &all[i]
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(all))
	})
	return found, err
}

// ByToken accepts CSRs that this token created.
func ByToken(id string) func(*certificatesv1.CertificateSigningRequest) bool {
	return func(csr *certificatesv1.CertificateSigningRequest) bool {
		return csr.Spec.Username == "system:bootstrap:"+id
	}
}

// Approve approves a CSR as a person would.
func (c *Cluster) Approve(ctx context.Context, csr string) error {
	_, err := c.Kubectl(ctx, "certificate", "approve", csr)
	return err
}

// Deny denies a CSR as a person would.
func (c *Cluster) Deny(ctx context.Context, csr string) error {
	_, err := c.Kubectl(ctx, "certificate", "deny", csr)
	return err
}

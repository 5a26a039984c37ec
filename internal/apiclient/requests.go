package apiclient

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	csrs  = "certificatesigningrequests"
	nodes = "nodes"
)

// CreateCSR creates a certificate signing request and returns it as the server
// stored it.
func (c *Client) CreateCSR(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	out := &certificatesv1.CertificateSigningRequest{}
	return found(out, c.do(ctx, c.certificates.Post().Resource(csrs).Body(csr), out, "cannot create certificate signing request "+csr.Name))
}

// GetCSR reads a certificate signing request.
func (c *Client) GetCSR(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	out := &certificatesv1.CertificateSigningRequest{}
	return found(out, c.do(ctx, c.certificates.Get().Resource(csrs).Name(name), out, "cannot read certificate signing request "+name))
}

// WatchCSR watches one certificate signing request from a resourceVersion on.
// The caller stops the watch.
func (c *Client) WatchCSR(ctx context.Context, name, resourceVersion string) (watch.Interface, error) {
	return c.watch(ctx, c.certificates.Get().Resource(csrs), name, resourceVersion, "cannot watch certificate signing request "+name)
}

// Allowed asks the server whether we may do this (SelfSubjectAccessReview).
func (c *Client) Allowed(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	in := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
	out := &authorizationv1.SelfSubjectAccessReview{}
	err := c.do(ctx, c.authorization.Post().Resource("selfsubjectaccessreviews").Body(in), out, "cannot ask what is allowed")
	return err == nil && out.Status.Allowed, err
}

// GetNode reads a Node.
func (c *Client) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	out := &corev1.Node{}
	return found(out, c.do(ctx, c.core.Get().Resource(nodes).Name(name), out, "cannot read node "+name))
}

// WatchNode watches one Node from a resourceVersion on; "" begins with the
// Node as it is, if it is there. The caller stops the watch.
func (c *Client) WatchNode(ctx context.Context, name, resourceVersion string) (watch.Interface, error) {
	return c.watch(ctx, c.core.Get().Resource(nodes), name, resourceVersion, "cannot watch node "+name)
}

// GetLease reads the Lease that a node's kubelet renews.
func (c *Client) GetLease(ctx context.Context, nodeName string) (*coordinationv1.Lease, error) {
	out := &coordinationv1.Lease{}
	return found(out, c.do(ctx, c.coordination.Get().Namespace(corev1.NamespaceNodeLease).Resource("leases").Name(nodeName), out,
		"cannot read the lease of node "+nodeName))
}

// KubeletConfig reads the cluster's KubeletConfiguration, YAML, from the
// ConfigMap kube-system/kubelet-config. A ConfigMap without the key counts as
// not found.
func (c *Client) KubeletConfig(ctx context.Context) (string, error) {
	return c.configMapKey(ctx, metav1.NamespaceSystem, "kubelet-config", "kubelet")
}

// found keeps half-read objects from callers.
func found[T any](out *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return out, nil
}

// do sends one request with our limits and explains its failure.
func (c *Client) do(ctx context.Context, req *rest.Request, out runtime.Object, what string) error {
	note := &call{}
	limited, cancel := context.WithTimeout(noted(ctx, note), requestTimeout)
	defer cancel()
	err := req.MaxRetries(0).WarningHandlerWithContext(rest.NoWarnings{}).Do(limited).Into(out)
	return c.explain(ctx, err, note, what)
}

func (c *Client) watch(ctx context.Context, req *rest.Request, name, resourceVersion, what string) (watch.Interface, error) {
	note := &call{watch: true}
	req = req.Param("watch", "true").Param("fieldSelector", fields.OneTermEqualSelector("metadata.name", name).String())
	if resourceVersion != "" {
		req = req.Param("resourceVersion", resourceVersion)
	}
	w, err := req.MaxRetries(0).WarningHandlerWithContext(rest.NoWarnings{}).Watch(noted(ctx, note))
	if err == nil && note.failed != nil { // client-go makes an empty watch of a connection that timed out
		w.Stop()
		err = note.failed
	}
	if err != nil {
		return nil, c.explain(ctx, err, note, what)
	}
	return w, nil
}

// noted carries our note to the transport, and a logger that says nothing:
// client-go would write to stderr in a form of its own.
func noted(ctx context.Context, note *call) context.Context {
	return klog.NewContext(context.WithValue(ctx, callKey{}, note), klog.Logger{})
}

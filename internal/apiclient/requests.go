package apiclient

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	csrs  = "certificatesigningrequests"
	nodes = "nodes"
)

// CreateCSR creates a certificate signing request and returns it as the server
// stored it.
func (c *Client) CreateCSR(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	out := &certificatesv1.CertificateSigningRequest{}
	what := "cannot create certificate signing request " + csr.Name
	return named(out, csr.Name, what, c.do(ctx, c.certificates.Post().Resource(csrs).Body(csr), out, what))
}

// GetCSR reads a certificate signing request.
func (c *Client) GetCSR(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	out := &certificatesv1.CertificateSigningRequest{}
	what := "cannot read certificate signing request " + name
	return named(out, name, what, c.do(ctx, c.certificates.Get().Resource(csrs).Name(name), out, what))
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

// WhoAmI asks the server who it takes us for (SelfSubjectReview; known to API
// servers since 1.28). Everybody who is authenticated may ask.
func (c *Client) WhoAmI(ctx context.Context) (user string, groups []string, err error) {
	var out struct {
		Status struct {
			UserInfo struct {
				Username string   `json:"username"`
				Groups   []string `json:"groups"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	const question = `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	err = c.small(ctx, c.core.Post().AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").SetHeader("Content-Type", mediaType).Body([]byte(question)), &out, "cannot ask who we are")
	return out.Status.UserInfo.Username, out.Status.UserInfo.Groups, err
}

// PendingCSR is a certificate signing request that nobody has decided yet.
type PendingCSR struct {
	Name    string
	Created time.Time // by the server's clock
}

// mostCSRs is how many requests PendingCSR looks through: what a fleet that
// nobody approves leaves behind in a day must not be read by each of its nodes.
const mostCSRs = 500

// PendingCSR returns the newest undecided request that a user made to a signer,
// nil if there is none among the first 500 of that signer. Nodes may list
// requests; the server can select them by signer, not by who asked.
func (c *Client) PendingCSR(ctx context.Context, signer, user string) (*PendingCSR, error) {
	var list struct {
		Items []struct {
			Metadata struct {
				Name    string    `json:"name"`
				Created time.Time `json:"creationTimestamp"`
			} `json:"metadata"`
			Spec struct {
				Username string `json:"username"`
				Signer   string `json:"signerName"`
			} `json:"spec"`
			Status struct {
				Conditions []struct{} `json:"conditions"`
			} `json:"status"`
		} `json:"items"`
	}
	req := c.certificates.Get().Resource(csrs).
		Param("fieldSelector", fields.OneTermEqualSelector("spec.signerName", signer).String()).
		Param("limit", strconv.Itoa(mostCSRs))
	if err := c.smallNoted(ctx, &call{list: true}, req, &list, "cannot list certificate signing requests"); err != nil {
		return nil, err
	}
	var newest *PendingCSR
	for _, o := range list.Items {
		if o.Spec.Username != user || o.Spec.Signer != signer || len(o.Status.Conditions) > 0 {
			continue
		}
		if newest == nil || o.Metadata.Created.After(newest.Created) {
			newest = &PendingCSR{Name: o.Metadata.Name, Created: o.Metadata.Created}
		}
	}
	return newest, nil
}

// small sends one request and decodes the few fields of its answer that are of
// interest: a type of the API with all of its own would only make us larger.
func (c *Client) small(ctx context.Context, req *rest.Request, out any, what string) error {
	return c.smallNoted(ctx, &call{}, req, out, what)
}

func (c *Client) smallNoted(ctx context.Context, note *call, req *rest.Request, out any, what string) error {
	limited, cancel := context.WithTimeout(noted(ctx, note), requestTimeout)
	defer cancel()
	body, err := req.MaxRetries(0).WarningHandlerWithContext(rest.NoWarnings{}).Do(limited).Raw()
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	return c.explain(ctx, err, note, what)
}

// GetNode reads a Node.
func (c *Client) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	out := &corev1.Node{}
	what := "cannot read node " + name
	return named(out, name, what, c.do(ctx, c.core.Get().Resource(nodes).Name(name), out, what))
}

// AnnotateNode changes these annotations of a Node and nothing else of it; nil
// takes one away. Nodes may write their own.
func (c *Client) AnnotateNode(ctx context.Context, name string, change map[string]*string) error {
	what := "cannot annotate node " + name
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": change}})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	req := c.core.Patch(types.MergePatchType).Resource(nodes).Name(name).Body(body)
	return c.small(ctx, req, &struct{}{}, what)
}

// WatchNode watches one Node from a resourceVersion on; "" begins with the
// Node as it is, if it is there. The caller stops the watch.
func (c *Client) WatchNode(ctx context.Context, name, resourceVersion string) (watch.Interface, error) {
	return c.watch(ctx, c.core.Get().Resource(nodes), name, resourceVersion, "cannot watch node "+name)
}

// GetLease reads the Lease that a node's kubelet renews.
func (c *Client) GetLease(ctx context.Context, nodeName string) (*coordinationv1.Lease, error) {
	out := &coordinationv1.Lease{}
	what := "cannot read the lease of node " + nodeName
	return named(out, nodeName, what, c.do(ctx, c.coordination.Get().Namespace(corev1.NamespaceNodeLease).Resource("leases").Name(nodeName), out, what))
}

// KubeletConfig reads the cluster's KubeletConfiguration, YAML, from the
// ConfigMap kube-system/kubelet-config. A ConfigMap without the key counts as
// not found.
func (c *Client) KubeletConfig(ctx context.Context) (string, error) {
	return c.configMapKey(ctx, metav1.NamespaceSystem, "kubelet-config", "kubelet")
}

// named keeps half-read objects from callers, and those that are not the one that
// was asked for: an empty object decodes into anything.
func named[T any, P interface {
	*T
	GetName() string
}](out *T, name, what string, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	if got := P(out).GetName(); got != name {
		return nil, fault.New(fault.ServerError, "%s: the API server answered with an object named %s", what, fault.Quote(got))
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

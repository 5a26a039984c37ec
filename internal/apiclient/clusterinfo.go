package apiclient

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterInfo reads data.kubeconfig of the ConfigMap kube-public/cluster-info:
// the cluster's own address and CA bundle, over a connection that is verified
// already. It is for looking again after the join; package discovery does the
// first, unverified read.
func (c *Client) ClusterInfo(ctx context.Context) (string, error) {
	return c.configMapKey(ctx, metav1.NamespacePublic, "cluster-info", "kubeconfig")
}

// configMapKey reads one key of a ConfigMap. A ConfigMap without the key counts
// as not found.
func (c *Client) configMapKey(ctx context.Context, namespace, name, key string) (string, error) {
	what := "cannot read ConfigMap " + namespace + "/" + name
	out := &corev1.ConfigMap{}
	if err := c.do(ctx, c.core.Get().Namespace(namespace).Resource("configmaps").Name(name), out, what); err != nil {
		return "", err
	}
	text, ok := out.Data[key]
	if !ok {
		return "", &answer{what: what, status: apierrors.NewNotFound(corev1.Resource("configmaps"), name+" key "+key)}
	}
	return text, nil
}

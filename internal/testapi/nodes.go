package testapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	leaseNamespace = "kube-node-lease"
	leaseSeconds   = 40
)

// RegisterNode does what a kubelet does when it starts: it creates the Node, or
// brings the status of the one that exists up to date, and renews the Lease.
// The Node is not Ready until SetNodeReady.
func (s *Server) RegisterNode(name string, info corev1.NodeSystemInfo) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := corev1.Node{TypeMeta: nodes.typeMeta(), ObjectMeta: metav1.ObjectMeta{
		Name: name, Labels: map[string]string{"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
	}}
	if old := s.store.get(nodes, "", name); old != nil {
		node = decode[corev1.Node](old)
	}
	if info.KubeletVersion == "" {
		info.KubeletVersion = s.opts.Version
	}
	node.Status.NodeInfo = info
	s.setReady(&node, corev1.ConditionFalse, "KubeletNotReady", "container runtime network not ready: cni plugin not initialized")
	raw := s.put(nodes, &node)
	s.renewLease(name, s.now(), leaseSeconds)
	stored := decode[corev1.Node](raw)
	return &stored
}

// SetNodeReady sets the Ready condition of a Node with its message; false when
// there is no such Node.
func (s *Server) SetNodeReady(name string, ready bool, message string) bool {
	return s.MutateNode(name, func(node *corev1.Node) {
		if ready {
			s.setReady(node, corev1.ConditionTrue, "KubeletReady", message)
		} else {
			s.setReady(node, corev1.ConditionFalse, "KubeletNotReady", message)
		}
	})
}

// patchNode is a node's JSON merge patch of its own annotations. Whatever else such
// a patch may change on a real server has no place in these tests: refused.
func (c *call) patchNode() {
	if media := c.r.Header.Get("Content-Type"); media != "application/merge-patch+json" {
		c.fail(genericStatus(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "the body of the request was in an unknown format: "+media))
		return
	}
	var patch struct {
		Metadata struct {
			Annotations map[string]*string `json:"annotations"`
		} `json:"metadata"`
	}
	decoder := json.NewDecoder(io.LimitReader(c.r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&patch); err != nil {
		c.fail(apierrors.NewBadRequest("the patch is not one of annotations: " + err.Error()))
		return
	}
	c.s.mu.Lock()
	found := mutate(c.s, nodes, "", c.attrs.name, func(node *corev1.Node) {
		if node.Annotations == nil {
			node.Annotations = map[string]string{}
		}
		for key, value := range patch.Metadata.Annotations {
			if delete(node.Annotations, key); value != nil {
				node.Annotations[key] = *value
			}
		}
	})
	raw := c.s.store.get(nodes, "", c.attrs.name)
	c.s.mu.Unlock()
	if !found {
		c.fail(apierrors.NewNotFound(nodes.gr(), c.attrs.name))
		return
	}
	c.body(http.StatusOK, "application/json", raw)
}

// MutateNode changes a Node in any way; false when there is none. change must
// not call the server.
func (s *Server) MutateNode(name string, change func(*corev1.Node)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mutate(s, nodes, "", name, change)
}

// DeleteNode deletes a Node and, as the garbage collector does, its Lease.
func (s *Server) DeleteNode(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(leases, leaseNamespace, name)
	return s.remove(nodes, "", name)
}

// RenewLease is one heartbeat of a kubelet.
func (s *Server) RenewLease(name string) { s.SetLease(name, s.now(), leaseSeconds) }

// SetLease writes the Lease of a node with any renewTime and duration.
func (s *Server) SetLease(name string, renewed time.Time, seconds int32) {
	s.set(func() { s.renewLease(name, renewed, seconds) })
}

// DeleteLease deletes the Lease of a node.
func (s *Server) DeleteLease(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(leases, leaseNamespace, name)
}

// Node returns a Node, or nil.
func (s *Server) Node(name string) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stored[corev1.Node](s.store.get(nodes, "", name))
}

// AwaitNode returns a Node once it exists.
func (s *Server) AwaitNode(ctx context.Context, name string) (*corev1.Node, error) {
	var node *corev1.Node
	err := s.await(ctx, "node "+name, func() bool {
		node = stored[corev1.Node](s.store.get(nodes, "", name))
		return node != nil
	})
	return node, err
}

func (s *Server) setReady(node *corev1.Node, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(s.now().UTC().Truncate(time.Second))
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
	}}
}

func (s *Server) renewLease(name string, renewed time.Time, seconds int32) {
	lease := coordinationv1.Lease{TypeMeta: leases.typeMeta(), ObjectMeta: metav1.ObjectMeta{Namespace: leaseNamespace, Name: name}}
	if old := s.store.get(leases, leaseNamespace, name); old != nil {
		lease = decode[coordinationv1.Lease](old)
	}
	at := metav1.NewMicroTime(renewed.UTC())
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &name, &seconds, &at
	s.put(leases, &lease)
}

// mutate changes a stored object; the lock is held.
func mutate[T any, P interface {
	*T
	metav1.Object
}](s *Server, k kind, namespace, name string, change func(P)) bool {
	old := s.store.get(k, namespace, name)
	if old == nil {
		return false
	}
	obj := decode[T](old)
	change(&obj)
	s.put(k, P(&obj))
	return true
}

func stored[T any](raw json.RawMessage) *T {
	if raw == nil {
		return nil
	}
	v := decode[T](raw)
	return &v
}

// String names the server and its seed, for messages of tests.
func (s *Server) String() string { return fmt.Sprintf("testapi %s seed %d", s.host, s.seed) }

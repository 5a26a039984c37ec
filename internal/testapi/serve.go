package testapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// maxBody is kube-apiserver's limit of a request body.
const maxBody = 3 << 20

// call is one request on its way through the server, and its answer.
type call struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	seq   int
	conn  connInfo
	id    identity
	attrs attributes
	day   day    // what chaos does to it
	fault *Fault // what a test does to it
	sent  bool   // the head is out
}

// ctx is the request's own context.
func (c *call) ctx() context.Context { return c.r.Context() }

// serve is the whole chain: log, weather, authentication, faults asked for,
// authorization, handler.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		return // HTTP/2 starts handlers even after the connection is given up
	}
	defer s.wg.Done()
	conn, _ := r.Context().Value(connKey{}).(connInfo)
	c := &call{s: s, w: w, r: r, conn: conn, attrs: attributesOf(r)}
	id, known := s.authenticate(r)
	c.id = id
	request := s.logStart(c, known)
	defer s.logEnd(c)
	c.day = s.today(c.attrs)
	c.fault = s.takeFault(request)
	if !s.pause(c.ctx(), c.day.delay) {
		return
	}
	if c.fault != nil && c.faultBefore() {
		return
	}
	switch {
	case !known:
		c.fail(apierrors.NewUnauthorized("Unauthorized"))
	case c.day.refuse != 0: // overload protection comes after authentication
		c.refuse()
	case !acceptable(r.Header.Get("Accept")):
		c.fail(genericStatus(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: application/json"))
	default:
		if err := c.authorize(); err != nil {
			c.fail(err)
			return
		}
		c.route()
	}
}

func (c *call) authorize() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	a := c.attrs
	ok, reason := c.s.allowed(c.id, a)
	if ok {
		return nil
	}
	if a.path != "" {
		return genericStatus(http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("forbidden: User %q cannot %s path %q", c.id.name, a.verb, a.path))
	}
	text := fmt.Sprintf("User %q cannot %s resource %q in API group %q", c.id.name, a.verb, join(a.resource, a.sub), a.group)
	if a.namespace != "" {
		text += fmt.Sprintf(" in the namespace %q", a.namespace)
	} else {
		text += " at the cluster scope"
	}
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.group, Resource: a.resource}, a.name, errors.New(text))
}

func join(resource, sub string) string {
	if sub == "" {
		return resource
	}
	return resource + "/" + sub
}

// route calls the handler of an authorized request.
func (c *call) route() {
	a := c.attrs
	if a.path != "" {
		c.servePath()
		return
	}
	if a.group == "authorization.k8s.io" {
		c.accessReview()
		return
	}
	if a.group == "authentication.k8s.io" {
		c.json(http.StatusCreated, map[string]any{
			"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{},
			"status": map[string]any{"userInfo": map[string]any{"username": c.id.name, "groups": c.id.groups}},
		})
		return
	}
	for _, k := range []kind{csrs, nodes, configMaps, leases} {
		if k.group != a.group || k.resource != a.resource || a.sub != "" {
			continue
		}
		switch {
		case a.verb == "get":
			c.get(k)
		case a.verb == "list":
			c.list(k)
		case a.verb == "watch":
			c.watch(k)
		case a.verb == "create" && k == csrs:
			c.createCSR()
		case a.verb == "patch" && k == nodes:
			c.patchNode()
		default:
			c.fail(apierrors.NewMethodNotSupported(k.gr(), a.verb))
		}
		return
	}
	c.notServed()
}

func (c *call) notServed() {
	c.fail(genericStatus(http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource"))
}

func (c *call) servePath() {
	switch strings.TrimSuffix(c.attrs.path, "/") {
	case "/version":
		minor := strings.SplitN(strings.TrimPrefix(c.s.opts.Version, "v"), ".", 3)
		info := version.Info{GitVersion: c.s.opts.Version, GitTreeState: "clean", Platform: "linux/amd64", Compiler: "gc"}
		if len(minor) > 1 {
			info.Major, info.Minor = minor[0], minor[1]
		}
		c.json(http.StatusOK, info)
	case "/healthz", "/livez", "/readyz":
		c.body(http.StatusOK, "text/plain; charset=utf-8", []byte("ok"))
	default:
		c.notServed()
	}
}

func (c *call) get(k kind) {
	c.s.mu.Lock()
	if c.attrs.name == "cluster-info" {
		c.s.refreshClusterInfo() // a token may have expired
	}
	raw := c.s.store.get(k, c.attrs.namespace, c.attrs.name)
	c.s.mu.Unlock()
	if raw == nil {
		c.fail(apierrors.NewNotFound(k.gr(), c.attrs.name))
		return
	}
	c.body(http.StatusOK, "application/json", raw)
}

func (c *call) list(k kind) {
	signer, bySigner := strings.CutPrefix(c.r.URL.Query().Get("fieldSelector"), "spec.signerName=")
	bySigner = bySigner && k == csrs
	name := ""
	if !bySigner {
		var err error
		if name, err = selectedName(k, c.r); err != nil {
			c.fail(err)
			return
		}
	}
	c.s.mu.Lock()
	items, rv := c.s.store.list(k, c.attrs.namespace), c.s.store.rv
	c.s.mu.Unlock()
	if name != "" {
		items = slices.DeleteFunc(items, func(raw json.RawMessage) bool { return nameOf(raw) != name })
	}
	if bySigner {
		items = slices.DeleteFunc(items, func(raw json.RawMessage) bool {
			return decode[certv1.CertificateSigningRequest](raw).Spec.SignerName != signer
		})
	}
	c.json(http.StatusOK, map[string]any{
		"kind": k.kind + "List", "apiVersion": k.typeMeta().APIVersion,
		"metadata": map[string]string{"resourceVersion": fmt.Sprint(rv)}, "items": items,
	})
}

func nameOf(raw json.RawMessage) string { return decode[metav1.PartialObjectMetadata](raw).Name }

func (c *call) accessReview() {
	var review authorizationv1.SelfSubjectAccessReview
	if err := c.read(&review); err != nil {
		c.fail(err)
		return
	}
	spec := review.Spec
	if (spec.ResourceAttributes == nil) == (spec.NonResourceAttributes == nil) {
		c.fail(invalid("SelfSubjectAccessReview", "authorization.k8s.io", "", "spec.resourceAttributes", "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
		return
	}
	var a attributes
	if ra := spec.ResourceAttributes; ra != nil {
		a = attributes{verb: ra.Verb, group: ra.Group, resource: ra.Resource, sub: ra.Subresource, namespace: ra.Namespace, name: ra.Name}
	} else {
		a = attributes{verb: spec.NonResourceAttributes.Verb, path: spec.NonResourceAttributes.Path}
	}
	c.s.mu.Lock()
	ok, reason := c.s.allowed(c.id, a)
	c.s.mu.Unlock()
	review.TypeMeta = metav1.TypeMeta{Kind: "SelfSubjectAccessReview", APIVersion: "authorization.k8s.io/v1"}
	review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: ok, Reason: reason}
	c.json(http.StatusCreated, review)
}

// protobufMagic starts every object in Kubernetes' protobuf envelope.
const protobufMagic = "k8s\x00"

// read decodes the request's body into a CSR or an access review.
func (c *call) read(into interface{ Unmarshal([]byte) error }) error {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if c.r.Header.Get("Content-Type") == "" {
		media, err = "application/json", nil
	}
	if err != nil || media != "application/json" && media != runtime.ContentTypeProtobuf {
		return genericStatus(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
			"the body of the request was in an unknown format - accepted media types include: application/json, application/vnd.kubernetes.protobuf")
	}
	raw, err := io.ReadAll(io.LimitReader(c.r.Body, maxBody+1))
	if err != nil {
		return apierrors.NewBadRequest("the body cannot be read: " + err.Error())
	}
	if len(raw) > maxBody {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	if media == "application/json" {
		if err := json.Unmarshal(raw, into); err != nil {
			return apierrors.NewBadRequest("the object provided is unrecognized (must be of type " + c.attrs.resource + "): " + err.Error())
		}
		return nil
	}
	var envelope runtime.Unknown
	body, ok := strings.CutPrefix(string(raw), protobufMagic)
	if !ok || envelope.Unmarshal([]byte(body)) != nil || into.Unmarshal(envelope.Raw) != nil {
		return apierrors.NewBadRequest("the object provided is unrecognized: not in the protobuf envelope")
	}
	return nil
}

var _ interface{ Unmarshal([]byte) error } = (*certv1.CertificateSigningRequest)(nil)

// acceptable is whether JSON may be answered.
func acceptable(accept string) bool {
	if accept == "" {
		return true
	}
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err == nil && (media == "application/json" || media == "*/*" || media == "application/*") && params["as"] == "" {
			return true
		}
	}
	return false
}

// json answers with v.
func (c *call) json(status int, v any) { c.body(status, "application/json", encode(v)) }

// fail answers with a Status object.
func (c *call) fail(err error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		known = apierrors.NewInternalError(err)
	}
	st := known.Status()
	st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		c.w.Header().Set("Retry-After", fmt.Sprint(st.Details.RetryAfterSeconds))
	}
	c.json(int(st.Code), st)
}

// head sends status and header.
func (c *call) head(status int, contentType string) {
	h := c.w.Header()
	c.s.mu.Lock()
	offset := c.s.chaos.dateOffset
	c.s.mu.Unlock()
	h.Set("Date", c.s.now().Add(offset).UTC().Format(http.TimeFormat))
	h.Set("Audit-Id", hex.EncodeToString(randomBytes(16)))
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Type", contentType)
	if c.day.goAway {
		h.Set("Connection", "close") // on HTTP/2 this is a GOAWAY
	}
	c.sent = true
	c.s.logStatus(c.seq, status) // before the client can know it
	c.w.WriteHeader(status)
}

// body sends a whole answer, cut where a fault says so.
func (c *call) body(status int, contentType string, body []byte) {
	if c.fault != nil && c.fault.Lose {
		c.drop()
	}
	cut := c.fault != nil && c.fault.Cut
	if cut || len(c.day.pieces) == 0 {
		c.w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	}
	c.head(status, contentType)
	if cut {
		c.write(body[:len(body)/2])
		c.drop()
	}
	c.write(body)
}

// write sends b, in pieces on a bad day. An error means that the client has
// gone, which the next wait sees.
func (c *call) write(b []byte) {
	out := http.NewResponseController(c.w)
	for _, pause := range c.day.pieces {
		if len(b) < 2 {
			break
		}
		n := 1 + int(pause)%(len(b)-1)
		_, _ = c.w.Write(b[:n])
		_ = out.Flush()
		b = b[n:]
		if !c.s.pause(c.ctx(), min(pause, maxPiecePause)) {
			return
		}
	}
	_, _ = c.w.Write(b)
	_ = out.Flush()
}

// drop ends the answer where it is: a reset stream on HTTP/2, a closed
// connection on HTTP/1.1, or in both cases the connection if the fault says so.
func (c *call) drop() {
	if c.fault != nil && c.fault.Disconnect {
		abort(c.conn.conn)
	}
	panic(http.ErrAbortHandler)
}

func genericStatus(code int32, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// attributesOf is kube-apiserver's RequestInfo.
func attributesOf(r *http.Request) attributes {
	verbs := map[string]string{"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
	a := attributes{verb: verbs[r.Method]}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api" && parts[1] == "v1":
		parts = parts[2:]
	case len(parts) >= 4 && parts[0] == "apis" && parts[2] == "v1":
		a.group, parts = parts[1], parts[3:]
	default:
		a.path = r.URL.Path
		return a
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		a.namespace, parts = parts[1], parts[2:]
	}
	a.resource = parts[0]
	if len(parts) > 1 {
		a.name = parts[1]
	}
	if len(parts) > 2 {
		a.sub = strings.Join(parts[2:], "/")
	}
	if a.name == "" && a.verb == "get" {
		a.verb = "list"
		if w := r.URL.Query().Get("watch"); w == "true" || w == "1" {
			a.verb = "watch"
		}
		if name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); ok && !strings.Contains(name, ",") {
			a.name = strings.TrimPrefix(name, "=")
		}
	}
	return a
}

// selectedName reads the fieldSelector; "" selects all.
func selectedName(k kind, r *http.Request) (string, error) {
	selector := r.URL.Query().Get("fieldSelector")
	if selector == "" {
		return "", nil
	}
	label, value, _ := strings.Cut(selector, "=")
	value = strings.TrimPrefix(value, "=")
	if label != "metadata.name" || value == "" || strings.ContainsAny(value, ",=") {
		return "", apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s (of %s)", label, k.resource))
	}
	return value, nil
}

const maxPiecePause = 3 * time.Millisecond

package testapi

import (
	"sync"
	"testing"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// restClient is client-go as it is used by programs, with both wire forms.
func restClient(t *testing.T, s *Server, contentType string) *rest.RESTClient {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{certv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	metav1.AddToGroupVersion(scheme, certv1.SchemeGroupVersion)
	client, err := rest.RESTClientFor(&rest.Config{
		Host: s.URL(), APIPath: "/apis", BearerToken: s.Token(), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.CA()},
		ContentConfig: rest.ContentConfig{
			GroupVersion: &certv1.SchemeGroupVersion, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion(),
			ContentType: contentType, AcceptContentTypes: contentType + ",application/json",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if tr, ok := client.Client.Transport.(interface{ CloseIdleConnections() }); ok {
			tr.CloseIdleConnections()
		}
		s.Close()
	})
	return client
}

func TestClientGoUnderstandsTheServer(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(contentType, func(t *testing.T) {
			s := quiet(t)
			s.AutoApprove(false)
			c, ctx := restClient(t, s, contentType), soon(t)
			want := decode[certv1.CertificateSigningRequest](newCSR(t, "x", "a", nil))
			var created certv1.CertificateSigningRequest
			if err := c.Post().Resource(csrs.resource).Body(&want).Do(ctx).Into(&created); err != nil {
				t.Fatal(err)
			}
			err := c.Post().Resource(csrs.resource).Body(&want).Do(ctx).Error()
			if !apierrors.IsAlreadyExists(err) {
				t.Errorf("a second time: %v", err)
			}
			if err := c.Get().Resource(csrs.resource).Name("none").Do(ctx).Error(); !apierrors.IsNotFound(err) {
				t.Errorf("none: %v", err)
			}
			if err := c.Delete().Resource(csrs.resource).Name("x").Do(ctx).Error(); !apierrors.IsForbidden(err) {
				t.Errorf("delete: %v", err)
			}
			watching := func(rv string) watch.Interface {
				t.Helper()
				w, err := c.Get().Resource(csrs.resource).VersionedParams(&metav1.ListOptions{
					Watch: true, FieldSelector: "metadata.name=x", ResourceVersion: rv,
				}, metav1.ParameterCodec).Watch(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			w := watching(created.ResourceVersion)
			s.Approve("x")
			for i, certified := range []bool{false, true} {
				e := <-w.ResultChan()
				csr, ok := e.Object.(*certv1.CertificateSigningRequest)
				if !ok || e.Type != watch.Modified || (len(csr.Status.Certificate) > 0) != certified {
					t.Fatalf("event %d: %s %T", i, e.Type, e.Object)
				}
			}
			s.DropWatches()
			if e, ok := <-w.ResultChan(); ok {
				t.Errorf("after the end: %v", e)
			}
			s.WatchGone(1, false)
			w = watching("1")
			if e := <-w.ResultChan(); e.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
				t.Errorf("gone: %v", e)
			}
			w.Stop()
		})
	}
}

// Many machines at once, while a test changes things: for the race detector.
func TestManyClientsAtOnce(t *testing.T) {
	s := start(t, Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		c := s.as(t, s.Token())
		name := string(rune('a' + i))
		wg.Go(func() {
			for _, path := range []string{csrPath, "/version", nodesPath + "/" + name} {
				_, _ = c.try(t.Context(), "GET", path, nil)
			}
			_, _ = c.try(t.Context(), "POST", csrPath, newCSR(t, name, name, nil))
		})
		wg.Go(func() {
			s.RegisterNode(name, corev1.NodeSystemInfo{})
			s.RenewLease(name)
			s.SetToken("abcde"+name, "abcdef0123456789")
			_ = s.Requests()
			_ = s.RotateServingCA(true)
			s.DropWatches()
			s.Inject(Fault{Times: 1, Match: Is("get", "nodes"), Status: 500})()
		})
	}
	wg.Wait()
}

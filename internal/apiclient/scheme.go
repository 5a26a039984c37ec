package apiclient

import (
	"net/http"
	"net/url"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/rest"
)

const mediaType = "application/json"

// newScheme knows the objects that are read or written here, no others: whole
// groups and a codec factory for all formats cost 100 kB more of binary.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{}, &corev1.ConfigMap{})
	s.AddKnownTypes(certificatesv1.SchemeGroupVersion, &certificatesv1.CertificateSigningRequest{})
	s.AddKnownTypes(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{})
	s.AddKnownTypes(authorizationv1.SchemeGroupVersion, &authorizationv1.SelfSubjectAccessReview{})
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion) // Status and WatchEvent
	return s
}

// codec is JSON and nothing else, without conversion between versions.
type codec struct {
	scheme *runtime.Scheme
	json   *json.Serializer
}

func (c codec) SupportedMediaTypes() []runtime.SerializerInfo {
	return []runtime.SerializerInfo{{
		MediaType: mediaType, MediaTypeType: "application", MediaTypeSubType: "json", EncodesAsText: true, Serializer: c.json,
		StreamSerializer: &runtime.StreamSerializerInfo{EncodesAsText: true, Serializer: c.json, Framer: json.Framer},
	}}
}

func (c codec) EncoderForVersion(e runtime.Encoder, v runtime.GroupVersioner) runtime.Encoder {
	return runtime.WithVersionEncoder{Version: v, Encoder: e, ObjectTyper: c.scheme}
}

func (c codec) DecoderToVersion(d runtime.Decoder, _ runtime.GroupVersioner) runtime.Decoder {
	return runtime.WithoutVersionDecoder{Decoder: d}
}

// makeClients makes one rest client for each API group, all over one transport.
func (c *Client) makeClients(server *url.URL) error {
	scheme := newScheme()
	wire := codec{scheme: scheme, json: json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{})}
	httpClient := &http.Client{Transport: roundTripper{c}}
	for _, g := range []struct {
		client **rest.RESTClient
		path   string
		gv     schema.GroupVersion
	}{
		{&c.core, "/api/v1", corev1.SchemeGroupVersion},
		{&c.certificates, "/apis/certificates.k8s.io/v1", certificatesv1.SchemeGroupVersion},
		{&c.coordination, "/apis/coordination.k8s.io/v1", coordinationv1.SchemeGroupVersion},
		{&c.authorization, "/apis/authorization.k8s.io/v1", authorizationv1.SchemeGroupVersion},
	} {
		client, err := rest.NewRESTClient(server, g.path, rest.ClientContentConfig{
			AcceptContentTypes: mediaType, ContentType: mediaType, GroupVersion: g.gv,
			Negotiator: runtime.NewClientNegotiator(wire, g.gv),
		}, nil, httpClient) // no rate limiter: the loop decides how often it asks
		if err != nil {
			return err
		}
		*g.client = client
	}
	return nil
}

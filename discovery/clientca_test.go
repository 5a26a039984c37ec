package discovery

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// asking starts a good API server that takes client certificates of these CAs,
// as kube-apiserver tells them in its handshake.
func asking(t *testing.T, ca *authority, bundle, takes []*authority) Endpoint {
	t.Helper()
	data := map[string]string{}
	s := httptest.NewUnstartedServer(answering(data))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.serving(t, []string{"127.0.0.1"})}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	if takes != nil {
		s.TLS.ClientCAs = x509.NewCertPool()
		for _, a := range takes {
			s.TLS.ClientCAs.AddCert(a.cert)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	for k, v := range signed(kubeconfig(s.URL, pemOf(bundle...))) {
		data[k] = v
	}
	return mustEndpoint(t, s.Listener.Addr().String())
}

func TestAClientCAThatIsNotAmongTheAcceptedOnesIsTold(t *testing.T) {
	serving, clients, front := newCA(t, "serving"), newCA(t, "clients\x1b[31m"), newCA(t, "front-proxy")
	const told, other = `"CN=clients\x1b[31m"`, `"CN=front-proxy"`
	for name, test := range map[string]struct {
		bundle, takes, pins []*authority
		want                []string
	}{
		"one CA for all, and the front proxy's": {[]*authority{serving}, []*authority{serving, front}, []*authority{serving}, nil},
		"another one":                           {[]*authority{serving}, []*authority{clients, front}, []*authority{serving}, []string{told, other}},
		"another one, in the bundle, unpinned":  {[]*authority{serving, clients}, []*authority{clients}, []*authority{serving}, []string{told}},
		"another one, in the bundle, pinned":    {[]*authority{serving, clients}, []*authority{clients}, []*authority{serving, clients}, nil},
		"a server that tells none":              {[]*authority{serving}, nil, []*authority{serving}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := asking(t, serving, test.bundle, test.takes)
			c, err := new(Discoverer).Discover(t.Context(), Request{Endpoints: []Endpoint{e}, Token: testToken(t), Pins: pinsOf(test.pins...)})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.OtherClientCAs)
			if !slices.Equal(c.OtherClientCAs, test.want) {
				t.Errorf("got %q, want %q", c.OtherClientCAs, test.want)
			}
		})
	}
}

func TestNamesOfClientCAsAreBoundedAndNeedNotBeNames(t *testing.T) {
	var told [][]byte
	for range 100 {
		told = append(told, []byte("no DER"))
	}
	if names := otherClientCAs(told, nil); len(names) != maxListed || !strings.Contains(names[0], "cannot be read") {
		t.Errorf("got %q", names)
	}
}

package discovery

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// cluster is one CA and one rogue server that plays a good API server, unless
// edit changes what it publishes.
func cluster(t *testing.T, edit func(ca *authority, self string) map[string]string) (*rogue, *authority, Request) {
	t.Helper()
	var data map[string]string
	ca := newCA(t, "kubernetes")
	r := newRogue(t, ca.serving(t, []string{"127.0.0.1"}), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { answering(data)(w, q) }))
	data = signed(kubeconfig(r.endpoint.URL(), pemOf(ca)))
	if edit != nil {
		data = edit(ca, r.endpoint.URL())
	}
	return r, ca, Request{Endpoints: []Endpoint{r.endpoint}, Token: testToken(t), Pins: pinsOf(ca)}
}

func TestDiscoverATrustedCluster(t *testing.T) {
	r, ca, req := cluster(t, nil)
	c, err := new(Discoverer).Discover(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if c.Server != r.endpoint.URL() || c.Provisional || c.InfoServer != c.Server || c.Endpoint != r.endpoint.String() || c.TokenID != testID {
		t.Errorf("got %+v", c)
	}
	if !bytes.Equal(c.CA, pemOf(ca)) || !slices.Equal(c.Pins, []string{SPKIPin(ca.cert)}) || len(c.Dropped)+len(c.Expired) != 0 {
		t.Errorf("CA %s, pins %v, dropped %v, expired %v", c.CA, c.Pins, c.Dropped, c.Expired)
	}
	if c.Requests != 1 || c.Handshakes != 1 {
		t.Errorf("%d requests, %d handshakes; one of each is enough", c.Requests, c.Handshakes)
	}
	if c.ServerTime.IsZero() || c.LocalTime.Sub(c.ServerTime).Abs() > 5*time.Second {
		t.Errorf("server %s, local %s", c.ServerTime, c.LocalTime)
	}
}

// Each link of the chain broken by itself, through the whole of Discover.
func TestDiscoverRefuses(t *testing.T) {
	stranger := newCA(t, "stranger")
	for name, tc := range map[string]struct {
		edit   func(ca *authority, self string) map[string]string
		req    func(*Request)
		reason fault.Reason
		says   string
	}{
		"no signatures": {func(ca *authority, self string) map[string]string {
			return map[string]string{kubeconfigKey: kubeconfig(self, pemOf(ca))}
		}, nil, fault.NoSignatures, ""},
		"signed for another token": {func(ca *authority, self string) map[string]string {
			c := kubeconfig(self, pemOf(ca))
			return map[string]string{kubeconfigKey: c, signaturePrefix + "zzzzzz": detachedJWS(c, "zzzzzz", testSecret)}
		}, nil, fault.TokenUnknown, "zzzzzz"},
		"content altered after signing": {func(ca *authority, self string) map[string]string {
			d := signed(kubeconfig(self, pemOf(ca)))
			d[kubeconfigKey] += "#"
			return d
		}, nil, fault.SignatureMismatch, ""},
		"hostile kubeconfig, signed": {func(ca *authority, self string) map[string]string {
			return signed(strings.Replace(kubeconfig(self, pemOf(ca)), "users: null", "users: [{name: x, user: {exec: {command: sh}}}]", 1))
		}, nil, fault.ClusterInfoInvalid, "users is not empty"},
		"a leaf for a CA, signed": {func(ca *authority, self string) map[string]string {
			return signed(kubeconfig(self, encodeBundle([]*x509.Certificate{ca.serving(t, nil).Leaf})))
		}, nil, fault.ClusterInfoInvalid, "no CA certificate"},
		"no pins":     {nil, func(r *Request) { r.Pins = Pins{} }, fault.PinRequired, "sha256:"},
		"another pin": {nil, func(r *Request) { r.Pins = pinsOf(stranger) }, fault.CAPinMismatch, "sha256:"},
		// Somebody who knows the token puts a CA of his own beside the real one,
		// in front of a server of his own: the pin drops his.
		"own CA beside the real one": {func(_ *authority, self string) map[string]string {
			return signed(kubeconfig(self, pemOf(stranger, newCA(t, "real"))))
		}, func(r *Request) { r.Pins = pinsOf(stranger) }, fault.ServerCertificateInvalid, "does not verify"},
		// A replay: the genuine, public cluster-info, served by somebody else.
		"replayed by a stranger": {func(*authority, string) map[string]string {
			return signed(kubeconfig("https://10.0.0.1:6443", pemOf(stranger)))
		}, func(r *Request) { r.Pins = pinsOf(stranger) }, fault.ServerCertificateInvalid, "does not verify"},
		"replayed, unsafe without pins": {func(*authority, string) map[string]string {
			return signed(kubeconfig("https://10.0.0.1:6443", pemOf(stranger)))
		}, func(r *Request) { r.Pins, r.UnsafeSkipCAVerification = Pins{}, true }, fault.ServerCertificateInvalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, req := cluster(t, tc.edit)
			if tc.req != nil {
				tc.req(&req)
			}
			c, err := new(Discoverer).Discover(t.Context(), req)
			wantReason(t, err, tc.reason, tc.says, r.endpoint.String())
			if c != nil {
				t.Error("a cluster came with the error")
			}
		})
	}
}

func TestDiscoverWithoutTraffic(t *testing.T) {
	d := &Discoverer{Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a connection was tried")
		return nil, net.ErrClosed
	}}
	e := mustEndpoint(t, "10.0.0.1:6443")
	for name, tc := range map[string]struct {
		req    Request
		reason fault.Reason
	}{
		"no token":      {Request{Endpoints: []Endpoint{e}}, fault.TokenMissing},
		"no endpoint":   {Request{Token: testToken(t)}, fault.ConfigInvalid},
		"zero endpoint": {Request{Token: testToken(t), Endpoints: []Endpoint{{}}}, fault.ConfigInvalid},
		"bad server":    {Request{Token: testToken(t), Endpoints: []Endpoint{e}, Server: "http://x"}, fault.ConfigInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Discover(t.Context(), tc.req)
			wantReason(t, err, tc.reason)
			r, err := d.Inspect(t.Context(), tc.req)
			wantReason(t, err, tc.reason)
			if r == nil {
				t.Error("no report")
			}
		})
	}
}

// The bundle's other CA is dropped, said aloud, and not in what is trusted.
func TestDiscoverDropsAndNamesUnpinnedCAs(t *testing.T) {
	other := newCA(t, "other\x1b[2J")
	old := newCA(t, "old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	})
	_, ca, req := cluster(t, func(ca *authority, self string) map[string]string {
		return signed(kubeconfig(self, pemOf(other, ca, old)))
	})
	req.Pins = pinsOf(ca, old)
	var logged bytes.Buffer
	log := logrus.New()
	log.SetOutput(&logged)
	c, err := (&Discoverer{Log: log}).Discover(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Dropped) != 1 || c.Dropped[0] != `"CN=other\x1b[2J" `+SPKIPin(other.cert) {
		t.Errorf("dropped %q", c.Dropped)
	}
	if !slices.Equal(c.DroppedPins, []string{SPKIPin(other.cert)}) {
		t.Errorf("dropped pins %q", c.DroppedPins)
	}
	if len(c.Expired) != 1 || c.Expired[0] != `"CN=old" `+SPKIPin(old.cert) {
		t.Errorf("expired %q", c.Expired)
	}
	if bytes.Contains(c.CA, bytes.TrimSpace(pemOf(other))) || !bytes.Contains(c.CA, bytes.TrimSpace(pemOf(ca))) || len(c.Pins) != 2 {
		t.Errorf("CA %s", c.CA)
	}
	for _, want := range []string{"without a configured pin dropped", "not valid at this time", SPKIPin(other.cert)} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log lacks %q: %s", want, logged.String())
		}
	}
}

func TestDiscoverWithoutPinsOnlyWhenToldAndSaysSo(t *testing.T) {
	_, ca, req := cluster(t, nil)
	req.Pins, req.UnsafeSkipCAVerification = Pins{}, true
	var logged bytes.Buffer
	log := logrus.New()
	log.SetOutput(&logged)
	c, err := (&Discoverer{Log: log}).Discover(t.Context(), req)
	if err != nil || !bytes.Equal(c.CA, pemOf(ca)) {
		t.Fatalf("got %v, %v", c, err)
	}
	if !strings.Contains(logged.String(), "without a pin") || strings.Contains(logged.String(), testSecret) {
		t.Errorf("log: %s", logged.String())
	}
}

func TestClockSkewNeedsBothClocks(t *testing.T) {
	r, _, req := cluster(t, nil)
	_, err := (&Discoverer{Now: func() time.Time { return time.Now().Add(-30 * 24 * time.Hour) }}).Discover(t.Context(), req)
	wantReason(t, err, fault.ClockSkew, "clock says", "the API server's", " apart)", r.endpoint.String())
}

func TestServerChoice(t *testing.T) {
	up := tcpServer(t, func(net.Conn) {})
	dead := mustEndpoint(t, "10.9.9.9:6443")
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == dead.String() || addr == "api.dead.example:443" {
			return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	for name, tc := range map[string]struct {
		info        string // "" is the endpoint itself
		override    string
		want        string // "" is the endpoint itself
		provisional bool
	}{
		"cluster-info names the endpoint":        {"", "", "", false},
		"cluster-info names another that is up":  {up.URL(), "", up.URL(), false},
		"cluster-info names one that is dead":    {dead.URL(), "", "", true},
		"a dead one without a port":              {"https://api.dead.example", "", "", true},
		"the operator's word, though unreached":  {up.URL(), "https://API.Example.org", "https://api.example.org", false},
		"the operator's word over a dead server": {dead.URL(), dead.URL(), dead.URL(), false},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, req := cluster(t, func(ca *authority, self string) map[string]string {
				if tc.info != "" {
					self = tc.info
				}
				return signed(kubeconfig(self, pemOf(ca)))
			})
			if tc.want == "" {
				tc.want = r.endpoint.URL()
			}
			if tc.info == "" {
				tc.info = r.endpoint.URL()
			}
			req.Server = tc.override
			c, err := (&Discoverer{Dial: dial}).Discover(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if c.Server != tc.want || c.Provisional != tc.provisional || c.InfoServer != tc.info || c.Endpoint != r.endpoint.String() {
				t.Errorf("got %+v", c)
			}
		})
	}
}

// A server that cluster-info names but that drops packets costs five seconds.
func TestServerThatDropsPacketsIsGivenUpAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, w := newCA(t, "kubernetes"), newWires()
		e := mustEndpoint(t, "10.0.0.1:6443")
		r := &rogue{endpoint: e}
		r.serve(t, w.listen(e.String()), ca.serving(t, []string{"10.0.0.1"}), answering(signed(kubeconfig("https://10.0.0.9:6443", pemOf(ca)))))
		begun := time.Now()
		c, err := (&Discoverer{Dial: w.Dial}).Discover(t.Context(), Request{Endpoints: []Endpoint{e}, Token: testToken(t), Pins: pinsOf(ca)})
		if err != nil || !c.Provisional || c.Server != e.URL() || time.Since(begun) != 5*time.Second {
			t.Errorf("%+v, %v after %s", c, err, time.Since(begun))
		}
	})
}

// The race with real handshakes, on a network inside the process.
func TestEndpointsRace(t *testing.T) {
	const good, hostile, refusing, dropping = "10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443", "10.0.0.4:6443"
	for name, tc := range map[string]struct {
		order []string
		dials map[string]time.Duration
		took  time.Duration
	}{
		"one that refuses: the next at once":         {[]string{refusing, good}, map[string]time.Duration{refusing: 0, good: 0}, 0},
		"one that drops: the next after 500 ms":      {[]string{dropping, good}, map[string]time.Duration{dropping: 0, good: 500 * time.Millisecond}, 500 * time.Millisecond},
		"a hostile one answers first and is ignored": {[]string{hostile, good}, map[string]time.Duration{hostile: 0, good: 0}, 0},
		"all of them":                    {[]string{dropping, refusing, hostile, good}, map[string]time.Duration{dropping: 0, refusing: 500 * time.Millisecond, hostile: 500 * time.Millisecond, good: 500 * time.Millisecond}, 500 * time.Millisecond},
		"a good first one is left alone": {[]string{good, hostile, dropping}, map[string]time.Duration{good: 0}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, evil, w := newCA(t, "kubernetes"), newCA(t, "kubernetes"), newWires()
				w.refuse[refusing] = true
				serve := func(addr string, cert tls.Certificate, data map[string]string) {
					r := &rogue{endpoint: mustEndpoint(t, addr)}
					r.serve(t, w.listen(addr), cert, answering(data))
				}
				serve(good, ca.serving(t, []string{"10.0.0.1"}), signed(kubeconfig("https://"+good, pemOf(ca))))
				bad := signed(kubeconfig("https://"+hostile, pemOf(evil)))
				bad[signaturePrefix+testID] = detachedJWS(bad[kubeconfigKey], testID, "0000000000000000")
				serve(hostile, evil.serving(t, []string{"10.0.0.2"}), bad)
				req := Request{Token: testToken(t), Pins: pinsOf(ca)}
				for _, a := range tc.order {
					req.Endpoints = append(req.Endpoints, mustEndpoint(t, a))
				}
				begun := time.Now()
				c, err := (&Discoverer{Dial: w.Dial, Shuffle: inOrder}).Discover(t.Context(), req)
				if err != nil || c.Endpoint != good {
					t.Fatalf("%+v, %v", c, err)
				}
				if took := time.Since(begun); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
				if len(w.dials) != len(tc.dials) {
					t.Errorf("dialled %v, want %v", w.dials, tc.dials)
				}
				for a, want := range tc.dials {
					if w.dials[a] != want {
						t.Errorf("%s dialled after %s, want %s", a, w.dials[a], want)
					}
				}
			})
		})
	}
}

// Whoever came furthest gives the reason; every endpoint is named.
func TestTheFurthestEndpointDecidesTheReason(t *testing.T) {
	down := mustEndpoint(t, "10.0.0.1:6443")
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == down.String() {
			return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	d := &Discoverer{Dial: dial, Shuffle: inOrder}
	ca := newCA(t, "kubernetes")
	ask := func(h http.HandlerFunc) Endpoint {
		return newRogue(t, ca.serving(t, []string{"127.0.0.1"}), h).endpoint
	}
	forbidden, wrongSecret := ask(status(403)), ask(answering(map[string]string{kubeconfigKey: "x", signaturePrefix + testID: "y"}))
	unpinned := ask(answering(signed(kubeconfig("https://10.0.0.1", pemOf(ca)))))
	noKubeconfig := ask(answering(map[string]string{"a": "b"}))
	busy, busier := ask(status(429, "Retry-After", "7")), ask(status(429, "Retry-After", "60"))
	noTLS := tcpServer(t, func(net.Conn) {})
	for name, tc := range map[string]struct {
		endpoints []Endpoint
		want      fault.Reason
		wait      time.Duration
	}{
		"an answer over silence":                      {[]Endpoint{down, forbidden}, fault.ClusterInfoForbidden, 0},
		"a TCP connection over none":                  {[]Endpoint{down, noTLS}, fault.TLSHandshakeFailed, 0},
		"an answer over a failed handshake":           {[]Endpoint{noTLS, wrongSecret}, fault.SignatureMismatch, 0},
		"the first of equals":                         {[]Endpoint{forbidden, wrongSecret}, fault.ClusterInfoForbidden, 0},
		"the first of equals, swapped":                {[]Endpoint{wrongSecret, forbidden}, fault.SignatureMismatch, 0},
		"a proven signature over all":                 {[]Endpoint{down, forbidden, unpinned, wrongSecret}, fault.PinRequired, 0},
		"a stranger cannot block the rest":            {[]Endpoint{noKubeconfig, down}, fault.EndpointUnreachable, 0},
		"alone it is what it is":                      {[]Endpoint{noKubeconfig}, fault.ClusterInfoInvalid, 0},
		"the shorter wait of two":                     {[]Endpoint{busier, busy}, fault.Throttled, 7 * time.Second},
		"one that does not ask to wait ends the wait": {[]Endpoint{busy, down}, fault.Throttled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Discover(t.Context(), Request{Endpoints: tc.endpoints, Token: testToken(t)})
			wantReason(t, err, tc.want)
			for _, e := range tc.endpoints {
				if !strings.Contains(err.Error(), e.String()) {
					t.Errorf("%s is not named: %v", e, err)
				}
			}
			if f, _ := fault.As(err); f.RetryAfter != tc.wait {
				t.Errorf("wait %s, want %s", f.RetryAfter, tc.wait)
			}
		})
	}
}

func TestDiscoverEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWires()
		req := Request{Token: testToken(t), Endpoints: []Endpoint{mustEndpoint(t, "10.0.0.1"), mustEndpoint(t, "10.0.0.2"), mustEndpoint(t, "10.0.0.3")}}
		d := &Discoverer{Dial: w.Dial, Shuffle: inOrder}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(700*time.Millisecond, cancel)
		begun := time.Now()
		if _, err := d.Discover(ctx, req); fault.ReasonOf(err) != "" || err == nil || time.Since(begun) != 700*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		ctx, cancel = context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		_, err := d.Discover(ctx, req)
		wantReason(t, err, fault.EndpointUnreachable, "10.0.0.1:6443: no connection", "10.0.0.3:6443: not tried")
		_, err = d.Discover(ctx, req) // the time is up already
		wantReason(t, err, fault.EndpointUnreachable)
	})
}

func TestEndpointsAreShuffledAndTriedOnce(t *testing.T) {
	a, b := mustEndpoint(t, "10.0.0.1"), mustEndpoint(t, "10.0.0.2:6443")
	given := []Endpoint{a, b, a, mustEndpoint(t, "https://10.0.0.2")}
	var dialled []string
	d := &Discoverer{
		Shuffle: func(n int, swap func(i, j int)) {
			if n != 2 {
				t.Errorf("%d endpoints to shuffle", n)
			}
			swap(0, 1)
		},
		Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			dialled = append(dialled, addr)
			return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
		},
	}
	_, err := d.Discover(t.Context(), Request{Endpoints: given, Token: testToken(t)})
	wantReason(t, err, fault.EndpointUnreachable)
	if !slices.Equal(dialled, []string{b.String(), a.String()}) {
		t.Errorf("dialled %v", dialled)
	}
	if given[0] != a || given[2] != a {
		t.Error("the caller's list was changed")
	}
}

package testapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAWatchReplaysWhatCameAfterItsResourceVersion(t *testing.T) {
	s := quiet(t)
	s.AutoApprove(false)
	c := s.as(t, s.Token())
	created := c.createCSR("x", "a", nil)
	c.createCSR("other", "b", nil)
	s.Approve("x")
	w := c.watch(csrPath, "fieldSelector=metadata.name%3Dx&resourceVersion="+created.ResourceVersion)
	w.want("MODIFIED", "x")
	last := w.want("MODIFIED", "x")
	if len(decode[certv1.CertificateSigningRequest](last.Object).Status.Certificate) == 0 {
		t.Error("the second change is the certificate")
	}
	s.Delete("other")
	s.Delete("x")
	if gone := w.want("DELETED", "x"); gone.meta().ResourceVersion <= last.meta().ResourceVersion {
		t.Error("a deletion has a resourceVersion of its own")
	}
}

func TestAWatchWithoutResourceVersionStartsWithWhatThereIs(t *testing.T) {
	s := quiet(t)
	s.AutoApprove(false)
	c := s.as(t, s.Token())
	c.createCSR("x", "a", nil)
	w := c.watch(csrPath, "")
	w.want("ADDED", "x")
	c.createCSR("y", "a", nil)
	w.want("ADDED", "y")
}

func TestWatchesEndAndFailAsAsked(t *testing.T) {
	s := quiet(t)
	c := s.node(t, "a")
	own := "fieldSelector=metadata.name%3Da"
	t.Run("dropped", func(t *testing.T) {
		w := c.watch(nodesPath, own)
		if err := s.AwaitWatches(soon(t), 1); err != nil || s.OpenWatches() != 1 {
			t.Fatal(err)
		}
		s.DropWatches()
		if _, err := w.next(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		if err := s.AwaitWatches(soon(t), 0); err != nil {
			t.Error(err)
		}
	})
	t.Run("gone, as an event", func(t *testing.T) {
		s.WatchGone(1, false)
		w := c.watch(nodesPath, own+"&resourceVersion=7")
		e, err := w.next()
		st := decode[metav1.Status](e.Object)
		if err != nil || e.Type != "ERROR" || st.Code != 410 || st.Reason != "Expired" || st.Kind != "Status" {
			t.Errorf("%s %s %v", e.Type, e.Object, err)
		}
		if _, err := w.next(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("gone, as a status", func(t *testing.T) {
		s.WatchGone(1, true)
		if w := c.watch(nodesPath, own); w.status != 410 {
			t.Errorf("status %d", w.status)
		}
	})
	t.Run("compacted", func(t *testing.T) {
		node := s.RegisterNode("a", corev1.NodeSystemInfo{})
		s.SetNodeReady("a", true, "")
		s.CompactHistory()
		if e, err := c.watch(nodesPath, own+"&resourceVersion="+node.ResourceVersion).next(); err != nil || e.Type != "ERROR" {
			t.Errorf("%s %v", e.Type, err)
		}
	})
	t.Run("silent", func(t *testing.T) {
		s.SilentWatches(true)
		w := c.watch(nodesPath, own+"&resourceVersion="+s.Node("a").ResourceVersion)
		s.SetNodeReady("a", false, "")
		s.SilentWatches(false)
		w.want("MODIFIED", "a") // it came only now, and not twice
		s.SilentWatches(true)
		w = c.watch(nodesPath, own)
		s.SilentWatches(false)
		w.want("ADDED", "a") // nor does what there is come earlier
	})
	t.Run("uninvited bookmarks", func(t *testing.T) {
		s.UninvitedBookmarks(true)
		w := c.watch(nodesPath, own+"&resourceVersion="+s.Node("a").ResourceVersion)
		s.SetNodeReady("a", true, "")
		w.want("MODIFIED", "a")
		if e, err := w.next(); err != nil || e.Type != "BOOKMARK" || e.meta().ResourceVersion == "" {
			t.Errorf("%s %v", e.Type, err)
		}
		s.UninvitedBookmarks(false)
	})
	t.Run("bad queries", func(t *testing.T) {
		for _, q := range []string{"&resourceVersion=x", "&timeoutSeconds=x"} {
			if w := c.watch(nodesPath, own+q); w.status != 400 {
				t.Errorf("%s: status %d", q, w.status)
			}
		}
	})
	t.Run("of another's node", func(t *testing.T) {
		if w := c.watch(nodesPath, "fieldSelector=metadata.name%3Db"); w.status != 403 {
			t.Errorf("status %d", w.status)
		}
	})
}

func TestFaultsAskedFor(t *testing.T) {
	s := quiet(t)
	c := s.as(t, s.Token())
	ctx := t.Context()
	t.Run("n times 500", func(t *testing.T) {
		s.FailNext(2, 500)
		for _, want := range []int{500, 500, 200} {
			a := c.get(csrPath)
			if a.status != want {
				t.Errorf("status %d, want %d", a.status, want)
			}
			if want == 500 && a.object(t).Reason != "InternalError" {
				t.Errorf("body %s", a.body)
			}
		}
	})
	t.Run("429 and its header", func(t *testing.T) {
		s.Inject(Fault{Status: 429, Header: http.Header{"Retry-After": {"60"}}, Match: Is("list", csrs.resource)})
		if c.get("/version").status != 200 {
			t.Error("not this one")
		}
		if a := c.get(csrPath); a.status != 429 || a.header.Get("Retry-After") != "60" || a.object(t).Reason != "TooManyRequests" {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	})
	t.Run("any answer", func(t *testing.T) {
		s.Inject(Fault{Status: 302, Body: "over there", Header: http.Header{"Location": {"https://192.0.2.1/"}}})
		if a := c.get(csrPath); a.status != 302 || string(a.body) != "over there" {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
	t.Run("taken back", func(t *testing.T) {
		s.Inject(Fault{Times: -1, Status: 500})()
		if a := c.get(csrPath); a.status != 200 {
			t.Errorf("status %d", a.status)
		}
	})
	t.Run("cut", func(t *testing.T) {
		s.Inject(Fault{Cut: true})
		a, err := c.try(ctx, http.MethodGet, csrPath, nil)
		if err != nil || a.err == nil || len(a.body) == 0 {
			t.Errorf("%q %v %v", a.body, a.err, err)
		}
	})
	t.Run("disconnected", func(t *testing.T) {
		s.Inject(Fault{Disconnect: true})
		if a, err := c.try(ctx, http.MethodPost, csrPath, newCSR(t, "dis", "a", nil)); err == nil || s.CSR("dis") != nil {
			t.Errorf("%d", a.status)
		}
	})
	t.Run("done and the answer lost", func(t *testing.T) {
		s.Inject(Fault{Lose: true, Disconnect: true})
		if a, err := c.try(ctx, http.MethodPost, csrPath, newCSR(t, "lost", "a", nil)); err == nil || s.CSR("lost") == nil {
			t.Errorf("%d", a.status)
		}
	})
	t.Run("hanging", func(t *testing.T) {
		s.Inject(Fault{Hang: true})
		ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		if _, err := c.try(ctx, http.MethodGet, csrPath, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("watch cut in its first event", func(t *testing.T) {
		s.Inject(Fault{Cut: true, Match: Is("watch", csrs.resource)})
		if _, err := c.watch(csrPath, "").next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("connections dropped", func(t *testing.T) {
		w := c.watch(csrPath, "resourceVersion="+s.CSR("lost").ResourceVersion)
		s.DropConnections()
		for {
			if _, err := w.next(); err != nil {
				break
			}
		}
		if c.get(csrPath).status != 200 {
			t.Error("a new connection works")
		}
	})
}

// Discovery speaks HTTP/1.1 with one connection a request.
func TestHTTP1IsServedTheSame(t *testing.T) {
	s := quiet(t)
	c := s.as(t, "")
	transport, _ := c.http.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2, transport.DisableKeepAlives = false, true
	transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	for range 2 {
		if a := c.get(infoPath); a.status != 200 || a.proto != "HTTP/1.1" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%d %s %v", a.status, a.proto, a.header)
		}
	}
	if s.Connections() != 2 || s.Handshakes() != 2 {
		t.Errorf("%d connections, %d handshakes", s.Connections(), s.Handshakes())
	}
	s.Inject(Fault{Cut: true})
	if a := c.get(infoPath); !errors.Is(a.err, io.ErrUnexpectedEOF) || len(a.body) == 0 {
		t.Errorf("cut: %q %v", a.body, a.err)
	}
	s.Inject(Fault{Lose: true})
	if _, err := c.try(t.Context(), http.MethodGet, infoPath, nil); err == nil {
		t.Error("a lost answer came")
	}
	if last := s.Requests()[3]; last.Status != 0 || !last.Done {
		t.Errorf("%+v", last)
	}
}

func TestTheSameSeedIsTheSameWeather(t *testing.T) {
	sequence := func(seed int64) (days []day) {
		s := start(t, Options{Seed: seed})
		for i := range 200 {
			if i%3 == 0 {
				s.today(attributes{verb: "get", resource: "nodes"}) // in between: changes nothing
			}
			days = append(days, s.today(attributes{verb: "watch", resource: csrs.resource}))
		}
		return days
	}
	one, two, other := sequence(7), sequence(7), sequence(8)
	if !reflect.DeepEqual(one, two) {
		t.Error("seed 7 does not repeat")
	}
	if reflect.DeepEqual(one, other) {
		t.Error("seeds 7 and 8 are the same")
	}
	seen := map[string]bool{}
	for i, d := range one {
		seen["429"] = seen["429"] || d.refuse == 429
		seen["503"] = seen["503"] || d.refuse == 503
		seen["goaway"] = seen["goaway"] || d.goAway
		seen["pieces"] = seen["pieces"] || len(d.pieces) > 0
		seen["drop"] = seen["drop"] || d.watchEvents == 0
		seen["late drop"] = seen["late drop"] || d.watchEvents > 0
		if d.delay > maxDelay {
			t.Errorf("delay %s", d.delay)
		}
		if i > 0 && (d.refuse != 0 || d.watchEvents == 0) && (one[i-1].refuse != 0 || one[i-1].watchEvents == 0) {
			t.Errorf("number %d is refused twice in a row", i)
		}
	}
	if len(seen) != 6 {
		t.Error("wrong list")
	}
	for what, ok := range seen {
		if !ok {
			t.Errorf("no %s in 200 requests", what)
		}
	}
}

// A client that only does what any client must (try again, watch again) gets its
// certificate under every weather.
func TestAPatientClientJoinsUnderEveryWeather(t *testing.T) {
	for seed := range int64(12) {
		s := start(t, Options{Seed: seed + 1})
		c := s.as(t, s.Token())
		patient := func(method, path string, body []byte) answer {
			for {
				a, err := c.try(t.Context(), method, path, body, "Content-Type", "application/json")
				if err == nil && a.err == nil && a.status != 429 && a.status != 503 {
					return a
				}
				if a.status == 429 && a.header.Get("Retry-After") != "1" {
					t.Fatalf("seed %d: 429 without Retry-After", seed+1)
				}
			}
		}
		created := decode[certv1.CertificateSigningRequest](patient(http.MethodPost, csrPath, newCSR(t, "x", "a", nil)).body)
		rv, watches := created.ResourceVersion, 0
		for len(created.Status.Certificate) == 0 {
			watches++
			w := c.watch(csrPath, "fieldSelector=metadata.name%3Dx&resourceVersion="+rv)
			for w.status == 200 && len(created.Status.Certificate) == 0 {
				e, err := w.next()
				if err != nil {
					break
				}
				rv = e.meta().ResourceVersion
				created = decode[certv1.CertificateSigningRequest](e.Object)
			}
			w.cancel()
		}
		t.Logf("seed %d: %d watches, %d connections, %d requests", seed+1, watches, s.Connections(), len(s.Requests()))
		s.Close()
	}
}

func TestAttributesOf(t *testing.T) {
	for target, want := range map[string]attributes{
		"/version": {verb: "get", path: "/version"},
		infoPath:   {verb: "get", resource: "configmaps", namespace: "kube-public", name: "cluster-info"},
		nodesPath + "?watch=true&fieldSelector=metadata.name%3Da":   {verb: "watch", resource: "nodes", name: "a"},
		nodesPath + "?watch=1&fieldSelector=metadata.name%3D%3Da":   {verb: "watch", resource: "nodes", name: "a"},
		nodesPath + "?fieldSelector=metadata.name%3Da%2Cspec.x%3Dy": {verb: "list", resource: "nodes"},
		csrPath + "/x/approval": {verb: "get", group: csrs.group, resource: csrs.resource, name: "x", sub: "approval"},
		"/apis/apps/v2/things":  {verb: "get", path: "/apis/apps/v2/things"},
		"/api/v1/namespaces":    {verb: "list", resource: "namespaces"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://x"+target, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		if got := attributesOf(r); got != want {
			t.Errorf("%s: got %+v, want %+v", target, got, want)
		}
	}
}

package apiclient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

const aNode = `{"kind":"Node","apiVersion":"v1","metadata":{"name":"worker-1"}}`

func TestRequestsMadeTogetherShareOneHandshake(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, aNode) })
	c := newClient(t, Options{Server: s.URL, CA: ca.pem()})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := c.GetNode(t.Context(), "worker-1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := c.Stats(); got != (Stats{Requests: 8, Handshakes: 1}) {
		t.Errorf("eight requests cost %+v, want one handshake", got)
	}
}

func TestAFailedDialLetsTheNextRequestTry(t *testing.T) {
	ca := newAuthority(t)
	s := serve(t, ca, nil, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, aNode) })
	var dials atomic.Int64
	c := newClient(t, Options{Server: s.URL, CA: ca.pem(), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return nil, errors.New("no route")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}})
	failed := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := c.GetNode(t.Context(), "worker-1")
			failed <- err
		}()
	}
	first, second := <-failed, <-failed
	if (first == nil) == (second == nil) {
		t.Errorf("one of two has to fail: %v, %v", first, second)
	}
}

func TestWhoWaitsForTheFirstConnectionEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f firstConnection
		done, err := f.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := f.enter(ctx)
			ended <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		done(true)
		done(false) // only the first call counts
		if _, err := f.enter(t.Context()); err != nil || !f.there {
			t.Errorf("connected: %t, %v", f.there, err)
		}
	})
}

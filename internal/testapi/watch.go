package testapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchState is what is done to watches; under the server's lock.
type watchState struct {
	silent     bool
	bookmarks  bool
	gone       int // so many next watches are told 410
	goneHTTP   bool
	generation int // DropWatches raises it
	open       int
}

// SilentWatches: watches are accepted and never deliver anything (a half-open
// connection). It also silences those that are open.
func (s *Server) SilentWatches(on bool) { s.set(func() { s.watches.silent = on }) }

// UninvitedBookmarks sends BOOKMARK events to watches that did not ask for them.
func (s *Server) UninvitedBookmarks(on bool) { s.set(func() { s.watches.bookmarks = on }) }

// WatchGone tells the next n watches 410 Expired, in an ERROR event as
// kube-apiserver does; asStatus: by an answer of status 410 instead.
func (s *Server) WatchGone(n int, asStatus bool) {
	s.set(func() { s.watches.gone, s.watches.goneHTTP = n, asStatus })
}

// DropWatches ends every open watch, as a server does when its time is up.
func (s *Server) DropWatches() { s.set(func() { s.watches.generation++ }) }

// OpenWatches counts the watches being served.
func (s *Server) OpenWatches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches.open
}

// AwaitWatches returns when exactly n watches are open.
func (s *Server) AwaitWatches(ctx context.Context, n int) error {
	return s.await(ctx, fmt.Sprintf("%d open watches", n), func() bool { return s.watches.open == n })
}

type watchLine struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// watch serves newline-delimited JSON events until the client, the server, the
// time asked for or the weather ends it.
func (c *call) watch(k kind) {
	after, selected, deadline, err := c.watchQuery(k)
	if err != nil {
		c.fail(err)
		return
	}
	if c.fault != nil && c.fault.Lose {
		c.drop()
	}
	s := c.s
	s.mu.Lock()
	generation := s.watches.generation
	gone := s.watches.gone > 0
	if gone {
		s.watches.gone--
	}
	asStatus := s.watches.goneHTTP
	var first []watchLine
	if after == 0 {
		// Without a resourceVersion a watch starts with what there is.
		after = s.store.rv
		for _, raw := range s.store.list(k, c.attrs.namespace) {
			if selected == "" || nameOf(raw) == selected {
				first = append(first, watchLine{"ADDED", raw})
			}
		}
	}
	s.watches.open++
	s.mu.Unlock()
	defer s.set(func() { s.watches.open-- })
	if gone && asStatus {
		c.fail(apierrors.NewResourceExpired("too old resource version"))
		return
	}
	c.head(http.StatusOK, "application/json")
	_ = http.NewResponseController(c.w).Flush() // the client must know that it watches
	if gone {
		c.expired(after)
		return
	}
	w := &watcher{call: c, kind: k, after: after, selected: selected, generation: generation, left: c.day.watchEvents}
	s.mu.Lock()
	s.notify() // OpenWatches is true for the client, too, from here on
	s.mu.Unlock()
	w.run(first, deadline)
}

func (c *call) watchQuery(k kind) (after uint64, selected string, deadline time.Duration, err error) {
	if selected, err = selectedName(k, c.r); err != nil {
		return 0, "", 0, err
	}
	q := c.r.URL.Query()
	if rv := q.Get("resourceVersion"); rv != "" {
		if after, err = strconv.ParseUint(rv, 10, 64); err != nil {
			return 0, "", 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion: Invalid value: %q: %v", rv, err))
		}
	}
	if t := q.Get("timeoutSeconds"); t != "" {
		n, err := strconv.ParseUint(t, 10, 31)
		if err != nil {
			return 0, "", 0, apierrors.NewBadRequest(fmt.Sprintf("timeoutSeconds: Invalid value: %q", t))
		}
		deadline = time.Duration(n) * time.Second
	}
	if deadline == 0 {
		deadline = time.Hour
	}
	return after, selected, deadline, nil
}

// expired is the ERROR event of a resourceVersion that is too old.
func (c *call) expired(rv uint64) {
	st := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", rv)).ErrStatus
	st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	c.write(append(encode(watchLine{"ERROR", encode(st)}), '\n'))
}

// watcher is one open watch.
type watcher struct {
	*call
	kind       kind
	after      uint64
	selected   string
	generation int
	left       int // events until the weather ends it; < 0: no end
}

func (w *watcher) run(first []watchLine, deadline time.Duration) {
	end := time.NewTimer(deadline)
	defer end.Stop()
	s := w.s
	for {
		s.mu.Lock()
		changed, silent, over, bookmarks := s.changed, s.watches.silent, s.watches.generation != w.generation, s.watches.bookmarks
		events, ok := s.store.since(w.kind, w.after)
		upTo := s.store.rv
		s.mu.Unlock()
		switch {
		case over:
			return
		case silent:
		case !ok:
			w.expired(w.after)
			return
		default:
			for _, line := range first {
				if !w.send(line) {
					return
				}
			}
			sent := len(first)
			first = nil
			for _, e := range events {
				w.after = e.rv
				if !w.selects(e) {
					continue
				}
				sent++
				if !w.send(watchLine{e.typ, e.raw}) {
					return
				}
			}
			w.after = max(w.after, upTo)
			if sent > 0 && (bookmarks || w.day.bookmark && w.r.URL.Query().Get("allowWatchBookmarks") == "true") {
				w.bookmark()
			}
		}
		if w.left == 0 {
			return
		}
		select {
		case <-changed:
		case <-end.C:
			return
		case <-s.done:
			return
		case <-w.ctx().Done():
			return
		}
	}
}

func (w *watcher) selects(e event) bool {
	namespace, name, _ := strings.Cut(e.key, "/")
	return (w.selected == "" || name == w.selected) && (w.attrs.namespace == "" || namespace == w.attrs.namespace)
}

// send writes one event, on a bad day twice; false ends the watch.
func (w *watcher) send(line watchLine) bool {
	raw := append(encode(line), '\n')
	if w.fault != nil && w.fault.Cut {
		w.write(raw[:len(raw)/2])
		w.drop()
	}
	w.write(raw)
	if w.day.duplicate && line.Type == "MODIFIED" {
		w.write(raw)
	}
	if w.left > 0 {
		w.left--
	}
	return w.left != 0 && w.ctx().Err() == nil
}

func (w *watcher) bookmark() {
	object := map[string]any{
		"kind": w.kind.kind, "apiVersion": w.kind.typeMeta().APIVersion,
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(w.after), "creationTimestamp": nil},
	}
	w.write(append(encode(watchLine{"BOOKMARK", encode(object)}), '\n'))
}

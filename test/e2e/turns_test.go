//go:build e2e

package e2e

import (
	"flag"
	"slices"
	"sync"
	"testing"
	"time"
)

// lanes is how many scenarios run beside each other: one more than the processors
// of a small host, since for most of their time they wait for a kubelet, a timer
// or a boot.
const lanes = 3

// turns lets those that run beside each other begin, a few at a time, the one
// with the longest limit first: else a long one that comes last by its file's name
// has the host for itself in the end. testing's own -parallel knows no order.
type turns struct {
	mu      sync.Mutex
	free    int
	coming  int // have said that they come, and wait for what may not run beside others
	waiting []turn
}

type turn struct {
	limit time.Duration
	begin chan struct{}
}

// manyAtOnce leaves it to turns how many tests run: all that are parallel must be
// able to wait for theirs.
func manyAtOnce() error { return flag.Set("test.parallel", "1000") }

// beside makes the test parallel and returns when it is its turn.
func (q *turns) beside(t *testing.T, limit time.Duration) {
	t.Helper()
	q.change(func() { q.coming++ })
	t.Parallel()
	mine := turn{limit, make(chan struct{})}
	q.change(func() { q.coming--; q.waiting = append(q.waiting, mine) })
	<-mine.begin
	t.Cleanup(func() { q.change(func() { q.free++ }) })
}

// change changes the queue and lets those begin who now can. Nobody does before
// all have come: only then it is known who is to be first.
func (q *turns) change(how func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	how()
	if q.coming > 0 {
		return
	}
	slices.SortStableFunc(q.waiting, func(a, b turn) int { return int(b.limit - a.limit) })
	for q.free > 0 && len(q.waiting) > 0 {
		close(q.waiting[0].begin)
		q.waiting, q.free = q.waiting[1:], q.free-1
	}
}

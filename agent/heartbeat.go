package agent

import (
	"sync"
	"time"
)

// heartbeat tells a stuck loop from one that waits. Whoever works says before
// each bounded stretch how long it may take at most; the watchdog is fed only
// until that time. An unreachable cluster is healthy, a stuck act is not.
type heartbeat struct {
	mu       sync.Mutex
	deadline time.Time
}

func (h *heartbeat) beat(now time.Time, atMost time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = now.Add(atMost)
}

func (h *heartbeat) fresh(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.deadline)
}

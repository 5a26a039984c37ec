package agent

import (
	"math/rand/v2"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The pauses between attempts (docs/operations.md shows them):
//
//	retry    full jitter, 1 s doubling to 60 s, for ever
//	slow     60 s; in the first two minutes 1, 2, 5, 10, 20 s (the token was
//	         made a moment ago, the signer is about to sign)
//	blocked  5 min
const (
	retryFirst = time.Second
	retryMost  = time.Minute
	eagerFor   = 2 * time.Minute
	// retryAfterMost caps what a server may ask for, so that a broken one
	// cannot silence a node for a day.
	retryAfterMost = 10 * time.Minute
)

var eager = [...]time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second}

// backoff counts the attempts since the last success or change of phase.
type backoff struct {
	jitter  func(time.Duration) time.Duration // random in [0, d); nil: math/rand
	pace    Pace
	attempt int
	since   time.Time // of the first failure
}

// reset forgets the attempts: something went well or has changed.
func (b *backoff) reset() { b.attempt, b.since = 0, time.Time{} }

// next counts a failure at now and says how long to wait before the next
// attempt. Retry-After of the server is obeyed as a lower bound.
func (b *backoff) next(now time.Time, class fault.Class, retryAfter time.Duration) time.Duration {
	if b.attempt == 0 {
		b.since = now
	}
	b.attempt++
	asked := min(retryAfter, retryAfterMost)
	switch class {
	case fault.Blocked:
		return max(b.pace.Blocked, asked)
	case fault.Slow:
		pause := b.pace.Slow
		if i := b.attempt - 1; i < len(eager) && now.Sub(b.since) < eagerFor {
			pause = eager[i]
		}
		return max(pause, asked)
	}
	most := retryMost
	if shift := b.attempt - 1; shift < 6 {
		most = retryFirst << shift
	}
	// A busy server tells everybody the same number: who came just then together
	// would come back together.
	return asked + b.random(max(most, asked/2))
}

func (b *backoff) random(most time.Duration) time.Duration {
	if b.jitter != nil {
		return b.jitter(most)
	}
	return rand.N(most) //nolint:gosec // spreads load; nothing secret depends on it
}

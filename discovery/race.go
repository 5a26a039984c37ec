package discovery

import (
	"context"
	"sync"
	"time"
)

// race runs attempt for 0..n-1 in this order. The next one starts when stagger
// has passed since the last start, or at once when one fails. The first success
// wins; all others are cancelled and waited for, so that nothing runs on when
// race returns. Without a winner (winner < 0) errs holds the error of each
// attempt that was started; nil stands for one that never was, because ctx
// ended before its turn.
func race[T any](ctx context.Context, n int, stagger time.Duration, attempt func(context.Context, int) (T, error)) (winner int, value T, errs []error) {
	type result struct {
		i     int
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait() // second
	defer cancel()       // first

	results := make(chan result, n) // room for all: a loser never blocks
	errs = make([]error, n)
	next, pending := 0, 0
	start := func() {
		if next == n || ctx.Err() != nil {
			return
		}
		i := next
		next++
		pending++
		running.Go(func() {
			v, err := attempt(ctx, i)
			results <- result{i, v, err}
		})
	}
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	start()
	for pending > 0 {
		select {
		case r := <-results:
			pending--
			if r.err == nil {
				return r.i, r.value, nil
			}
			errs[r.i] = r.err
		case <-timer.C:
		}
		if next < n {
			start()
			timer.Reset(stagger)
		}
	}
	var none T
	return -1, none, errs
}

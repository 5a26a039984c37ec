package agent

import (
	"context"
	"time"
)

// beside is work that goes on beside the loop, so that the join does not wait for
// it one step after the other. It gets copies of all that it reads, and its
// result is taken by the loop alone. A nil one has ended, with nothing.
type beside[T any] struct {
	cancel context.CancelFunc
	done   chan struct{}
	out    T // valid after done
	err    error
}

// startBeside begins work that outlives the act that began it, and ends by itself
// after atMost.
func startBeside[T any](ctx context.Context, atMost time.Duration, do func(context.Context) (T, error)) *beside[T] {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), atMost)
	b := &beside[T]{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		defer cancel()
		b.out, b.err = do(ctx)
	}()
	return b
}

// finished is work that needs not be done: its result is there.
func finished[T any](out T, err error) *beside[T] {
	b := &beside[T]{cancel: func() {}, done: make(chan struct{}), out: out, err: err}
	close(b.done)
	return b
}

// end stops the work and waits for its end.
func (b *beside[T]) end() {
	if b != nil {
		b.cancel()
		<-b.done
	}
}

// ended says whether the work is over.
func (b *beside[T]) ended() bool {
	if b == nil {
		return true
	}
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// await waits for the end of the work; its only error is that of ctx.
func (b *beside[T]) await(ctx context.Context) error {
	if b == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.done:
		return nil
	}
}

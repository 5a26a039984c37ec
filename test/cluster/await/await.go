// Package await holds the one way in which the lab waits for something it
// cannot subscribe to: ask, pause, ask again, and say what was missing when the
// context ends. It never waits longer than its context.
//
//	question --Until--> nil, or "what: the last reason it was not so"
package await

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Until asks every pause until the question returns nil. When ctx ends first
// the error names what was waited for, how long, and the last answer.
// An error made with [Stop] ends the waiting at once.
func Until(ctx context.Context, what string, pause time.Duration, question func(context.Context) error) error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := errors.New("never asked")
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w (last answer: %w)",
				time.Since(began).Round(10*time.Millisecond), what, context.Cause(ctx), last)
		case <-timer.C:
		}
		err := question(ctx)
		if err == nil {
			return nil
		}
		var final *stopError
		if errors.As(err, &final) {
			return fmt.Errorf("waiting for %s: %w", what, final.cause)
		}
		// An answer that was cut off by the end of ctx would hide the real one.
		if ctx.Err() == nil {
			last = err
		}
		timer.Reset(pause)
	}
}

// Stop marks an answer that will not change any more.
func Stop(cause error) error { return &stopError{cause} }

type stopError struct{ cause error }

func (e *stopError) Error() string { return e.cause.Error() }
func (e *stopError) Unwrap() error { return e.cause }

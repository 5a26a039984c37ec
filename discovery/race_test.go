package discovery

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var errDead = errors.New("dead")

// runner is an attempt that takes some time and then wins or fails.
type runner struct {
	takes time.Duration
	fails bool
}

func runRace(ctx context.Context, runners []runner) (winner int, errs []error, started []time.Duration, cancelled []bool) {
	begun := time.Now()
	started, cancelled = make([]time.Duration, len(runners)), make([]bool, len(runners))
	for i := range started {
		started[i] = -1
	}
	winner, _, errs = race(ctx, len(runners), 500*time.Millisecond, func(ctx context.Context, i int) (int, error) {
		started[i] = time.Since(begun)
		select {
		case <-ctx.Done():
			cancelled[i] = true
			return 0, ctx.Err()
		case <-time.After(runners[i].takes):
		}
		if runners[i].fails {
			return 0, errDead
		}
		return i, nil
	})
	return winner, errs, started, cancelled
}

func TestRace(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		runners []runner
		winner  int
		started []time.Duration
		took    time.Duration
	}{
		"one wins alone":                             {[]runner{{10 * ms, false}}, 0, []time.Duration{0}, 10 * ms},
		"a quick first never starts the others":      {[]runner{{499 * ms, false}, {0, false}}, 0, []time.Duration{0, -1}, 499 * ms},
		"one that refuses starts the next at once":   {[]runner{{0, true}, {10 * ms, false}}, 1, []time.Duration{0, 0}, 10 * ms},
		"one that drops starts the next after 500":   {[]runner{{time.Hour, true}, {10 * ms, false}}, 1, []time.Duration{0, 500 * ms}, 510 * ms},
		"refusing, dropping, alive":                  {[]runner{{1 * ms, true}, {time.Hour, true}, {10 * ms, false}}, 2, []time.Duration{0, ms, 501 * ms}, 511 * ms},
		"two drop, the third is alive":               {[]runner{{time.Hour, true}, {time.Hour, true}, {0, false}}, 2, []time.Duration{0, 500 * ms, 1000 * ms}, 1000 * ms},
		"a slow first may still win":                 {[]runner{{600 * ms, false}, {time.Hour, false}}, 0, []time.Duration{0, 500 * ms}, 600 * ms},
		"a failure restarts the wait of 500":         {[]runner{{400 * ms, true}, {time.Hour, true}, {0, false}}, 2, []time.Duration{0, 400 * ms, 900 * ms}, 900 * ms},
		"all fail, one after the other, none waited": {[]runner{{1 * ms, true}, {1 * ms, true}, {1 * ms, true}}, -1, []time.Duration{0, ms, 2 * ms}, 3 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				winner, errs, started, cancelled := runRace(t.Context(), tc.runners)
				if winner != tc.winner || !slices.Equal(started, tc.started) || time.Since(begun) != tc.took {
					t.Errorf("winner %d, started %v, took %s", winner, started, time.Since(begun))
				}
				for i, r := range tc.runners {
					if lost := winner >= 0 && started[i] >= 0 && r.takes == time.Hour; cancelled[i] != lost {
						t.Errorf("runner %d: cancelled %t", i, cancelled[i])
					}
					if winner < 0 && !errors.Is(errs[i], errDead) {
						t.Errorf("runner %d: error %v", i, errs[i])
					}
				}
			})
		})
	}
}

func TestRaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		begun := time.Now()
		winner, errs, started, _ := runRace(ctx, []runner{{time.Hour, false}, {time.Hour, false}, {0, false}})
		if winner >= 0 || time.Since(begun) != 700*time.Millisecond {
			t.Errorf("winner %d after %s", winner, time.Since(begun))
		}
		if errs[0] == nil || errs[1] == nil || errs[2] != nil || started[2] != -1 {
			t.Errorf("errors %v, started %v", errs, started)
		}
	})
}

func TestRaceUnderADeadContextStartsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	winner, errs, started, _ := runRace(ctx, []runner{{0, false}})
	if winner >= 0 || errs[0] != nil || started[0] != -1 {
		t.Errorf("winner %d, errors %v", winner, errs)
	}
}

package agent

import (
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestBackoff(t *testing.T) {
	most := func(d time.Duration) time.Duration { return d }
	start := time.Unix(1000, 0)
	for name, tc := range map[string]struct {
		class      fault.Class
		step       time.Duration // between attempts, beside the pause
		retryAfter time.Duration
		want       []time.Duration
	}{
		"retry doubles to a minute and stays there": {class: fault.Retry,
			want: []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9, 32e9, 60e9, 60e9, 60e9}},
		"slow is eager in the first two minutes": {class: fault.Slow,
			want: []time.Duration{1e9, 2e9, 5e9, 10e9, 20e9, 60e9, 60e9}},
		"slow is not eager when the first two minutes are over": {class: fault.Slow, step: 3 * time.Minute,
			want: []time.Duration{1e9, 60e9, 60e9}},
		"blocked looks again every five minutes": {class: fault.Blocked,
			want: []time.Duration{5 * time.Minute, 5 * time.Minute}},
		"a server's Retry-After is obeyed, and the herd spread behind it": {class: fault.Retry, retryAfter: 40 * time.Second,
			want: []time.Duration{60e9, 60e9, 60e9, 60e9, 60e9, 72e9, 100e9}},
		"a short one, too": {class: fault.Retry, retryAfter: time.Second,
			want: []time.Duration{2e9, 3e9, 5e9}},
		"but not for a day": {class: fault.Retry, retryAfter: 24 * time.Hour,
			want: []time.Duration{15 * time.Minute}},
		"and without spreading where a person is waited for": {class: fault.Slow, retryAfter: 45 * time.Second,
			want: []time.Duration{45e9, 45e9}},
	} {
		t.Run(name, func(t *testing.T) {
			b := backoff{jitter: most, pace: DefaultPace}
			now := start
			for i, want := range tc.want {
				got := b.next(now, tc.class, tc.retryAfter)
				if got != want {
					t.Errorf("attempt %d: %s, want %s", i+1, got, want)
				}
				now = now.Add(got + tc.step)
			}
			b.reset()
			if got := b.next(now, tc.class, 0); got != b2(tc.class) {
				t.Errorf("after a reset: %s", got)
			}
		})
	}
}

func b2(c fault.Class) time.Duration {
	if c == fault.Blocked {
		return DefaultPace.Blocked
	}
	return time.Second
}

func TestBackoffJitterIsBelowTheBound(t *testing.T) {
	var b backoff
	for range 1000 {
		b.attempt = 2
		if got := b.next(time.Unix(0, 0), fault.Retry, 0); got < 0 || got >= 4*time.Second {
			t.Fatalf("%s", got)
		}
	}
}

// F51: 500 machines that were all told to come back after a second do not come
// back together.
func TestTheHerdThatWasThrottledTogetherComesBackSpread(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 500 {
		b := backoff{pace: DefaultPace}
		got := b.next(time.Unix(0, 0), fault.Retry, time.Second)
		if got < time.Second {
			t.Fatalf("%s is less than the server asked for", got)
		}
		least, most = min(least, got), max(most, got)
	}
	if most-least < 900*time.Millisecond {
		t.Errorf("all of them came back between %s and %s", least, most)
	}
}

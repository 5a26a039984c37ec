package screen

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func none(string) string { return "" }

func TestAStepWithoutATerminalIsPlainLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		s := New(&out, none)
		err := s.Together(t.Context(), Task{Name: "a long step", Do: func(ctx context.Context, say func(string)) error {
			say("first\x1b[2Jhalf")
			time.Sleep(20 * time.Second)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := "   a long step: first[2Jhalf\n   ... a long step: 15.0 s\nok a long step  20.0 s\n"
		if out.String() != want {
			t.Errorf("got\n%s", out.String())
		}
	})
}

func TestAFailedStepEndsTheOthersAndIsTheOneReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		s := New(&out, none)
		broken := errors.New("broken")
		var cause error
		err := s.Together(t.Context(),
			Task{Name: "waits", Do: func(ctx context.Context, _ func(string)) error {
				<-ctx.Done()
				cause = context.Cause(ctx)
				return ctx.Err()
			}},
			Task{Name: "breaks", Do: func(context.Context, func(string)) error { return broken }},
		)
		if !errors.Is(err, broken) || !errors.Is(cause, errOther) {
			t.Errorf("err %v, cause %v", err, cause)
		}
		if !strings.Contains(out.String(), "XX breaks") || !strings.Contains(out.String(), "XX waits") {
			t.Errorf("got\n%s", out.String())
		}
	})
}

func TestAnInterruptEndsTheSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := New(&strings.Builder{}, none).Together(ctx, Task{Name: "waits", Do: func(ctx context.Context, _ func(string)) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("err %v", err)
		}
	})
}

func TestOnATerminalNoRowIsWiderThanTheScreen(t *testing.T) {
	var out strings.Builder
	s := New(&out, none)
	s.terminal, s.style.Width, s.style.Unicode = true, 40, true
	err := s.Together(t.Context(), Task{Name: "short", Do: func(_ context.Context, say func(string)) error {
		say(strings.Repeat("long ", 40))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 48 { // with the codes that move the cursor
			t.Errorf("%d runes: %q", n, line)
		}
	}
}

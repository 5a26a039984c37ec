package await

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheFirstGoodAnswerEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := Until(t.Context(), "a bus", time.Second, func(context.Context) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || asked != 3 {
			t.Fatalf("err %v after %d questions", err, asked)
		}
	})
}

func TestTheEndOfTheContextNamesWhatWasMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		missing := errors.New("no bus in sight")
		err := Until(ctx, "a bus", time.Second, func(context.Context) error { return missing })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, missing) || !strings.Contains(err.Error(), "a bus") {
			t.Fatalf("err %v", err)
		}
	})
}

func TestAFinalAnswerIsNotAskedForAgain(t *testing.T) {
	asked := 0
	cause := errors.New("the line is closed")
	err := Until(t.Context(), "a bus", time.Hour, func(context.Context) error { asked++; return Stop(cause) })
	if !errors.Is(err, cause) || asked != 1 {
		t.Fatalf("err %v after %d questions", err, asked)
	}
}

package cluster

import (
	"context"
	"time"
)

// TB is what of testing.TB is needed here, so that the demo does not link the
// testing package.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// startTimeout is generous: the first start on a busy host reads 400 MB.
const startTimeout = 2 * time.Minute

// StartTest starts a control plane for one test, stops it when that ends and
// shows its logs when that failed.
func StartTest(tb TB, opts Options) *Cluster {
	tb.Helper()
	if opts.Log == nil {
		opts.Log = tb.Logf
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	c, err := Start(ctx, opts)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s", c.Logs(20))
		}
		if err := c.Stop(); err != nil {
			tb.Errorf("cannot stop the control plane: %v", err)
		}
	})
	return c
}

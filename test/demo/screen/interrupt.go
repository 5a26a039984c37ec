package screen

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// UntilInterrupted returns a context that ends with the first Ctrl-C (or SIGTERM,
// or a closed terminal). From then on further ones are ignored: by this process,
// and by the tools that it runs to clean up, because it leaves the process group
// that the terminal signals.
func (s *Screen) UntilInterrupted() (ctx context.Context, stop func()) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	told := context.AfterFunc(ctx, func() {
		signal.Ignore(syscall.SIGTTOU) // to write from the background is allowed all the same
		_ = syscall.Setpgid(0, 0)      // the first of a session cannot leave; it has no terminal either
		s.Printf("\nStopping: everything is being removed (some seconds).")
	})
	return ctx, func() {
		told()
		cancel()
	}
}

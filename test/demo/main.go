// The demo shows a machine become a node: first as a rehearsal that needs
// nothing, then, as root on Debian, for real: the real control plane, a fresh
// machine with systemd, the .deb installed in it with apt, Ready.
//
// It says first what it will do to this host and for how long. It never leaves a
// process, mount, namespace, link or address behind, whenever it is interrupted;
// what was costly to make stays in the cache.
//
//	go run ./test/demo: announce -> rehearsal -> control plane + machine -> join -> clean up
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
	"github.com/bootstrap-agent/bootstrap-agent/test/rehearsal/play"
)

// interrupted is the exit code that shells expect after Ctrl-C.
const interrupted = 130

func main() {
	s := screen.New(os.Stdout, os.Getenv)
	ctx, stop := s.UntilInterrupted()
	defer stop()
	err := run(ctx, s)
	switch {
	case ctx.Err() != nil:
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, err) // what could not be cleaned up
		}
		s.Printf("\nStopped, and cleaned up.")
		os.Exit(interrupted)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s *screen.Screen) error {
	began := time.Now()
	announceRehearsal(s)
	if reasons := machine.Missing(false); len(reasons) > 0 {
		if err := play.Show(ctx, s); err != nil {
			return err
		}
		s.Printf("\nThe real thing is left out here: %s.", strings.Join(reasons, "; "))
		return nil
	}
	plan, err := newPlan(ctx)
	if err != nil {
		return err
	}
	plan.announce(s)
	if err := play.Show(ctx, s); err != nil {
		return err
	}
	if err := joinForReal(ctx, s, plan); err != nil {
		return err
	}
	s.Printf("\nThe whole demo took %s.", time.Since(began).Round(time.Second))
	return nil
}

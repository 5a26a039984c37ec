package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// pollEvery is how often wait looks where nothing can tell it: the agent does
// not run, or its folder cannot be watched.
const pollEvery = 2 * time.Second

func (a *app) waitCommand() *cobra.Command {
	var (
		target  string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until this machine is a node",
		Long: `Wait until this machine is a node (joined), or until its Node is Ready in the
cluster (ready). It changes nothing and needs no root.

Exit code 0 when it is so, 75 when the time is up.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("for", target, "joined", "ready"); err != nil {
				return err
			}
			if timeout < 0 {
				return usage("--timeout: must not be negative")
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return a.wait(ctx, a.loader(cmd.Flags()), target)
		},
	}
	cmd.Flags().StringVar(&target, "for", "joined", "joined or ready")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time (0: never)")
	return cmd
}

// wait returns when the status says so. It looks again when status.json
// changes.
func (a *app) wait(ctx context.Context, l *loader, target string) error {
	changes := a.watchRun()
	if changes != nil {
		defer func() { _ = changes.Close() }()
	}
	told := ""
	for {
		s, running, err := a.currentStatus(ctx, l)
		if err != nil {
			return err
		}
		if reached(s, target) {
			return a.print(fmt.Sprintf("%s is %s\n", s.Node.Name, target))
		}
		line := view.OneLine(s)
		if target == "ready" && s.Phase == agent.Joined {
			line = notReady(s)
		}
		if !running {
			line += " (the agent is not running)"
		}
		if line != told {
			a.say("%s", line)
			told = line
		}
		if a.nextChange(ctx, changes, running) {
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.say("bootstrap-agent: not %s in time: %s", target, line)
			if s.Hint != "" {
				a.say("  -> %s", s.Hint)
			}
			return &exitError{fault.ExitTemporary}
		}
		return fmt.Errorf("cannot wait: %w", ctx.Err())
	}
}

func reached(s agent.Status, target string) bool {
	if target == "ready" {
		return s.Phase == agent.Joined && s.Node.Ready != nil && *s.Node.Ready
	}
	return s.Phase == agent.Joined
}

// notReady is the Node's own word on why.
func notReady(s agent.Status) string {
	if s.Node.Message != "" {
		return "Joined, not Ready: " + view.Clean(s.Node.Message)
	}
	return "Joined, whether Ready is not known yet"
}

// watchRun watches the folder of status.json; nil if that is not possible.
func (a *app) watchRun() *fsnotify.Watcher {
	if _, err := os.Stat(a.paths.Run); err != nil {
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	if err := w.Add(a.paths.Run); err != nil {
		_ = w.Close()
		return nil
	}
	return w
}

// nextChange blocks until there is something new to see; false when ctx ended.
// While the agent does not run nobody writes, so it looks by the clock, too.
func (a *app) nextChange(ctx context.Context, changes *fsnotify.Watcher, running bool) bool {
	every := 30 * time.Second // a change that inotify lost
	if changes == nil || !running {
		every = pollEvery
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	var events chan fsnotify.Event
	var errs chan error
	if changes != nil {
		events, errs = changes.Events, changes.Errors
	}
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case err := <-errs:
		a.say("note: cannot follow %s closely: %s", a.paths.StatusFile(), err)
	case <-events:
	}
	return true
}

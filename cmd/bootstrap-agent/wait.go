package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
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
cluster (ready); until then the Node's own word on why it is not is told as it
changes. It changes nothing and needs no root, as long as the agent runs: what
the agent knows of a node at rest is up to 22 minutes old, and root may ask the
API itself (with the node's certificate), which this command then does.

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
// changes, and asks the API itself where the status cannot know.
func (a *app) wait(ctx context.Context, l *loader, target string) error {
	changes := a.watchRun()
	if changes != nil {
		defer func() { _ = changes.Close() }()
	}
	told := ""
	question := nodeQuestion{app: a, loader: l}
	for {
		s, running, err := a.currentStatus(ctx, l)
		if errors.Is(err, fs.ErrPermission) {
			return err // that does not change
		}
		if err != nil && ctx.Err() == nil {
			// A bus that is not there yet, say: a unit that waits must not fail for it.
			if line := view.Clean(err.Error()); line != told {
				a.say("%s", line)
				told = line
			}
			if a.nextChange(ctx, changes, false, pollEvery) {
				continue
			}
		}
		if target == "ready" {
			err = question.refresh(ctx, &s, running)
		}
		if reached(s, target) {
			return a.print(fmt.Sprintf("%s is %s\n", s.Node.Name, target))
		}
		line, hint := view.OneLine(s), s.Hint
		if hint == "" && len(s.Notes) > 0 {
			hint = s.Notes[0].Hint
		}
		if target == "ready" && s.Phase == agent.Joined {
			line, hint = notReady(s, err)
		}
		if !running {
			line += " (the agent is not running)"
		}
		if line != told {
			a.say("%s", line)
			told = line
		}
		every := 30 * time.Second // a change that inotify lost
		if target == "ready" {
			every = askEvery
		}
		if a.nextChange(ctx, changes, running, every) {
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.say("bootstrap-agent: not %s in time: %s", target, line)
			if hint != "" {
				a.say("  -> %s", hint)
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

// notReady is the Node's own word on why, and what a person does about it.
func notReady(s agent.Status, asking error) (line, hint string) {
	remedy := func(r fault.Reason) string { row, _ := fault.Lookup(r); return row.Remedy }
	deleted := slices.ContainsFunc(s.Notes, func(n agent.Note) bool { return n.Reason == fault.NodeDeleted })
	switch {
	case !s.Node.Seen && (deleted || s.Node.Asked != nil):
		return "Joined, but the Node object is gone from the API", remedy(fault.NodeDeleted)
	case s.Node.Ready != nil && s.Node.Message != "":
		return "Joined, not Ready: " + view.Clean(s.Node.Message), remedy(fault.NodeNotReady)
	case s.Node.Ready != nil:
		return "Joined, not Ready, and the Node does not say why", remedy(fault.NodeNotReady)
	case asking != nil:
		return "Joined, whether Ready cannot be asked: " + view.Cause(asking), fault.HintOf(asking)
	}
	return "Joined, whether Ready is not known yet", ""
}

// askEvery is the pause between two questions to the API, and how old the
// agent's own answer may be without one.
const askEvery = 10 * time.Second

// nodeQuestion asks the API about the Node where the status is no use: the agent
// does not run, or what it knows is old.
type nodeQuestion struct {
	app    *app
	loader *loader
	asked  time.Time
	answer agent.NodeStatus
	err    error
}

// refresh puts what the API says into s, if it has to be asked and may be: only
// root may read the node's certificate. Otherwise s stays as it is.
func (q *nodeQuestion) refresh(ctx context.Context, s *agent.Status, running bool) error {
	fresh := s.Node.Asked != nil && time.Since(*s.Node.Asked) < askEvery
	if s.Phase != agent.Joined || running && (fresh || s.Node.Asked == nil) {
		return nil
	}
	if q.asked.IsZero() || time.Since(q.asked) >= askEvery {
		q.answer, q.err = q.app.askNode(ctx, q.loader)
		q.asked = time.Now()
	}
	switch {
	case q.err == nil:
		s.Node = q.answer
	case running:
		return nil // what the agent knows is better than nothing
	}
	return q.err
}

// askNode asks with the node's own pair, as the config says how to get there.
func (a *app) askNode(ctx context.Context, l *loader) (agent.NodeStatus, error) {
	cfg := agent.Config{Paths: a.paths}
	if good, err := l.load(); err == nil {
		cfg = good.agent
	}
	cfg.NodeName = "node" // that of the join counts
	w := a.wire(cfg, silence())
	defer w.close()
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	return agent.AskNode(ctx, cfg, w.deps)
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
func (a *app) nextChange(ctx context.Context, changes *fsnotify.Watcher, running bool, every time.Duration) bool {
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

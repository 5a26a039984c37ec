package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func (a *app) joinCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Join the cluster once, in the foreground, with live progress",
		Long: `Join the cluster once, in the foreground: the same steps as ` + "`run`" + `, until the
machine is a node. It ends at the first fault that needs a person, or when the
time is up, with the exit code of the last reason.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usage("--timeout: must be more than zero")
			}
			return a.join(cmd.Context(), a.loader(cmd.Flags()), timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this time")
	addKeyFlags(cmd.Flags())
	return cmd
}

func (a *app) join(ctx context.Context, l *loader, timeout time.Duration) error {
	if err := a.mustBeRoot(); err != nil {
		return err
	}
	good, err := l.load()
	if err != nil {
		return err
	}
	for _, w := range good.warnings {
		a.say("warning: %s", w)
	}
	log := silence() // the progress tells; log lines would tear it apart
	if good.settings.get("log.level").at.from != fromDefault {
		log = a.newLogger(good.settings)
	}
	cfg := good.agent
	cfg.AfterJoin = agent.AfterJoinExit
	w := a.wire(cfg, log)
	defer w.close()
	live, stopLive := a.progress()
	w.deps.OnStatus = func(s agent.Status) { live.Update(s, time.Now()) }
	w.deps.StopWhenBlocked = true
	one, err := agent.New(cfg, w.deps)
	if err != nil {
		stopLive(false)
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	err = one.Run(limited)
	cancel()
	_, summary := terminal(a.stdout)
	stopLive(summary && err == nil)
	return a.joinEnded(ctx, live.Status(), err)
}

// joinEnded prints the summary of a join that succeeded, or says how it ended.
func (a *app) joinEnded(ctx context.Context, s agent.Status, err error) error {
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("stopped in phase %s: %w", s.Phase, ctx.Err())
	case s.Phase != agent.Joined:
		return fault.New(fault.EndpointUnreachable, "ended in phase %s", s.Phase)
	}
	server := ""
	if s.Cluster != nil {
		server = " of " + view.Clean(s.Cluster.Server)
	}
	st := a.style(a.stdout)
	return a.print(fmt.Sprintf("%s is a node%s\n\n%s", s.Node.Name, server, view.Timeline(s.Timeline, st)))
}

// progress draws a join on stderr while it runs.
func (a *app) progress() (live *view.Live, stop func(clear bool)) {
	_, tty := terminal(a.stderr)
	live = &view.Live{
		Write:    func(text string) { _, _ = fmt.Fprint(a.stderr, text) },
		Style:    a.style(a.stderr),
		Terminal: tty && a.getenv("TERM") != "dumb",
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(120 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				live.Tick(time.Now())
			}
		}
	}()
	return live, func(clear bool) {
		cancel()
		<-done
		live.Done(time.Now(), clear)
	}
}

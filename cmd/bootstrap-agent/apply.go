package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/redact"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
)

// How long the agent may take to look, and to write and restart the kubelet.
const (
	lookAtMost  = 2 * time.Minute
	applyAtMost = 8 * time.Minute
)

// applying is what a person wants of `apply`.
type applying struct{ dryRun, yes, sameMachine bool }

func (a *app) applyCommand() *cobra.Command {
	var want applying
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Bring a node's drifted files to what is wanted, after showing the difference",
		Long: `Bring the files of a joined node to what its config, the trust record and the
cluster's kubelet-config of now ask for: kubeconfig, CA, the kubelet's config and
environment file, kubelet.service and its drop-in. The difference is shown first,
without secrets. A file that a person edited is overwritten by nothing else (but
repair: true); what stood there is kept in /var/lib/bootstrap-agent/replaced. If
anything changed the kubelet is restarted once; one that a person has stopped,
disabled or masked is not started.

  bootstrap-agent apply --dry-run         (only look)
  bootstrap-agent apply                   (look, answer, write)

The agent that runs does it, with the config that it uses; where none runs, the
command does it by itself. Containers go on running.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.apply(cmd.Context(), a.loader(cmd.Flags()), want)
		},
	}
	cmd.Flags().BoolVar(&want.dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().BoolVarP(&want.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&want.sameMachine, "same-machine", false, "this is the machine that joined, with another mainboard or machine ID: take those into the record, and change nothing else")
	return cmd
}

func (a *app) apply(ctx context.Context, l *loader, want applying) error {
	if err := a.mustBeRoot(); err != nil {
		return err
	}
	if _, asks := terminal(a.stdin); !asks && !want.yes && !want.dryRun {
		return usage("without a terminal nobody can be asked: apply needs --yes, or --dry-run")
	}
	var w *wiring
	defer func() {
		if w != nil {
			w.close()
		}
	}()
	own := func() (*agent.Agent, error) {
		good, err := l.load()
		if err != nil {
			return nil, err
		}
		if w == nil {
			w = a.wire(good.agent, silence())
		}
		return agent.New(good.agent, w.deps)
	}
	order := agent.Order{SameMachine: want.sameMachine}
	answer, err := a.order(ctx, lookAtMost, order, own)
	if err != nil {
		return err
	}
	if err := a.showChanges(answer); err != nil {
		return err
	}
	if len(answer.Changes)+len(answer.Left) == 0 && answer.Machine == "" {
		a.say("nothing to apply: all is as it is wanted")
		return nil
	}
	if want.dryRun {
		return nil
	}
	if !want.yes {
		if yes, err := a.confirm(ctx, question(answer)); err != nil || !yes {
			return errors.Join(err, errors.New("nothing was changed"))
		}
	}
	answer, err = a.order(ctx, applyAtMost, answer.Agree(order), own)
	if err != nil {
		return err
	}
	a.sayApplied(answer)
	return nil
}

func (a *app) order(ctx context.Context, atMost time.Duration, order agent.Order, own func() (*agent.Agent, error)) (*agent.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	return agent.Apply(ctx, a.paths, order, own)
}

// showChanges prints the difference to stdout, and what follows from it to stderr.
func (a *app) showChanges(answer *agent.Answer) error {
	var hide redact.Redactor
	var out strings.Builder
	for _, c := range answer.Changes {
		out.WriteString(hide.Text(c.Diff))
		if c.Mode != "" {
			fmt.Fprintf(&out, "%s: mode %s\n", c.Path, c.Mode)
		}
	}
	if answer.Machine != "" {
		out.WriteString(view.Clean(answer.Machine) + "\n")
	}
	if err := a.print(out.String()); err != nil {
		return err
	}
	for _, c := range answer.Changes {
		if c.Edited {
			a.say("edited since the agent wrote it: %s", c.Path)
		}
	}
	for _, note := range append(answer.Notes, answer.Kubelet) {
		if note != "" {
			a.say("%s", view.Clean(hide.Text(note)))
		}
	}
	return nil
}

func question(answer *agent.Answer) string {
	switch {
	case answer.Machine != "":
		return "Is this the machine that joined? [y/N] "
	case answer.Restart:
		return "Write this, and restart the kubelet? [y/N] "
	}
	return "Write this? [y/N] "
}

func (a *app) sayApplied(answer *agent.Answer) {
	for _, c := range answer.Changes {
		kept := ""
		if c.Kept != "" {
			kept = ", what it was is kept: " + c.Kept
		}
		a.say("wrote %s%s", c.Path, kept)
	}
	if answer.Machine != "" {
		a.say("the trust record is of this machine now")
	}
	if answer.Restart {
		a.say("kubelet restarted")
	}
	for _, note := range append(answer.Notes, answer.Kubelet) {
		if note != "" {
			a.say("%s", view.Clean(note))
		}
	}
}

// confirm asks on the terminal. All but a yes is a no.
func (a *app) confirm(ctx context.Context, question string) (bool, error) {
	_, _ = fmt.Fprint(a.stderr, question)
	answers := make(chan string, 1)
	go func() { // a read of a terminal cannot be interrupted; after Ctrl-C it is left alone
		line := make([]byte, 80)
		n, _ := a.stdin.Read(line)
		answers <- string(line[:n])
	}()
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("cannot read the terminal: %w", ctx.Err())
	case line := <-answers:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
)

func (a *app) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far this machine is on its way to being a node",
		Long: `Show phase, reason and next step, node, server, certificate, kubelet, and the
timeline of the steps. It works also when the agent does not run, and says so.
Exit code 0 whenever there is a status to show; ` + "`wait`" + ` waits for a phase.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
				return err
			}
			return a.status(cmd.Context(), a.loader(cmd.Flags()), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return cmd
}

// statusDocument is status.json with the one thing a reader cannot see in it.
type statusDocument struct {
	agent.Status
	Running bool `json:"running"` // the agent is at work; false: observed by the command
}

func (a *app) status(ctx context.Context, l *loader, output string) error {
	s, running, err := a.currentStatus(ctx, l)
	if err != nil {
		return err
	}
	switch output {
	case "json":
		return a.printJSON(statusDocument{s, running})
	case "yaml":
		data, err := yaml.Marshal(statusDocument{s, running})
		if err != nil {
			return fmt.Errorf("cannot encode: %w", err)
		}
		return a.print(string(data))
	}
	return a.print(view.Status(s, running, a.style(a.stdout)))
}

// currentStatus is what the agent published, or, when it does not run, what is
// seen now.
func (a *app) currentStatus(ctx context.Context, l *loader) (agent.Status, bool, error) {
	s, running, err := agent.ReadStatus(a.paths)
	if err == nil && (running || a.seemsRunning(s)) {
		return s, true, nil
	}
	if running && errors.Is(err, fs.ErrNotExist) {
		return agent.Status{Phase: agent.Discovering, Message: "the agent is starting", Time: time.Now()}, true, nil
	}
	s, surveyErr := a.survey(ctx, l)
	if surveyErr != nil {
		return agent.Status{}, running, surveyErr
	}
	return s, running, nil
}

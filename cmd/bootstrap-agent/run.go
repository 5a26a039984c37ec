package main

import (
	"context"
	"errors"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

func (a *app) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Join the cluster and stay: the daemon (what the unit starts)",
		Long: `Join the cluster and stay. This is what bootstrap-agent.service runs.

A changed config or token file and SIGHUP are taken in at once; a config that
has become bad leaves the last good one in use. SIGTERM ends it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.daemon(cmd.Context(), a.loader(cmd.Flags()))
		},
	}
	addKeyFlags(cmd.Flags())
	return cmd
}

// daemon runs the agent until ctx ends.
func (a *app) daemon(ctx context.Context, l *loader) error {
	if err := a.mustBeRoot(); err != nil {
		return err
	}
	good, err := a.loadSettled(ctx, l)
	var cfg agent.Config
	var log *logrus.Logger
	switch {
	case err == nil:
		cfg = good.agent
		log = a.newLogger(good.settings)
		for _, w := range good.warnings {
			log.Warn(w)
		}
	default:
		// A machine that is a node already stays watched: a bad line in a file
		// is no reason to look away. One that is none has nothing to run for.
		name, joined := a.joinedName()
		if !joined {
			return err
		}
		log = a.newLogger(defaults())
		cfg = agent.Config{NodeName: name, AfterJoin: agent.AfterJoinObserve, Paths: a.paths}
	}
	w := a.wire(cfg, log)
	defer w.close()
	one, newErr := agent.New(cfg, w.deps)
	if newErr != nil {
		return newErr
	}
	if err != nil {
		one.Reload(agent.Config{}, err)
	}
	stop := a.reloadOnChange(ctx, l, log, func(cfg agent.Config, err error) {
		if err == nil {
			w.use(cfg)
		}
		one.Reload(cfg, err)
	})
	defer stop()
	return one.Run(ctx)
}

// mustBeRoot says at once what would otherwise come as a fault of some file.
// Scratch folders need no root.
func (a *app) mustBeRoot() error {
	if a.uid != 0 && a.paths == agent.DefaultPaths() {
		return errors.New("only root can make this machine a node; without root there are status, wait, explain, and check --cluster")
	}
	return nil
}

// defaults are the settings of no file, no variable and no flag.
func defaults() settings {
	var out settings
	for _, k := range keys() {
		out = append(out, setting{key: k, value: k.def})
	}
	return out
}

// joinedName says whether this machine is a node already, from its files.
func (a *app) joinedName() (string, bool) {
	name, joined, err := agent.IsJoined(a.paths, "", func(name string) (bool, error) {
		files := kubelet.Files{Layout: kubelet.Layout{Dir: a.paths.Kubelet}}
		seen, err := files.Observe(name)
		if err != nil {
			return false, err
		}
		return seen.Pair.Status == kubelet.PairUsable, nil
	})
	return name, joined && err == nil
}

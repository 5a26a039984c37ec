package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
)

// survey observes without a running agent: files and unit, no network.
func (a *app) survey(ctx context.Context, l *loader) (agent.Status, error) {
	cfg := agent.Config{Paths: a.paths}
	var badConfig error
	good, err := l.load()
	if err == nil {
		cfg = good.agent
	} else {
		badConfig = err
		if cfg.NodeName, _ = a.joinedName(); cfg.NodeName == "" {
			cfg.NodeName, _ = a.hostName()
		}
	}
	w := a.wire(cfg, silence())
	defer w.close()
	s, err := agent.Survey(ctx, cfg, w.deps)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return s, fmt.Errorf("the agent is not running, and only root may look at its files: %w", err)
	case err != nil:
		return s, fmt.Errorf("the agent is not running, and the machine cannot be looked at: %w", err)
	}
	if badConfig != nil && s.Message == "" && s.Phase != agent.Joined {
		s.Message = "the config is missing or bad: see bootstrap-agent check --config"
	}
	return s, nil
}

// seemsRunning says for somebody who may not look at the lock whether the
// process that wrote the status is still there, in this boot.
func (a *app) seemsRunning(s agent.Status) bool {
	if a.uid == 0 || s.PID <= 0 || s.BootID != agent.ReadMachine("/", a.getenv("SYSTEMD_BOOT_ID")).BootID {
		return false
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/comm")
	return err == nil && strings.TrimSpace(string(name)) == "bootstrap-agent"
}

package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// discoveryFile judges the path and, where the file is there, what it says: a
// bad one is a bad config. One that is missing, or the CA file that it names, may
// come a moment later (whoever sets up the machine writes files in some order),
// so the agent waits for it; `check --config` tells.
func (j *judge) discoveryFile(s setting) {
	path, _ := s.value.(string)
	if path == "" {
		return
	}
	before := len(j.problems)
	if j.checkPath(s, path); len(j.problems) > before {
		return
	}
	if path == (kubelet.Layout{Dir: j.app.paths.Kubelet}).Kubeconfig() {
		j.fault(s, "is the kubeconfig that the agent writes for the kubelet; give the file another name")
		return
	}
	file := &agent.DiscoveryFile{Path: path, PathFault: j.app.pathFault}
	j.cfg.Discovery = file
	_, err := file.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		j.absent = append(j.absent, problem{s.at, s.key.name, err.Error()})
	case err != nil:
		j.fault(s, "%s", err)
		j.hint = fault.HintOf(err)
	}
}

// parserFor returns how a token is read: as a bootstrap token, or, where a
// discovery file makes a signature needless, as any bearer.
func (a *app) parserFor(s settings) func(string) (discovery.Token, error) {
	if s.text("discoveryFile") != "" {
		return discovery.ParseBearer
	}
	return discovery.ParseToken
}

// followed are the files whose change is taken in at once, beside the config.
func followed(s settings) []string {
	paths := []string{s.text("tokenFile")}
	file := agent.DiscoveryFile{Path: s.text("discoveryFile")}
	if !filepath.IsAbs(file.Path) {
		return paths
	}
	paths = append(paths, file.Path)
	if real, err := filepath.EvalSymlinks(file.Path); err == nil && real != file.Path {
		paths = append(paths, real)
	}
	content, err := file.Read()
	var missing *fs.PathError
	switch {
	case err == nil && content.CAFile() != "":
		paths = append(paths, content.CAFile())
	case errors.As(err, &missing): // most often the CA file, which comes later
		paths = append(paths, missing.Path)
	}
	return paths
}

// leftovers are warnings about tokens that a joined machine does not need.
func (a *app) leftovers(cfg agent.Config) []string {
	if _, joined := a.joinedName(); !joined {
		return nil
	}
	var out []string
	for _, left := range agent.Leftovers(a.paths, cfg.Discovery) {
		out = append(out, left.Path+" still holds a token, which a joined node does not need: "+left.Remedy)
	}
	return out
}

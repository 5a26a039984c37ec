// Package standin is a machine for the agent to join that is no machine: a
// scratch folder, a systemd and a kubelet that are doubles in this process, and
// the agent's own rooms (discovery, certificate request, kubelet files, the
// rendering of units, the loop) as they are shipped.
//
// It decides nothing about the cluster: that may be the double in
// internal/testapi (the rehearsal) or a real one (the herd). It never runs
// anything, and writes nothing outside its folder.
//
//	Options --New--> Machine{Config, Deps, Units} -> agent.New
package standin

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// Options of one stand-in.
type Options struct {
	Folder   string // must exist; the caller removes it
	NodeName string
	Endpoint string // host:port of the API server
	Token    string // id.secret
	Pin      string // sha256:...
	Who      agent.Machine
	// OnStart is the kubelet: called when it is started, with its command line.
	OnStart func(argv []string) error
}

// Machine is what agent.New wants. Its fields may be changed before that.
type Machine struct {
	Config agent.Config
	Deps   agent.Deps
	Units  *testsystemd.Manager
}

// New makes the folders of a machine below Folder.
func New(o Options) (*Machine, error) {
	paths := agent.Paths{
		State: filepath.Join(o.Folder, "var/lib/bootstrap-agent"), Run: filepath.Join(o.Folder, "run/bootstrap-agent"),
		Kubelet: filepath.Join(o.Folder, "var/lib/kubelet"), Units: filepath.Join(o.Folder, "etc/systemd/system"),
		Etc: filepath.Join(o.Folder, "etc"),
	}
	binary := filepath.Join(o.Folder, "usr/bin/kubelet")
	for _, dir := range []string{paths.Units, filepath.Dir(binary)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o700); err != nil { // it is looked for, and never run
		return nil, err
	}
	endpoint, err := discovery.ParseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	token, err := discovery.ParseToken(o.Token)
	if err != nil {
		return nil, err
	}
	pins, err := discovery.ParsePins([]string{o.Pin})
	if err != nil {
		return nil, err
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	units := &testsystemd.Manager{Monotonic: agent.Monotonic, OnStart: o.OnStart}
	return &Machine{
		Config: agent.Config{
			Endpoints: []discovery.Endpoint{endpoint}, Tokens: []agent.TokenSource{agent.TokenInline(token)}, Pins: pins,
			NodeName: o.NodeName, AfterJoin: agent.AfterJoinExit, Paths: paths,
			Kubelet: agent.KubeletConfig{RuntimeEndpoint: "unix:///run/containerd/containerd.sock"},
		},
		Deps: agent.Deps{
			Discoverer: &discovery.Discoverer{Log: log},
			Connect: func(id agent.Identity) (agent.API, error) {
				return apiclient.New(ClientOptions(id))
			},
			Units: units, Notify: nobody{}, Clock: agent.SystemClock{}, Log: log, Version: "stand-in", Machine: o.Who,
			Health: func(ctx context.Context, _ string) error { return ctx.Err() }, // well, always
			Host: agent.Host{
				Host: kubelet.Host{Root: o.Folder}, Binaries: []string{binary}, Runtimes: kubelet.Runtimes(),
				AskRuntime: func(ctx context.Context, _ string) (kubelet.Answer, error) { return kubelet.Answer{}, ctx.Err() }, // there, always
				RunKubelet: func(ctx context.Context, _ string, _ ...string) ([]byte, error) {
					return []byte("Kubernetes v1.36.3\n"), ctx.Err()
				},
			},
		},
		Units: units,
	}, nil
}

// ClientOptions are those of the client that the shipped agent makes of an identity.
func ClientOptions(id agent.Identity) apiclient.Options {
	return apiclient.Options{Server: id.Server, CA: id.CA, Bearer: id.Bearer, CertPEM: id.Pair, KeyPEM: id.Pair}
}

// nobody is told by sd_notify here.
type nobody struct{}

func (nobody) Ready() error            { return nil }
func (nobody) Reloading() error        { return nil }
func (nobody) Stopping() error         { return nil }
func (nobody) Status(string) error     { return nil }
func (nobody) Watchdog() error         { return nil }
func (nobody) Interval() time.Duration { return 0 }

// Package play lets the agent join without a cluster, without systemd and
// without root: the agent's own rooms (discovery, certificate request, kubelet
// files, unit rendering, the loop) work for real, over TLS, on files in a scratch
// folder; the cluster and systemd are doubles in this process.
//
// What it shows is never a claim about real clusters or machines: those are
// joined by `make demo` as root, and by test/e2e. It writes nothing outside its
// folder and leaves nothing of that.
//
//	Options --Join--> Result{Status, Files, Requests}; Show prints both
package play

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// NodeName is the name under which the rehearsal joins.
const NodeName = "rehearsal-1"

// Options of one rehearsal.
type Options struct {
	// Approval is how long the cluster takes to approve the request; zero: at once.
	Approval time.Duration
	// Scene is called when the API server and the folder are there, before the
	// agent starts.
	Scene func(api *testapi.Server, folder string)
	// OnStatus gets each status of the agent.
	OnStatus func(agent.Status)
}

// Result is how it ended.
type Result struct {
	Status     agent.Status
	Files      []File
	Requests   []testapi.Request
	Handshakes int64
	Calls      []string // what systemd was asked to do
}

// Join joins once. Its folder is gone when it returns.
func Join(ctx context.Context, o Options) (result Result, err error) {
	folder, err := os.MkdirTemp("", "bootstrap-agent-rehearsal-")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	api, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		return result, err
	}
	defer api.Close()
	if o.Scene != nil {
		o.Scene(api, folder)
	}
	machine, err := newMachine(api, folder)
	if err != nil {
		return result, err
	}
	machine.deps.OnStatus = func(s agent.Status) {
		result.Status = s
		if o.OnStatus != nil {
			o.OnStatus(s)
		}
	}
	one, err := agent.New(machine.cfg, machine.deps)
	if err != nil {
		return result, err
	}

	ctx, cancel := context.WithTimeout(ctx, time.Minute) // it takes a second
	defer cancel()
	approved := make(chan struct{})
	if o.Approval > 0 {
		api.AutoApprove(false)
		go func() {
			defer close(approved)
			approveLater(ctx, api, o.Approval)
		}()
	} else {
		close(approved)
	}
	err = one.Run(ctx)
	if err == nil && result.Status.Phase != agent.Joined {
		err = fmt.Errorf("the rehearsal ended in phase %s: %w", result.Status.Phase, context.Cause(ctx))
	}
	cancel()
	<-approved
	if err != nil {
		return result, err
	}
	result.Requests, result.Handshakes, result.Calls = api.Requests(), api.Handshakes(), machine.units.Calls()
	result.Files, err = list(folder)
	return result, err
}

// approveLater is the person, or the controller, that approves.
func approveLater(ctx context.Context, api *testapi.Server, delay time.Duration) {
	name, err := api.AwaitCSR(ctx)
	if err != nil {
		return // the end of ctx; whoever waits for the join says so
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		api.Approve(name)
	}
}

// machine is a folder that stands for a machine.
type machine struct {
	cfg   agent.Config
	deps  agent.Deps
	units *testsystemd.Manager
}

func newMachine(api *testapi.Server, folder string) (*machine, error) {
	paths := agent.Paths{
		State: filepath.Join(folder, "var/lib/bootstrap-agent"), Run: filepath.Join(folder, "run/bootstrap-agent"),
		Kubelet: filepath.Join(folder, "var/lib/kubelet"), Units: filepath.Join(folder, "etc/systemd/system"),
		Etc: filepath.Join(folder, "etc"),
	}
	binary := filepath.Join(folder, "usr/bin/kubelet")
	for _, dir := range []string{paths.Units, filepath.Dir(binary)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o700); err != nil { // it is looked for, and never run
		return nil, err
	}
	endpoint, err := discovery.ParseEndpoint(api.Host())
	if err != nil {
		return nil, err
	}
	token, err := discovery.ParseToken(api.Token())
	if err != nil {
		return nil, err
	}
	pins, err := discovery.ParsePins([]string{api.Pin()})
	if err != nil {
		return nil, err
	}
	who := agent.ReadMachine("/", "")
	log := logrus.New()
	log.SetOutput(io.Discard)
	units := &testsystemd.Manager{Monotonic: agent.Monotonic, OnStart: func([]string) error {
		api.RegisterNode(NodeName, corev1.NodeSystemInfo{BootID: who.BootID}) // what a kubelet does first
		return nil
	}}
	return &machine{
		cfg: agent.Config{
			Endpoints: []discovery.Endpoint{endpoint}, Tokens: []agent.TokenSource{agent.TokenInline(token)}, Pins: pins,
			NodeName: NodeName, AfterJoin: agent.AfterJoinExit, Paths: paths,
			Kubelet: agent.KubeletConfig{RuntimeEndpoint: "unix:///run/containerd/containerd.sock"},
		},
		deps: agent.Deps{
			Discoverer: &discovery.Discoverer{Log: log},
			Connect: func(id agent.Identity) (agent.API, error) {
				return apiclient.New(apiclient.Options{Server: id.Server, CA: id.CA, Bearer: id.Bearer, CertPEM: id.Pair, KeyPEM: id.Pair})
			},
			Units: units, Notify: nobody{}, Clock: agent.SystemClock{}, Log: log, Version: "rehearsal", Machine: who,
			Health: func(ctx context.Context, _ string) error { return ctx.Err() }, // well, always
			Host: agent.Host{
				Host: kubelet.Host{Root: folder}, Binaries: []string{binary}, Runtimes: kubelet.Runtimes(),
				AskRuntime: func(ctx context.Context, _ string) (kubelet.Answer, error) { return kubelet.Answer{}, ctx.Err() }, // there, always
			},
			StopWhenBlocked: true,
		},
		units: units,
	}, nil
}

// nobody is told by sd_notify here.
type nobody struct{}

func (nobody) Ready() error            { return nil }
func (nobody) Reloading() error        { return nil }
func (nobody) Stopping() error         { return nil }
func (nobody) Status(string) error     { return nil }
func (nobody) Watchdog() error         { return nil }
func (nobody) Interval() time.Duration { return 0 }

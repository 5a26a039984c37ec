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
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/test/standin"
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
	machine.Deps.OnStatus = func(s agent.Status) {
		result.Status = s
		if o.OnStatus != nil {
			o.OnStatus(s)
		}
	}
	one, err := agent.New(machine.Config, machine.Deps)
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
	result.Requests, result.Handshakes, result.Calls = api.Requests(), api.Handshakes(), machine.Units.Calls()
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

func newMachine(api *testapi.Server, folder string) (*standin.Machine, error) {
	who := agent.ReadMachine("/", "")
	m, err := standin.New(standin.Options{
		Folder: folder, NodeName: NodeName, Endpoint: api.Host(), Token: api.Token(), Pin: api.Pin(), Who: who,
		OnStart: func([]string) error {
			api.RegisterNode(NodeName, corev1.NodeSystemInfo{BootID: who.BootID}) // what a kubelet does first
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	m.Deps.StopWhenBlocked, m.Deps.Version = true, "rehearsal"
	return m, nil
}

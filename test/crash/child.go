package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// childEnv marks a process that is to be the agent. It holds no more than that:
// what the agent needs comes by stdin, its token by a file.
const childEnv = "BOOTSTRAP_AGENT_CRASH_CHILD"

// Spec is what an agent of a Machine has to know.
type Spec struct {
	Paths     agent.Paths
	Root      string // what is / to everything that looks at the machine
	Endpoint  string
	Pin       string
	TokenFile string
	NodeName  string
	BootID    string
	Kubelet   string // what lies where a kubelet's binary is looked for
	Socket    string // of the Machine's systemd
}

// quick shortens what waits for a minute to be over. What waits for a person or
// for another machine keeps its length: nothing here comes to it.
var quick = agent.Pace{VanishGrace: 200 * time.Millisecond, UnauthorizedGap: 300 * time.Millisecond}

// quickest is the longest pause between two attempts.
const quickest = 50 * time.Millisecond

// Child makes this process the agent when a Machine has started it, and returns
// its exit code; ok is false in any other process. TestMain asks it first.
func Child() (code int, ok bool) {
	if os.Getenv(childEnv) == "" {
		return 0, false
	}
	if err := runChild(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", fault.ReasonOf(err), err)
		return fault.ExitCode(err), true
	}
	return 0, true
}

// runChild is the agent: the real rooms on a real file system, with a systemd
// that lives in the other process.
func runChild(in io.Reader, out io.Writer) error {
	var spec Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return fmt.Errorf("cannot read what to do: %w", err)
	}
	endpoint, err := discovery.ParseEndpoint(spec.Endpoint)
	if err != nil {
		return err
	}
	pins, err := discovery.ParsePins([]string{spec.Pin})
	if err != nil {
		return err
	}
	units, err := dialUnits(spec.Socket)
	if err != nil {
		return err
	}
	log := logrus.New()
	log.SetLevel(logrus.DebugLevel)
	clock := quickClock{}
	told := json.NewEncoder(out)
	deps := agent.Deps{
		Discoverer: &discovery.Discoverer{Log: log, Now: clock.Now},
		Connect: func(id agent.Identity) (agent.API, error) {
			return apiclient.New(apiclient.Options{Server: id.Server, CA: id.CA, Bearer: id.Bearer, CertPEM: id.Pair, KeyPEM: id.Pair, Now: clock.Now})
		},
		Units: units, Notify: systemd.NewNotifier("", 0), Health: units.health, Clock: clock, Pace: quick, Log: log, Version: "crash",
		Machine: agent.Machine{BootID: spec.BootID, MachineID: "crash"},
		Host: agent.Host{
			Host: kubelet.Host{Root: spec.Root}, Binaries: []string{spec.Kubelet}, Runtimes: kubelet.Runtimes(),
			AskRuntime: func(context.Context, string) (kubelet.Answer, error) { return kubelet.Answer{}, nil },
			RunKubelet: func(context.Context, string, ...string) ([]byte, error) { return []byte("Kubernetes v1.36.3\n"), nil },
		},
		OnStatus: func(s agent.Status) { _ = told.Encode(s) }, // nobody listens any more: this process is about to die
	}
	one, err := agent.New(agent.Config{
		Endpoints: []discovery.Endpoint{endpoint}, Pins: pins, Tokens: []agent.TokenSource{agent.TokenFile(spec.TokenFile)},
		NodeName: spec.NodeName, AfterJoin: agent.AfterJoinHeal, Paths: spec.Paths,
		Kubelet: agent.KubeletConfig{RuntimeEndpoint: "unix:///run/containerd/containerd.sock"},
	}, deps)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return one.Run(ctx)
}

// quickClock is the real clock with short pauses: a minute between two looks, or
// a backoff, would only make the tests longer. How long the pauses are is told
// by tests of the agent itself.
type quickClock struct{ agent.SystemClock }

// After fires after d, or after quickest where that is sooner.
func (quickClock) After(d time.Duration) (<-chan time.Time, func()) {
	return agent.SystemClock{}.After(min(d, quickest))
}

package agent

import (
	"context"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// answerFor is how long an answer of the container runtime serves the join: it
// is asked beside the request, and a request that is approved by itself takes
// less than that. After an approval by hand it is asked again.
const answerFor = 10 * time.Second

// rereadAfter is how long the kubelet config that was read last decides which
// socket is waited for; reading it anew costs a request to the API.
const rereadAfter = time.Minute

// runtimeQuestion is the container runtime being asked for, or its answer.
type runtimeQuestion struct {
	named kubelet.Named
	done  chan struct{}
	// Valid after done.
	at    time.Duration // monotonic
	found kubelet.Runtime
	notes []kubelet.Note
	err   error
}

func newQuestion(named kubelet.Named) *runtimeQuestion {
	return &runtimeQuestion{named: named, done: make(chan struct{})}
}

// ask puts the question. It reads nothing of the agent's: it may run beside the loop.
func (q *runtimeQuestion) ask(ctx context.Context, host Host, clock Clock) *runtimeQuestion {
	defer close(q.done)
	q.found, q.notes, q.err = host.FindRuntime(ctx, q.named, host.Runtimes, host.AskRuntime)
	q.at = clock.Monotonic()
	return q
}

// runtimeWait is a join that has all but a container runtime.
type runtimeWait struct {
	named kubelet.Named
	read  time.Duration // when the kubelet config was read that named it (monotonic)
}

// runtime returns the container runtime. What was answered a moment ago, beside
// the request, is not asked again; what was not ready then is.
func (r renderer) runtime(ctx context.Context, named kubelet.Named) (*runtimeQuestion, error) {
	if q := r.asked; q != nil && q.named == named {
		select {
		case <-ctx.Done():
			return q, ctx.Err()
		case <-q.done:
			if q.err == nil && r.clock.Monotonic()-q.at < answerFor {
				return q, nil
			}
		}
	}
	q := newQuestion(named).ask(ctx, r.host, r.clock)
	return q, q.err
}

// named is the endpoint that the kubelet will use with this config; none if it
// is to be looked for.
func (r renderer) named(input kubelet.RenderInput) kubelet.Named {
	var dropIns [][]byte
	if dir := r.cfg.Kubelet.ConfigDir; dir != "" {
		dropIns, _ = kubelet.DropIns(dir) // unreadable: render says so
	}
	return input.NamedRuntime(r.cfg.Kubelet.RuntimeEndpoint, dropIns)
}

// likely is named as far as it is known before the cluster's kubelet-config can
// be read.
func (r renderer) likely() kubelet.Named {
	input := kubelet.RenderInput{Source: kubelet.BuiltIn}
	if r.cfg.Kubelet.ConfigFile != "" {
		if base, err := readSmall(r.cfg.Kubelet.ConfigFile); err == nil {
			input = kubelet.RenderInput{Source: kubelet.Operator, Base: base}
		}
	}
	return r.named(input)
}

// runtimeForUnit is the runtime that the kubelet's unit is started after: that
// of the config as it was written, whether or not it answers at this moment.
func (a *Agent) runtimeForUnit() kubelet.Runtime {
	config, err := readSmall(a.files.ConfigFile())
	if err != nil {
		return kubelet.Runtime{}
	}
	return a.runtimeIn(config)
}

// runtimeIn is the runtime that a kubelet with this config uses.
func (a *Agent) runtimeIn(config []byte) kubelet.Runtime {
	named := a.renderer().named(kubelet.RenderInput{Source: kubelet.Operator, Base: config})
	runtime, err := kubelet.ParseRuntimeEndpoint(named.Endpoint)
	if err != nil {
		return kubelet.Runtime{}
	}
	return runtime
}

// afterRuntime is the order of the kubelet's unit.
func afterRuntime(r kubelet.Runtime) []string {
	if r.Unit == "" {
		return []string{}
	}
	return []string{r.Unit}
}

// tell logs which runtime was taken, and returns it for the timeline.
func (q *runtimeQuestion) tell(r renderer) string {
	r.log.WithField("endpoint", q.found.Endpoint).WithField("version", q.found.Version).Info("container runtime")
	said := ""
	if q.found.Version != "" {
		said = ", for " + q.found.Version
	}
	for _, note := range q.notes {
		r.log.WithField("detail", note.String()).Info("container runtime")
		said += "; " + note.Text
	}
	return said
}

// noteRuntime remembers for the next attempt whether a runtime is waited for.
func (a *Agent) noteRuntime(named kubelet.Named, err error) {
	a.awaited = nil
	if fault.ReasonOf(err) == fault.RuntimeNotReady {
		a.awaited = &runtimeWait{named, a.deps.Clock.Monotonic()}
	}
}

// awaitRuntime is a step of its own, so that status shows what is waited for. It
// asks the runtime and nobody else: a wait of hours must not be felt by the API.
func (a *Agent) awaitRuntime(ctx context.Context) error {
	return a.stepped(StepRuntime, func() (string, error) {
		r, named := a.renderer(), a.awaited.named
		reread := a.deps.Clock.Monotonic()-a.awaited.read >= rereadAfter
		if reread {
			input, err := a.source(ctx)
			if err != nil {
				return "", err
			}
			named = r.named(input)
		}
		answer, err := r.runtime(ctx, named)
		if reread {
			a.noteRuntime(named, err)
		}
		if err != nil {
			return "", err
		}
		a.asked = answer // for the step that follows
		return answer.found.Version, nil
	})
}

// runtimeTicks ticks when a unit of a container runtime changes, while one is
// waited for. It is watched only that long: nobody else needs to be woken by it.
func (a *Agent) runtimeTicks(ctx context.Context) <-chan struct{} {
	if a.awaited == nil {
		if a.unwatch != nil {
			a.unwatch()
			a.unwatch, a.runtimeUnits = nil, nil
		}
		return nil
	}
	if a.unwatch == nil {
		var names []string
		for _, r := range a.deps.Host.Runtimes {
			names = append(names, r.Unit)
		}
		ctx, a.unwatch = context.WithCancel(ctx)
		a.runtimeUnits = a.deps.Units.Watch(ctx, names...)
	}
	return a.runtimeUnits
}

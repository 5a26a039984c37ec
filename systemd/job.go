package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Op is what a job does to a unit, named as systemctl names it.
type Op string

// The operations of this package.
const (
	OpStart   Op = "start"
	OpRestart Op = "restart"
	OpStop    Op = "stop"
)

// JobError says that a job ended, and not well. Result is systemd's own word
// (failed, timeout, canceled, dependency, skipped, assert, ...), or one of the
// two below where systemd says "done" and the unit does not run.
type JobError struct {
	Unit   string
	Op     Op
	Result string
	State  Unit // as it was after the job; its Name is empty if it could not be read
}

// Results that are ours.
const (
	ResultLost      = "lost"      // the end of the job was not heard, and the unit is as before
	ResultCondition = "condition" // "done", because a condition of the unit is false
	ResultGone      = "gone"      // "done", or its signal was lost, and there is no running main process
)

// Error tells the result in words.
func (e *JobError) Error() string {
	switch e.Result {
	case "failed":
		return fmt.Sprintf("its %s job failed (result %s, main process status %d)", e.Op, e.State.Result, e.State.ExecMainStatus)
	case "timeout":
		return fmt.Sprintf("its %s job ran into its timeout", e.Op)
	case "canceled":
		return fmt.Sprintf("its %s job was cancelled: another job for the unit came in between", e.Op)
	case "dependency":
		return fmt.Sprintf("its %s job was dropped because a unit that it requires failed", e.Op)
	case "skipped":
		return fmt.Sprintf("its %s job was skipped: it does not fit the state of the unit (%s)", e.Op, e.State.ActiveState)
	case ResultCondition:
		return "systemd did not start it because a condition of the unit is false"
	case ResultLost:
		return fmt.Sprintf("its %s job is gone without a trace", e.Op)
	case ResultGone:
		return fmt.Sprintf("it does not run after its %s job (state %s/%s, result %s, main process status %d)",
			e.Op, e.State.ActiveState, e.State.SubState, e.State.Result, e.State.ExecMainStatus)
	}
	return fmt.Sprintf("its %s job ended as %q", e.Op, e.Result)
}

// Start starts a service and waits until systemd calls it started: for
// Type=notify that is when the service said so. It waits as long as ctx does.
// A service that died and waits for its RestartSec= is started now: systemd
// would keep the job until that pause is over.
func (m *Manager) Start(ctx context.Context, name string) (Unit, error) {
	return m.job(ctx, OpStart, name)
}

// Restart stops a service if it runs, starts it, and waits like Start.
func (m *Manager) Restart(ctx context.Context, name string) (Unit, error) {
	return m.job(ctx, OpRestart, name)
}

// Stop stops a service and waits until it is stopped.
func (m *Manager) Stop(ctx context.Context, name string) (Unit, error) {
	return m.job(ctx, OpStop, name)
}

// job queues a job, waits for its end, and believes the end only when the unit's
// state agrees with it.
func (m *Manager) job(ctx context.Context, op Op, name string) (Unit, error) {
	log := m.opts.Log.WithField("command", fmt.Sprintf("systemctl %s %s", op, name))
	log.Debug("systemd job queued")
	u, err := m.runJob(ctx, op, name)
	if err == nil {
		log.Debug("systemd job done")
		return u, nil
	}
	var je *JobError
	if errors.As(err, &je) && name == KubeletUnit {
		return u, fault.New(fault.KubeletFailed, "cannot %s %s: %w", op, name, err)
	}
	return u, fmt.Errorf("cannot %s %s: %w", op, name, err)
}

func (m *Manager) runJob(ctx context.Context, op Op, name string) (Unit, error) {
	before, err := m.Unit(ctx, name)
	if err != nil {
		return Unit{}, err
	}
	if before.Masked() && op != OpStop {
		return before, masked(name)
	}
	c, result, err := m.queue(ctx, op, before)
	if err != nil {
		if isMasked(err) {
			return before, masked(name)
		}
		return before, err
	}
	word, err := m.await(ctx, c, result, name)
	if err != nil {
		return before, err
	}
	after, err := m.Unit(ctx, name)
	if err != nil {
		return before, err
	}
	return after, judge(op, word, before, after)
}

// queue sends the job. When the connection dies under the call nobody knows
// whether systemd took it: then the unit's state decides whether it is sent
// again, so that nothing is restarted twice. The connection returned is the one
// on which the result will be heard; nil when it will not be heard.
func (m *Manager) queue(ctx context.Context, op Op, before Unit) (c *conn, result chan string, err error) {
	for again := range 2 {
		if c, err = m.connect(ctx); err != nil {
			return nil, nil, err
		}
		// Buffered: go-systemd sends the result under a lock, and a wait that
		// was given up must not hold all others.
		result = make(chan string, 1)
		short, cancel := context.WithTimeout(ctx, callTimeout)
		switch {
		case op == OpStart && !before.holdsOff():
			_, err = c.StartUnitContext(short, before.Name, "replace", result)
		case op == OpStart, op == OpRestart:
			_, err = c.RestartUnitContext(short, before.Name, "replace", result)
		case op == OpStop:
			_, err = c.StopUnitContext(short, before.Name, "replace", result)
		}
		cancel()
		if err == nil || ctx.Err() != nil || !c.lost(err) || again > 0 {
			return c, result, err
		}
		m.drop(c)
		if err := wait(ctx, m.absentPause); err != nil {
			return nil, nil, err
		}
		now, uerr := m.Unit(ctx, before.Name)
		if uerr != nil {
			return nil, nil, uerr
		}
		if now.Job != 0 || now.InvocationID != before.InvocationID {
			return nil, nil, nil
		}
	}
	return nil, nil, err
}

// await waits for the job's result. Signals can be lost: with the connection, or
// while systemd re-executes itself. So it also looks for itself now and then
// (at every backstop, and more often when it knows that it is deaf), and when
// there is no job any more the state of the unit is all that is left to judge
// by: then the word is ResultLost.
func (m *Manager) await(ctx context.Context, c *conn, result chan string, name string) (string, error) {
	ticker := time.NewTicker(m.backstop)
	defer ticker.Stop()
	var dead <-chan struct{}
	if c == nil {
		ticker.Reset(m.backstop / 5)
	} else {
		dead = c.life.Done()
	}
	for idle := 0; ; {
		select {
		case word := <-result:
			return word, nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-dead:
			dead = nil
			m.drop(c)
			ticker.Reset(m.backstop / 5)
			continue
		case <-ticker.C:
		}
		u, err := m.Unit(ctx, name)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.Is(err, errClosed):
			return "", err
		case err != nil, u.Job != 0:
			idle = 0 // cannot know yet, or still at work
		default:
			if idle++; idle == 2 { // not at once: the signal may be on its way
				return ResultLost, nil
			}
		}
	}
}

// judge compares the result of a job with the state that it left behind.
func judge(op Op, word string, before, after Unit) error {
	fail := func(result string) error {
		return &JobError{Unit: after.Name, Op: op, Result: result, State: after}
	}
	if word != "done" && word != ResultLost {
		return fail(word)
	}
	switch {
	case op == OpStop:
		if after.ActiveState == "inactive" || after.ActiveState == "failed" {
			return nil
		}
		return fail(ResultGone)
	case after.Running():
		if op == OpRestart && word == ResultLost && after.InvocationID == before.InvocationID {
			return fail(ResultLost)
		}
		return nil
	case after.ActiveState == "failed" && word == ResultLost:
		return fail("failed")
	case after.ConditionMonotonic != 0 && !after.ConditionResult && after.ActiveState == "inactive":
		return fail(ResultCondition)
	}
	return fail(ResultGone)
}

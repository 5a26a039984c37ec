package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// What is wanted of a joined node's files is known to the agent that runs there:
// its configuration comes from its own unit's environment, too. So `apply` asks
// that agent, by a record in the state folder, and the agent answers by another
// one: first with what it would change, then, ordered to, with what it has
// changed. Where no agent runs, the command does the same by itself, under the
// lock. A record that was begun is finished by whoever comes next.

// Order is what `apply` asks for.
type Order struct {
	ID          string `json:"id"`
	Perform     bool   `json:"perform"`               // false: only tell what would change
	SameMachine bool   `json:"sameMachine,omitempty"` // take this machine into the trust record, and nothing else
	Begun       bool   `json:"begun,omitempty"`       // from here on it is finished, whatever comes between
	// Agreed are the files that a person has seen the change of, by path. Nothing
	// else is written, and nothing that has become another change since.
	Agreed map[string]Swap `json:"agreed,omitempty"`
}

// Swap is the content of a file before and after, by its hash; "" for no file.
type Swap struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// FileChange is one file that is not as it is wanted.
type FileChange struct {
	Path string `json:"path"`
	Swap Swap   `json:"swap"`
	// Diff is in the unified format. Values of environment variables are not in it;
	// what else a person may have put there is for the reader to take out.
	Diff string `json:"diff,omitempty"`
	Mode string `json:"mode,omitempty"` // "0644, wanted 0600"; "" if it is right
	// Edited: it is not what the agent wrote there last; else what is wanted has
	// changed since.
	Edited bool   `json:"edited,omitempty"`
	Kept   string `json:"kept,omitempty"` // where the previous content is kept, once it was replaced
}

// Answer is what would be changed, or was.
type Answer struct {
	ID      string       `json:"id"`
	Done    bool         `json:"done"` // the order was performed
	Changes []FileChange `json:"changes,omitempty"`
	Left    []string     `json:"left,omitempty"`    // on record as ours, somebody else's now: put on record as that
	Machine string       `json:"machine,omitempty"` // in what the trust record's machine differs, for SameMachine
	// Restart: the kubelet is restarted for it, or was. Where it is not although
	// something changed, Kubelet says why.
	Restart bool     `json:"restart,omitempty"`
	Kubelet string   `json:"kubelet,omitempty"`
	Notes   []string `json:"notes,omitempty"`

	Reason  fault.Reason `json:"reason,omitempty"` // it failed: with this reason, if it has one
	Message string       `json:"message,omitempty"`
	Hint    string       `json:"hint,omitempty"`
}

// err is why the order could not be followed.
func (r *Answer) err() error {
	if r.Message == "" {
		return nil
	}
	if r.Reason == "" {
		return errors.New(r.Message)
	}
	return fault.New(r.Reason, "%s", r.Message).WithHint("%s", r.Hint)
}

// Agree is the order to do what was answered.
func (r *Answer) Agree(o Order) Order {
	o.Perform, o.Agreed = true, map[string]Swap{}
	for _, c := range r.Changes {
		o.Agreed[c.Path] = c.Swap
	}
	return o
}

// answerEvery is how often the command looks for the agent's answer.
const answerEvery = 50 * time.Millisecond

// Apply hands an order to the agent at work here and waits for its answer; where
// none is, own makes one that follows the order and ends.
func Apply(ctx context.Context, paths Paths, order Order, own func() (*Agent, error)) (*Answer, error) {
	order.ID = rand.Text()
	for {
		answer, err := ask(ctx, paths, &order)
		if errors.Is(err, errNobodyThere) {
			a, ownErr := own()
			if ownErr != nil {
				return nil, ownErr
			}
			answer, err = a.applyAlone(ctx, &order)
		}
		if fault.ReasonOf(err) != fault.Locked || !pause(ctx) {
			return answer, err
		}
		// An agent has come to work in this moment.
	}
}

// pause waits until it is worth to look again; false: nobody waits any more.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(answerEvery):
		return true
	}
}

var (
	errNobodyThere = errors.New("the agent has ended")
	errOvertaken   = errors.New("another `bootstrap-agent apply` came in between")
)

// ask writes the order down and waits until it is answered.
func ask(ctx context.Context, paths Paths, order *Order) (*Answer, error) {
	if running, _ := record.Holder(paths); !running {
		return nil, errNobodyThere
	}
	if err := atomicfile.Remove(paths.AnswerFile()); err != nil {
		return nil, err
	}
	if err := record.WriteJSON(paths.OrderFile(), order); err != nil {
		return nil, fmt.Errorf("cannot ask the agent: %w", err)
	}
	for {
		running, _ := record.Holder(paths) // before the look: what was done until then is seen
		answer, now := &Answer{}, &Order{}
		if ok, err := record.ReadJSON(paths.AnswerFile(), answer); err == nil && ok && answer.ID == order.ID {
			return answer, errors.Join(answer.err(), atomicfile.Discard(paths.AnswerFile()))
		}
		if ok, err := record.ReadJSON(paths.OrderFile(), now); err == nil && ok && now.ID != order.ID {
			return nil, errOvertaken
		}
		if !running && !now.Begun {
			return nil, errNobodyThere
		}
		if !pause(ctx) {
			if !now.Begun {
				_ = atomicfile.Remove(paths.OrderFile()) // an agent that comes to it later finds it too old
			}
			return nil, fmt.Errorf("the agent at work here has not answered: %w", ctx.Err())
		}
	}
}

// applyAlone follows an order under the lock, and nothing else.
func (a *Agent) applyAlone(ctx context.Context, order *Order) (*Answer, error) {
	held, err := record.Acquire(a.cfg.Paths)
	if err != nil {
		return nil, err
	}
	defer held.Release()
	if err := a.remember(); err != nil {
		return nil, err
	}
	defer a.closeNode()
	o, err := a.observe(ctx)
	if err != nil {
		return nil, err
	}
	answer := a.fulfil(ctx, &o, order)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("stopped: %w", ctx.Err())
	}
	return answer, errors.Join(answer.err(), atomicfile.Remove(a.cfg.Paths.OrderFile()))
}

// orderLasts is how long an order waits for an agent to take it: what a person
// agreed to yesterday is not done today. One that was begun is finished at any
// time.
const orderLasts = 10 * time.Minute

// takeOrder looks for an order: one look at a path that mostly is not there.
func (a *Agent) takeOrder() {
	path := a.cfg.Paths.OrderFile()
	info, err := os.Lstat(path)
	if err != nil || a.hands.order != nil {
		return
	}
	order := &Order{}
	ok, err := record.ReadJSON(path, order)
	if err != nil || ok && order.ID == a.hands.answered {
		return
	}
	// The file's time is that of the real clock, like the one it is compared with.
	if age := time.Since(info.ModTime()).Abs(); !ok || !order.Begun && age > orderLasts {
		a.log.Warn("an order of `apply` that nobody has taken in time is dropped")
		if err := atomicfile.Remove(path); err != nil {
			a.log.WithError(err).Warn("cannot remove it")
		}
		return
	}
	a.hands.order = order
}

// obey follows the order that was taken, and answers.
func (a *Agent) obey(ctx context.Context, o *Observation) {
	order := a.hands.order
	a.hands.order = nil
	answer := a.fulfil(ctx, o, order)
	a.closeNode()
	if ctx.Err() != nil {
		return // what was begun is finished by the next run
	}
	a.hands.answered = order.ID
	a.memory.lookForDrift = true
	// The order goes first: whoever has the answer may give another one at once.
	if err := errors.Join(atomicfile.Remove(a.cfg.Paths.OrderFile()), record.WriteJSON(a.cfg.Paths.AnswerFile(), answer)); err != nil {
		a.log.WithError(err).Warn("cannot answer `apply`")
	}
}

// fulfil does what the order says.
func (a *Agent) fulfil(ctx context.Context, o *Observation, order *Order) *Answer {
	answer := &Answer{ID: order.ID}
	if err := a.carryOut(ctx, o, order, answer); err != nil {
		answer.Reason, answer.Message, answer.Hint = fault.ReasonOf(err), oneLine(err.Error()), fault.HintOf(err)
	}
	return answer
}

func (a *Agent) carryOut(ctx context.Context, o *Observation, order *Order, answer *Answer) error {
	if order.SameMachine {
		return a.carryOutMachine(order, answer)
	}
	p, err := a.plan(ctx, o, true)
	if err != nil {
		return err
	}
	answer.Changes, answer.Left, answer.Notes = p.told(), p.forget, p.notes
	answer.Restart, answer.Kubelet = p.restart(o)
	if !order.Perform {
		return nil
	}
	if err := p.agreed(order); err != nil {
		return err
	}
	if !order.Begun {
		order.Begun = true
		if err := record.WriteJSON(a.cfg.Paths.OrderFile(), order); err != nil {
			return err
		}
	}
	a.hands.step()
	if err := a.perform(ctx, o, p); err != nil {
		return err
	}
	answer.Done, answer.Changes, answer.Notes = true, p.told(), p.notes
	return nil
}

func (a *Agent) carryOutMachine(order *Order, answer *Answer) error {
	if a.trust == nil {
		return errNotJoined
	}
	answer.Machine = otherMachine(a.trust.Machine, a.deps.Machine)
	if !order.Perform {
		return nil
	}
	_, err := a.sameMachine()
	answer.Done = err == nil
	return err
}

var errNotJoined = errors.New("this machine has not joined, there is nothing to apply; `systemctl start bootstrap-agent` makes it a node")

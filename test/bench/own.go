package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
)

// ownTime starts the agent alone, with a warm page cache, and prints where its
// own time goes. It is for work on that time: two minutes instead of thirteen, and
// no figure to publish, because nobody else was measured beside it.
func (b *bench) ownTime(ctx context.Context) error {
	r := report{options: b.options}
	all := contestants()
	c := all[slices.IndexFunc(all, func(c contestant) bool { return c.key == agentKey })]
	for round := range b.own + 1 {
		s, err := b.start(ctx, c, fmt.Sprintf("%s-own-%d", c.key, round), false)
		if err != nil {
			return err
		}
		b.screen.Printf("  %d/%d  seen %s, own %s, of it the sandbox %s", round, b.own, inSeconds(s.seen), inMillis(s.own), inMillis(s.box))
		if round > 0 { // the first warms up
			r.addOwn(s)
		}
	}
	if len(r.bare) == 0 {
		return errors.New("the execution of the program could not be traced here")
	}
	b.screen.Printf("from the execution of the program to the start job: median %s, %s to %s", inMillis(r.bare.median()), inMillis(r.bare.least()), inMillis(r.bare.most()))
	for _, step := range r.order {
		if step != agent.StepStart {
			b.screen.Printf("  %-34s begins after %s, takes %s", step, inMillis(r.begins[step].median()), inMillis(r.steps[step].median()))
		}
	}
	return nil
}

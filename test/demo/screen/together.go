package screen

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
)

// Task is something that takes a while.
type Task struct {
	Name string
	// Do does it; say tells what it is at. It returns soon after ctx ends, and
	// leaves nothing of its own running.
	Do func(ctx context.Context, say func(string)) error
}

// errOther ends the tasks beside one that failed.
var errOther = errors.New("another step failed")

// Together runs tasks side by side and shows how long each takes. When one fails
// the others are told to end; it returns when all have, with what failed first.
func (s *Screen) Together(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b := &board{screen: s, rows: make([]row, len(tasks))}
	for i, task := range tasks {
		b.rows[i] = row{name: task.Name, began: time.Now()}
	}
	pause := frameTime
	if !s.terminal {
		pause = s.patience
	}
	stop := s.every(pause, b.tick)
	var wait sync.WaitGroup
	faults := make([]error, len(tasks))
	for i, task := range tasks {
		wait.Go(func() {
			err := task.Do(ctx, func(text string) { b.say(i, text) })
			b.end(i, err)
			if err != nil {
				faults[i] = fmt.Errorf("%s: %w", task.Name, err)
				cancel(errOther)
			}
		})
	}
	wait.Wait()
	stop()
	var first error
	for _, err := range faults {
		if err != nil && (first == nil || errors.Is(first, context.Canceled)) {
			first = err
		}
	}
	return first
}

// board is the rows of the tasks that run side by side.
type board struct {
	screen *Screen
	mu     sync.Mutex // guards what follows; taken before the screen's
	rows   []row
	drawn  int
	frame  int
}

type row struct {
	name, text string
	began      time.Time
	seconds    float64
	ended      bool
	err        error
}

func (b *board) say(i int, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rows[i].ended {
		return // what it began may still talk
	}
	b.rows[i].text = text
	if !b.screen.terminal {
		b.screen.Printf("   %s: %s", b.rows[i].name, view.Clean(text))
	}
}

func (b *board) end(i int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.rows[i]
	r.ended, r.err, r.seconds = true, err, time.Since(r.began).Seconds()
	if b.screen.terminal {
		b.draw()
		return
	}
	b.screen.Print(b.line(*r, "") + "\n")
}

func (b *board) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.screen.terminal {
		b.frame++
		b.draw()
		return
	}
	for _, r := range b.rows {
		if !r.ended {
			b.screen.Printf("   ... %s: %s", r.name, view.Seconds(time.Since(r.began).Seconds()))
		}
	}
}

func (b *board) draw() {
	var out strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA\r", b.drawn)
	}
	out.WriteString("\x1b[J")
	spin := []string{"|", "/", "-", `\`}
	if b.screen.style.Unicode {
		spin = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	}
	for _, r := range b.rows {
		out.WriteString(b.line(r, spin[b.frame%len(spin)]) + "\n")
	}
	b.drawn = len(b.rows)
	b.screen.Print(out.String())
}

// line is one row; it never is wider than the screen.
func (b *board) line(r row, spin string) string {
	seconds, text := r.seconds, ""
	if !r.ended {
		seconds, text = time.Since(r.began).Seconds(), r.text
	}
	st := b.screen.style
	mark, colour := spin, "36"
	switch {
	case r.ended && r.err != nil:
		mark, colour = pick(st.Unicode, "✗", "XX"), "31"
	case r.ended:
		mark, colour = pick(st.Unicode, "✓", "ok"), "32"
	}
	line := []rune(fmt.Sprintf(" %s  %s", r.name, view.Seconds(seconds)))
	if text != "" {
		line = append(line, []rune("  "+view.Clean(text))...)
	}
	if limit := max(st.Width-4, 20); len(line) > limit {
		line = line[:limit]
	}
	if st.Colour {
		mark = "\x1b[" + colour + "m" + mark + "\x1b[0m"
	}
	return mark + string(line)
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

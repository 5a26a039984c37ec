// Package screen tells a person what the demo does: titles, steps that show how
// long they have been going on, and the live view of a join, drawn by the same
// code as `bootstrap-agent join`. On a terminal lines are redrawn in place;
// without one everything is a plain line.
//
// It never reads input and decides nothing. A line that cannot be written is
// lost: nobody is looking.
//
//	Task{Name, Do} --Together--> lines with elapsed time; agent.Status --Live--> lines
package screen

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
)

// frameTime is how often a terminal is redrawn.
const frameTime = 120 * time.Millisecond

// Screen is where a demo is shown. Its methods may be called from several
// goroutines.
type Screen struct {
	out      io.Writer
	terminal bool
	style    view.Style
	patience time.Duration // without a terminal a step that takes longer says so, again and again

	mu sync.Mutex // one line at a time
}

// New looks at what is behind out: a terminal, or a file or pipe.
func New(out io.Writer, getenv func(string) string) *Screen {
	s := &Screen{out: out, patience: 15 * time.Second, style: view.Style{Width: 100, Unicode: unicode(getenv)}}
	f, ok := out.(*os.File)
	if !ok {
		return s
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return s
	}
	s.terminal = getenv("TERM") != "dumb"
	s.style.Colour = s.terminal && getenv("NO_COLOR") == ""
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		s.style.Width = int(size.Col)
	}
	return s
}

func unicode(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(getenv(name)); value != "" {
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// Style is what the reader's terminal can do, now.
func (s *Screen) Style() view.Style {
	st := s.style
	st.Now = time.Now()
	return st
}

// Print writes text as it is.
func (s *Screen) Print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, text) // nobody is looking
}

// Printf writes one line.
func (s *Screen) Printf(format string, args ...any) { s.Print(fmt.Sprintf(format, args...) + "\n") }

// Title starts a part.
func (s *Screen) Title(text string) {
	if s.style.Colour {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	s.Print("\n" + text + "\n\n")
}

// Command shows what somebody would type: where, and what.
func (s *Screen) Command(where, what string) { s.Printf("%s# %s", where, what) }

// Indented writes the output of a command below it.
func (s *Screen) Indented(text string) {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
	}
	s.Print(b.String())
}

// Live returns the view of a join, as `bootstrap-agent join` draws it. stop ends
// it; the last picture stays, unless a summary takes its place.
func (s *Screen) Live() (live *view.Live, stop func(summary bool)) {
	live = &view.Live{Write: s.Print, Style: s.style, Terminal: s.terminal}
	end := s.every(frameTime, func() { live.Tick(time.Now()) })
	return live, func(summary bool) {
		end()
		live.Done(time.Now(), summary)
	}
}

// every calls f again and again until the returned function has been called.
func (s *Screen) every(pause time.Duration, f func()) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(pause)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				f()
			}
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

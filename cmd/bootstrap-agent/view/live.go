package view

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
)

// Live shows the progress of a join. On a terminal the steps so far and the
// running one, with a spinner and its elapsed time, are redrawn in place;
// without one each step is a plain line when it ends. Its methods may be called
// from several goroutines.
type Live struct {
	// Write gets the text; it is called with the lock held, one call a drawing.
	Write func(text string)
	// Style without Now; each drawing gets its own time.
	Style Style
	// Terminal: the cursor can be moved.
	Terminal bool

	mu     sync.Mutex
	status agent.Status
	drawn  int    // lines on the screen that the next drawing replaces
	frame  int    // of the spinner
	told   int    // steps that plain output has finished with
	reason string // last state that plain output told
}

// Update takes a new status.
func (l *Live) Update(s agent.Status, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = s
	if l.Terminal {
		l.draw(now, false)
		return
	}
	l.plain(now)
}

// Tick redraws, so that the elapsed time runs.
func (l *Live) Tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Terminal {
		l.frame++
		l.draw(now, false)
	}
}

// Done ends the drawing: the last picture stays without its spinner, or, where
// a summary follows on the same screen, makes room for it.
func (l *Live) Done(now time.Time, clear bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.Terminal:
		return
	case clear && l.drawn > 0:
		l.Write("\x1b[" + strconv.Itoa(l.drawn) + "A\r\x1b[J")
	case !clear:
		l.draw(now, true)
	}
	l.drawn = 0
}

// Status returns the last status it got.
func (l *Live) Status() agent.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

func (l *Live) plain(now time.Time) {
	st := l.Style
	st.Now = now
	steps := l.status.Timeline
	if l.told > len(steps) {
		l.told = 0 // the timeline dropped its oldest steps
	}
	for l.told < len(steps) && steps[l.told].Seconds != nil {
		l.Write(StepLine(steps[l.told], st) + "\n")
		l.told++
	}
	state := string(l.status.Phase) + string(l.status.Reason)
	if l.status.Reason != "" && state != l.reason {
		l.Write(OneLine(l.status) + "\n")
		if l.status.Hint != "" {
			l.Write("  " + st.arrow() + " " + Clean(l.status.Hint) + "\n")
		}
	}
	l.reason = state
}

var (
	spinUnicode = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	spinASCII   = []string{"|", "/", "-", `\`}
)

func (l *Live) draw(now time.Time, last bool) {
	st := l.Style
	st.Now = now
	var lines []string
	for _, s := range l.status.Timeline {
		if s.Seconds != nil {
			lines = append(lines, "  "+StepLine(s, st))
			continue
		}
		spin := st.paint(yellow, st.pick("…", ".."))
		if !last {
			frames := spinASCII
			if st.Unicode {
				frames = spinUnicode
			}
			spin = st.paint(cyan, frames[l.frame%len(frames)]) + st.pick("", " ")
		}
		lines = append(lines, "  "+spin+" "+Clean(s.Name)+" "+st.paint(faint, Seconds(max(now.Sub(s.Start).Seconds(), 0))))
	}
	for i := range lines {
		lines[i] = cut(lines[i], st.width()-1)
	}
	rows := len(lines)
	if l.status.Reason != "" {
		lines = append(lines, cut("  "+st.alert()+" "+OneLine(l.status), st.width()-1))
		rows++
		// A hint is there to be copied: it is wrapped and never cut, and a long
		// word of it may take several rows.
		for i, part := range wrap(Clean(l.status.Hint), st.width()-7) {
			lead := "      "
			if i == 0 {
				lead = "    " + st.arrow() + " "
			}
			lines = append(lines, lead+part)
			rows += 1 + (visible(lead+part)-1)/st.width()
		}
	}
	var b strings.Builder
	if l.drawn > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(l.drawn) + "A\r")
	}
	b.WriteString("\x1b[J")
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	l.drawn = rows
	l.Write(b.String())
}

// cut shortens a line to the screen, so that one line stays one row: the
// redrawing counts on it. The full text is in the summary.
func cut(line string, width int) string {
	if visible(line) <= width {
		return line
	}
	var b strings.Builder
	n, inside := 0, false
	for _, r := range line {
		switch {
		case r == 0x1b:
			inside = true
		case inside:
			inside = r != 'm'
		default:
			if n++; n > width {
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

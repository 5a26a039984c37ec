// Package view turns what the agent knows into text that a person likes to look
// at: status, timeline, live progress of a join, the report of a cluster check.
//
// It only renders: it reads no file, asks no clock (the time is in the Style)
// and decides nothing. It never prints a secret, because none is in what it
// gets, and it passes text from outside through a filter that lets no control
// character reach a terminal.
//
//	agent.Status, discovery.Report --Style--> text
package view

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Style says what the reader's terminal can do.
type Style struct {
	Colour  bool
	Unicode bool
	Width   int       // columns; 0: 80
	Now     time.Time // ages are counted from here
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	bold   = "1"
	faint  = "2"
)

func (s Style) paint(code, text string) string {
	if !s.Colour || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s Style) pick(unicode, ascii string) string {
	if s.Unicode {
		return unicode
	}
	return ascii
}

func (s Style) width() int {
	if s.Width <= 0 {
		return 80
	}
	return max(s.Width, 40)
}

func (s Style) good() string  { return s.paint(green, s.pick("✓", "ok")) }
func (s Style) bad() string   { return s.paint(red, s.pick("✗", "XX")) }
func (s Style) alert() string { return s.paint(yellow, "!") }
func (s Style) arrow() string { return s.paint(cyan, s.pick("→", "->")) }

// bar draws a bar of a share (0..1) of width columns, in eighths where the
// terminal can. Anything above zero shows.
func (s Style) bar(share float64, width int) string {
	share = min(max(share, 0), 1)
	if !s.Unicode {
		n := int(share*float64(width) + 0.5)
		if n == 0 && share > 0 {
			return "."
		}
		return strings.Repeat("#", n)
	}
	eighths := int(share*float64(width)*8 + 0.5)
	if eighths == 0 && share > 0 {
		eighths = 1
	}
	out := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		out += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return out
}

// Clean makes text from outside safe for a terminal: one line, no control
// characters, nothing that reorders or hides letters.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == 0x2028, r == 0x2029, r == utf8.RuneError:
			return -1
		}
		return r
	}, text)
}

// Seconds writes a duration of a step: milliseconds while they matter.
func Seconds(seconds float64) string {
	switch {
	case seconds < 0:
		return "0 ms"
	case seconds < 0.9995:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	case seconds < 99.95:
		return fmt.Sprintf("%.1f s", seconds)
	}
	return Age(time.Duration(seconds * float64(time.Second)))
}

// Age writes a longer duration with its two biggest units: "3m 12s", "364d 2h".
func Age(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	d = d.Round(time.Second)
	days := int(d / (24 * time.Hour))
	hours, minutes, seconds := int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days >= 10:
		return fmt.Sprintf("%dd", days)
	case days > 0:
		return fmt.Sprintf("%dd %dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh %dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm %ds", minutes, seconds)
	}
	return fmt.Sprintf("%ds", seconds)
}

// pad fills text to a column width, counted in runes.
func pad(text string, width int) string {
	if n := utf8.RuneCountInString(text); n < width {
		return text + strings.Repeat(" ", width-n)
	}
	return text
}

// padLeft is pad with the text at the right.
func padLeft(text string, width int) string {
	if n := utf8.RuneCountInString(text); n < width {
		return strings.Repeat(" ", width-n) + text
	}
	return text
}

// wrap breaks text into lines of at most width columns; a longer word (a
// command, a pin) stays whole, to be copied.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// Package diff compares two small texts line by line and writes what differs in
// the unified format of diff -u.
//
// It never reads a file, never decides what a line means, and never shows a line
// before the caller's mask has seen it: the lines are compared as they are and
// shown as the mask makes them, so that a secret that changed is seen to change
// and not seen itself.
//
//	two texts, a mask -> Unified -> text for a person
package diff

import (
	"fmt"
	"strings"
)

// around is how many equal lines are shown before and after a change.
const around = 3

// mostCells bounds the table of the comparison (lines times lines, once what is
// equal at both ends is off). Beyond it, all between the ends counts as replaced.
const mostCells = 4 << 20

// Text is one side of a comparison.
type Text struct {
	Name string // for the head: a path, or /dev/null
	Data string
}

// Unified is the difference, or "" for equal texts. mask makes of a line what is
// shown of it; nil: the line itself.
func Unified(from, to Text, mask func(line string) string) string {
	if from.Data == to.Data {
		return ""
	}
	if mask == nil {
		mask = func(line string) string { return line }
	}
	edits := compare(lines(from.Data), lines(to.Data))
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", from.Name, to.Name)
	for at := 0; at < len(edits); {
		first := at
		for first < len(edits) && edits[first].op == ' ' {
			first++
		}
		if first == len(edits) {
			break
		}
		// A hunk goes on as long as the next change is near.
		last := first
		for i := first; i < len(edits) && i-last <= 2*around+1; i++ {
			if edits[i].op != ' ' {
				last = i
			}
		}
		begin, end := max(at, first-around), min(len(edits), last+around+1)
		write(&b, edits[begin:end], mask)
		at = end
	}
	return b.String()
}

// edit is one line of either text, or of both.
type edit struct {
	op       byte // '-', '+', or ' ' for a line of both
	line     string
	from, to int // its number, or that of the next line, on each side
}

func write(b *strings.Builder, hunk []edit, mask func(string) string) {
	var from, to int
	for _, e := range hunk {
		if e.op != '+' {
			from++
		}
		if e.op != '-' {
			to++
		}
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", span(hunk[0].from, from), span(hunk[0].to, to))
	for _, e := range hunk {
		text, whole := strings.CutSuffix(e.line, "\n")
		b.WriteString(string(e.op) + mask(text) + "\n")
		if !whole {
			b.WriteString("\\ No newline at end of file\n")
		}
	}
}

// span is "first,count" as diff -u writes it: an empty one names the line before.
func span(first, count int) string {
	switch count {
	case 0:
		return fmt.Sprintf("%d,0", first-1)
	case 1:
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d,%d", first, count)
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	out := strings.SplitAfter(text, "\n")
	if out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

// compare finds a longest common part.
func compare(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	from, to := 1, 1
	var out []edit
	add := func(op byte, line string) {
		out = append(out, edit{op, line, from, to})
		if op != '+' {
			from++
		}
		if op != '-' {
			to++
		}
	}
	for _, line := range a[:head] {
		add(' ', line)
	}
	middle(a[head:len(a)-tail], b[head:len(b)-tail], add)
	for _, line := range a[len(a)-tail:] {
		add(' ', line)
	}
	return out
}

func middle(a, b []string, add func(byte, string)) {
	i, j := 0, 0
	if len(a)*len(b) <= mostCells {
		common := table(a, b)
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				add(' ', a[i])
				i++
				j++
			case common[i+1][j] >= common[i][j+1]:
				add('-', a[i])
				i++
			default:
				add('+', b[j])
				j++
			}
		}
	}
	for ; i < len(a); i++ {
		add('-', a[i])
	}
	for ; j < len(b); j++ {
		add('+', b[j])
	}
}

// table[i][j] is the length of a longest common part of a[i:] and b[j:].
func table(a, b []string) [][]int {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	return common
}

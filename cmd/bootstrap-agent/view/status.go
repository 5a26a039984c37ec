package view

import (
	"fmt"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// label is the width of the column of names in Status.
const label = 13

// Status renders the whole status. running: the agent is at work and published
// it itself; otherwise it was observed just now, by the command.
func Status(s agent.Status, running bool, st Style) string {
	var b strings.Builder
	headline(&b, s, st)
	if !running {
		block(&b, st.alert()+" ", "The agent is not running. What follows was observed just now.", st)
	}
	if s.Message != "" {
		block(&b, "  ", s.Message, st)
	}
	if s.Hint != "" {
		block(&b, "  "+st.arrow()+" ", s.Hint, st)
	}
	if s.NextRetry != nil && s.NextRetry.After(st.Now) {
		again := "next try in " + Age(s.NextRetry.Sub(st.Now))
		if s.Attempt > 1 {
			again = fmt.Sprintf("attempt %d, %s", s.Attempt, again)
		}
		b.WriteString("  " + st.paint(faint, again) + "\n")
	}
	b.WriteByte('\n')
	facts(&b, s, st)
	notes(&b, s.Notes, st)
	if len(s.Timeline) > 0 {
		b.WriteByte('\n')
		b.WriteString(Timeline(s.Timeline, st))
	}
	return b.String()
}

// headline is phase, reason and since when.
func headline(b *strings.Builder, s agent.Status, st Style) {
	mark, colour := phaseMark(s, st)
	b.WriteString(st.paint(colour, mark) + " " + st.paint(bold, string(s.Phase)))
	if s.Reason != "" {
		b.WriteString(": " + st.paint(colour, Clean(string(s.Reason))))
	}
	if !s.Since.IsZero() {
		b.WriteString(st.paint(faint, ", for "+Age(st.Now.Sub(s.Since))))
	}
	b.WriteByte('\n')
}

func phaseMark(s agent.Status, st Style) (mark, colour string) {
	switch {
	case s.Phase == agent.Joined:
		return st.pick("●", "[x]"), green
	case s.Phase == agent.Blocked:
		return st.pick("■", "[!]"), red
	case s.Reason != "" && s.Reason != fault.CSRPending:
		return st.pick("◐", "[~]"), yellow
	}
	return st.pick("◐", "[~]"), cyan
}

func facts(b *strings.Builder, s agent.Status, st Style) {
	node := orNone(Clean(s.Node.Name))
	switch {
	case s.Node.Ready != nil && *s.Node.Ready:
		node += "  " + st.paint(green, "Ready")
	case s.Node.Ready != nil:
		node += "  " + st.paint(yellow, "not Ready")
	case s.Node.Seen:
		node += "  in the API"
	default:
		node += "  " + st.paint(faint, "not seen in the API")
	}
	fact(b, "Node", node)
	if s.Node.Message != "" {
		for _, line := range wrap(Clean(s.Node.Message), st.width()-label-2) {
			fact(b, "", line)
		}
	}
	if c := s.Cluster; c != nil {
		server := Clean(c.Server)
		if c.Provisional {
			server += "  " + st.paint(yellow, "provisional: the server of cluster-info could not be reached")
		}
		fact(b, "Server", server)
		switch {
		case c.DiscoveryFile != "":
			fact(b, "", st.paint(faint, "named by "+Clean(c.DiscoveryFile)))
		case c.Endpoint != "":
			fact(b, "", st.paint(faint, "cluster-info from "+Clean(c.Endpoint)))
		}
		if c.ServerMoved != nil {
			fact(b, "", st.paint(faint, "moved there "+c.ServerMoved.UTC().Format("2006-01-02 15:04 UTC")))
		}
		for i, pin := range c.CAPins {
			fact(b, first(i, "CA pin"), Clean(pin))
		}
		if c.CATaken != nil {
			fact(b, "", st.paint(faint, "taken "+c.CATaken.UTC().Format("2006-01-02 15:04 UTC")))
		}
	}
	if c := s.CSR; c != nil {
		request(b, c, s.Hint, st)
	}
	if c := s.Certificate; c != nil {
		certificate(b, c, st)
	}
	fact(b, "Kubelet", kubeletLine(s.Kubelet, st))
}

// request is the CSR; its approve command is left out where the hint above has
// said it.
func request(b *strings.Builder, c *agent.CSRStatus, hint string, st Style) {
	fact(b, "Request", Clean(c.Name))
	var parts []string
	if c.Approved != nil {
		parts = append(parts, "approved after "+Seconds(c.Approved.Sub(c.Created).Seconds()))
	} else {
		parts = append(parts, st.paint(yellow, "waits since "+Age(st.Now.Sub(c.Created))))
		switch {
		case c.WillBeApproved == nil:
		case *c.WillBeApproved:
			parts = append(parts, "will be approved by the cluster itself")
		default:
			parts = append(parts, "needs a person to approve it")
		}
	}
	if c.Adopted {
		parts = append(parts, "made by an earlier run")
	}
	fact(b, "", strings.Join(parts, ", "))
	if c.Approve != "" && c.Approved == nil && !strings.Contains(hint, c.Approve) {
		fact(b, "", st.arrow()+" "+Clean(c.Approve))
	}
	if c.Bind != "" && c.Approved == nil && !strings.Contains(hint, c.Bind) {
		fact(b, "", st.arrow()+" "+Clean(c.Bind))
	}
}

func certificate(b *strings.Builder, c *agent.CertificateStatus, st Style) {
	left := c.NotAfter.Sub(st.Now)
	day := c.NotAfter.UTC().Format("2006-01-02 15:04 UTC")
	if left <= 0 {
		fact(b, "Certificate", st.paint(red, "expired "+Age(-left)+" ago")+" ("+day+")")
	} else {
		fact(b, "Certificate", "expires in "+Age(left)+" ("+day+")")
	}
	fact(b, "", st.paint(faint, "serial "+Clean(c.Serial)))
}

func kubeletLine(k agent.KubeletStatus, st Style) string {
	line := orNone(Clean(k.Unit))
	if k.ActiveState != "" {
		state := Clean(k.ActiveState)
		if k.SubState != "" && k.SubState != k.ActiveState {
			state += " (" + Clean(k.SubState) + ")"
		}
		colour := yellow
		switch k.ActiveState {
		case "active":
			colour = green
		case "failed":
			colour = red
		}
		line += "  " + st.paint(colour, state)
	}
	if k.Healthy != nil {
		if *k.Healthy {
			line += ", healthy"
		} else {
			line += ", " + st.paint(yellow, "not healthy")
		}
	}
	if k.MainPID != 0 {
		line += fmt.Sprintf(", PID %d", k.MainPID)
	}
	if k.Started != nil {
		line += ", up " + Age(st.Now.Sub(*k.Started))
	}
	return line
}

func notes(b *strings.Builder, all []agent.Note, st Style) {
	if len(all) == 0 {
		return
	}
	b.WriteByte('\n')
	for _, n := range all {
		block(b, st.alert()+" ", string(n.Reason)+": "+n.Message, st)
		if n.Hint != "" {
			block(b, "  "+st.arrow()+" ", n.Hint, st)
		}
	}
}

// Timeline renders the steps with their durations and a bar for each share of
// the longest one.
func Timeline(steps []agent.Step, st Style) string {
	var longest, total float64
	nameWidth, timeWidth := 0, len("00 ms")
	lengths := make([]float64, len(steps))
	texts := make([]string, len(steps))
	for i, s := range steps {
		open := s.Seconds == nil
		if open {
			lengths[i] = max(st.Now.Sub(s.Start).Seconds(), 0)
		} else {
			lengths[i] = *s.Seconds
		}
		texts[i] = Seconds(lengths[i])
		longest = max(longest, lengths[i])
		nameWidth = max(nameWidth, len([]rune(s.Name)))
		timeWidth = max(timeWidth, len(texts[i]))
	}
	if n := len(steps); n > 0 {
		total = steps[n-1].Start.Sub(steps[0].Start).Seconds() + lengths[n-1]
	}
	barWidth := min(max(st.width()-nameWidth-timeWidth-30, 8), 24)
	var b strings.Builder
	b.WriteString(st.paint(bold, pad("Timeline", nameWidth+5)) + padLeft(Seconds(total), timeWidth) + "\n")
	for i, s := range steps {
		mark, colour := st.good(), green
		switch {
		case s.Reason != "":
			mark, colour = st.bad(), red
		case s.Seconds == nil:
			mark, colour = st.paint(yellow, st.pick("…", "..")), yellow
		}
		share := 0.0
		if longest > 0 {
			share = lengths[i] / longest
		}
		b.WriteString("  " + markPad(mark, st) + pad(Clean(s.Name), nameWidth) + "  " + padLeft(texts[i], timeWidth))
		bar := st.bar(share, barWidth)
		tail := Clean(s.Detail)
		if s.Reason != "" {
			tail = strings.TrimSuffix(string(s.Reason)+": "+tail, ": ")
		}
		if tail != "" {
			bar = pad(bar, barWidth)
		}
		b.WriteString("  " + st.paint(colour, bar))
		if tail != "" {
			b.WriteString("  " + st.paint(faint, tail))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// markPad keeps the names below each other: ASCII marks are two letters wide.
func markPad(mark string, st Style) string {
	if st.Unicode {
		return mark + " "
	}
	if strings.Contains(mark, "!") {
		return mark + "  "
	}
	return mark + " "
}

func fact(b *strings.Builder, name, value string) {
	b.WriteString("  " + pad(name, label) + value + "\n")
}

func first(i int, name string) string {
	if i == 0 {
		return name
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// block writes wrapped text under a lead whose visible width is that of blanks.
func block(b *strings.Builder, lead, text string, st Style) {
	width := visible(lead)
	for i, line := range wrap(Clean(text), st.width()-width) {
		if i == 0 {
			b.WriteString(lead)
		} else {
			b.WriteString(strings.Repeat(" ", width))
		}
		b.WriteString(line + "\n")
	}
}

// visible counts the columns of text without its colours.
func visible(text string) int {
	n, inside := 0, false
	for _, r := range text {
		switch {
		case r == 0x1b:
			inside = true
		case inside:
			inside = r != 'm'
		default:
			n++
		}
	}
	return n
}

// StepLine is one finished step as a plain line, for a join without a terminal.
func StepLine(s agent.Step, st Style) string {
	if s.Seconds == nil {
		return Clean(s.Name) + " ..."
	}
	line := markPad(st.good(), st) + Clean(s.Name) + " (" + Seconds(*s.Seconds) + ")"
	if s.Reason != "" {
		line = markPad(st.bad(), st) + Clean(s.Name) + " (" + Seconds(*s.Seconds) + "): " + string(s.Reason)
	}
	if s.Detail != "" {
		line += ": " + Clean(s.Detail)
	}
	return line
}

// OneLine is the status in one line, for wait and for plain progress.
func OneLine(s agent.Status) string {
	line := string(s.Phase)
	if s.Reason != "" {
		line += " (" + string(s.Reason) + ")"
	}
	if s.Message != "" {
		line += ": " + Clean(s.Message)
	}
	return line
}

package view

import (
	"fmt"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// Machine renders the rows of a machine check, each that does not pass with its
// remedy, and what they come to.
func Machine(rows []*preflight.Row, st Style) string {
	var b strings.Builder
	width := 0
	for _, r := range rows {
		width = max(width, visible(Clean(r.Name)))
	}
	counts := map[preflight.Verdict]int{}
	needsRoot := false
	for _, r := range rows {
		counts[r.Verdict]++
		needsRoot = needsRoot || r.NeedsRoot
		mark, text := st.good(), Clean(r.Message)
		switch r.Verdict {
		case preflight.Warn:
			mark = st.alert()
		case preflight.Fail:
			mark, text = st.bad(), string(r.Reason)+": "+text
		case preflight.Skip:
			mark = st.paint(faint, st.pick("–", "--"))
		}
		lead := markPad(mark, st) + pad(Clean(r.Name), width) + "  "
		block(&b, lead, text, st)
		if r.Remedy != "" && r.Verdict != preflight.Pass {
			block(&b, strings.Repeat(" ", visible(lead))+st.arrow()+" ", r.Remedy, st)
		}
	}
	b.WriteByte('\n')
	lead, end := st.good()+" ", "This machine can run a kubelet"
	if n := counts[preflight.Fail]; n > 0 {
		lead, end = st.bad()+" ", fmt.Sprintf("This machine cannot become a node yet: %d failed", n)
	}
	if n := counts[preflight.Warn]; n > 0 {
		end += fmt.Sprintf(", %d %s", n, plural(n, "warning"))
	}
	if n := counts[preflight.Skip]; n > 0 {
		end += fmt.Sprintf(", %d not looked at", n)
	}
	if end += "."; needsRoot {
		end += " As root more can be seen."
	}
	block(&b, lead, end, st)
	return b.String()
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Check is what a cluster check saw.
type Check struct {
	Report  *discovery.Report
	Err     error // of the whole; nil if one endpoint passed
	TokenID string
	Started time.Time
	Pinned  bool // pins were given; without any the CAs are only shown
	Unsafe  bool // the operator does without a pin on purpose
}

// checkStep is a line below an endpoint.
type checkStep struct {
	step discovery.Step
	name string
}

// checkSteps are these lines in the order they are reached.
var checkSteps = []checkStep{
	{discovery.StepConnected, "connection"},
	{discovery.StepSecured, "TLS"},
	{discovery.StepAnswered, "cluster-info"},
	{discovery.StepSigned, "signature"},
	{discovery.StepRead, "content"},
	{discovery.StepAccepted, "CA"},
	{discovery.StepVerified, "certificate"},
}

// fileSteps are the same for the server of a discovery file, whose CAs are held
// against the pins before anything is asked.
var fileSteps = []checkStep{
	{discovery.StepNone, "CA"},
	{discovery.StepConnected, "connection"},
	{discovery.StepSecured, "TLS"},
	{discovery.StepAnswered, "answer"},
	{discovery.StepVerified, "certificate"},
}

// Cluster renders a cluster check: each endpoint with the steps it passed, the
// CAs with their pins, the server, and what to do next.
func Cluster(c Check, st Style) string {
	var b strings.Builder
	for _, e := range c.Report.Endpoints {
		endpoint(&b, e, c, st)
		b.WriteByte('\n')
	}
	authorities(&b, c, st)
	if cluster := c.Report.Cluster; cluster != nil {
		fact(&b, "Server", Clean(cluster.Server))
		if cluster.Provisional {
			block(&b, "  "+st.alert()+" ", "cluster-info names "+cluster.InfoServer+", which cannot be reached from here; the endpoint that answered would be used", st)
		}
		for _, dropped := range cluster.Dropped {
			block(&b, "  "+st.alert()+" ", "not trusted, because no pin names it: "+dropped, st)
		}
		if len(cluster.OtherClientCAs) > 0 {
			block(&b, "  "+st.alert()+" ", "the API server takes client certificates of "+strings.Join(cluster.OtherClientCAs, ", ")+", and none of the trusted CAs is among these: "+
				"a kubelet needs their CA as kubelet.clientCAFile, or the API server can most likely not reach it (kubectl logs)", st)
		}
		for _, old := range cluster.Expired {
			block(&b, "  "+st.alert()+" ", "not valid now: "+old, st)
		}
	}
	verdict(&b, c, st)
	return b.String()
}

func endpoint(b *strings.Builder, e discovery.EndpointReport, c Check, st Style) {
	mark := st.good()
	if e.Err != nil {
		mark = st.bad()
	}
	took := ""
	if !e.LocalTime.IsZero() && !c.Started.IsZero() {
		took = st.paint(faint, "answered after "+Seconds(e.LocalTime.Sub(c.Started).Seconds()))
	}
	b.WriteString(strings.TrimRight(mark+" "+st.paint(bold, pad(Clean(e.Endpoint), 28))+took, " ") + "\n")
	steps := checkSteps
	if c.Report.File {
		steps = fileSteps
	}
	for _, s := range steps {
		switch {
		case s.step <= e.Reached && (s.step != discovery.StepNone || fault.ReasonOf(e.Err) != fault.CAPinMismatch):
			text := strings.TrimSpace(passed(s.step, e, c))
			b.WriteString(strings.TrimRight("  "+markPad(st.good(), st)+pad(s.name, label)+st.paint(faint, text), " ") + "\n")
		case e.Err != nil: // the first one that was not reached
			lead := "  " + markPad(st.bad(), st) + pad(s.name, label)
			text := strings.TrimPrefix(Cause(e.Err), e.Endpoint+": ")
			if reason := fault.ReasonOf(e.Err); reason != "" {
				text = string(reason) + ": " + text
			}
			block(b, lead, text, st)
			if hint := fault.HintOf(e.Err); hint != "" {
				block(b, strings.Repeat(" ", visible(lead))+st.arrow()+" ", hint, st)
			}
			return
		}
	}
}

// passed says what is worth knowing about a step that went well.
func passed(step discovery.Step, e discovery.EndpointReport, c Check) string {
	switch step {
	case discovery.StepNone:
		if c.Pinned {
			return "server " + e.Server + ", CA pinned"
		}
		return "server " + e.Server + ", CA as the file says"
	case discovery.StepSecured:
		if len(e.Peer) > 0 {
			return e.Peer[0].Subject + ", until " + day(e.Peer[0].NotAfter)
		}
	case discovery.StepAnswered:
		if len(e.SignedFor) > 0 {
			return "signed for token " + strings.Join(e.SignedFor, ", ")
		}
	case discovery.StepSigned:
		return "made with token " + c.TokenID
	case discovery.StepRead:
		return fmt.Sprintf("server %s, %d CA", e.Server, len(e.CAs))
	case discovery.StepAccepted:
		if !c.Pinned {
			return "not pinned"
		}
		return "pinned"
	case discovery.StepVerified:
		return "verifies against the CA"
	}
	return ""
}

// authorities lists every CA once with its pin on a line of its own, ready to
// be copied.
func authorities(b *strings.Builder, c Check, st Style) {
	seen := map[string]bool{}
	for _, e := range c.Report.Endpoints {
		for _, ca := range e.CAs {
			if seen[ca.Pin] || e.Reached < discovery.StepSigned && !c.Report.File {
				continue
			}
			seen[ca.Pin] = true
			mark, word := st.alert(), "not pinned"
			switch {
			case ca.Pinned:
				mark, word = st.good(), "pinned"
			case c.Report.File && !c.Pinned:
				mark, word = st.good(), "from the discovery file"
			}
			fact(b, first(len(seen)-1, "CA"), mark+" "+Clean(ca.Subject)+", until "+day(ca.NotAfter)+", "+word)
			fact(b, "", "  "+ca.Pin)
		}
	}
}

// pinsSeen are the pins of the CAs that the token's signature vouches for.
func pinsSeen(c Check) []string {
	var pins []string
	seen := map[string]bool{}
	for _, e := range c.Report.Endpoints {
		if e.Reached < discovery.StepSigned {
			continue
		}
		for _, ca := range e.CAs {
			if !seen[ca.Pin] {
				seen[ca.Pin] = true
				pins = append(pins, ca.Pin)
			}
		}
	}
	return pins
}

func verdict(b *strings.Builder, c Check, st Style) {
	if !strings.HasSuffix(b.String(), "\n\n") {
		b.WriteByte('\n')
	}
	switch pins := pinsSeen(c); {
	case c.Err != nil && len(c.Report.Endpoints) == 0:
		block(b, st.bad()+" ", Cause(c.Err), st)
	case c.Err != nil:
		block(b, st.bad()+" ", "A machine could not join with this.", st)
	case c.Pinned, c.Report.File:
		block(b, st.good()+" ", "A machine could join with this. (What comes after trust, the certificate request, is not tried.)", st)
	case c.Unsafe:
		block(b, st.alert()+" ", "A machine could join with this, trusting the token alone.", st)
	case len(pins) > 0:
		block(b, st.good()+" ", "The token's signature vouches for this cluster. Compare the pin with one taken on the control plane, then write it into the config:", st)
		b.WriteString("\n    caCertHashes: [\"" + strings.Join(pins, `", "`) + "\"]\n")
		b.WriteString("\n  " + st.paint(faint, "On the control plane, the whole line for `bootstrap-agent configure`:") +
			"\n    kubeadm token create --print-join-command\n")
	}
}

// Cause is an error's text for a person, on one line.
func Cause(err error) string { return Clean(strings.ReplaceAll(err.Error(), "\n", "; ")) }

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

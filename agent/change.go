package agent

import (
	"fmt"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Change is what the cluster shows, or how it fails, that this node does not
// have or has not followed yet. Plain data, like the Observation that it is in.
type Change struct {
	CAAdded []string // pins of CAs on show that the trust record does not hold
	CAGone  []string // pins of those that it holds and that are not on show
	CAHeld  string   // why they are not taken; "": they are
	CAPaste string   // what caCertHashes has to be before they are taken

	Server     string // on offer, other than the one in use
	ServerHeld string // why it is not followed

	CAFrom, ServerFrom string // who says so: cluster-info, the discovery file, the config

	At      time.Time // when it is followed; zero: that is not known
	Stays   string    // why nothing of all this is
	Strange string    // configured endpoints that do not verify, and why
	Refused error     // why the bundle on show cannot be read

	// Down: the server in use cannot be used since then. Cause is its error, Anew
	// that of discovering the cluster anew, which is done where the certificate of
	// the server does not verify.
	Down        time.Time
	Cause, Anew error
}

// Who may show CAs, or name a server.
const (
	fromInfo   = "cluster-info"
	fromFile   = "the discovery file"
	fromConfig = "the config (key server)"
)

// change gathers it from what the loop remembers.
func (a *Agent) change() Change {
	f := &a.memory.follow
	c := Change{
		CAAdded: f.cas.added, CAGone: f.cas.gone, CAHeld: f.cas.held, CAPaste: f.cas.paste, CAFrom: fromInfo,
		Server: f.server.offered, ServerHeld: f.server.held, ServerFrom: fromInfo,
		Stays: f.stays, Strange: f.strange, Refused: f.refused,
	}
	if f.cas.byFile {
		c.CAFrom = fromFile
	}
	switch {
	case a.cfg.Server != "":
		c.ServerFrom = fromConfig
	case a.cfg.Discovery != nil:
		c.ServerFrom = fromFile
	}
	if f.plan != nil {
		c.At = f.due
	}
	d := &f.outage
	if now := a.deps.Clock.Now(); !d.since.IsZero() && (d.alien || now.Sub(d.since) >= a.pace.ServerDead) {
		c.Down, c.Cause, c.Anew = d.since, d.err, d.other
	}
	return c
}

// notes tells it.
func (c Change) notes() (notes []Note) {
	add := func(r fault.Reason, hint, format string, args ...any) {
		if row, _ := fault.Lookup(r); hint == "" {
			hint = row.Remedy
		}
		notes = append(notes, Note{Reason: r, Message: oneLine(fmt.Sprintf(format, args...)), Hint: hint})
	}
	if len(c.CAAdded) > 0 {
		add(fault.CAOffered, c.paste(), "%s shows CAs that this node does not hold: %s%s", c.CAFrom, listed(c.CAAdded), c.then(c.CAHeld))
	} else if len(c.CAGone) > 0 {
		add(fault.CAOffered, c.paste(), "%s no longer shows CAs that this node holds: %s%s", c.CAFrom, listed(c.CAGone), c.then(c.CAHeld))
	}
	if c.Refused != nil {
		add(fault.ClusterInfoInvalid, fault.HintOf(c.Refused), "%v", c.Refused)
	}
	if c.Server != "" {
		add(fault.ServerOffered, "", "%s names another server than this node uses: %s%s", c.ServerFrom, fault.Quote(c.Server), c.then(c.ServerHeld))
	} else if c.Strange != "" {
		add(fault.ServerOffered, "", "the configured endpoints are others now, and are not followed: %s", c.Strange)
	}
	if c.Down.IsZero() {
		return notes
	}
	reason, hint, then := fault.ReasonOf(c.Cause), "", ""
	if c.Anew != nil {
		then = "; to discover the cluster anew: " + c.Anew.Error()
		if r := fault.ReasonOf(c.Anew); r != "" {
			reason, hint = r, fault.HintOf(c.Anew)
		}
	} else if c.Stays != "" {
		then = "; nothing is done about it: " + c.Stays
	}
	add(reason, hint, "the API server in use fails since %s: %v%s", c.Down.UTC().Format(time.RFC3339), c.Cause, then)
	return notes
}

// paste is the literal next step where a pin is lacking.
func (c Change) paste() string {
	if c.CAPaste == "" {
		return ""
	}
	return "Compare with a pin taken on the control plane, then configure " + c.CAPaste
}

// then says what becomes of what is on offer.
func (c Change) then(held string) string {
	switch {
	case held != "":
		return "; not followed: " + held
	case c.Stays != "":
		return "; not followed: " + c.Stays
	case !c.At.IsZero():
		return "; followed at " + c.At.UTC().Format(time.RFC3339)
	}
	return ""
}

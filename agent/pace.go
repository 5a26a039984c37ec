package agent

import "time"

// Pace is how long the agent waits for what. It is DefaultPace on every machine;
// tests that play a quarter of an hour or a namesake's death pass a quicker one,
// so that the waits themselves are what is tested. Fields that are zero take
// DefaultPace's value.
type Pace struct {
	LocalCheck      time.Duration // between two looks at a joined machine
	APICheck        time.Duration // at least, between two questions to the API about a joined node
	VanishGrace     time.Duration // a pair that is gone for less may be on its way (rotation)
	EagerFirst      time.Duration // first pause before a node that is not Ready is asked about again
	UnauthorizedGap time.Duration // between two answers 401, before they are believed
	NamesakeAtLeast time.Duration // how long a Lease that looks fresh is watched
	NamesakeEvery   time.Duration // and how often it is read meanwhile
	ServerDead      time.Duration // the server in use fails for this long, before another is looked for
	ChangeGap       time.Duration // between two changes of the same kind that a joined node follows: of its CAs, of its server
	Backstop        time.Duration // between two reads of a request beside its watch
	Signed          time.Duration // between the approval of a request and its certificate
	Reissued        time.Duration // an automatic approver and signer may take so long for a node's next certificate; a person is not waited for
	Slow            time.Duration // pause after a slow fault, once the first two minutes are over
	Blocked         time.Duration // pause after a blocked fault
}

// DefaultPace is the pace of the shipped agent (docs/operations.md, "Timings").
var DefaultPace = Pace{
	LocalCheck:      time.Minute,
	APICheck:        15 * time.Minute,
	VanishGrace:     10 * time.Second,
	EagerFirst:      10 * time.Second,
	UnauthorizedGap: time.Minute,
	NamesakeAtLeast: 15 * time.Second,
	NamesakeEvery:   5 * time.Second,
	ServerDead:      3 * time.Minute,
	ChangeGap:       2 * time.Hour,
	Backstop:        30 * time.Second,
	Signed:          2 * time.Minute,
	Reissued:        15 * time.Second,
	Slow:            time.Minute,
	Blocked:         5 * time.Minute,
}

// orDefault fills what was left zero.
func (p Pace) orDefault() Pace {
	fill := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	fill(&p.LocalCheck, DefaultPace.LocalCheck)
	fill(&p.APICheck, DefaultPace.APICheck)
	fill(&p.VanishGrace, DefaultPace.VanishGrace)
	fill(&p.EagerFirst, DefaultPace.EagerFirst)
	fill(&p.UnauthorizedGap, DefaultPace.UnauthorizedGap)
	fill(&p.NamesakeAtLeast, DefaultPace.NamesakeAtLeast)
	fill(&p.NamesakeEvery, DefaultPace.NamesakeEvery)
	fill(&p.ServerDead, DefaultPace.ServerDead)
	fill(&p.ChangeGap, DefaultPace.ChangeGap)
	fill(&p.Backstop, DefaultPace.Backstop)
	fill(&p.Signed, DefaultPace.Signed)
	fill(&p.Reissued, DefaultPace.Reissued)
	fill(&p.Slow, DefaultPace.Slow)
	fill(&p.Blocked, DefaultPace.Blocked)
	return p
}

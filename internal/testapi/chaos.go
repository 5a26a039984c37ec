package testapi

import (
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The weather: all of it a client has to live with on a real cluster. Two
// promises keep tests finite: a verb on a resource is not refused twice in a
// row, and not every watch ends before its first event.
const (
	maxDelay       = 20 * time.Millisecond
	chance429      = 0.05
	chance503      = 0.03
	chanceGoAway   = 0.08
	chancePieces   = 0.3
	chanceWatchEnd = 0.35
)

// day is what the weather does to one request.
type day struct {
	delay       time.Duration
	refuse      int // 429, 503 or 0
	plain       bool
	goAway      bool
	pieces      []time.Duration
	duplicate   bool
	bookmark    bool
	watchEvents int           // end after so many; < 0: never
	control     time.Duration // how long approver and signer take
}

// chaosState is the weather's memory and the faults asked for; under the lock.
type chaosState struct {
	counts     map[string]int
	refused    map[string]bool
	faults     []*Fault
	dateOffset time.Duration
}

// today decides the weather of one request. It is a function of the seed, the
// verb and resource, and how many of these came before: requests to other
// resources in between change nothing, so a seed repeats.
func (s *Server) today(a attributes) day {
	if s.opts.Quiet {
		return day{watchEvents: -1}
	}
	key := a.verb + " " + join(a.resource, a.sub) + a.path
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.chaos.counts[key]
	s.chaos.counts[key]++
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // a hash never fails
	rng := rand.New(rand.NewPCG(uint64(s.seed), h.Sum64()+uint64(n)*0x9e3779b97f4a7c15))
	d := day{
		delay:       time.Duration(rng.Int64N(int64(maxDelay))),
		goAway:      rng.Float64() < chanceGoAway,
		duplicate:   rng.IntN(3) == 0,
		bookmark:    rng.IntN(2) == 0,
		plain:       rng.IntN(2) == 0,
		watchEvents: -1,
		control:     time.Duration(rng.Int64N(int64(maxDelay))),
	}
	if rng.Float64() < chancePieces {
		for range 1 + rng.IntN(4) {
			d.pieces = append(d.pieces, time.Duration(rng.Int64N(int64(maxPiecePause))))
		}
	}
	switch p := rng.Float64(); {
	case p < chance429:
		d.refuse = http.StatusTooManyRequests
	case p < chance429+chance503:
		d.refuse = http.StatusServiceUnavailable
	}
	early := false
	if a.verb == "watch" && rng.Float64() < chanceWatchEnd {
		d.watchEvents = rng.IntN(4)
		early = d.watchEvents == 0
	}
	if s.chaos.refused[key] {
		d.refuse = 0
		if early {
			d.watchEvents, early = 1, false
		}
	}
	s.chaos.refused[key] = d.refuse != 0 || early
	return d
}

// refuse answers as the weather says: kube-apiserver's overload protection
// answers in plain text, its handlers with a Status.
func (c *call) refuse() {
	c.w.Header().Set("Retry-After", "1")
	switch {
	case c.day.refuse == http.StatusTooManyRequests && c.day.plain:
		c.body(c.day.refuse, "text/plain; charset=utf-8", []byte("Too many requests, please try again later.\n"))
	case c.day.refuse == http.StatusTooManyRequests:
		c.fail(apierrors.NewTooManyRequests("the server has received too many requests and has asked us to try again later", 1))
	default:
		c.w.Header().Del("Retry-After")
		c.fail(apierrors.NewServiceUnavailable("apiserver is shutting down"))
	}
}

// Fault is something that is done to the requests that match, whatever the
// weather; the fault takes their place in it.
type Fault struct {
	// Match picks requests (Status is not known yet); nil: all.
	Match func(Request) bool
	// Times is how many; 0 is one, below 0 all.
	Times int

	// Delay comes first, always.
	Delay time.Duration
	// Hang: no answer at all until the client gives up or the server closes.
	Hang bool
	// Disconnect closes the TCP connection: at once, or where Lose or Cut ends the answer.
	Disconnect bool
	// Status is answered instead of the real answer, and nothing is done. Body
	// empty: a Status object that fits.
	Status int
	Header http.Header
	Body   string
	// Serve answers instead, with whatever it likes; it may take the connection over.
	Serve http.HandlerFunc
	// Lose does what was asked and loses the answer.
	Lose bool
	// Cut does what was asked and ends the answer in its middle (of a watch: in
	// the middle of its first event).
	Cut bool
}

// Inject adds a fault; the first that matches a request is used. remove takes
// it away again.
func (s *Server) Inject(f Fault) (remove func()) {
	if f.Times == 0 {
		f.Times = 1
	}
	p := &f
	s.set(func() { s.chaos.faults = append(s.chaos.faults, p) })
	return func() { s.set(func() { p.Times = 0 }) }
}

// FailNext answers the next times requests with status.
func (s *Server) FailNext(times, status int) (remove func()) {
	return s.Inject(Fault{Times: times, Status: status})
}

// takeFault finds the fault for a request, and counts it.
func (s *Server) takeFault(r Request) *Fault {
	s.mu.Lock()
	faults := append([]*Fault(nil), s.chaos.faults...)
	s.mu.Unlock()
	for _, f := range faults {
		if f.Match != nil && !f.Match(r) { // not under the lock: it may call the server
			continue
		}
		s.mu.Lock()
		left := f.Times
		if left > 0 {
			f.Times--
		}
		s.mu.Unlock()
		if left != 0 {
			return f
		}
	}
	return nil
}

// faultBefore does the part of a fault that takes the place of the real answer;
// true when that was all.
func (c *call) faultBefore() bool {
	f := c.fault
	c.day.refuse, c.day.goAway, c.day.pieces = 0, false, nil
	if !c.s.pause(c.ctx(), f.Delay) {
		return true
	}
	for name, values := range f.Header {
		c.w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	switch {
	case f.Serve != nil:
		c.sent = true
		f.Serve(c.w, c.r)
		return true
	case f.Hang:
		select {
		case <-c.ctx().Done():
		case <-c.s.done:
		}
		return true
	case f.Status != 0 && f.Body != "":
		contentType := f.Header.Get("Content-Type")
		if contentType == "" {
			contentType = "text/plain; charset=utf-8"
		}
		c.body(f.Status, contentType, []byte(f.Body))
		return true
	case f.Status != 0:
		gr := apierrors.NewGenericServerResponse(f.Status, strings.ToLower(c.r.Method), csrs.gr(), c.attrs.name, "asked for by a test", 0, false)
		gr.ErrStatus.Details = nil
		if gr.ErrStatus.Status == "" {
			gr.ErrStatus.Status = metav1.StatusFailure
		}
		c.fail(gr)
		return true
	case f.Disconnect && !f.Lose && !f.Cut:
		c.drop()
	}
	return false
}

package csr

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	backstopEvery = 30 * time.Second // a watch can be deaf without being closed; see nextBackstop
	backstopMost  = 5 * time.Minute
	tellEvery     = 30 * time.Second // the age of a request is part of what is told
	reviewAfter   = 3 * time.Second  // by then the automatic approver has decided
	signedWithin  = 2 * time.Minute  // between approval and certificate
	reopenFirst   = time.Second      // pause before a watch is opened again, doubling
	reopenLast    = 30 * time.Second
	healthyWatch  = 10 * time.Second // a watch that lived so long clears the pause
	badBackstops  = 3                // failed reads in a row that count although a watch is open
)

// waiter follows one request to its end. Everything in it belongs to the
// goroutine of Request; calls of the API run beside it and hand their answers
// over, so that a slow one never keeps an approval waiting.
type waiter struct {
	r *Requester
	t Target
	q *request

	latest   *certificatesv1.CertificateSigningRequest
	begun    time.Time // when the wait began
	decided  bool      // it was issued when it was found
	progress Progress

	answers           chan answer // room for each kind of call, of which one runs at a time
	calls             sync.WaitGroup
	reading, opening  bool
	stream            watch.Interface
	opened            time.Time
	reopen            *time.Timer // set while a pause before reopening runs
	reopenAfter       time.Duration
	failedReads       int
	quietUntil        time.Time // the server asked (Retry-After) not to be asked before
	unsigned, review  *time.Timer
	backstop, telling *time.Timer
}

// answer is what a call beside the loop came back with.
type answer struct {
	kind    call
	object  *certificatesv1.CertificateSigningRequest
	stream  watch.Interface
	allowed bool
	bind    string
	err     error
}

type call int

const (
	callRead call = iota
	callOpen
	callReview
)

// begin sets the request that is followed from here on.
func (w *waiter) begin(o *certificatesv1.CertificateSigningRequest, adopted bool) {
	w.latest = o
	s, _ := judge(o)
	w.decided = adopted && s == issued
	w.progress = Progress{Name: w.q.name, Created: o.CreationTimestamp.Time, Adopted: adopted}
	if s == approved || s == issued {
		w.progress.Approved = w.r.now()
	}
	w.tell()
}

// wait returns the request with its certificate, or why there will be none.
func (w *waiter) wait(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
	if done, err := w.look(w.latest); done || err != nil {
		return w.latest, err
	}
	inner, cancel := context.WithCancel(ctx)
	w.answers = make(chan answer, callReview+1)
	w.begun = time.Now()
	w.backstop, w.review, w.telling = time.NewTimer(w.nextBackstop()), time.NewTimer(reviewAfter), time.NewTimer(tellEvery)
	defer func() {
		cancel()
		w.finish()
	}()
	w.open(inner)
	for {
		done, err := w.step(inner)
		if done || err != nil {
			return w.latest, err
		}
	}
}

// step waits for one thing to happen and takes it in.
func (w *waiter) step(ctx context.Context) (done bool, err error) {
	var events <-chan watch.Event
	if w.stream != nil {
		events = w.stream.ResultChan()
	}
	var reopen, unsigned <-chan time.Time
	if w.reopen != nil {
		reopen = w.reopen.C
	}
	if w.unsigned != nil {
		unsigned = w.unsigned.C
	}
	select {
	case <-ctx.Done():
		return false, w.ended(ctx)
	case event, ok := <-events:
		return w.event(event, ok)
	case a := <-w.answers:
		return w.answer(ctx, a)
	case <-reopen:
		w.reopen = nil
		w.read(ctx)
	case <-w.backstop.C:
		w.backstop.Reset(w.nextBackstop())
		if w.read(ctx) {
			w.progress.Backstops++
		}
		w.tell()
	case <-w.telling.C:
		w.telling.Reset(tellEvery)
		w.tell()
	case <-w.review.C:
		if s, _ := judge(w.latest); s == pending {
			w.ask(ctx)
		}
	case <-unsigned:
		return false, fault.New(fault.CSRNotSigned, "certificate signing request %s was approved, but there is no certificate after %s", w.q.name, w.r.waits().Signed)
	}
	return false, nil
}

// event takes in what the watch delivered.
func (w *waiter) event(e watch.Event, ok bool) (done bool, err error) {
	o, isRequest := e.Object.(*certificatesv1.CertificateSigningRequest)
	switch {
	case !ok:
		w.reopenLater("the watch was closed", 0)
	case e.Type == watch.Bookmark:
	case (e.Type == watch.Added || e.Type == watch.Modified) && isRequest && o.Name == w.q.name:
		return w.look(o)
	case e.Type == watch.Deleted && isRequest && o.UID == w.latest.UID:
		// Its last state may be a certificate that we had not seen yet.
		if done, err := w.look(o); done || err != nil {
			return done, err
		}
		return false, w.gone("was deleted")
	case e.Type == watch.Error:
		w.reopenLater(fmt.Sprintf("the watch ended: %s", fault.Quote(apierrors.FromObject(e.Object).Error())), 0)
	default:
		w.reopenLater(fmt.Sprintf("the watch delivered a strange event %s", fault.Quote(string(e.Type))), 0)
	}
	return false, nil
}

// look takes in the request as it is now.
func (w *waiter) look(o *certificatesv1.CertificateSigningRequest) (done bool, err error) {
	if o.UID != w.latest.UID {
		return false, w.gone("was deleted and made again by somebody else")
	}
	s, condition := judge(o)
	w.latest = o
	if err := refusal(w.q.name, s, condition); err != nil {
		return false, err
	}
	if s == pending {
		return false, nil
	}
	if w.progress.Approved.IsZero() {
		w.progress.Approved = w.r.now()
		w.log().Info("certificate signing request approved")
		w.tell()
	}
	if s == approved && w.unsigned == nil {
		w.unsigned = time.NewTimer(w.r.waits().Signed)
	}
	return s == issued, nil
}

// answer takes in what a call came back with.
func (w *waiter) answer(ctx context.Context, a answer) (done bool, err error) {
	switch a.kind {
	case callReview:
		w.reviewed(a)
	case callOpen:
		w.opening = false
		w.watching(a)
	case callRead:
		w.reading = false
		if a.err != nil {
			return false, w.readFailed(ctx, a.err)
		}
		w.failedReads = 0
		if done, err := w.look(a.object); done || err != nil {
			return done, err
		}
		if w.stream == nil && !w.opening && w.reopen == nil {
			w.open(ctx)
		}
	}
	return false, nil
}

// reviewed tells whether it will be approved by itself; not knowing is no fault.
func (w *waiter) reviewed(a answer) {
	if a.err != nil {
		w.log().WithError(a.err).Debug("cannot ask whether the request will be approved by itself")
		return
	}
	w.progress.WillBeApproved, w.progress.Bind = &a.allowed, a.bind
	w.tell()
}

// watching begins with a watch, or puts it off: the reads go on meanwhile, and
// they tell what is wrong.
func (w *waiter) watching(a answer) {
	if a.err != nil {
		w.reopenLater(a.err.Error(), w.obey(a.err))
		return
	}
	w.stream, w.opened = a.stream, time.Now()
}

// readFailed decides whether a failed read ends the wait. While a watch is open
// a passing trouble (429, a restart) is left to it for a while.
func (w *waiter) readFailed(ctx context.Context, err error) error {
	if apierrors.IsNotFound(err) {
		return w.gone("was deleted")
	}
	row, _ := fault.Lookup(fault.ReasonOf(err))
	w.obey(err)
	w.failedReads++
	if w.stream != nil && row.Class == fault.Retry && w.failedReads < badBackstops {
		w.backstop.Reset(w.nextBackstop())
		w.log().WithError(err).Debug("cannot read the request, the watch goes on")
		return nil
	}
	return w.refused(ctx, err)
}

// nextBackstop is the pause before the next read beside the watch. It is as long
// as the wait has lasted: a deaf watch makes nobody wait more than twice as long
// as the approval took, and thousands of machines that wait for an hour are not
// felt by the server. A part of it is random, so that those that began together
// do not read together. After a read that failed it is short again.
func (w *waiter) nextBackstop() time.Duration {
	pause := w.r.waits().Backstop
	if w.failedReads == 0 {
		pause = min(max(pause, time.Since(w.begun)), backstopMost)
	}
	return pause + w.r.jitter(pause/3)
}

// obey notes what a busy server asked for.
func (w *waiter) obey(err error) (after time.Duration) {
	if f, ok := fault.As(err); ok && f.RetryAfter > 0 {
		after = f.RetryAfter
		w.quietUntil = time.Now().Add(after)
	}
	return after
}

// reopenLater drops the watch; after a pause the request is read, and watched
// from there on.
func (w *waiter) reopenLater(why string, atLeast time.Duration) {
	if w.stream != nil {
		if time.Since(w.opened) >= healthyWatch {
			w.reopenAfter = 0
		}
		w.stream.Stop()
		w.stream = nil
	}
	w.reopenAfter = min(max(reopenFirst, 2*w.reopenAfter), reopenLast)
	// Behind what a busy server asked of everybody, not instead of it.
	pause := atLeast + w.r.jitter(max(w.reopenAfter, atLeast/2))
	w.log().WithField("pause", pause).WithField("why", why).Debug("watching again after a pause")
	w.reopen = time.NewTimer(pause)
}

func (w *waiter) open(ctx context.Context) {
	w.opening = true
	version := w.latest.ResourceVersion
	w.beside(func() answer {
		stream, err := w.t.API.WatchCSR(ctx, w.q.name, version)
		return answer{kind: callOpen, stream: stream, err: err}
	})
}

func (w *waiter) read(ctx context.Context) (begun bool) {
	if w.reading || time.Now().Before(w.quietUntil) {
		return false
	}
	w.reading = true
	w.beside(func() answer {
		o, err := w.t.API.GetCSR(ctx, w.q.name)
		return answer{kind: callRead, object: o, err: err}
	})
	return true
}

// ask finds out whether the automatic approver would pass this request: it asks
// the API server the same question about the same person.
func (w *waiter) ask(ctx context.Context) {
	sub, missing := "nodeclient", areApproved
	if w.t.Requester == w.q.user {
		sub, missing = "selfnodeclient", areRenewed
	}
	w.beside(func() answer {
		ok, err := w.t.API.Allowed(ctx, authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Subresource: sub, Verb: "create",
		})
		a := answer{kind: callReview, allowed: ok, err: err}
		if err == nil && !ok {
			// The approver judges us by our groups: which binding is missing depends on them.
			if user, groups, err := w.t.API.WhoAmI(ctx); err == nil {
				a.bind = missing.command(user, groups)
			}
		}
		return a
	})
}

// beside runs a call of the API next to the loop. There is room for each
// answer, so it never hangs on a loop that has ended.
func (w *waiter) beside(call func() answer) { w.calls.Go(func() { w.answers <- call() }) }

// finish leaves nothing behind: calls have ended, watches are stopped.
func (w *waiter) finish() {
	for _, t := range []*time.Timer{w.backstop, w.telling, w.review, w.reopen, w.unsigned} {
		if t != nil {
			t.Stop()
		}
	}
	if w.stream != nil {
		w.stream.Stop()
	}
	w.calls.Wait()
	close(w.answers)
	for a := range w.answers {
		if a.stream != nil {
			a.stream.Stop()
		}
	}
}

func (w *waiter) gone(how string) error {
	return fault.New(fault.CSRDeleted, "certificate signing request %s %s: %w", w.q.name, how, ErrDeleted)
}

func (w *waiter) ended(ctx context.Context) error {
	return fmt.Errorf("cannot wait for certificate signing request %s: %w", w.q.name, ctx.Err())
}

func (w *waiter) log() logrus.FieldLogger { return w.r.log().WithField("csr", w.q.name) }

func (w *waiter) tell() {
	if w.r.OnProgress != nil {
		w.r.OnProgress(w.progress)
	}
}

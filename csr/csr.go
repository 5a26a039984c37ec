// Package csr turns a target and a node name into a signed client certificate:
// a key that is on disk before anybody hears of it, a certificate signing
// request named by what it asks for, the wait for whoever approves it, and the
// check of what comes back before it is believed.
//
// It never installs anything, never deletes or approves a request (a joining
// machine may not), never shows a key, and never gives up on a request that
// merely waits: days are normal where a person approves. It never believes a
// certificate because a server sent it.
//
//	Target --key, create, watch, check--> *Credentials | fault
package csr

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// API is what is asked of the API server. Its errors carry their fault where
// it is one of the connection; what 403, 404 and 409 mean is decided here.
type API interface {
	CreateCSR(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error)
	GetCSR(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error)
	WatchCSR(ctx context.Context, name, resourceVersion string) (watch.Interface, error)
	Allowed(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error)
	// WhoAmI is who the server takes us for.
	WhoAmI(ctx context.Context) (user string, groups []string, err error)
	// Clock is the server's time and when it was told.
	Clock() (server, local time.Time, ok bool)
}

// Target is the server that is asked, and who asks it for which node.
type Target struct {
	API      API
	NodeName string
	// Requester is who we are to the server: "system:bootstrap:<token id>", or
	// "system:node:<name>" where the node's own certificate asks. Empty: only the
	// server knows (a static token); it is asked where that decides something.
	Requester string
}

// Requester gets certificates for the one pending key of this machine.
type Requester struct {
	// KeyPath is the pending key. Its folder must exist.
	KeyPath string
	// Now is the wall clock that certificates are judged by; nil: time.Now.
	Now func() time.Time
	// Log gets a line for each change; nil: nobody.
	Log logrus.FieldLogger
	// Jitter is random in [0, d); nil: math/rand.
	Jitter func(d time.Duration) time.Duration
	// OnProgress is called at each change and at least every 30 s, always on the
	// goroutine of Request; nil: nobody.
	OnProgress func(Progress)
	// Waits are how long it waits for what; the zero value is right.
	Waits Waits
}

// Waits are the long waits of a request. Fields that are zero are 30 s and 2 min;
// only tests on a real control plane give others.
type Waits struct {
	Backstop time.Duration // between two reads beside a watch, which can be deaf without being closed
	Signed   time.Duration // between approval and certificate
}

// waits are the Requester's, filled up.
func (r *Requester) waits() Waits {
	return Waits{Backstop: cmp.Or(r.Waits.Backstop, backstopEvery), Signed: cmp.Or(r.Waits.Signed, signedWithin)}
}

// Progress is what is known about a request that waits.
type Progress struct {
	Name    string
	Created time.Time // by the server's clock
	Adopted bool      // made by an earlier attempt
	// WillBeApproved tells whether the automatic approver would approve it; nil:
	// not known (yet).
	WillBeApproved *bool
	// Bind is the command that would have it, and those after it, approved
	// automatically; "" while that is not known to be needed.
	Bind      string
	Approved  time.Time // when the approval was seen here; zero: not yet
	Backstops int       // reads that were made in case the watch is deaf
}

// Credentials are a checked certificate with its key.
type Credentials struct {
	CertPEM  []byte // the leaf first, then the rest of the chain
	KeyPEM   []byte
	Leaf     *x509.Certificate
	CSR      string    // the name of the request
	Created  time.Time // by the server's clock
	Approved time.Time // when the approval was seen here
}

// ErrDeleted is in the chain when the request was deleted, or deleted and made
// again by somebody else, while its certificate was awaited. The next attempt
// makes it again.
var ErrDeleted = errors.New("the request was deleted")

// unusable wraps the reason why a request that is already there under our name
// cannot be taken over: a new key gives a new name.
type unusable struct{ error }

func (u unusable) Unwrap() error { return u.error }

// Request returns on a checked certificate, on a fault, or when ctx ends. The
// key stays on disk (the caller removes it once the pair is installed), so that
// the next attempt, in this process or the next, finds its own request again;
// only a request that was denied or failed costs the key, because its name
// stays occupied for hours.
func (r *Requester) Request(ctx context.Context, t Target) (*Credentials, error) {
	k, err := r.key()
	if err != nil {
		return nil, err
	}
	c, err := r.request(ctx, t, k)
	var old unusable
	if errors.As(err, &old) { // once in a call: a server that refuses everything must not get a flood
		r.log().WithError(old.error).Warn("existing request cannot be used, asking with a new key")
		if k, err = r.newKey(); err != nil {
			return nil, err
		}
		c, err = r.request(ctx, t, k)
	}
	if reason := fault.ReasonOf(err); reason == fault.CSRDenied || reason == fault.CSRFailed {
		if rerr := atomicfile.Remove(r.KeyPath); rerr != nil {
			// The next attempt then finds the refused request and changes the key.
			r.log().WithError(rerr).Warn("cannot remove the key of the refused request")
		}
	}
	if errors.As(err, &old) {
		err = old.error
	}
	return c, err
}

// request makes or finds the request of this key and waits for its end.
func (r *Requester) request(ctx context.Context, t Target, k *pendingKey) (*Credentials, error) {
	q, err := newRequest(k, t.NodeName)
	if err != nil {
		return nil, err
	}
	w := &waiter{r: r, t: t, q: q}
	if err := w.submit(ctx); err != nil {
		return nil, err
	}
	issued, err := w.wait(ctx)
	if err != nil {
		return nil, err
	}
	leaf, chainPEM, err := w.believe(ctx, issued.Status.Certificate)
	if err != nil {
		if w.decided && fault.ReasonOf(err) == fault.CertificateInvalid {
			return nil, unusable{err} // left over from an earlier attempt, expired meanwhile
		}
		return nil, err
	}
	return &Credentials{
		CertPEM: chainPEM, KeyPEM: k.pem, Leaf: leaf,
		CSR: q.name, Created: w.progress.Created, Approved: w.progress.Approved,
	}, nil
}

// submit creates the request, or adopts the one that an earlier attempt made.
func (w *waiter) submit(ctx context.Context) error {
	for range 2 { // the one that exists can be deleted before it is read: then once more
		created, err := w.t.API.CreateCSR(ctx, w.q.object())
		if err == nil {
			w.begin(created, false)
			w.log().Info("certificate signing request created")
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return w.refused(ctx, err)
		}
		existing, err := w.t.API.GetCSR(ctx, w.q.name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return w.refused(ctx, err)
		}
		requester, err := w.requester(ctx, existing)
		if err != nil {
			return err
		}
		if err := w.q.adoptable(existing, requester); err != nil {
			return unusable{err}
		}
		w.begin(existing, true)
		w.log().Info("certificate signing request found, made by an earlier attempt")
		return nil
	}
	return w.gone("is deleted whenever it is made")
}

// requester returns who we are to the server, where an undecided request makes
// that matter. A server that does not tell leaves it unknown, and then the
// request there is not adopted.
func (w *waiter) requester(ctx context.Context, there *certificatesv1.CertificateSigningRequest) (string, error) {
	if s, _ := judge(there); w.t.Requester != "" || s != pending {
		return w.t.Requester, nil
	}
	user, _, err := w.t.API.WhoAmI(ctx)
	switch {
	case err == nil:
		return user, nil
	case fault.ReasonOf(err) != "" || ctx.Err() != nil:
		return "", err // of the connection: it is asked again
	}
	w.log().WithError(err).Debug("the server does not tell who we are")
	return "", nil
}

// refused gives an answer to create or read its reason. The answers of the
// connection have theirs already.
func (w *waiter) refused(ctx context.Context, err error) error {
	switch {
	case fault.ReasonOf(err) == fault.TokenRejected:
		return fault.New(fault.TokenRejected, "%w", err).WithHint("%s", secretHint(w.t.Requester))
	case fault.ReasonOf(err) != "":
		return err
	case apierrors.IsForbidden(err):
		return w.forbidden(ctx, err)
	case apierrors.IsNotFound(err):
		return fault.New(fault.CSRFailed, "%w", err).WithHint("Does the server have certificates.k8s.io/v1? `kubectl api-versions`.")
	case apierrors.IsBadRequest(err), apierrors.IsInvalid(err), apierrors.IsConflict(err):
		return fault.New(fault.CSRFailed, "%w", err).WithHint("The API server (or an admission webhook) does not take the request; the message says why.")
	}
	return err // the end of ctx, a 401 of a certificate, what the caller knows better
}

// forbidden finds out which groups the server sees in us, so that the message
// can name the binding that is missing. Not knowing them is no fault of its own.
func (w *waiter) forbidden(ctx context.Context, cause error) error {
	user, groups, err := w.t.API.WhoAmI(ctx)
	if err != nil {
		w.log().WithError(err).Debug("cannot ask who we are")
		return fault.New(fault.CSRForbidden, "%w", cause)
	}
	f := fault.New(fault.CSRForbidden, "%w; its groups: %s", cause, listed(groups))
	if command := mayAsk.command(user, groups); command != "" {
		f = f.WithHint("On the control plane: %s; or use a token whose group has that role already (kubeadm: `kubeadm token create`)", command)
	}
	return f
}

func (r *Requester) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Requester) jitter(d time.Duration) time.Duration {
	if r.Jitter != nil {
		return r.Jitter(d)
	}
	return rand.N(d) //nolint:gosec // spreads load; nothing secret depends on it
}

func (r *Requester) log() logrus.FieldLogger {
	if r.Log != nil {
		return r.Log
	}
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	return silent
}

package apiclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Unauthorized is a 401 to a client certificate, or to a client without any
// identity. What it means only the caller knows: once, it can be a server that
// has just started; twice a minute apart, the certificate is dead.
type Unauthorized struct{ Err error }

// Error returns the server's answer.
func (e *Unauthorized) Error() string { return e.Err.Error() }

// Unwrap returns the server's answer.
func (e *Unauthorized) Unwrap() error { return e.Err }

// answer is a Kubernetes error answer with its text made safe to show;
// apierrors.IsNotFound and its sisters see through it.
type answer struct {
	what   string
	status *apierrors.StatusError
}

func (a *answer) Error() string {
	code := int(a.status.ErrStatus.Code)
	return fmt.Sprintf("%s: the API server answered %d %s: %s", a.what, code, http.StatusText(code), fault.Quote(a.status.ErrStatus.Message))
}

func (a *answer) Unwrap() error { return a.status }

// quoted is an error whose text may hold words of a stranger: names from a
// certificate, a proxy's answer, the start of a body that is no JSON.
type quoted struct{ error }

func (q quoted) Error() string { return fault.Quote(q.error.Error()) }

func (q quoted) Unwrap() error { return q.error }

// explain gives an error of client-go its reason. what is the sentence's
// beginning ("cannot read node ..."); ctx is the caller's, so that its end is
// told from a request that took too long.
func (c *Client) explain(ctx context.Context, err error, note *call, what string) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%s: %w", what, ended)
	}
	if f, ok := fault.As(err); ok {
		return &fault.Error{Reason: f.Reason, Err: fmt.Errorf("%s: %w", what, f.Err), Hint: f.Hint}
	}
	var status *apierrors.StatusError
	var moved *redirect
	switch {
	case errors.As(err, &status) && note.status != 0:
		return c.explainAnswer(&answer{what: what, status: status}, note)
	case errors.As(err, &moved):
		return fault.New(fault.ServerError, "%s: %w", what, moved)
	case !note.sent: // never left this process
		return fmt.Errorf("%s: %w", what, err)
	case note.status != 0 && !errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.ServerError, "%s: the answer is cut off or no Kubernetes answer: %w", what, quoted{bare(err)})
	}
	return c.explainTransport(bare(err), what)
}

func (c *Client) explainAnswer(a *answer, note *call) error {
	code := int(a.status.ErrStatus.Code)
	if code == 0 {
		code = note.status
		a.status.ErrStatus.Code = int32(code)
	}
	switch {
	case code == http.StatusUnauthorized && c.bearer != nil:
		return &fault.Error{Reason: fault.TokenRejected, Err: a}
	case code == http.StatusUnauthorized:
		return &Unauthorized{Err: a}
	case code == http.StatusTooManyRequests:
		return &fault.Error{Reason: fault.Throttled, Err: a, RetryAfter: note.retryAfter}
	case code >= http.StatusInternalServerError || code < http.StatusBadRequest:
		return &fault.Error{Reason: fault.ServerError, Err: a, RetryAfter: note.retryAfter}
	}
	return a // 403, 404, 409, 410 and the like: the caller knows what they mean
}

func (c *Client) explainTransport(err error, what string) error {
	if skew := c.skew(err); skew != nil {
		return fault.New(fault.ClockSkew, "%s: %w", what, skew)
	}
	var op *net.OpError
	var dns *net.DNSError
	if !errors.As(err, &op) && !errors.As(err, &dns) && !errors.Is(err, context.DeadlineExceeded) {
		err = quoted{err}
		what += " at " + c.host // which the others tell by themselves
	}
	return fault.FromNetwork(err, what)
}

// skew tells a wrong clock from a wrong certificate: the server's chain fails
// here by validity alone, and would pass by the time that the server itself
// told earlier over a verified connection. Nothing is accepted because of it.
func (c *Client) skew(err error) *fault.Error {
	var verify *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &verify) || !errors.As(err, &invalid) || invalid.Reason != x509.Expired || len(verify.UnverifiedCertificates) == 0 {
		return nil
	}
	server, local, ok := c.Clock()
	if !ok {
		return nil
	}
	now := c.now()
	server = server.Add(now.Sub(local))
	leaf := verify.UnverifiedCertificates[0]
	intermediates := x509.NewCertPool()
	for _, cert := range verify.UnverifiedCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, otherwise := leaf.Verify(x509.VerifyOptions{DNSName: c.name, Roots: c.roots, Intermediates: intermediates, CurrentTime: server})
	if otherwise == nil {
		return fault.SkewOf(leaf.NotBefore, leaf.NotAfter, now, server)
	}
	return nil
}

// bare strips net/http's wrapper, which repeats method and URL.
func bare(err error) error {
	var wrapper *url.Error
	if errors.As(err, &wrapper) {
		return wrapper.Err
	}
	return err
}

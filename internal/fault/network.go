package fault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// FromNetwork gives a transport error of net, crypto/tls or net/http its
// reason. what says what was being done, as in "cannot read cluster-info from
// 10.0.0.1:6443". A cancelled context comes back as it is: the caller ended it,
// nothing failed. The server's time is not known here: callers that know it
// decide between ServerCertificateInvalid and ClockSkew with SkewOf.
func FromNetwork(err error, what string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if e, ok := As(err); ok {
		return &Error{Reason: e.Reason, Err: fmt.Errorf("%s: %w", what, err), Hint: e.Hint, RetryAfter: e.RetryAfter}
	}
	return New(networkReason(err), "%s: %w", what, err)
}

func networkReason(err error) Reason {
	var (
		dns       *net.DNSError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &dns):
		return DNSFailure
	case errors.As(err, &verify), errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid):
		return ServerCertificateInvalid
	case errors.As(err, &record), errors.As(err, &alert):
		return TLSHandshakeFailed
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return EndpointUnreachable
	case errors.As(err, &op) && op.Op == "remote error":
		return TLSHandshakeFailed
	}
	return EndpointUnreachable
}

// SkewOf returns a ClockSkew fault when server and local differ by so much that
// the local time lies outside notBefore..notAfter while the server's lies
// inside; otherwise nil. It is the one rule that tells a wrong clock from a
// wrong certificate.
func SkewOf(notBefore, notAfter, local, server time.Time) *Error {
	inside := func(t time.Time) bool { return !t.Before(notBefore) && !t.After(notAfter) }
	if inside(local) || !inside(server) {
		return nil
	}
	return New(ClockSkew, "this machine's clock says %s, the API server's %s (%s apart)",
		local.UTC().Format(time.RFC3339), server.UTC().Format(time.RFC3339), server.Sub(local).Abs().Round(time.Second))
}

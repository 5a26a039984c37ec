package discovery

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Step is how far an endpoint came.
type Step int

// The steps, in their order.
const (
	StepNone      Step = iota // no connection
	StepConnected             // a TCP connection to it, or to the proxy before it
	StepSecured               // a TLS session
	StepAnswered              // an HTTP answer, whatever its status
	StepSigned                // the signature is our token's
	StepRead                  // the kubeconfig and the CA bundle obey the rules
	StepAccepted              // at least one CA is pinned, or none needs to be
	StepVerified              // the server's certificate verifies against it
)

var stepNames = [...]string{"none", "connected", "secured", "answered", "signed", "read", "accepted", "verified"}

// String returns the step's name in lower case.
func (s Step) String() string {
	if s < 0 || int(s) >= len(stepNames) {
		return "step " + strconv.Itoa(int(s))
	}
	return stepNames[s]
}

// MarshalText returns the step's name.
func (s Step) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Report is what Inspect saw. All texts in it may be printed: what came from
// the network has its control characters escaped.
type Report struct {
	Endpoints  []EndpointReport `json:"endpoints"`
	Cluster    *Cluster         `json:"-"` // of the first endpoint that passed; nil if none did
	Requests   int              `json:"requests"`
	Handshakes int              `json:"handshakes"`
	// File: a discovery file names the one endpoint and its CAs. Then the steps
	// signed, read and accepted are not taken.
	File bool `json:"file,omitempty"`
}

// EndpointReport is what one endpoint showed, as far as it came. A field beyond
// that is empty.
type EndpointReport struct {
	Endpoint   string              `json:"endpoint"`
	Reached    Step                `json:"reached"`
	Err        error               `json:"-"` // nil if it passed
	Status     int                 `json:"status,omitempty"`
	ServerTime time.Time           `json:"serverTime,omitzero"` // Date of the answer, whoever gave it
	LocalTime  time.Time           `json:"localTime,omitzero"`
	Peer       []CertificateReport `json:"peer,omitempty"`      // the chain it showed, its own certificate first
	SignedFor  []string            `json:"signedFor,omitempty"` // token ids that cluster-info is signed for
	Server     string              `json:"server,omitempty"`    // named by cluster-info
	CAs        []CertificateReport `json:"cas,omitempty"`       // of cluster-info's bundle
}

// CertificateReport describes a certificate.
type CertificateReport struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names,omitempty"` // DNS names and addresses
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Pin       string    `json:"pin"`
	Pinned    bool      `json:"pinned"`
}

// Inspect takes every endpoint through the steps of Discover, all at once and
// each to its end, and tells what it saw, also when none passes. It changes
// nothing. The report is never nil; the error is that of Discover, nil if at
// least one endpoint passed.
func (d *Discoverer) Inspect(ctx context.Context, req Request) (*Report, error) {
	req, err := d.prepare(req)
	if err != nil {
		return &Report{}, err
	}
	if req.File != nil {
		return d.inspectFile(ctx, req)
	}
	var n counters
	r := &Report{Endpoints: make([]EndpointReport, len(req.Endpoints))}
	found := make([]*finding, len(req.Endpoints))
	errs := make([]error, len(req.Endpoints))
	var running sync.WaitGroup
	for i, e := range req.Endpoints {
		running.Go(func() { found[i], errs[i] = d.attempt(ctx, req, e, &n, &r.Endpoints[i]) })
	}
	running.Wait()
	for i := range r.Endpoints {
		r.Endpoints[i].SignedFor = reportList(r.Endpoints[i].SignedFor, maxReported)
	}
	err = decide(ctx, req.Endpoints, r.Endpoints, errs)
	for _, f := range found {
		if f != nil {
			r.Cluster, err = d.conclude(ctx, req, f, &n), nil
			break
		}
	}
	r.Requests, r.Handshakes = int(n.requests.Load()), int(n.handshakes.Load())
	return r, err
}

// What a report holds of a list that a server has made. A cluster with hundreds
// of tokens is real, a chain or a name without end is not.
const (
	maxReported      = 500
	maxReportedNames = 50
	maxReportedPeers = 10
)

// reportList makes a server's words printable, and no more than most of them.
func reportList(list []string, most int) []string {
	var out []string
	for i, s := range list {
		if i == most {
			return append(out, fmt.Sprintf("and %d more", len(list)-most))
		}
		out = append(out, printable(s))
	}
	return out
}

func reportAll(certs []*x509.Certificate, pins Pins) []CertificateReport {
	var out []CertificateReport
	for _, c := range certs {
		r := CertificateReport{
			Subject: printable(c.Subject.String()), Issuer: printable(c.Issuer.String()),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, Pin: SPKIPin(c), Pinned: pins.Match(c),
		}
		names := slices.Clone(c.DNSNames)
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
		r.Names = reportList(names, maxReportedNames)
		out = append(out, r)
	}
	return out
}

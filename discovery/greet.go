package discovery

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxVersion bounds the answer to versionPath, which strangers may read on most
// clusters, as cluster-info; a real one has some 400 bytes.
const maxVersion = 64 << 10

// Greeting is what an API server tells a stranger. Nothing of it is verified:
// it is for showing, never for a decision about trust.
type Greeting struct {
	Endpoint   string
	GitVersion string              // as in v1.36.3; "" where strangers are not told
	ServerTime time.Time           // Date of the answer; zero if it had none
	LocalTime  time.Time           // when it was read
	Peer       []CertificateReport // the chain it showed, its own certificate first
}

// Greet asks the endpoints for their version, anonymously and one after the
// other, until one answers, whatever its status. The error has the reason of the
// first.
func (d *Discoverer) Greet(ctx context.Context, endpoints []Endpoint, proxy func(*url.URL) (*url.URL, error)) (*Greeting, error) {
	if len(endpoints) == 0 {
		return nil, fault.New(fault.ConfigInvalid, "endpoints: none is configured")
	}
	var errs joined
	for _, e := range endpoints {
		g, err := d.greet(ctx, e, proxy)
		if err == nil {
			return g, nil
		}
		errs = append(errs, naming(e, err))
	}
	return nil, fault.New(fault.ReasonOf(errs[0]), "no API server answers: %w", errs)
}

func (d *Discoverer) greet(ctx context.Context, e Endpoint, proxy func(*url.URL) (*url.URL, error)) (*Greeting, error) {
	var n counters
	var seen EndpointReport
	g := &Greeting{Endpoint: e.String()}
	_, err := d.ask(ctx, Request{Proxy: proxy}, e.URL()+versionPath, &n, &seen, func(_ context.Context, resp *http.Response, _ *answer) error {
		if body, err := readBody(resp, maxVersion); err == nil && resp.StatusCode == http.StatusOK {
			g.GitVersion = parseGitVersion(body)
		}
		return nil
	})
	g.ServerTime, g.LocalTime, g.Peer = seen.ServerTime, seen.LocalTime, seen.Peer
	return g, err
}

var gitVersion = regexp.MustCompile(`^v[0-9]{1,4}\.[0-9]{1,4}[0-9A-Za-z.+-]{0,100}$`)

// parseGitVersion reads the one field that matters of a version.Info; "" where
// there is none, or none of the form that Kubernetes has.
func parseGitVersion(body []byte) string {
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	if json.Unmarshal(body, &info) != nil || !gitVersion.MatchString(info.GitVersion) {
		return ""
	}
	return info.GitVersion
}

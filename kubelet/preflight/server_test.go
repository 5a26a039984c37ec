package preflight

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func TestAPIServer(t *testing.T) {
	kubelet136 := kubelet.Version{Major: 1, Minor: 36, Text: "v1.36.3"}
	for name, c := range map[string]struct {
		v       kubelet.Version
		s       *Server
		verdict Verdict
		text    string
		reason  fault.Reason
	}{
		"nobody to ask":          {kubelet136, nil, Skip, "no endpoint", ""},
		"nobody answers":         {kubelet136, &Server{Err: fault.New(fault.EndpointUnreachable, "refused")}, Warn, "refused", fault.EndpointUnreachable},
		"an error of no kind":    {kubelet136, &Server{Err: errors.New("odd")}, Warn, "odd", fault.MachineWarning},
		"no word to strangers":   {kubelet136, &Server{Endpoint: "a:1"}, Pass, "does not tell", ""},
		"no version":             {kubelet136, &Server{GitVersion: "v1"}, Skip, "no version", ""},
		"the same":               {kubelet136, &Server{Endpoint: "a:1", GitVersion: "v1.36.0"}, Pass, "v1.36.0 at a:1", ""},
		"the kubelet is newer":   {kubelet136, &Server{GitVersion: "v1.35.9"}, Warn, "newer than the API server (v1.35.9)", fault.VersionSkew},
		"three older is well":    {kubelet136, &Server{GitVersion: "v1.39.0"}, Pass, "v1.39.0", ""},
		"four older is too much": {kubelet136, &Server{GitVersion: "v1.40.0"}, Warn, "more than 3 minor versions older", fault.VersionSkew},
		"a kubelet not known":    {kubelet.Version{}, &Server{GitVersion: "v1.40.0"}, Pass, "v1.40.0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			row := APIServer(c.v, c.s)
			wantRow(t, row, c.verdict, c.text)
			if row.Reason != c.reason {
				t.Errorf("%+v", row)
			}
		})
	}
}

func TestClock(t *testing.T) {
	at := func(local time.Duration) *Server {
		return &Server{Time: noon, Local: noon.Add(local), NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour)}
	}
	for name, c := range map[string]struct {
		s       *Server
		verdict Verdict
		text    string
	}{
		"nobody to ask":                  {nil, Skip, "told the time"},
		"nobody answered":                {&Server{Err: errors.New("x")}, Skip, "told the time"},
		"an answer without a date":       {&Server{}, Skip, "told the time"},
		"the same":                       {at(-2 * time.Second), Pass, "as the API server's"},
		"behind":                         {at(-10 * time.Minute), Warn, "10m0s behind"},
		"ahead":                          {at(45 * time.Second), Warn, "45s ahead of"},
		"outside the server certificate": {at(-2 * time.Hour), Fail, "2h0m0s apart"},
		"no certificate was shown":       {&Server{Time: noon, Local: noon.Add(-2 * time.Hour)}, Warn, "behind"},
	} {
		t.Run(name, func(t *testing.T) {
			row := Clock(c.s)
			wantRow(t, row, c.verdict, c.text)
			if (row.Verdict == Warn || row.Verdict == Fail) && row.Reason != fault.ClockSkew {
				t.Errorf("%+v", row)
			}
		})
	}
}

func TestProxy(t *testing.T) {
	secret, err := url.Parse("http://user:hush@proxy:3128")
	must(t, err)
	all := func(*url.URL) (*url.URL, error) { return secret, nil }
	none := func(*url.URL) (*url.URL, error) { return nil, nil }
	one := func(u *url.URL) (*url.URL, error) {
		if u.Hostname() == "a" {
			return secret, nil
		}
		return nil, nil
	}
	broken := func(*url.URL) (*url.URL, error) { return nil, errors.New("hush") }
	servers := []string{"https://a:6443", "https://b:6443", "://"}
	shell := []string{"PATH=/bin", "https_proxy=http://user:hush@proxy:3128"}
	for name, c := range map[string]struct {
		p       Proxying
		verdict Verdict
		text    string
	}{
		"none anywhere":                         {Proxying{Environ: []string{"HTTPS_PROXY="}}, Pass, "none"},
		"in the shell only":                     {Proxying{Environ: shell}, Warn, "https_proxy"},
		"in the shell, and not needed":          {Proxying{Environ: shell, Answered: true}, Pass, "not needed"},
		"configured":                            {Proxying{Configured: all, Servers: servers, Environ: shell}, Pass, "through proxy:3128"},
		"configured for one of two":             {Proxying{Configured: one, Servers: servers}, Pass, "b:6443 directly"},
		"configured, and every server excepted": {Proxying{Configured: none, Servers: servers}, Warn, "nothing goes through the proxy"},
		"configured, no server known":           {Proxying{Configured: all}, Pass, "configured"},
		"of no use":                             {Proxying{Configured: broken, Servers: servers}, Fail, "of no use for a:6443"},
	} {
		t.Run(name, func(t *testing.T) {
			row := Proxy(c.p)
			wantRow(t, row, c.verdict, c.text)
			if strings.Contains(row.Message+row.Remedy, "hush") {
				t.Errorf("shows a password: %+v", row)
			}
		})
	}
}

func TestKubelet(t *testing.T) {
	v := kubelet.Version{Major: 1, Minor: 36, Text: "v1.36.3"}
	for name, c := range map[string]struct {
		path    string
		err     error
		verdict Verdict
	}{
		"a good one":                  {"/usr/bin/kubelet", nil, Pass},
		"none":                        {"", fault.New(fault.KubeletMissing, "no kubelet on this machine"), Fail},
		"too old":                     {"/usr/bin/kubelet", fault.New(fault.KubeletTooOld, "v1.29.0"), Fail},
		"built for another machine":   {"/usr/bin/kubelet", fault.New(fault.KubeletMissing, "cannot run: %w", syscall.ENOEXEC), Fail},
		"one that will not be asked":  {"/usr/bin/kubelet", fault.New(fault.KubeletMissing, "cannot run: exit status 1"), Warn},
		"one that only root may run":  {"/usr/bin/kubelet", fault.New(fault.KubeletMissing, "cannot run: %w", syscall.EACCES), Skip},
		"the time was up meanwhile":   {"/usr/bin/kubelet", context.Canceled, Skip},
		"a path that cannot be meant": {"", fault.New(fault.ConfigInvalid, "kubelet.binary"), Fail},
	} {
		t.Run(name, func(t *testing.T) { wantRow(t, Kubelet(c.path, v, c.err), c.verdict, "") })
	}
}

func TestHostName(t *testing.T) {
	finds := func(addrs ...string) Lookup {
		return func(context.Context, string, string) ([]netip.Addr, error) {
			var out []netip.Addr
			for _, a := range addrs {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		}
	}
	fails := func(context.Context, string, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	for name, c := range map[string]struct {
		configured, host string
		lookup           Lookup
		verdict          Verdict
		text             string
	}{
		"it resolves":            {"", "Worker-1", finds("10.0.0.1", "::ffff:10.0.0.2"), Pass, "worker-1, 10.0.0.1, 10.0.0.2"},
		"it does not":            {"", "worker-1", fails, Warn, "does not resolve"},
		"to nothing":             {"", "worker-1", finds(), Warn, "does not resolve"},
		"nobody is asked":        {"", "worker-1", nil, Pass, "worker-1"},
		"the config has another": {"node-7", "localhost", finds("10.0.0.1"), Pass, "node-7"},
		"localhost":              {"", "localhost.localdomain", finds("127.0.0.1"), Fail, "tells machines apart"},
		"none":                   {"", "", nil, Fail, "is empty"},
		"no name of a node":      {"", "under_score", nil, Fail, "under_score"},
	} {
		t.Run(name, func(t *testing.T) {
			row := HostName(t.Context(), c.configured, c.host, c.lookup)
			wantRow(t, row, c.verdict, c.text)
			if row.Verdict == Fail && row.Reason != fault.ConfigInvalid {
				t.Errorf("%+v", row)
			}
		})
	}
}

package preflight

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// Server is what an API server told a stranger: nothing of it is verified, and
// nothing is trusted on the strength of it.
type Server struct {
	Endpoint            string
	GitVersion          string    // "": not told
	Time, Local         time.Time // its Date, and ours when it was read; zero: not told
	NotBefore, NotAfter time.Time // of its certificate; zero: it showed none
	Err                 error     // nobody answered
}

// APIServer compares the kubelet's version with the API server's. nil: there is
// none to ask.
func APIServer(v kubelet.Version, s *Server) *Row {
	const name = "API server"
	const skew = "Install a kubelet of the API server's minor version, or up to three older."
	if s == nil {
		return NotSeen(name, "no endpoint is known yet: a config, or --endpoint HOST:PORT")
	}
	if s.Err != nil {
		row := warn(name, "See `bootstrap-agent check --cluster`.", "%s", oneLine(s.Err.Error()))
		if reason := fault.ReasonOf(s.Err); reason != "" {
			row.Reason, row.Remedy = reason, fault.HintOf(s.Err)
		}
		return row
	}
	version, err := kubelet.ParseServerVersion(s.GitVersion)
	switch {
	case s.GitVersion == "":
		return pass(name, "%s answers; it does not tell strangers its version", s.Endpoint)
	case err != nil:
		return NotSeen(name, oneLine(err.Error()))
	}
	if text := v.Skew(version); text != "" {
		row := warn(name, skew, "%s", text)
		row.Reason = fault.VersionSkew
		return row
	}
	return pass(name, "%s at %s", version.Text, s.Endpoint)
}

// muchSkew is how far apart two clocks may be before it is told. The Date of an
// answer counts whole seconds.
const muchSkew = 30 * time.Second

// Clock compares this machine's clock with the API server's.
func Clock(s *Server) *Row {
	const name = "clock"
	if s == nil || s.Err != nil || s.Time.IsZero() {
		return NotSeen(name, "no API server has told the time")
	}
	if f := fault.SkewOf(s.NotBefore, s.NotAfter, s.Local, s.Time); f != nil {
		return Of(name, "", f)
	}
	switch apart := s.Local.Sub(s.Time); {
	case apart.Abs() < muchSkew:
		return pass(name, "as the API server's")
	case apart > 0:
		return skewed(apart, "ahead of")
	default:
		return skewed(apart, "behind")
	}
}

func skewed(apart time.Duration, where string) *Row {
	row := warn("clock", "Set the clock and keep it: chrony or systemd-timesyncd.",
		"%s %s the API server's; a new certificate is valid from five minutes before its issue", apart.Abs().Round(time.Second), where)
	row.Reason = fault.ClockSkew
	return row
}

// Proxying is what decides which way requests go.
type Proxying struct {
	Configured func(*url.URL) (*url.URL, error) // by the keys proxyURL and noProxy; nil: none is
	Environ    []string                         // of the person's shell
	Servers    []string                         // URLs of the API servers
	Answered   bool                             // one of them answered, on the way that is configured
}

// Proxy looks which way the requests to the API server go. Values of variables
// and of proxyURL are never shown: they may hold a password.
func Proxy(p Proxying) *Row {
	const name = "proxy"
	if p.Configured == nil {
		variable := proxyVariable(p.Environ)
		switch {
		case variable == "":
			return pass(name, "none")
		case p.Answered:
			return pass(name, "none; %s of this shell is not used and not needed", variable)
		}
		return warn(name, "If the API server is reached through a proxy only: `proxyURL` in the config.",
			"this shell has %s; agent and kubelet do not read it", variable)
	}
	through, direct := "", ""
	for _, server := range p.Servers {
		u, err := url.Parse(server)
		if err != nil {
			continue
		}
		proxy, err := p.Configured(u)
		switch {
		case err != nil:
			return Of(name, "", fault.New(fault.ConfigInvalid, "proxyURL: of no use for %s", u.Host))
		case proxy != nil:
			through = fmt.Sprintf("%s is asked through %s", u.Host, proxy.Host)
		default:
			direct = u.Host
		}
	}
	switch {
	case through != "" && direct != "":
		return pass(name, "%s; %s directly (noProxy)", through, direct)
	case through != "":
		return pass(name, "%s", through)
	case direct != "":
		return warn(name, "Take it out of `noProxy`, or take `proxyURL` away.", "proxyURL is set, but noProxy keeps %s off it: nothing goes through the proxy", direct)
	}
	return pass(name, "configured")
}

// proxyVariable names the variable that would make other programs use a proxy
// for https.
func proxyVariable(environ []string) string {
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy":
			if value != "" {
				return name
			}
		}
	}
	return ""
}

// Kubelet is the row of the binary: err is what finding it, asking it and
// judging its version came to. A binary that could not be asked may still work
// where systemd runs it, so that alone is a warning.
func Kubelet(path string, v kubelet.Version, err error) *Row {
	const name = "kubelet"
	if err == nil {
		return pass(name, "%s at %s", v.Text, path)
	}
	row := Of(name, "", err)
	if path != "" && row.Verdict == Fail && row.Reason == fault.KubeletMissing && !kubelet.Unusable(err) {
		row.Verdict = Warn
	}
	return row
}

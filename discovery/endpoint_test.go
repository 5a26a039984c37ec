package discovery

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestParseEndpointNormalises(t *testing.T) {
	for in, want := range map[string]struct{ addr, url, name string }{
		"10.0.0.1:6443":                {"10.0.0.1:6443", "https://10.0.0.1:6443", "10.0.0.1"},
		"10.0.0.1":                     {"10.0.0.1:6443", "https://10.0.0.1:6443", "10.0.0.1"},
		"10.0.0.1:443":                 {"10.0.0.1:443", "https://10.0.0.1:443", "10.0.0.1"},
		"10.0.0.1:06443":               {"10.0.0.1:6443", "https://10.0.0.1:6443", "10.0.0.1"},
		"https://api.example.org:6443": {"api.example.org:6443", "https://api.example.org:6443", "api.example.org"},
		"https://api.example.org":      {"api.example.org:6443", "https://api.example.org:6443", "api.example.org"},
		"HTTPS://API.Example.ORG.:6443": {
			"api.example.org:6443", "https://api.example.org:6443", "api.example.org"},
		"https://api.example.org:6443/": {"api.example.org:6443", "https://api.example.org:6443", "api.example.org"},
		"localhost:6443":                {"localhost:6443", "https://localhost:6443", "localhost"},
		"my_api:6443":                   {"my_api:6443", "https://my_api:6443", "my_api"},
		"xn--bcher-kva.example:6443":    {"xn--bcher-kva.example:6443", "https://xn--bcher-kva.example:6443", "xn--bcher-kva.example"},
		"[fd00::1]:6443":                {"[fd00::1]:6443", "https://[fd00::1]:6443", "fd00::1"},
		"[FD00:0::1]":                   {"[fd00::1]:6443", "https://[fd00::1]:6443", "fd00::1"},
		"[::ffff:10.0.0.1]:6443":        {"10.0.0.1:6443", "https://10.0.0.1:6443", "10.0.0.1"},
		"[fe80::1%eth0]:6443":           {"[fe80::1%eth0]:6443", "https://[fe80::1%25eth0]:6443", "fe80::1"},
		"https://[fe80::1%25eth0]:6443": {"[fe80::1%eth0]:6443", "https://[fe80::1%25eth0]:6443", "fe80::1"},
	} {
		t.Run(in, func(t *testing.T) {
			e, err := ParseEndpoint(in)
			if err != nil {
				t.Fatal(err)
			}
			if e.String() != want.addr || e.URL() != want.url || e.certificateName() != want.name {
				t.Errorf("got %s, %s, %s", e, e.URL(), e.certificateName())
			}
			if again, err := ParseEndpoint(e.String()); err != nil || again != e {
				t.Errorf("the normal form does not parse to itself: %s, %v", again, err)
			}
		})
	}
}

// refusedAuthorities are wrong in an endpoint and in a server URL alike.
var refusedAuthorities = map[string]struct{ in, rule string }{
	"port 0":                   {"10.0.0.1:0", "1 to 65535"},
	"port 65536":               {"10.0.0.1:65536", "1 to 65535"},
	"port with a sign":         {"10.0.0.1:+6443", "1 to 65535"},
	"port is a word":           {"10.0.0.1:https", "1 to 65535"},
	"port is empty":            {"10.0.0.1:", "1 to 65535"},
	"port in brackets missing": {"[fd00::1]:", "1 to 65535"},
	"no host":                  {":6443", "no host"},
	"bare IPv6":                {"fd00::1", "brackets"},
	"bare IPv6 with port":      {"fd00::1:6443", "brackets"},
	"bracket not closed":       {"[fd00::1", "closing"},
	"IPv4 in brackets":         {"[10.0.0.1]:6443", "IPv6"},
	"name in brackets":         {"[api]:6443", "IPv6"},
	"text after brackets":      {"[fd00::1]x", "after its brackets"},
	"userinfo":                 {"admin:hunter2@10.0.0.1:6443", "user name"},
	"path":                     {"10.0.0.1:6443/k8s/clusters/c-1", "path"},
	"query":                    {"10.0.0.1:6443?x=1", "query"},
	"fragment":                 {"10.0.0.1:6443#x", "fragment"},
	"inner space":              {"10.0.0.1 :6443", "white space"},
	"trailing newline":         {"10.0.0.1:6443\n", "white space"},
	"NUL":                      {"10.0.0.1\x00:6443", "control"},
	"international name":       {"b\u00fccher.example:6443", "xn--"},
	"IPv4 part too large":      {"10.0.0.256:6443", "looks like an IPv4"},
	"IPv4 with leading zero":   {"10.0.0.01:6443", "looks like an IPv4"},
	"three parts of an IPv4":   {"10.0.1:6443", "looks like an IPv4"},
	"a number":                 {"6443", "looks like an IPv4"},
	"unspecified":              {"0.0.0.0:6443", "none in particular"},
	"unspecified v6":           {"[::]:6443", "none in particular"},
	"multicast":                {"224.0.0.1:6443", "multicast"},
	"empty label":              {"api..example.org:6443", "empty part"},
	"leading dot":              {".example.org:6443", "empty part"},
	"hyphen first":             {"-api.example.org:6443", "hyphen"},
	"long label":               {strings.Repeat("a", 64) + ".org:6443", "63"},
	"long name":                {strings.Repeat("abcdefg.", 40) + "org:6443", "253"},
	"shell":                    {"$(id):6443", "a-z"},
	"two in one":               {"10.0.0.1:6443,10.0.0.2:6443", "brackets"},
}

func TestParseEndpointRefuses(t *testing.T) {
	for name, tc := range refusedAuthorities {
		t.Run(name, func(t *testing.T) {
			for _, in := range []string{tc.in, "https://" + tc.in} {
				e, err := ParseEndpoint(in)
				wantReason(t, err, fault.ConfigInvalid, tc.rule)
				if e != (Endpoint{}) {
					t.Errorf("%s came with the error", e)
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error shows a password: %v", err)
				}
			}
		})
	}
	for name, tc := range map[string]struct{ in, rule string }{
		"empty":          {"", "no host"},
		"http":           {"http://10.0.0.1:6443", "scheme"},
		"ftp":            {"ftp://10.0.0.1", "scheme"},
		"scheme only":    {"https://", "no host"},
		"two schemes":    {"https://https://10.0.0.1", "path"},
		"leading space":  {" 10.0.0.1:6443", "white space"},
		"bad zone":       {"[fe80::1%e th0]:6443", "white space"},
		"zone too long":  {"[fe80::1%abcdefghijklmnop]:6443", "zone"},
		"zone with sign": {"[fe80::1%eth$0]:6443", "zone"},
		"zone on IPv4":   {"10.0.0.1%eth0:6443", "a-z"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseEndpoint(tc.in)
			wantReason(t, err, fault.ConfigInvalid, tc.rule)
		})
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"https://10.0.0.1:6443":        "https://10.0.0.1:6443",
		"https://api.example.org":      "https://api.example.org",
		"https://api.example.org/":     "https://api.example.org",
		"HTTPS://API.example.org:0443": "https://api.example.org:443",
		"https://[fd00::1]":            "https://[fd00::1]",
		"https://[fd00::1]:6443":       "https://[fd00::1]:6443",
	} {
		got, err := ParseServer(in)
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", in, got, err, want)
		}
	}
	for name, tc := range refusedAuthorities {
		t.Run(name, func(t *testing.T) {
			_, err := ParseServer("https://" + tc.in)
			wantReason(t, err, fault.ConfigInvalid, tc.rule)
		})
	}
	for _, in := range []string{"", "10.0.0.1:6443", "http://10.0.0.1:6443", "https://", "https:10.0.0.1", "https://[fe80::1%25eth0]:6443", "https://a%41.org", "//10.0.0.1"} {
		_, err := ParseServer(in)
		wantReason(t, err, fault.ConfigInvalid)
	}
}

func TestServerWithoutPortMeans443(t *testing.T) {
	e, err := parseServer("https://api.example.org")
	if err != nil || e.address() != "api.example.org:443" {
		t.Errorf("got %s, %v", e.address(), err)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"10.0.0.1:6443", "https://api.example.org", "[fd00::1]:6443", "[fe80::1%eth0]", "http://x", "a@b:1", "::", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := ParseEndpoint(s); err == nil {
			again, err := ParseEndpoint(e.String())
			if err != nil || again != e {
				t.Fatalf("%q: %s parses to %s, %v", s, e, again, err)
			}
			if _, _, err := net.SplitHostPort(e.String()); err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(e.URL())
			if err != nil || u.Hostname() != e.Host() || u.User != nil || u.Path != "" || u.RawQuery != "" {
				t.Fatalf("%q: URL %s reads as %+v, %v", s, e.URL(), u, err)
			}
		}
		if s, err := ParseServer(s); err == nil {
			if again, err := ParseServer(s); err != nil || again != s {
				t.Fatalf("%s parses to %s, %v", s, again, err)
			}
		}
	})
}

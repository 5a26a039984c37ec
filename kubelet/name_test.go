package kubelet

import (
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestNodeName(t *testing.T) {
	for _, c := range []struct{ configured, hostname, want string }{
		{"worker-1", "other", "worker-1"},
		{"", "worker-1", "worker-1"},
		{"", "Worker-1.Example.ORG\n", "worker-1.example.org"},
		{" worker ", "", "worker"},
		{"10.0.0.7", "", "10.0.0.7"},
		{"a", "", "a"},
		{strings.Repeat("a", 63), "", strings.Repeat("a", 63)},
		{"my-localhost", "", "my-localhost"},
		{"localhosts", "", "localhosts"},
	} {
		if got, err := NodeName(c.configured, c.hostname); err != nil || got != c.want {
			t.Errorf("%q, %q: %q, %v", c.configured, c.hostname, got, err)
		}
	}
	for _, c := range []struct{ configured, hostname, rule string }{
		{"", "", "is empty"},
		{"", "(none)", "RFC 1123"},
		{"  ", "fine", "is empty"},
		{"under_score", "", "RFC 1123"},
		{".dot", "", "RFC 1123"},
		{"dot.", "", "RFC 1123"},
		{"a..b", "", "RFC 1123"},
		{"-a", "", "RFC 1123"},
		{"a b", "", "RFC 1123"},
		{"a/b", "", "RFC 1123"},
		{"a\nb", "", "RFC 1123"},
		{"a%n", "", "RFC 1123"},
		{"käse", "", "RFC 1123"},
		{"system:node:x", "", "RFC 1123"},
		{strings.Repeat("a", 64), "", "at most 63"},
		{strings.Repeat("a", 254), "", "253"},
		{"localhost", "", "tells machines apart"},
		{"", "localhost.localdomain", "tells machines apart"},
		{"", "LOCALHOST", "tells machines apart"},
		{"", "localhost6.localdomain6", "tells machines apart"},
	} {
		_, err := NodeName(c.configured, c.hostname)
		key := "nodeName"
		if c.configured == "" {
			key = "host name"
		}
		wantFault(t, err, fault.ConfigInvalid, key, c.rule)
		if strings.Contains(err.Error(), "\n") || fault.HintOf(err) == "" {
			t.Errorf("%v (%s)", err, fault.HintOf(err))
		}
	}
}

func TestNodeIP(t *testing.T) {
	for in, want := range map[string]string{
		"":                  "",
		"10.0.0.7":          "10.0.0.7",
		"fd00::7":           "fd00::7",
		"FD00:0::7":         "fd00::7",
		"10.0.0.7,fd00::7":  "10.0.0.7,fd00::7",
		"fd00::7, 10.0.0.7": "fd00::7,10.0.0.7",
		"::":                "::",
		"0.0.0.0":           "0.0.0.0",
	} {
		if got, err := NodeIP(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for in, rule := range map[string]string{
		"x":                          "IP address",
		"10.0.0.7/24":                "IP address",
		"10.0.0.7:6443":              "IP address",
		"[fd00::7]":                  "IP address",
		"010.0.0.7":                  "IP address",
		"10.0.0.7,":                  "IP address",
		"10.0.0.7,10.0.0.8":          "one IPv4 and one IPv6",
		"fd00::7,fd00::8":            "one IPv4 and one IPv6",
		"10.0.0.7,fd00::7,fd00::8":   "at most two",
		"127.0.0.1":                  "loopback",
		"::1":                        "loopback",
		"224.0.0.1":                  "multicast",
		"169.254.1.1":                "link-local",
		"fe80::1":                    "link-local",
		"fe80::1%eth0":               "zone",
		"::ffff:10.0.0.7":            "plain IPv4",
		"0.0.0.0,fd00::7":            "stand alone",
		"10.0.0.7\n--anonymous-auth": "IP address",
	} {
		_, err := NodeIP(in)
		wantFault(t, err, fault.ConfigInvalid, "nodeIP", rule)
	}
}

func FuzzNodeName(f *testing.F) {
	for _, seed := range []string{"worker-1", "A.B", "localhost", "x\n", "(none)"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, configured, hostname string) {
		name, err := NodeName(configured, hostname)
		if err != nil {
			return
		}
		if name != strings.ToLower(name) || len(name) > maxNodeName || name == "" || control(name) || strings.ContainsAny(name, " /:%$\"'\\_") {
			t.Errorf("passed: %q", name)
		}
		if again, err := NodeName(name, ""); err != nil || again != name {
			t.Errorf("%q, then %q, %v", name, again, err)
		}
	})
}

package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

func TestTrustServesOnlyOnItsOwnGrounds(t *testing.T) {
	cfg := Config{
		Endpoints: []discovery.Endpoint{must(discovery.ParseEndpoint("10.0.0.1")), must(discovery.ParseEndpoint("10.0.0.2"))},
		Pins:      must(discovery.ParsePins([]string{"sha256:" + hash64})), NodeName: "n",
	}
	trust := newTrust(cfg, &discovery.Cluster{TokenID: "abcdef", Server: "https://10.0.0.1:6443", CA: []byte("x")}, Machine{})
	turned := cfg
	turned.Endpoints = []discovery.Endpoint{cfg.Endpoints[1], cfg.Endpoints[0]}
	for name, tc := range map[string]struct {
		change func(*Config)
		token  string
		want   bool
	}{
		"the same":                  {func(*Config) {}, "abcdef", true},
		"endpoints in other order":  {func(c *Config) { *c = turned }, "abcdef", true},
		"another token":             {func(*Config) {}, "fedcba", false},
		"one endpoint less":         {func(c *Config) { c.Endpoints = c.Endpoints[:1] }, "abcdef", false},
		"other pins":                {func(c *Config) { c.Pins = discovery.Pins{} }, "abcdef", false},
		"unsafe, which it was not":  {func(c *Config) { c.UnsafeSkipCAVerification = true }, "abcdef", false},
		"another server configured": {func(c *Config) { c.Server = "https://10.0.0.9:6443" }, "abcdef", false},
		"the same server by name":   {func(c *Config) { c.Server = "https://10.0.0.1:6443" }, "abcdef", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := cfg
			tc.change(&c)
			if got := serves(trust, c, tc.token, ""); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
	var none *record.Trust
	if serves(none, cfg, "abcdef", "") {
		t.Error("no record serves")
	}
}

const hash64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestMoments(t *testing.T) {
	m := record.Moment{BootID: "a", Monotonic: 10 * time.Second}
	if !m.After("a", 9*time.Second) || m.After("a", 11*time.Second) || m.After("b", 0) || (record.Moment{}).After("", 0) {
		t.Error("order in one boot only")
	}
}

func TestRecordsThatAreDamagedCountAsNone(t *testing.T) {
	paths := Paths{State: t.TempDir()}
	for _, data := range []string{"", "{", "[]", `{"files": 3}`} {
		for _, path := range []string{paths.TrustFile(), paths.ManifestFile()} {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if trust, err := record.ReadTrust(paths); trust != nil || err != nil {
			t.Errorf("%q: %v %v", data, trust, err)
		}
		if m, err := record.ReadManifest(paths); err != nil || m == nil || len(m.Files) != 0 {
			t.Errorf("%q: %v %v", data, m, err)
		}
	}
}

func TestATimelineStaysShort(t *testing.T) {
	var l timeline
	now := time.Unix(0, 0)
	for range 100 {
		l.begin(StepDiscover, now)
		now = now.Add(time.Second)
		l.end(StepDiscover, now, "", fault.EndpointUnreachable)
	}
	if len(l.steps) != 1 || *l.steps[0].Seconds != 100 {
		t.Errorf("a step that is tried again keeps one line: %+v", l.steps)
	}
	for range 100 {
		l.begin(StepDiscover, now)
		l.end(StepDiscover, now, "", "")
		l.begin(StepRequest, now)
		l.end(StepRequest, now, "", "")
	}
	if len(l.steps) > maxSteps {
		t.Errorf("%d steps", len(l.steps))
	}
	l.end("never begun", now, "", "")
}

func TestHeartbeat(t *testing.T) {
	var h heartbeat
	now := time.Unix(100, 0)
	if h.fresh(now) {
		t.Error("fresh before the first beat")
	}
	h.beat(now, time.Second)
	if !h.fresh(now) || h.fresh(now.Add(2*time.Second)) {
		t.Error("fresh until its end, and not after")
	}
}

// A pair that the agent was about to install is not on its way by a rotation: the
// next attempt, or the next run, installs it at once.
func TestAPairThatCouldNotBeInstalledIsNotWaitedForAsARotation(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	pki := filepath.Join(r.cfg.Paths.Kubelet, "pki")
	if err := errors.Join(os.MkdirAll(pki, 0o750), os.Chmod(pki, 0o777)); err != nil { // others may write there: refused
		t.Fatal(err)
	}
	_, stop := r.start()
	r.await("the fault", reason(fault.WriteFailed))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pki, 0o755); err != nil {
		t.Fatal(err)
	}
	r.awaitLock()
	r.mustJoin()
	for _, s := range r.statuses {
		if strings.Contains(s.Message, "the certificate is gone") {
			t.Errorf("it waits: %s", s.Message)
		}
	}
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

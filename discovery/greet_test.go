package discovery

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

func greetRig(t *testing.T) (*testapi.Server, Endpoint) {
	t.Helper()
	s, err := testapi.New(testapi.Options{Quiet: true, Version: "v1.35.4"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	e, err := ParseEndpoint(s.Host())
	if err != nil {
		t.Fatal(err)
	}
	return s, e
}

func TestAServerTellsStrangersItsVersionAndTheTime(t *testing.T) {
	s, e := greetRig(t)
	g, err := (&Discoverer{}).Greet(t.Context(), []Endpoint{e}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if g.GitVersion != "v1.35.4" || g.Endpoint != s.Host() || g.ServerTime.IsZero() || g.LocalTime.Sub(g.ServerTime).Abs() > 10*time.Second || len(g.Peer) == 0 {
		t.Errorf("%+v", g)
	}
	for _, r := range s.Requests() {
		if r.Authorization || r.Path != versionPath {
			t.Errorf("asked for %s, credentials %t", r.Path, r.Authorization)
		}
	}
}

func TestAServerThatTellsStrangersNothingStillHasAClock(t *testing.T) {
	s, e := greetRig(t)
	s.Anonymous(false)
	g, err := (&Discoverer{}).Greet(t.Context(), []Endpoint{e}, nil)
	if err != nil || g.GitVersion != "" || g.ServerTime.IsZero() {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestADeadEndpointDoesNotHideALivingOne(t *testing.T) {
	_, alive := greetRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := ParseEndpoint(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if g, err := (&Discoverer{}).Greet(t.Context(), []Endpoint{dead, alive}, nil); err != nil || g.Endpoint != alive.String() {
		t.Errorf("%+v, %v", g, err)
	}
	_, err = (&Discoverer{}).Greet(t.Context(), []Endpoint{dead}, nil)
	if fault.ReasonOf(err) != fault.EndpointUnreachable || !strings.Contains(err.Error(), dead.String()) {
		t.Errorf("%v", err)
	}
	if _, err := (&Discoverer{}).Greet(t.Context(), nil, nil); fault.ReasonOf(err) != fault.ConfigInvalid {
		t.Errorf("%v", err)
	}
}

func TestOnlyAVersionIsReadAsOne(t *testing.T) {
	for body, want := range map[string]string{
		`{"major":"1","minor":"36","gitVersion":"v1.36.3"}`: "v1.36.3", `{"gitVersion":"v1.33.4-gke.100+x"}`: "v1.33.4-gke.100+x",
		`{"gitVersion":"v1.36.3\u001b[31m"}`: "", `{"gitVersion":7}`: "", `{"gitVersion":"1.36"}`: "", `[]`: "", ``: "", `{}`: "",
	} {
		if got := parseGitVersion([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func FuzzGitVersion(f *testing.F) {
	f.Add([]byte(`{"gitVersion":"v1.36.3"}`))
	f.Add([]byte(`{"gitVersion":"v1.36.3` + "\x1b" + `"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v := parseGitVersion(body)
		if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) || len(v) > 120 {
			t.Errorf("%q", v)
		}
	})
}

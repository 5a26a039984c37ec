package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// metricsOf reads the file for Prometheus: sample -> value. Every line must be
// one that Prometheus reads, each family announced, each sample told once.
func metricsOf(t *testing.T, paths Paths) map[string]string {
	t.Helper()
	info, err := os.Stat(paths.MetricsFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	data, err := os.ReadFile(paths.MetricsFile())
	if err != nil {
		t.Fatal(err)
	}
	return samplesOf(t, string(data))
}

var sampleLine = regexp.MustCompile(`^(bootstrap_agent_[a-z_]+)(\{[a-z]+="(?:[^"\\]|\\.)*"(?:,[a-z]+="(?:[^"\\]|\\.)*")*\})? (-?[0-9.]+)$`)

func samplesOf(t *testing.T, text string) map[string]string {
	t.Helper()
	out, family := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if help, ok := strings.CutPrefix(line, "# HELP "); ok {
			family, _, _ = strings.Cut(help, " ")
			continue
		}
		if strings.HasPrefix(line, "# TYPE "+family+" ") {
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != family || out[m[1]+m[2]] != "" {
			t.Errorf("no good line below family %q: %s", family, line)
			continue
		}
		out[m[1]+m[2]] = m[3]
	}
	return out
}

// awaitMetrics waits until the file is as wanted.
func (r *rig) awaitMetrics(what string, want func(map[string]string) bool) map[string]string {
	r.t.Helper()
	var last map[string]string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); <-time.After(2 * time.Millisecond) {
		if last = metricsOf(r.t, r.cfg.Paths); want(last) {
			return last
		}
	}
	r.t.Fatalf("%s: not in the metrics: %v", what, last)
	return last
}

func sample(key, value string) func(map[string]string) bool {
	return func(m map[string]string) bool { return m[key] == value }
}

func TestAJoinedNodeTellsPrometheusWhatItIs(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	s := r.await("the join", phase(Joined))
	got := r.awaitMetrics("the join", sample("bootstrap_agent_joined", "1"))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		`bootstrap_agent_build_info{version="test"}`:                      "1",
		`bootstrap_agent_phase{phase="Joined"}`:                           "1",
		`bootstrap_agent_phase{phase="Blocked"}`:                          "0",
		`bootstrap_agent_phase{phase="Discovering"}`:                      "0",
		`bootstrap_agent_client_cert_not_after_seconds`:                   fmt.Sprint(s.Certificate.NotAfter.Unix()),
		`bootstrap_agent_renewal_automatic`:                               "1",
		`bootstrap_agent_trusted_ca_info{hash="` + r.api.Pin() + `"}`:     "1",
		`bootstrap_agent_drifted_files`:                                   "0",
		`bootstrap_agent_kubelet_restarts_total{cause="certificate"}`:     "0",
		`bootstrap_agent_kubelet_restarts_total{cause="elsewhere"}`:       "0",
		`bootstrap_agent_reason_info{reason="NodeNotReady",class="note"}`: "1",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	if skew := got["bootstrap_agent_clock_skew_seconds"]; skew != "0" && skew != "1" {
		t.Errorf("clock skew %q", skew)
	}
	for _, p := range []Phase{Discovering, RequestingCertificate, CheckingName, ConfiguringKubelet, StartingKubelet, Registering} {
		if got[`bootstrap_agent_phase_duration_seconds{phase="`+string(p)+`"}`] == "" {
			t.Errorf("no duration of %s", p)
		}
	}
	data, err := os.ReadFile(r.cfg.Paths.MetricsFile()) // it stays when the agent is stopped
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{nodeName, r.api.Host(), s.CSR.Name, strings.Split(r.api.Token(), ".")[1]} {
		if strings.Contains(string(data), name) {
			t.Errorf("the metrics name %q", name)
		}
	}
}

func TestAJoinDoesNotWriteMetricsOnItsWay(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	var early atomic.Bool
	collect := r.deps.OnStatus
	r.deps.OnStatus = func(s Status) {
		collect(s)
		if _, err := os.Stat(r.cfg.Paths.MetricsFile()); err == nil {
			early.Store(true)
		}
	}
	if err := os.MkdirAll(r.cfg.Paths.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	// What an earlier run left is not what is the case.
	if err := os.WriteFile(r.cfg.Paths.MetricsFile(), []byte("bootstrap_agent_joined 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.mustJoin()
	if early.Load() {
		t.Error("the file was there during the join")
	}
	if _, err := os.Stat(r.cfg.Paths.MetricsFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an agent that has gone leaves a file that nobody keeps true: %v", err)
	}
}

func TestAMachineThatCannotJoinTellsPrometheusWhy(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.DeleteClusterInfo()
	_, stop := r.start()
	const tries = `bootstrap_agent_attempts_total{phase="Discovering",reason="ClusterInfoMissing"}`
	got := r.awaitMetrics("some attempts", func(m map[string]string) bool { return m[tries] >= "3" && len(m[tries]) == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"bootstrap_agent_joined": "0", `bootstrap_agent_phase{phase="Discovering"}`: "1",
		`bootstrap_agent_reason_info{reason="ClusterInfoMissing",class="slow"}`: "1",
		"bootstrap_agent_client_cert_not_after_seconds":                         "", "bootstrap_agent_renewal_automatic": "", "bootstrap_agent_clock_skew_seconds": "",
	} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
}

func TestARequestThatWaitsForAPersonIsInTheMetrics(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.NodeClientAllowed(false)
	r.start()
	r.awaitMetrics("the request", sample(`bootstrap_agent_reason_info{reason="CSRPending",class="slow"}`, "1"))
}

func TestTheMetricsOfANodeAtRestAreWrittenOnlyWhenThereIsSomethingNew(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.await("a Ready node", func(s Status) bool { return s.Node.Ready != nil && *s.Node.Ready })
	first := r.awaitMetrics("rest", func(m map[string]string) bool {
		return m["bootstrap_agent_heartbeat_seconds"] != "" && m[`bootstrap_agent_reason_info{reason="NodeNotReady",class="note"}`] == ""
	})
	// An hour passes; the content is the same, so only the heartbeat goes on.
	began, beats := r.deps.Clock.Now(), map[string]bool{}
	for r.deps.Clock.Now().Sub(began) < time.Hour {
		m := metricsOf(t, r.cfg.Paths)
		beats[m["bootstrap_agent_heartbeat_seconds"]] = true
		delete(m, "bootstrap_agent_heartbeat_seconds")
		delete(m, "bootstrap_agent_clock_skew_seconds") // to the second
		for key, value := range m {
			if first[key] != value {
				t.Fatalf("%s was %s and is %s", key, first[key], value)
			}
		}
		<-time.After(time.Millisecond)
	}
	if n := len(beats); n < 3 || n > 12 {
		t.Errorf("%d heartbeats in an hour", n)
	}
}

func TestWhatIsNotAsItWasWrittenIsCounted(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.start()
	r.await("the join", phase(Joined))
	path := r.cfg.Paths.Kubelet + "/config.yaml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(data []byte) { // as an editor does it: an empty file in between would be healed
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	edit([]byte(string(data) + "# mine\n"))
	r.awaitMetrics("the edit", sample("bootstrap_agent_drifted_files", "1"))
	edit(data)
	r.awaitMetrics("that it is undone", sample("bootstrap_agent_drifted_files", "0"))
}

func TestRestartsOfTheKubeletAreCountedByCause(t *testing.T) {
	of := func(cause string) string { return `bootstrap_agent_kubelet_restarts_total{cause="` + cause + `"}` }
	for _, tc := range []struct {
		name, cause string
		make        func(r *rig)
	}{
		{"its certificate was refused", causeCertificate, func(r *rig) { _ = r.api.RotateClientCA() }},
		{"systemd had given it up", causeFailed, func(r *rig) {
			r.units.Change(func(u *systemd.Unit) {
				u.ActiveState, u.SubState, u.MainPID, u.Result = "failed", "failed", 0, "start-limit-hit"
			})
		}},
		{"somebody restarted it", causeElsewhere, func(r *rig) {
			if _, err := r.units.Restart(r.t.Context(), UnitName); err != nil {
				r.t.Error(err)
			}
			r.units.Change(func(*systemd.Unit) {}) // a tick
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = AfterJoinHeal
			r.start()
			r.await("the join", phase(Joined))
			r.awaitMetrics("the join", sample("bootstrap_agent_joined", "1"))
			tc.make(r)
			got := r.awaitMetrics("the restart", sample(of(tc.cause), "1"))
			for _, other := range []string{causeCertificate, causeFailed, causeInputs, causeElsewhere} {
				if other != tc.cause && got[of(other)] != "0" {
					t.Errorf("%s: %s", other, got[of(other)])
				}
			}
		})
	}
}

func TestADifferenceOfTheClocksIsInTheMetrics(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.SetDateOffset(-90 * time.Second)
	r.start()
	got := r.awaitMetrics("the join", sample("bootstrap_agent_joined", "1"))
	if skew := got["bootstrap_agent_clock_skew_seconds"]; !slices.Contains([]string{"89", "90", "91"}, skew) {
		t.Errorf("clock skew %q", skew)
	}
}

// port returns an address on which nobody listens at this moment.
func port(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String())
}

// fetch is what a client reads at the port; "" if it cannot.
func fetch(address netip.AddrPort) string {
	conn, err := net.DialTimeout("tcp", address.String(), time.Second)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body
}

func TestThePortShowsWhatTheFileHolds(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.cfg.MetricsAddress = port(t)
	a, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.awaitMetrics("a Ready node", func(m map[string]string) bool {
		return m["bootstrap_agent_joined"] == "1" && m[`bootstrap_agent_reason_info{reason="NodeNotReady",class="note"}`] == ""
	})
	text := fetch(r.cfg.MetricsAddress)
	if got := samplesOf(t, text); got["bootstrap_agent_joined"] != "1" || len(got) < 20 {
		t.Errorf("the port answers %q", text)
	}

	old := r.cfg.MetricsAddress
	other := r.cfg
	other.MetricsAddress = port(t)
	a.Reload(other, nil)
	awaitTrue(t, "the port moves with the config", func() bool { return fetch(other.MetricsAddress) != "" && fetch(old) == "" })
	none := r.cfg
	none.MetricsAddress = netip.AddrPort{}
	a.Reload(none, nil)
	awaitTrue(t, "the port is closed when the key is taken out", func() bool { return fetch(other.MetricsAddress) == "" })
	a.Reload(other, nil)
	awaitTrue(t, "the port is open again", func() bool { return fetch(other.MetricsAddress) != "" })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if fetch(other.MetricsAddress) != "" {
		t.Error("the port outlives the agent")
	}
}

func awaitTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); <-time.After(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func TestAPortThatIsTakenKeepsNoMachineFromJoining(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	r.cfg.MetricsAddress = netip.MustParseAddrPort(taken.Addr().String())
	r.start()
	s := r.await("the join, with a note", func(s Status) bool { return s.Phase == Joined && hasNote(s, fault.MetricsUnavailable) })
	note, _ := noteOf(s, fault.MetricsUnavailable)
	if !strings.Contains(note.Message, "metricsAddress: ") || !strings.Contains(note.Message, "address already in use") || note.Hint == "" {
		t.Errorf("%+v", note)
	}
	r.awaitMetrics("the note", sample(`bootstrap_agent_reason_info{reason="MetricsUnavailable",class="note"}`, "1"))
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "the port is tried again", func() bool { return fetch(r.cfg.MetricsAddress) != "" })
	r.await("that the note is gone", func(s Status) bool { return !hasNote(s, fault.MetricsUnavailable) })
}

func TestAFolderInPlaceOfTheMetricsFileKeepsNoMachineFromJoining(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	if err := os.MkdirAll(r.cfg.Paths.MetricsFile()+"/full", 0o700); err != nil {
		t.Fatal(err)
	}
	hook := r.logged()
	r.start()
	r.await("the join", phase(Joined))
	began := r.deps.Clock.Now()
	awaitTrue(t, "some looks", func() bool { return r.deps.Clock.Now().Sub(began) > 10*DefaultPace.LocalCheck })
	complaints := 0
	for _, e := range hook.AllEntries() {
		if e.Message == "cannot publish the metrics file" {
			complaints++
		}
	}
	if complaints != 1 {
		t.Errorf("%d complaints", complaints)
	}
}

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

func TestTheMedianIsTheMiddle(t *testing.T) {
	for want, s := range map[time.Duration]samples{
		2: {3, 1, 2}, 3: {5, 1, 4, 2}, 7: {7}, 0: {},
	} {
		if got := s.median(); got != want {
			t.Errorf("%v: %d, want %d", s, got, want)
		}
	}
}

func TestProcessorTimeIsCountedBehindANameWithBlanksAndBrackets(t *testing.T) {
	got, err := cluster.ParseProcessorTime("81 (a b) c) S 1 81 81 0 -1 4194560 2000 0 1 0 12 30 0 0 20 0 9 0 500 1 2")
	if err != nil || got != 420*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := cluster.ParseProcessorTime("81 (a) S 1"); err == nil {
		t.Error("a short line has no times")
	}
}

func TestAWatchIsOneRequestAndTheWindowIsHalfOpen(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	event := func(id string, s int) auditEvent {
		return auditEvent{AuditID: id, Verb: "get", RequestReceivedTimestamp: at(s)}
	}
	events := []auditEvent{event("a", 1), event("a", 1), event("b", 5), event("c", 19), event("d", 20), event("e", 29), event("f", 30)}
	join, later := countRequests(events, at(10), at(20), at(30))
	if len(join) != 2 || later != 2 {
		t.Errorf("join %v, later %d", join, later)
	}
}

// sampleReport is made up, and stays in this test.
func sampleReport() report {
	seconds := 0.1
	r := report{
		options: options{rounds: 2, deb: "bootstrap-agent_1.2.3-1_amd64.deb"}, contestants: contestants(),
		warm: map[string]samples{}, cold: map[string]samples{},
		upkeep:    upkeep{binary: 15 << 20, deb: 5 << 20, rss: 17 << 20, pss: 12 << 20, window: time.Minute, processor: 10 * time.Millisecond, requests: 0, joinRequests: []string{"get nodes"}},
		inProcess: inProcess{requests: []string{"get nodes"}, handshakes: 3},
	}
	for i, c := range r.contestants {
		d := time.Duration(4-i) * 500 * time.Millisecond
		r.warm[c.key], r.cold[c.key] = samples{d, d + 20*time.Millisecond}, samples{2 * d, 2*d + 100*time.Millisecond}
	}
	now := time.Now()
	r.floor = samples{30 * time.Millisecond}
	r.addOwn(started{own: 150 * time.Millisecond, box: 60 * time.Millisecond, process: now, path: []agent.Step{{Name: agent.StepUnit, Start: now, Seconds: &seconds}}})
	return r
}

func TestTheReportJudgesWhatWasMeasured(t *testing.T) {
	text := sampleReport().markdown()
	for _, want := range []string{
		"| stripped binary | 15.00 MiB | ≤ 16 MiB | yes |",
		"| resident memory once joined (VmRSS) | 17.00 MiB | ≤ 16 MiB | **no** |",
		"kubelet's start job, median | 90 ms | ≤ 100 ms | yes |",
		"the making of the sandbox included | 150 ms | ≤ 100 ms | **no** |",
		"with no safety at all, here | 30 ms |",
		"not judged: watched for less than 5 min", "Agent: 1.2.3-1.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestAnExecutionBeforeTheProcessIsNotItsOwn(t *testing.T) {
	const trace = `# tracer: nop
           <...>-4242    [001] .....   100.250000: sched_process_exec: filename=/usr/bin/bootstrap-agent pid=4242 old_pid=4242
 bootstrap-agen-4243    [000] .....   101.500000: sched_process_exec: filename=/usr/bin/bootstrap-agent pid=4243 old_pid=4243
`
	if at, err := firstExec(trace, 101*time.Second); err != nil || at != 101500*time.Millisecond {
		t.Errorf("%s, %v", at, err)
	}
	for name, c := range map[string]struct {
		trace string
		stamp time.Duration
	}{"nothing after": {trace, 102 * time.Second}, "nothing at all": {"# tracer: nop\n", 0}, "no time": {"x: sched_process_exec: filename=y\n", 0}} {
		if at, err := firstExec(c.trace, c.stamp); err == nil {
			t.Errorf("%s: %s", name, at)
		}
	}
}

func TestTheChartIsWellFormedAndNothingIsOutside(t *testing.T) {
	text := chart(sampleReport())
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(text, "<rect"); n != 8 {
		t.Errorf("%d bars", n)
	}
}

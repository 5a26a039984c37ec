package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/metrics"
)

// The causes for which a kubelet that had been running is started again, as they
// stand in the metrics.
const (
	causeCertificate = "certificate" // by the agent: it had to replace the certificate
	causeInputs      = "inputs"      // by the agent: CA or server were replaced
	causeFailed      = "failed"      // by the agent: systemd had given it up
	causeApplied     = "applied"     // by the agent: `apply` or `repair` wrote its files
	causeElsewhere   = "elsewhere"   // not by the agent: a person, a crash and Restart=
)

// facts are what the metrics tell. Names and labels are a promise: they are only
// ever added. No name of a node, an endpoint or a request is among them.
type facts struct {
	status    Status
	heartbeat time.Time
	attempts  map[string]int // by phase and reason, with a blank between them
	durations map[string]time.Duration
	restarts  map[string]int
	drifted   int
	automatic *bool          // is the certificate renewed by itself? nil: not known
	skew      *time.Duration // of this machine's clock; nil: not known
}

// page is the text for Prometheus. Nothing in it counts seconds up: a time is told
// as the moment itself, so that a file that nobody touches stays true.
func (f facts) page() []byte {
	p := &metrics.Page{}
	s := f.status
	p.Family("bootstrap_agent_build_info", metrics.Gauge, "The agent's version.")
	p.Sample(1, "version", s.Version)
	p.Family("bootstrap_agent_heartbeat_seconds", metrics.Gauge, "Unix time of the agent's last sign of life, renewed at least every 25 minutes.")
	p.Sample(inUnix(f.heartbeat))
	p.Family("bootstrap_agent_joined", metrics.Gauge, "1 if this machine is a node: the kubelet is healthy and has been seen in the API.")
	p.Flag(s.Phase == Joined)
	p.Family("bootstrap_agent_phase", metrics.Gauge, "1 for the phase that the machine is in, 0 for the others.")
	for _, phase := range []Phase{Discovering, RequestingCertificate, CheckingName, ConfiguringKubelet, StartingKubelet, Registering, Joined, Blocked} {
		p.Flag(s.Phase == phase, "phase", string(phase))
	}
	p.Family("bootstrap_agent_phase_since_seconds", metrics.Gauge, "Unix time since when phase and reason are what they are.")
	p.Sample(inUnix(s.Since))
	p.Family("bootstrap_agent_phase_duration_seconds", metrics.Gauge, "How long a phase took when it was left last, in this run of the agent.")
	for _, phase := range sortedKeys(f.durations) {
		p.Sample(f.durations[phase].Seconds(), "phase", phase)
	}
	p.Family("bootstrap_agent_attempts_total", metrics.Counter, "Acts that ended with a fault, in this run of the agent.")
	for _, attempt := range sortedKeys(f.attempts) {
		phase, reason, _ := strings.Cut(attempt, " ")
		p.Sample(float64(f.attempts[attempt]), "phase", phase, "reason", reason)
	}
	p.Family("bootstrap_agent_reason_info", metrics.Gauge, "1 for each reason that status shows now: of the fault, and of the notes (class note).")
	for _, reason := range reasonsOf(s) {
		row, _ := fault.Lookup(fault.Reason(reason))
		p.Sample(1, "reason", reason, "class", string(row.Class))
	}
	if c := s.Certificate; c != nil {
		p.Family("bootstrap_agent_client_cert_not_after_seconds", metrics.Gauge, "Unix time at which the kubelet's client certificate ends.")
		p.Sample(inUnix(c.NotAfter))
	}
	if f.automatic != nil {
		p.Family("bootstrap_agent_renewal_automatic", metrics.Gauge, "1 if the cluster approves the renewal of this node's certificate by itself, 0 if a person has to.")
		p.Flag(*f.automatic)
	}
	if s.Cluster != nil {
		p.Family("bootstrap_agent_trusted_ca_info", metrics.Gauge, "1 for each CA of the cluster that this node trusts, by the hash of its public key.")
		pins := slices.Clone(s.Cluster.CAPins)
		slices.Sort(pins)
		pins = slices.Compact(pins) // two certificates of one key are one series
		for _, pin := range pins {
			p.Sample(1, "hash", pin)
		}
		p.Family("bootstrap_agent_trusted_cas", metrics.Gauge, "How many CAs of the cluster this node trusts.")
		p.Sample(float64(len(pins)))
		p.Family("bootstrap_agent_ca_offered", metrics.Gauge, "1 while the cluster shows other CAs than this node trusts: to be taken, or held back.")
		p.Flag(slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.CAOffered }))
		if taken := s.Cluster.CATaken; taken != nil {
			p.Family("bootstrap_agent_ca_taken_seconds", metrics.Gauge, "Unix time at which this node took other CAs last.")
			p.Sample(inUnix(*taken))
		}
	}
	if f.skew != nil {
		p.Family("bootstrap_agent_clock_skew_seconds", metrics.Gauge, "How far this machine's clock was ahead of the API server's when it was asked last, to the second.")
		p.Sample(f.skew.Truncate(time.Second).Seconds())
	}
	p.Family("bootstrap_agent_drifted_files", metrics.Gauge, "Files and units that are not as the agent wrote them.")
	p.Sample(float64(f.drifted))
	p.Family("bootstrap_agent_kubelet_restarts_total", metrics.Counter, "Starts of a kubelet that had been running before, in this run of the agent: by the agent for a cause, or elsewhere.")
	for _, cause := range []string{causeCertificate, causeInputs, causeFailed, causeApplied, causeElsewhere} {
		p.Sample(float64(f.restarts[cause]), "cause", cause)
	}
	return p.Bytes()
}

// inUnix is a moment as Prometheus counts it, to the millisecond.
func inUnix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// reasonsOf are the fault and the notes of a status, each once, sorted.
func reasonsOf(s Status) []string {
	var out []string
	if s.Reason != "" {
		out = append(out, string(s.Reason))
	}
	for _, n := range s.Notes {
		out = append(out, string(n.Reason))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// driftedIn counts the files that a status calls drifted.
func driftedIn(s Status) (n int) {
	for _, note := range s.Notes {
		if note.Reason == fault.Drifted {
			n++
		}
	}
	return n
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package agent

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/metrics"
)

// heartbeatEvery is how old the metrics may grow on a node where nothing happens
// before they are written anew, so that whoever reads them knows that the agent
// lives. (A node at rest looks around each minute: that adds up to a minute.)
const heartbeatEvery = 15 * time.Minute

// listenAgain is the pause after a port could not be opened.
const listenAgain = 10 * time.Second

// exports are the metrics: what was counted for them, and where they are shown.
// Always in a file; and on a port where metricsAddress names one. They are made
// when the loop pauses: a join does not wait for them.
type exports struct {
	facts                    // what is counted; status, drifted and automatic are copied in at the time
	since      time.Time     // when the phase was entered
	ourStart   time.Duration // of the kubelet (monotonic), the last one that the agent made
	written    []byte        // what the file holds
	complained string        // what was said last about a file that cannot be written

	server  *metrics.Server
	address netip.AddrPort         // where it listens
	shown   atomic.Pointer[[]byte] // what it answers with; read by its goroutines
	refused string                 // why it cannot listen
	next    time.Time              // when that is tried again
}

// entered notes the time that a phase took when another one begins.
func (x *exports) entered(from, to Phase, now time.Time) {
	if from == to {
		return
	}
	if x.durations == nil {
		x.durations = map[string]time.Duration{}
	}
	if from != "" {
		x.durations[string(from)] = now.Sub(x.since)
	}
	x.since = now
}

// failed counts an act that ended with a fault.
func (x *exports) failed(phase Phase, reason fault.Reason) {
	if x.attempts == nil {
		x.attempts = map[string]int{}
	}
	if reason == "" {
		reason = "Failed" // as in the timeline
	}
	x.attempts[string(phase)+" "+string(reason)]++
}

// restarted counts a start of the kubelet by the agent, at this time of systemd's;
// cause "" for one that is no restart: the first, and that of a boot.
func (x *exports) restarted(cause string, at time.Duration) {
	x.ourStart = at
	if cause != "" {
		x.count(cause)
	}
}

// startSeen counts a start that the agent did not make.
func (x *exports) startSeen(before, at time.Duration) {
	if before != 0 && at != 0 && at != x.ourStart {
		x.count(causeElsewhere)
	}
}

func (x *exports) count(cause string) {
	if x.restarts == nil {
		x.restarts = map[string]int{}
	}
	x.restarts[cause]++
}

// noteClock remembers how this machine's clock differs from the API server's, as
// its last answer over a verified connection told.
func (a *Agent) noteClock() {
	if a.node == nil {
		return
	}
	if server, local, ok := a.node.Clock(); ok {
		skew := local.Truncate(time.Second).Sub(server)
		a.exports.skew = &skew
	}
}

// export brings file and port up to date, if there is anything new to tell.
func (a *Agent) export(ctx context.Context) {
	a.listen(ctx)
	x := &a.exports
	now := a.deps.Clock.Now()
	x.status, x.drifted, x.automatic = a.status, driftedIn(a.status), a.manifest.RenewalAutomatic
	page := x.page()
	if bytes.Equal(page, x.written) && now.Sub(x.heartbeat) < heartbeatEvery {
		return
	}
	x.heartbeat = now
	page = x.page()
	x.shown.Store(&page)
	err := atomicfile.MkdirAll(a.cfg.Paths.Run, 0o755)
	if err == nil {
		_, err = atomicfile.Write(a.cfg.Paths.MetricsFile(), page, 0o644)
	}
	if err != nil {
		if x.complained != err.Error() {
			x.complained = err.Error()
			a.log.WithError(err).Warn("cannot publish the metrics file")
		}
		return // the next pause tries again
	}
	x.written, x.complained = page, ""
}

// listen opens, moves or closes the port of metricsAddress. A port that cannot be
// opened is told, and tried again; it keeps nothing from going on.
func (a *Agent) listen(ctx context.Context) {
	x, want := &a.exports, a.cfg.MetricsAddress
	if x.server != nil && x.address != want {
		x.server.Close()
		x.server, x.next = nil, time.Time{}
	}
	if x.address != want {
		x.address, x.refused, x.next = want, "", time.Time{}
	}
	now := a.deps.Clock.Now()
	if !want.IsValid() || x.server != nil || now.Before(x.next) {
		return
	}
	open := a.deps.Listen
	if open == nil {
		open = func(ctx context.Context, address string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		}
	}
	listener, err := open(ctx, want.String())
	if err != nil {
		x.next = now.Add(listenAgain)
		x.refused = oneLine(err.Error())
		return
	}
	x.refused = ""
	x.server = metrics.Serve(listener, func() []byte {
		if page := x.shown.Load(); page != nil {
			return *page
		}
		return nil
	})
	a.log.WithField("address", want.String()).Info("metrics are answered")
}

// endExports closes the port. Where the agent has done its work and goes, the file
// goes as well: nobody would keep it true. Elsewhere it stays, and its heartbeat
// tells that nobody is at work.
func (a *Agent) endExports() {
	if a.exports.server != nil {
		a.exports.server.Close()
		a.exports.server = nil
	}
	if a.cfg.AfterJoin == AfterJoinExit {
		a.dropMetrics()
	}
}

// dropMetrics removes the file: what it says is not what is the case.
func (a *Agent) dropMetrics() {
	if err := atomicfile.Discard(a.cfg.Paths.MetricsFile()); err != nil {
		a.log.WithError(err).Warn("cannot remove the metrics file")
	}
}

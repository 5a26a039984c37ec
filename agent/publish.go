package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// repeatLog is how often the state of a machine that is not joined is logged
// again although nothing changed.
const repeatLog = time.Hour

// describe copies what was seen into the status.
func (a *Agent) describe(seen kubelet.Observed, unit systemd.Unit, o Observation) {
	s := &a.status
	s.Node.Name = a.cfg.NodeName
	s.Certificate = nil
	if leaf := seen.Pair.Leaf; leaf != nil {
		s.Certificate = &CertificateStatus{Serial: seen.Pair.Serial, NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC()}
	}
	s.ServingCSR = o.Serving.status()
	s.Cluster = nil
	if a.trust != nil {
		s.Cluster = &ClusterStatus{Server: a.trust.Server, Provisional: a.trust.Provisional, Endpoint: a.trust.Endpoint, CAPins: a.trust.CAPins}
		s.Cluster.CATaken, s.Cluster.ServerMoved = moment(a.trust.CATaken), moment(a.trust.ServerMoved)
		if a.trust.DiscoveryFile != "" && a.cfg.Discovery != nil {
			s.Cluster.DiscoveryFile = a.cfg.Discovery.Path
		}
		s.Node.UID = a.trust.NodeUID
	}
	a.describeUnit(unit)
	if o.Unit.Active {
		healthy := o.Healthy
		s.Kubelet.Healthy = &healthy
	}
	a.describeNode(o.LeaseRenewed)
}

// moment is a time for the status; nil if there is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// describeNode copies what the API said of our Node last.
func (a *Agent) describeNode(leaseRenewed bool) {
	s := &a.status
	s.Node.Seen = a.memory.node.Known && !a.memory.node.Deleted
	s.Node.Ready, s.Node.Message = nil, ""
	if s.Node.Seen && leaseRenewed {
		ready := a.memory.node.Ready
		s.Node.Ready, s.Node.Message = &ready, a.memory.node.NotReady
	}
	s.Node.Asked = nil
	if asked := a.memory.nodeAsked; !asked.IsZero() {
		asked = asked.UTC()
		s.Node.Asked = &asked
	}
}

func (a *Agent) describeUnit(unit systemd.Unit) {
	s := &a.status.Kubelet
	*s = KubeletStatus{Unit: UnitName, ActiveState: unit.ActiveState, SubState: unit.SubState, MainPID: unit.MainPID}
	if started := execStart(unit); started > 0 && unit.MainPID != 0 {
		at := a.deps.Clock.Now().Add(started - a.deps.Clock.Monotonic()).UTC().Truncate(time.Millisecond)
		s.Started = &at
	}
}

// publish makes the status of this moment known: file, sd_notify, journal,
// OnStatus. err is the fault the act ended with, nil while it runs; say is the
// one line for a phase without a fault.
func (a *Agent) publish(phase Phase, o Observation, err error, say string) {
	now := a.deps.Clock.Now()
	s := &a.status
	reason := fault.ReasonOf(err)
	a.exports.entered(s.Phase, phase, now)
	if s.Phase != phase || s.Reason != reason {
		s.Since = now.UTC()
	}
	if err == nil {
		s.Attempt, s.NextRetry = 0, nil
		if phase == Joined {
			a.lastFault = nil
		}
	}
	s.Version, s.PID, s.BootID, s.Time = a.deps.Version, os.Getpid(), a.deps.Machine.BootID, now.UTC()
	s.Phase, s.Reason = phase, reason
	s.Message, s.Hint = oneLine(say), ""
	if err != nil {
		s.Message, s.Hint = oneLine(err.Error()), fault.HintOf(err)
	}
	o.Findings, o.MetricsRefused = a.memory.findings, a.exports.refused
	o.Change = a.change()
	s.Notes = notesOf(o)
	a.logNotes(s.Notes)
	s.Timeline = a.timeline.copy()
	a.emit()
	a.logChange(phase, reason, now)
}

// emit writes the status as it stands to everybody who wants it.
func (a *Agent) emit() {
	out := a.status
	out.Time = a.deps.Clock.Now().UTC()
	out.Timeline = a.timeline.copy()
	out.Notes = slices.Clone(a.status.Notes)
	if line := statusLine(out); line != a.notified {
		// systemd passes each line on to whoever listens on the bus: the same one
		// twice is work for nothing, in the middle of a join.
		a.notified = line
		a.tell(a.deps.Notify.Status(line))
	}
	if err := a.writeStatus(out); err != nil {
		a.log.WithError(err).Warn("cannot publish the status file")
	}
	if a.deps.OnStatus != nil {
		a.deps.OnStatus(out)
	}
}

func (a *Agent) writeStatus(s Status) error {
	if err := atomicfile.MkdirAll(a.cfg.Paths.Run, 0o755); err != nil {
		return err
	}
	data, err := encodeStatus(s)
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(a.cfg.Paths.StatusFile(), data, 0o644)
	return err
}

// statusLine is the one line for `systemctl status`.
func statusLine(s Status) string {
	line := string(s.Phase)
	if s.Reason != "" {
		line += ": " + string(s.Reason)
	}
	if s.Message != "" {
		line += ": " + s.Message
	}
	if c := s.CSR; c != nil && c.Approve != "" {
		line += ", age " + s.Time.Sub(c.Created).Round(time.Second).String() + "; " + c.Approve
	}
	for _, n := range s.Notes {
		line += "; " + string(n.Reason)
	}
	return line
}

// logChange writes one line per change of state, and one an hour while the
// machine is not joined.
func (a *Agent) logChange(phase Phase, reason fault.Reason, now time.Time) {
	same := phase == a.loggedPhase && reason == a.loggedFault
	if same && (phase == Joined || now.Sub(a.loggedAt) < repeatLog) {
		return
	}
	a.loggedPhase, a.loggedFault, a.loggedAt = phase, reason, now
	log := a.log.WithFields(logrus.Fields{"phase": string(phase), "node": a.cfg.NodeName})
	if reason == "" {
		if a.status.Message != "" {
			log = log.WithField("detail", a.status.Message)
		}
		if phase == Joined {
			log = log.WithField(systemd.MessageID, fault.EventJoined.MessageID())
		}
		log.Info("phase")
		return
	}
	log = log.WithFields(explained(reason, a.status.Message, a.status.Hint)).WithField("attempt", a.status.Attempt)
	if phase == Blocked {
		log.Error("blocked until somebody acts")
		return
	}
	log.Warn("not there yet, trying again")
}

// logNotes writes a line when a note appears and when it is gone.
func (a *Agent) logNotes(notes []Note) {
	now := map[string]bool{}
	for _, n := range notes {
		key := string(n.Reason) + " " + n.Message
		now[key] = true
		if !a.loggedNotes[key] {
			log := a.log
			if n.Reason == fault.KubeletStopped {
				log = a.logKubelet() // for whoever wonders there why it does not run
			}
			log.WithFields(explained(n.Reason, n.Message, n.Hint)).Warn("note")
		}
	}
	for key := range a.loggedNotes {
		if !now[key] {
			a.log.WithField("note", key).Info("note is gone")
		}
	}
	a.loggedNotes = now
}

// explained are the fields of an entry about a reason: the id leads `journalctl -x`
// to the catalog, whose text shows cause and hint.
func explained(reason fault.Reason, cause, hint string) logrus.Fields {
	return logrus.Fields{"reason": string(reason), "cause": cause, "hint": hint, systemd.MessageID: reason.MessageID()}
}

// stepped runs one step of the timeline. An error that is only the end of the
// context leaves the step open: it was interrupted, not finished.
func (a *Agent) stepped(name string, run func() (detail string, err error)) error {
	a.timeline.begin(name, a.deps.Clock.Now())
	a.emit()
	detail, err := run()
	if err != nil && errors.Is(err, context.Canceled) {
		return err
	}
	a.timeline.end(name, a.deps.Clock.Now(), oneLine(detail), reasonOrFailed(err))
	return err
}

func reasonOrFailed(err error) fault.Reason {
	if err == nil {
		return ""
	}
	if r := fault.ReasonOf(err); r != "" {
		return r
	}
	return "Failed"
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func sortStrings(lists ...[]string) {
	for _, l := range lists {
		slices.Sort(l)
	}
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

package agent

import (
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

// Observation is what one look at the machine, and at what is remembered of the
// cluster, has shown. It is plain data: nextPhase and the notes are computed
// from it and from nothing else, so that a table can test every case.
type Observation struct {
	// Copied: the records on this disk were made on another machine.
	Copied Copied
	// NewPair: a signed pair lies in our own folder; it is not in use yet.
	NewPair bool
	// Pair is the node's identity in the kubelet's FileStore.
	Pair Pair
	// Trust: a trusted cluster is in memory, or in a trust.json made under the
	// same endpoints, pins and token id, or with the same discovery file. Only
	// looked at without a usable pair.
	Trust bool
	// Files are the CA, the kubelet config and the kubeconfig.
	Files Files
	// Unit is kubelet.service.
	Unit Unit
	// Outdated are files of ours that nobody edited and that this agent, with the
	// config of now, would write differently.
	Outdated []string
	// Repairs tells what becomes of a drifted file, where it is not left as it is.
	Repairs map[string]string
	// Healthy: the kubelet's health endpoint answered ok, or is switched off.
	Healthy bool
	// LeaseRenewed: the kubelet has renewed its Lease since it was started.
	LeaseRenewed bool
	// Node is what the API said when it was asked last.
	Node Node
	// Skew is what Kubernetes' version skew policy has against kubelet and API
	// server, once both are known.
	Skew string
	// Findings are what the last look around this machine has found wrong.
	Findings []*preflight.Row
	// Renewal is what is known of the next renewal of the certificate.
	Renewal Renewal
	// Reissue is what is known of a certificate that is to be replaced before its end.
	Reissue Reissue
	// Serving is how the API server can reach this kubelet.
	Serving Serving
	// Change is what the cluster shows now that this node does not have.
	Change Change
	// Leftovers are kubeconfigs with a token that nobody needs any more.
	Leftovers []Leftover
	// CARefreshClosed: cluster-info cannot be read any more.
	CARefreshClosed bool
	// MetricsRefused: why the agent cannot listen on metricsAddress.
	MetricsRefused string
	// ConfigError: the config file has become bad; the last good one is in use.
	ConfigError error
}

// Pair is the state of the client certificate and its key.
type Pair string

// The states of a Pair. Only PairUsable identifies a node.
const (
	PairMissing   Pair = "missing"    // gone, and still gone after 10 s
	PairVanishing Pair = "vanishing"  // gone for less than 10 s, or a rotation is under way: wait
	PairDamaged   Pair = "damaged"    // empty, unparsable, or key and certificate do not match
	PairOtherName Pair = "other-name" // CN or O are not those of this node
	PairExpired   Pair = "expired"    //
	PairRejected  Pair = "rejected"   // the API answered 401 to it twice, a minute apart
	PairUsable    Pair = "usable"     //
)

// Files is the state of the CA, the kubelet config and the kubeconfig.
type Files struct {
	Damaged []string // missing or damaged: healed
	Drifted []string // parsable, but not what the agent wrote: reported
}

// Unit is the state of kubelet.service, reduced to what decides.
type Unit struct {
	// Installed: the unit is loaded and our drop-in is among its drop-ins.
	Installed bool
	// Started by us once, and in this boot it has been active, or its start job is
	// queued or running (activating counts: systemd is at it).
	Started bool
	// Active: ActiveState=active with a MainPID.
	Active bool
	// Dead: no process of it runs and systemd will start none by itself.
	Dead bool
	// Starting: its start job is queued or under way.
	Starting bool
	// Failed: systemd has given up on it, for a reason that a person did not
	// choose (start-limit-hit, resources, dependency).
	Failed bool
	// HeldBack by a person: stopped, disabled or masked after the agent had
	// started it once. The text says which.
	HeldBack string
	// Older: it was started before the agent last wrote its pair, CA or server.
	Older bool
	// Drifted: unit or drop-in file differ from what the agent wrote.
	Drifted []string
}

// heldMasked is HeldBack of a masked unit: to enable it is not enough then.
const heldMasked = "masked"

// runsOnOld says of a kubelet that runs although it is held back what it misses.
func (u Unit) runsOnOld() string {
	if !u.Active || !u.Older {
		return ""
	}
	return "; it runs, with the certificate, CA or server of before, and is not restarted for the new ones because it could not be started again"
}

// Node is our Node object.
type Node struct {
	Known    bool // it has been seen under our trust record (its UID is kept)
	Deleted  bool // it was seen, and is gone
	Ready    bool
	NotReady string // the Ready condition's message when it is not true
	Other    string // the machine ID that it has, when another machine's kubelet described it last
}

// Renewal is what is known of the certificate's renewal by the kubelet.
type Renewal struct {
	NotAutomatic bool // nobody approves this node's renewal requests
	Overdue      bool // past 90 % of the lifetime
	NotAfter     time.Time
	Request      *pendingAsked // the kubelet's request, once overdue and asked about
}

// nextPhase says where the machine stands. It is the one decision of this
// package: pure, first match wins, one table test.
func nextPhase(o Observation) Phase {
	switch {
	case o.Copied != "":
		return Discovering // whatever there is, it is another machine's
	case o.NewPair:
		return CheckingName
	case o.Pair == PairVanishing:
		// The kubelet removes its symlink for a moment when it rotates: what is
		// there is still a node.
		return settled(o)
	case o.Pair != PairUsable && !o.Trust:
		return Discovering
	case o.Pair != PairUsable:
		return RequestingCertificate
	case len(o.Files.Damaged) > 0:
		return ConfiguringKubelet
	case needsStart(o.Unit):
		return StartingKubelet
	}
	return settled(o)
}

// settled tells the last two rows apart.
func settled(o Observation) Phase {
	if !o.Unit.Active || !o.Healthy || !o.LeaseRenewed {
		return Registering
	}
	return Joined
}

// needsStart says whether kubelet.service is ours to install, start or restart
// now. What a person holds back is left alone whatever else is the case.
func needsStart(u Unit) bool {
	if u.HeldBack != "" {
		return false
	}
	return !u.Installed || !u.Started || u.Failed || u.Older
}

// notReadyHint is what to do about a kubelet's own word for why its node is not
// Ready, where that is not the usual missing pod network; "" there.
func notReadyHint(message string) string {
	for _, known := range []struct{ says, hint string }{
		{"cni", ""},
		{"CSINode is not yet initialized", "Nothing: the kubelet makes its CSINode within seconds. If it stays so, see `journalctl -u kubelet`."},
		{"container runtime is down", "See why on the machine: `systemctl status containerd` (or the runtime that it has), `journalctl -u kubelet`."},
		{"PLEG is not healthy", "The runtime answers too slowly: `crictl ps` on the machine, `journalctl -u kubelet`, and its disk and memory."},
		{"stopped posting node status", "The API server hears nothing of the kubelet: `systemctl status kubelet` and `journalctl -u kubelet` on the machine."},
	} {
		if strings.Contains(message, known.says) {
			return known.hint
		}
	}
	return ""
}

// notesOf lists what is worth telling beside the phase, in a stable order.
func notesOf(o Observation) []Note {
	var notes []Note
	add := func(r fault.Reason, message string) {
		row, _ := fault.Lookup(r)
		notes = append(notes, Note{Reason: r, Message: message, Hint: row.Remedy})
	}
	hint := func(better string) {
		if better != "" {
			notes[len(notes)-1].Hint = better
		}
	}
	if o.ConfigError != nil {
		add(fault.ConfigInvalid, "the config file has become bad and is not used: "+o.ConfigError.Error())
	}
	if o.Unit.HeldBack != "" {
		add(fault.KubeletStopped, "kubelet.service is "+o.Unit.HeldBack+o.Unit.runsOnOld())
		if o.Unit.HeldBack == heldMasked {
			hint("When it may run again: `systemctl unmask kubelet; systemctl enable --now kubelet`.")
		}
	}
	if o.Node.Deleted {
		add(fault.NodeDeleted, "the Node object is gone from the API")
	}
	if o.Node.Other != "" && !o.Node.Deleted {
		add(fault.NodeNameTaken, "another machine's kubelet describes this Node, too (its machine ID is "+fault.Quote(o.Node.Other)+"); both run under one name")
	}
	if o.Node.Known && !o.Node.Deleted && !o.Node.Ready && o.Node.NotReady != "" {
		add(fault.NodeNotReady, o.Node.NotReady)
		hint(notReadyHint(o.Node.NotReady))
	}
	if o.Renewal.NotAutomatic {
		add(fault.RenewalNotAutomatic, "group system:nodes may not create certificatesigningrequests/selfnodeclient; the certificate ends at "+o.Renewal.NotAfter.UTC().Format(time.RFC3339))
	}
	if o.Renewal.Overdue {
		add(fault.RenewalOverdue, "the certificate ends at "+o.Renewal.NotAfter.UTC().Format(time.RFC3339)+o.Renewal.Request.clause())
		hint(o.Renewal.Request.approve())
	}
	if o.Reissue.Why != "" {
		add(fault.ReissuePending, o.Reissue.message())
		hint(o.Reissue.approve())
	}
	if len(o.Serving.OtherCAs) > 0 {
		add(fault.ClientCAMissing, "the API server takes client certificates of "+strings.Join(o.Serving.OtherCAs, ", ")+"; this kubelet trusts only the CA of cluster-info")
	}
	if o.Serving.Missing && o.Serving.Request != nil {
		add(fault.ServingCertificatePending, "the kubelet has no serving certificate from the cluster yet"+o.Serving.Request.clause())
		hint(o.Serving.Request.approve())
	}
	notes = append(notes, o.Change.notes()...)
	if o.CARefreshClosed {
		add(fault.CARefreshUnavailable, "cluster-info cannot be read anonymously, and there is no discovery file to read instead")
	}
	for _, left := range o.Leftovers {
		notes = append(notes, Note{Reason: fault.TokenLeftBehind, Message: left.Path + " still holds a token, which a joined node does not need", Hint: left.Remedy})
	}
	becomes := func(path string) string {
		if what := o.Repairs[path]; what != "" {
			return what
		}
		return "it is left as it is"
	}
	for _, name := range append(append([]string(nil), o.Files.Drifted...), o.Unit.Drifted...) {
		add(fault.Drifted, name+" is not what the agent wrote; "+becomes(name))
	}
	for _, name := range o.Outdated {
		add(fault.Drifted, name+" would be written differently now; "+becomes(name))
	}
	if o.Skew != "" {
		add(fault.VersionSkew, o.Skew)
	}
	if o.MetricsRefused != "" {
		add(fault.MetricsUnavailable, "metricsAddress: "+o.MetricsRefused)
	}
	for _, row := range o.Findings {
		notes = append(notes, Note{Reason: row.Reason, Message: row.Name + ": " + row.Message, Hint: row.Remedy})
	}
	return notes
}

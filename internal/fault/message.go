package fault

import (
	"crypto/sha256"
	"encoding/hex"
)

// Event is something that happened to a node and that one looks for in the
// journal: not a fault, and nothing to act on. Events are only ever added, never
// renamed.
type Event string

// The events that the agent puts into the journal under an id of their own.
const (
	EventJoined               Event = "Joined"
	EventCertificateInstalled Event = "CertificateInstalled"
	EventKubeletStarted       Event = "KubeletStarted"
	EventKubeletRestarted     Event = "KubeletRestarted"
	EventKubeletStopped       Event = "KubeletStopped"
	EventCATaken              Event = "CATaken"
	EventServerMoved          Event = "ServerMoved"
)

// EventEntry is one row of the table of events.
type EventEntry struct {
	Event   Event
	Subject string // a few words
	Text    string // whole sentences
}

// Events returns the table of events.
func Events() []EventEntry {
	return []EventEntry{
		{EventJoined, "This machine is a Kubernetes node",
			"The kubelet runs under a certificate of this node and is seen in the API. From here on the agent watches it; what it sees stands in `bootstrap-agent status`."},
		{EventCertificateInstalled, "A client certificate was installed for the kubelet",
			"The agent has requested it and put it into the kubelet's own store. The kubelet renews it by itself, if the cluster approves that."},
		{EventKubeletStarted, "bootstrap-agent has started the kubelet",
			"It was not running: this is the end of a join, or systemd had given it up."},
		{EventKubeletRestarted, "bootstrap-agent has restarted the kubelet",
			"The kubelet was older than its certificate, its CA or the server in its kubeconfig, which the agent had to replace, or than its other files and its unit, which `bootstrap-agent apply` or `repair: true` has written. It reads them only when it starts."},
		{EventKubeletStopped, "bootstrap-agent has stopped the kubelet for a moment",
			"Its certificate is replaced: it had expired, was gone, or the API refused it. The agent starts it again at once."},
		{EventCATaken, "The cluster's CAs have changed, and this node has taken them",
			"cluster-info showed another bundle over a connection that verified under the CAs that this node held, or a discovery file did; or the cluster was discovered anew, with signature and pins. The kubelet is restarted once."},
		{EventServerMoved, "This node has moved to another API server of its cluster",
			"The cluster names another one, or the one in use could not be used any more; the new one verified under the CAs that this node holds. The kubelet is restarted once."},
	}
}

// MessageID is the id of this reason's entries in the journal (MESSAGE_ID=): the
// same in every release, because it comes from the name.
func (r Reason) MessageID() string { return messageID("reason " + string(r)) }

// MessageID is the id of this event's entries in the journal.
func (e Event) MessageID() string { return messageID("event " + string(e)) }

// messageID makes a UUID of version 8 (RFC 9562: whatever the maker likes; here
// the beginning of a digest), written as the journal wants it.
func messageID(name string) string {
	sum := sha256.Sum256([]byte("bootstrap-agent " + name))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return hex.EncodeToString(sum[:16])
}

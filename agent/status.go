package agent

import (
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Status is what the agent tells about itself: the content of status.json and
// of `status -o json`. Fields are only ever added. It holds no secret and no
// body of a server's error. Times are RFC 3339 in UTC, durations are seconds.
type Status struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	BootID  string    `json:"bootID"`
	Time    time.Time `json:"time"` // when this status was made

	Phase     Phase        `json:"phase"`
	Reason    fault.Reason `json:"reason,omitempty"`
	Message   string       `json:"message,omitempty"` // one line: what is the case now
	Hint      string       `json:"hint,omitempty"`    // the next step for a person
	Since     time.Time    `json:"since"`             // of phase and reason
	Attempt   int          `json:"attempt,omitempty"` // of the act that fails, from 1
	NextRetry *time.Time   `json:"nextRetry,omitempty"`

	Node        NodeStatus         `json:"node"`
	Cluster     *ClusterStatus     `json:"cluster,omitempty"`
	CSR         *CSRStatus         `json:"csr,omitempty"`
	ServingCSR  *CSRStatus         `json:"servingCSR,omitempty"` // the kubelet's own, for its serving certificate, while it waits
	Certificate *CertificateStatus `json:"certificate,omitempty"`
	Kubelet     KubeletStatus      `json:"kubelet"`

	Notes    []Note `json:"notes,omitempty"`
	Timeline []Step `json:"timeline,omitempty"`
}

// NodeStatus is our Node as the API shows it.
type NodeStatus struct {
	Name    string `json:"name"`
	UID     string `json:"uid,omitempty"`
	Seen    bool   `json:"seen"`              // it was there when last looked at
	Ready   *bool  `json:"ready,omitempty"`   // nil: not known
	Message string `json:"message,omitempty"` // of the Ready condition when it is not true
	// Asked is when the API was asked about the Node last: what stands here is
	// as old as that.
	Asked *time.Time `json:"asked,omitempty"`
}

// ClusterStatus is the cluster that was accepted.
type ClusterStatus struct {
	Server      string `json:"server"`
	Provisional bool   `json:"provisional,omitempty"` // cluster-info's own server could not be reached
	Endpoint    string `json:"endpoint,omitempty"`    // where cluster-info was read
	// DiscoveryFile is the path of the file that names the cluster.
	DiscoveryFile string   `json:"discoveryFile,omitempty"`
	CAPins        []string `json:"caPins"`
	// When other CAs were taken last, and when the node moved to another server.
	CATaken     *time.Time `json:"caTaken,omitempty"`
	ServerMoved *time.Time `json:"serverMoved,omitempty"`
}

// CSRStatus is the certificate signing request that waits, or waited last.
type CSRStatus struct {
	Name           string     `json:"name"`
	Created        time.Time  `json:"created"`
	Adopted        bool       `json:"adopted,omitempty"`        // made by an earlier run of this agent
	WillBeApproved *bool      `json:"willBeApproved,omitempty"` // nil: not known
	Approved       *time.Time `json:"approved,omitempty"`       // when the certificate was seen
	BackstopGets   int        `json:"backstopGets"`             // GETs beside the watch: the first after 30 to 40 s, then ever more seldom
	Approve        string     `json:"approve,omitempty"`        // the command for a person, while it waits
	Bind           string     `json:"bind,omitempty"`           // the command that lets the cluster approve it and those after it
}

// CertificateStatus is the node's client certificate.
type CertificateStatus struct {
	Serial    string    `json:"serial"` // hexadecimal
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// KubeletStatus is kubelet.service and what it answers.
type KubeletStatus struct {
	Unit        string     `json:"unit"`
	ActiveState string     `json:"activeState,omitempty"`
	SubState    string     `json:"subState,omitempty"`
	MainPID     uint32     `json:"mainPID,omitempty"`
	Started     *time.Time `json:"started,omitempty"`
	Healthy     *bool      `json:"healthy,omitempty"` // nil: not asked, or switched off in its config
}

// Note is something worth knowing that does not change the phase.
type Note struct {
	Reason  fault.Reason `json:"reason"`
	Message string       `json:"message"`
	Hint    string       `json:"hint,omitempty"`
}

// Step is one line of the timeline. A step that has not ended has no Seconds.
type Step struct {
	Name    string       `json:"name"`              // a StepName
	Start   time.Time    `json:"start"`             //
	Seconds *float64     `json:"seconds,omitempty"` // its duration
	Detail  string       `json:"detail,omitempty"`  // one line
	Reason  fault.Reason `json:"reason,omitempty"`  // it ended with this fault
}

// Package systemd speaks with the service manager: units over D-Bus (jobs with
// their result awaited, properties, changes, enable, daemon-reload), the
// kubelet's unit file and drop-in, sd_notify, and the journal. It is the only
// package that knows go-systemd.
//
// It never decides (package agent does), never reads the agent's configuration,
// never writes a file other than kubelet.service and its drop-in, never
// overwrites a unit that it did not write, never unmasks and never starts
// anything unasked. All text that ends in a unit file goes through one check
// and one escape function (escape.go).
//
//	KubeletService --Render--> Rendered --Install--> files, enabled, reloaded, read back
//	unit name --Start--> job --result--> nil or *JobError; --Unit--> Unit
package systemd

// KubeletUnit is the unit that the agent runs the kubelet in. Faults of its
// jobs carry fault.KubeletFailed.
const KubeletUnit = "kubelet.service"

// UnitDir is where the administrator's units live, and so where the agent
// writes: it wins over /run and /usr/lib.
const UnitDir = "/etc/systemd/system"

// DropInName sorts after the 10-kubeadm.conf of the kubeadm packages and before
// a 95-*.conf or 99-*.conf of a person.
const DropInName = "90-bootstrap-agent.conf"

// Package agent is the hall of the house: it observes the machine, decides what
// a node needs next, does it, and goes on until told to stop. It is the only
// place that knows the order of the steps.
//
// The loop is level-triggered. [Agent.Run] observes (files, certificate, unit,
// Node), nextPhase, a pure function with one table, names the [Phase], one act
// per phase changes the world, and a [Status] tells about it. No phase is
// stored on disk: after a crash, a reboot or an upgrade the same function finds
// the right place again.
//
// It never restarts or rewrites anything without a reason it can name, never
// starts a kubelet that a person stopped, never registers a Node that a person
// deleted, never touches a foreign identity, and never exits by itself except
// when asked to (AfterJoinExit, a deadline, a cancelled context).
//
//	Config -> discovery.Cluster -> csr.Credentials -> kubelet files -> kubelet.service -> Node -> Status
package agent

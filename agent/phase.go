package agent

import "slices"

// Phase is where a machine stands on its way to being a node. The same words
// stand in status, journal, metrics and docs.
type Phase string

// The phases, in the order of a first join.
const (
	Discovering           Phase = "Discovering"           // reading cluster-info and deciding whom to trust
	RequestingCertificate Phase = "RequestingCertificate" // the CSR is made and waits for approval
	CheckingName          Phase = "CheckingName"          // is another live machine registered under our name?
	ConfiguringKubelet    Phase = "ConfiguringKubelet"    // CA, kubelet config and kubeconfig are written
	StartingKubelet       Phase = "StartingKubelet"       // unit written, enabled, started
	Registering           Phase = "Registering"           // the kubelet runs; its Node and Lease are awaited
	Joined                Phase = "Joined"                // the machine is a node
	Blocked               Phase = "Blocked"               // nothing goes on until a person acts; Reason says what
)

// beyond says whether a join that is at p has left other behind. Going back
// (cluster-info is read anew because the token was refused) is no progress.
func (p Phase) beyond(other Phase) bool {
	order := []Phase{Discovering, RequestingCertificate, CheckingName, ConfiguringKubelet, StartingKubelet, Registering, Joined}
	return slices.Index(order, p) > slices.Index(order, other)
}

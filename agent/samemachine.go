package agent

import (
	"fmt"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
)

// sameMachine takes this machine's UUID and machine ID into the trust record:
// `apply --same-machine`, for a machine whose mainboard was replaced, or whose
// machine ID was made anew, and which is still the node that it was. It writes
// nothing else. changed: the record was of another machine.
func (a *Agent) sameMachine() (changed bool, err error) {
	if a.trust == nil || otherMachine(a.trust.Machine, a.deps.Machine) == "" {
		return false, nil
	}
	next := *a.trust
	next.Machine = a.deps.Machine
	if err := next.Write(a.cfg.Paths); err != nil {
		return false, err
	}
	a.log.WithField("detail", otherMachine(a.trust.Machine, next.Machine)).Info("the trust record is of this machine now")
	a.trust = &next
	return true, nil
}

// otherMachine says in what the trust record's machine differs from this one; ""
// if in nothing that outlives a boot.
func otherMachine(was, is record.Machine) string {
	if was.UUID == is.UUID && was.MachineID == is.MachineID {
		return ""
	}
	return fmt.Sprintf("UUID %s, now %s; machine ID %s, now %s", orNone(was.UUID), orNone(is.UUID), orNone(was.MachineID), orNone(is.MachineID))
}

func orNone(id string) string {
	if id == "" {
		return "none"
	}
	return id
}

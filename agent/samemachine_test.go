package agent

import (
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

func TestTheSameMachineWithAnotherMainboardIsTakenIntoTheRecordOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Machine.UUID = "11111111-0000-0000-0000-000000000000"
	r.mustJoin()
	r.awaitLock()
	before := must(record.ReadTrust(r.cfg.Paths))
	r.deps.Machine = Machine{BootID: r.boot, MachineID: "m1", UUID: "22222222-0000-0000-0000-000000000000"}
	a := must(New(r.cfg, r.deps))
	if err := a.remember(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if changed, err := a.sameMachine(); err != nil || changed != want {
			t.Errorf("changed %t, %v; want %t", changed, err, want)
		}
	}
	after := must(record.ReadTrust(r.cfg.Paths))
	if after.Machine != r.deps.Machine {
		t.Errorf("the record is of %+v", after.Machine)
	}
	after.Machine = before.Machine
	if after.CA != before.CA || after.NodeUID != before.NodeUID || after.Server != before.Server {
		t.Error("something else changed in the record")
	}
}

func TestARecordWithoutAMachineIsLeftAlone(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	a := must(New(r.cfg, r.deps))
	if changed, err := a.sameMachine(); changed || err != nil {
		t.Errorf("%t, %v", changed, err)
	}
}

package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func notYet() agent.Status {
	no, asked := false, time.Now()
	return agent.Status{Phase: agent.Joined, Node: agent.NodeStatus{Name: "worker-9", Seen: true, Ready: &no, Message: "cni plugin not initialized", Asked: &asked}}
}

func TestWaitForReadyEndsWithTheNodesOwnMessage(t *testing.T) {
	d := newDoor(t)
	d.publish(notYet())
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "20ms")
	d.wantText("not ready in time: Joined, not Ready: cni plugin not initialized", "-> Most often the pod network (CNI) is missing")
}

func TestWaitTellsWhatANoteSaysToDo(t *testing.T) {
	d := newDoor(t)
	d.publish(agent.Status{Phase: agent.Registering, Message: "the kubelet does not run: stopped",
		Notes: []agent.Note{{Reason: fault.KubeletStopped, Message: "kubelet.service is stopped", Hint: "systemctl enable --now kubelet"}}})
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "20ms")
	d.wantText("the kubelet does not run: stopped", "-> systemctl enable --now kubelet")
}

func TestWaitSaysThatTheNodeWasDeleted(t *testing.T) {
	d := newDoor(t)
	asked := time.Now()
	d.publish(agent.Status{Phase: agent.Joined, Node: agent.NodeStatus{Name: "worker-9", Asked: &asked}})
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "20ms")
	d.wantText("the Node object is gone from the API", "-> If that was meant")
}

// What the agent knows of a node at rest is up to 22 minutes old: whoever may
// read the node's pair gets the API's word of now.
func TestWaitForReadyAsksWhereTheStatusIsOld(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	if code := d.call("join", "--timeout", "10s"); code != 0 {
		t.Fatalf("join ended with %d: %s", code, d.output())
	}
	yes, no, old := true, false, time.Now().Add(-20*time.Minute)
	status := notYet()
	status.Node.Asked = &old

	status.Node.Ready, status.Node.Message = &yes, ""
	d.publish(status)
	s.SetNodeReady("worker-9", false, "PLEG is not healthy")
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "300ms")
	d.wantText("not ready in time: Joined, not Ready", "PLEG is not healthy")

	status.Node.Ready = &no
	d.update(status)
	s.SetNodeReady("worker-9", true, "")
	d.wantCode(0, "wait", "--for", "ready", "--timeout", "5s")

	// Where it cannot be asked, what the agent knows is better than nothing.
	status.Node.Ready = &yes
	d.update(status)
	if err := os.Remove(d.path("kubelet/pki/kubelet-client-current.pem")); err != nil {
		t.Fatal(err)
	}
	d.wantCode(0, "wait", "--for", "ready", "--timeout", "5s")
}

func TestWaitForReadyWorksWithoutAnAgent(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	if code := d.call("join", "--timeout", "10s"); code != 0 {
		t.Fatalf("join ended with %d: %s", code, d.output())
	}
	s.SetNodeReady("worker-9", false, "cni plugin not initialized")
	before := d.files()
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "300ms")
	d.wantText("cni plugin not initialized", "(the agent is not running)")
	s.SetNodeReady("worker-9", true, "")
	d.wantCode(0, "wait", "--for", "ready", "--timeout", "5s")
	d.wantText("worker-9 is ready")
	s.DeleteNode("worker-9")
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "300ms")
	d.wantText("gone from the API")
	if d.files() != before {
		t.Error("something was written")
	}
	s.RejectCertificates(true)
	d.wantCode(fault.ExitTemporary, "wait", "--for", "ready", "--timeout", "300ms")
	if !strings.Contains(d.output(), "cannot be asked") {
		t.Errorf("output: %s", d.output())
	}
}

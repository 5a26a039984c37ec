package agent

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// ours are the annotations that the agent has written to the rig's Node.
func (r *rig) ours() map[string]string {
	node := r.api.Node(nodeName)
	if node == nil {
		return nil
	}
	return annotationsOf(node)
}

// patches counts the requests that write to a Node.
func (r *rig) patches() (n int) {
	for _, q := range r.api.Requests() {
		if q.Verb == "patch" {
			n++
		}
	}
	return n
}

// looks counts the looks of a joined node at its Node.
func (r *rig) looks() (n int) {
	for _, q := range r.api.Requests() {
		if q.Verb == "get" && q.Resource == "nodes" {
			n++
		}
	}
	return n
}

func (r *rig) awaitLooks(more int) {
	r.t.Helper()
	until := r.looks() + more
	awaitTrue(r.t, "more looks at the API", func() bool { return r.looks() >= until })
}

func TestAJoinedNodeSaysWhoJoinedIt(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	var atJoined int
	collect := r.deps.OnStatus
	r.deps.OnStatus = func(s Status) {
		if collect(s); s.Phase == Joined {
			atJoined = r.patches()
		}
	}
	r.mustJoin()
	s, _ := r.last()
	want := map[string]string{"version": "test", "phase": "Joined", "ca-hashes": r.api.Pin(), "certificate-serial": s.Certificate.Serial}
	if got := r.ours(); !maps.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := r.patches(); n != 1 || atJoined != 0 {
		t.Errorf("%d requests to write them, %d before the join was told", n, atJoined)
	}
	// Somebody else's stay, and an agent that is started again has nothing to write.
	r.api.MutateNode(nodeName, func(n *corev1.Node) { n.Annotations["example.org/rack"] = "r7" })
	r.mustJoin()
	if node := r.api.Node(nodeName); r.patches() != 1 || node.Annotations["example.org/rack"] != "r7" {
		t.Errorf("after another start: %d requests, %q", r.patches(), node.Annotations)
	}
	r.deps.Version = "newer"
	r.mustJoin()
	if node := r.api.Node(nodeName); r.patches() != 2 || r.ours()["version"] != "newer" || node.Annotations["example.org/rack"] != "r7" {
		t.Errorf("after an upgrade: %d requests, %q", r.patches(), node.Annotations)
	}
}

func TestTheNodeSaysWhatIsToBeKnownOfIt(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.SelfNodeClientAllowed(false)
	r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	awaitTrue(t, "the note is on the Node", func() bool { return r.ours()["reason"] == string(fault.RenewalNotAutomatic) })
	if n := r.patches(); n != 1 {
		t.Errorf("%d requests; that the Node was not Ready it said itself", n)
	}
	r.api.SelfNodeClientAllowed(true)
	awaitTrue(t, "the mended note is taken away", func() bool { _, there := r.ours()["reason"]; return !there })
	r.units.StopByHand()
	awaitTrue(t, "the stopped kubelet is on the Node", func() bool {
		return maps.Equal(map[string]string{"reason": "KubeletStopped", "phase": "Registering"}, map[string]string{"reason": r.ours()["reason"], "phase": r.ours()["phase"]})
	})
}

// Something that comes and goes is written at most once a look, and a
// look costs three requests at most, that one included.
func TestAnnotationsKeepWithinTheBudgetOfANodeAtRest(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.Kubelet.ServingCertificate = AfterJoinHeal, "cluster"
	r.deps.Jitter = func(time.Duration) time.Duration { return 0 }
	r.kubeletAsks("csr-mine", nodeName, servingSigner)
	r.start()
	r.await("the join", phase(Joined))
	r.api.SetNodeReady(nodeName, true, "")
	r.await("Ready", func(s Status) bool { return s.Node.Ready != nil && *s.Node.Ready })
	path := r.cfg.Paths.Kubelet + "/config.yaml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.awaitLooks(1)
	before, looks, patches, began := len(r.api.Requests()), r.looks(), r.patches(), r.deps.Clock.Now()
	flip := 0
	// On a busy host all looks of an hour may meet the same state: then some more.
	for passed := time.Duration(0); passed < time.Hour || r.patches() == patches && passed < 6*time.Hour; passed = r.deps.Clock.Now().Sub(began) {
		flip++
		text := string(data) + strings.Repeat("# mine\n", flip/10%2)
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		<-time.After(70 * time.Millisecond) // of this clock: more than a minute of the agent's
	}
	passed := r.deps.Clock.Now().Sub(began)
	asked, looked, patched := len(r.api.Requests())-before, r.looks()-looks, r.patches()-patches
	if patched == 0 || patched > looked+1 || asked > 3*looked+2 || float64(looked) > passed.Minutes()/15+1 {
		t.Errorf("%d requests, %d looks, %d of them wrote, in %s", asked, looked, patched, passed)
	}
}

func TestANodeThatIsOnlyObservedIsNotWrittenTo(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinObserve
	r.start()
	r.await("the join", phase(Joined))
	r.awaitLooks(3)
	if n := r.patches(); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestANodeThatMayNotBeAnnotatedIsJoinedAllTheSame(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.NodePatchForbidden(true)
	hook := r.logged()
	a, _ := r.start()
	r.await("the join", phase(Joined))
	r.awaitLooks(3)
	if n := r.patches(); n != 1 {
		t.Errorf("%d requests for something that is forbidden", n)
	}
	for _, e := range hook.AllEntries() {
		if strings.Contains(e.Message, "annotations") && e.Level.String() != "debug" {
			t.Errorf("%s: %s", e.Level, e.Message)
		}
	}
	r.api.NodePatchForbidden(false)
	a.Reload(r.cfg, nil)
	awaitTrue(t, "it is tried again after a reload", func() bool { return r.ours()["phase"] == "Joined" })
}

func TestAFailedAnnotationIsTriedWithTheNextLook(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	answers := func() (got []int) {
		for _, q := range r.api.Requests() {
			if q.Verb == "patch" {
				got = append(got, q.Status)
			}
		}
		return got
	}
	remove := r.api.Inject(testapi.Fault{Match: testapi.Is("patch", "nodes"), Status: 503, Times: 2})
	defer remove()
	r.start()
	r.await("the join", phase(Joined))
	awaitTrue(t, "it is written in the end", func() bool { return r.ours()["phase"] == "Joined" })
	// The Node is written a moment before the answer is.
	awaitTrue(t, "two failures and the answer", func() bool { return slices.Equal(answers(), []int{503, 503, 200}) })
}

func TestADeletedNodeIsNotAnnotated(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.start()
	r.await("the join", phase(Joined))
	r.api.DeleteNode(nodeName)
	r.await("the note", func(s Status) bool { return hasNote(s, fault.NodeDeleted) })
	before := r.patches()
	r.awaitLooks(2)
	if n := r.patches() - before; n != 0 {
		t.Errorf("%d requests", n)
	}
}

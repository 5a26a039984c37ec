package agent

import (
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// refusedLines are what a kubelet 1.36 writes while the API answers 401 to it.
var refusedLines = []string{
	`I1123 00:10:01.000000 942 log.go:25] "something else"`,
	`E1123 00:10:02.000000 942 controller.go:201] "Failed to ensure lease exists, will retry" err="Unauthorized" interval="7s"`,
	`E1123 00:10:03.000000 942 kubelet_node_status.go:479] "Error updating node status, will retry" err="error getting node \"worker-1\": Unauthorized"`,
}

// The words of the kubelet lead to a question, and decide nothing: who writes them
// causes one look more in a quarter of an hour, and a kubelet that cannot pull an
// image none.
func TestWordsInTheKubeletsJournalCauseOneQuestionAndNoMore(t *testing.T) {
	for name, row := range map[string]struct {
		lines []string
		most  int // looks an hour
		least int
	}{
		"nothing of interest": {nil, 4, 3},
		"an image that a registry refuses": {[]string{
			`E1123 00:10:02.000000 942 log.go:32] "PullImage from image service failed" err="failed to authorize: 401 Unauthorized" image="x"`,
		}, 4, 3},
		"the words, though the API knows the pair": {refusedLines, 8, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			r.api.SetNodeReady(nodeName, true, "")
			r.cfg.AfterJoin = AfterJoinHeal
			r.deps.Jitter = func(time.Duration) time.Duration { return 0 }
			_, stop := r.start()
			r.await("the node at rest", phase(Joined))
			r.awaitLooks(1)
			r.units.SetLines(row.lines...)
			began, before := r.deps.Clock.Now(), r.looks()
			awaitTrue(t, "an hour", func() bool { return r.deps.Clock.Now().Sub(began) > time.Hour })
			looks := r.looks() - before
			took := r.deps.Clock.Now().Sub(began)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if hours := took.Hours(); looks < row.least || float64(looks) > float64(row.most)*hours+1 {
				t.Errorf("%d looks in %s, want %d to %d an hour", looks, took, row.least, row.most)
			}
			if searches := r.units.Searches(); searches == 0 || float64(searches) > took.Minutes()*4/3+3 {
				t.Errorf("the journal was searched %d times in %s", searches, took)
			}
			r.mustStayJoined()
		})
	}
}

package agent

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// compiled makes the rig's kubelet a compiled program that counts how often it is
// asked for its version.
func (r *rig) compiled(version string) (asked *atomic.Int32) {
	r.t.Helper()
	mustWrite(r.t, r.deps.Host.Binaries[0], "\x7fELF of "+version)
	asked = &atomic.Int32{}
	r.deps.Host.RunKubelet = func(ctx context.Context, path string, args ...string) ([]byte, error) {
		asked.Add(1)
		return answers(version)(ctx, path, args...)
	}
	return asked
}

// forget makes the machine one that never joined, and keeps what `configure` left.
func (r *rig) forget() {
	r.t.Helper()
	record, err := os.ReadFile(r.cfg.Paths.BinaryFile())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, dir := range []string{r.cfg.Paths.State, r.cfg.Paths.Kubelet, r.cfg.Paths.Run} {
		if err := os.RemoveAll(dir); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(r.cfg.Paths.State, 0o700); err != nil {
		r.t.Fatal(err)
	}
	mustWrite(r.t, r.cfg.Paths.BinaryFile(), string(record))
}

func TestAKubeletThatAnsweredIsNotAskedAgainWhileItIsTheSameFile(t *testing.T) {
	for name, tc := range map[string]struct {
		between func(*rig)
		want    int32
	}{
		"the same file": {func(*rig) {}, 0},
		"another file in its place": {func(r *rig) {
			other := r.deps.Host.Binaries[0] + ".new"
			mustWrite(r.t, other, "\x7fELF of v1.36.3")
			if err := errors.Join(os.Chmod(other, 0o700), os.Rename(other, r.deps.Host.Binaries[0])); err != nil {
				r.t.Fatal(err)
			}
		}, 1},
		"the same file with another content": {func(r *rig) { mustWrite(r.t, r.deps.Host.Binaries[0], "\x7fELF of something newer") }, 1},
		"a damaged record":                   {func(r *rig) { mustWrite(r.t, r.cfg.Paths.BinaryFile(), "{") }, 1},
		"an empty record":                    {func(r *rig) { mustWrite(r.t, r.cfg.Paths.BinaryFile(), "") }, 1},
		"a record with nonsense for a version": {func(r *rig) {
			identity := must(kubelet.Identity(r.deps.Host.Binaries[0]))
			mustWrite(r.t, r.cfg.Paths.BinaryFile(), `{"path":"`+r.deps.Host.Binaries[0]+`","identity":"`+identity+`","version":"one"}`)
		}, 1},
		"a record of another path": {func(r *rig) {
			identity := must(kubelet.Identity(r.deps.Host.Binaries[0]))
			mustWrite(r.t, r.cfg.Paths.BinaryFile(), `{"path":"/usr/bin/other","identity":"`+identity+`","version":"v1.29.0"}`)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			asked := r.compiled("v1.36.3")
			r.mustJoin()
			if n := asked.Load(); n != 1 {
				t.Fatalf("asked %d times in the first join", n)
			}
			r.forget()
			tc.between(r)
			r.api.DeleteNode(nodeName)
			r.mustJoin()
			if n := asked.Load() - 1; n != tc.want {
				t.Errorf("asked %d times in the second join, want %d", n, tc.want)
			}
		})
	}
}

func TestAScriptThatRunsAKubeletIsAskedEachTime(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.Host.RunKubelet = answers("v1.36.3")
	r.mustJoin()
	if _, err := os.Stat(r.cfg.Paths.BinaryFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what it runs tomorrow is on record today: %v", err)
	}
}

// What was learned before the join is all the join needs: here nobody would ever
// answer again.
func TestWhatConfigureLearnedIsNotWaitedFor(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.compiled("v1.36.3")
	if err := LearnKubelet(t.Context(), r.cfg, r.deps); err != nil {
		t.Fatal(err)
	}
	r.deps.Host.RunKubelet = func(ctx context.Context, _ string, _ ...string) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.mustJoin()
}

func TestAKubeletOnRecordAsTooOldCostsNoRequestEither(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	asked := r.compiled("v1.29.15")
	if err := LearnKubelet(t.Context(), r.cfg, r.deps); err != nil {
		t.Fatal(err)
	}
	_, stop := r.start()
	r.await("the fault", reason(fault.KubeletTooOld))
	if n := len(r.api.CSRs()); n != 0 || asked.Load() != 1 {
		t.Errorf("%d requests, asked %d times", n, asked.Load())
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAKubeletThatIsReplacedWhileItAnswersIsNotPutOnRecord(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.compiled("v1.36.3")
	answer := r.deps.Host.RunKubelet
	r.deps.Host.RunKubelet = func(ctx context.Context, path string, args ...string) ([]byte, error) {
		mustWrite(t, path, "\x7fELF of somebody else's")
		return answer(ctx, path, args...)
	}
	r.mustJoin()
	if _, err := os.Stat(r.cfg.Paths.BinaryFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is on record: %v", err)
	}
}

func TestLearningFromNoKubeletSaysSoAndLeavesNothing(t *testing.T) {
	for name, spoil := range map[string]func(*rig){
		"no kubelet":     func(r *rig) { r.deps.Host.Binaries = []string{"/none"} },
		"it cannot run":  func(r *rig) { r.deps.Host.RunKubelet = nil },
		"no node's name": func(r *rig) { r.cfg.NodeName = "" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.compiled("v1.36.3")
			spoil(r)
			if err := LearnKubelet(t.Context(), r.cfg, r.deps); err == nil {
				t.Error("no error")
			}
			if _, err := os.Stat(r.cfg.Paths.BinaryFile()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something is on record: %v", err)
			}
		})
	}
}

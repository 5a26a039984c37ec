//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// pauseImages are the names under which containerd and the pods below look for it.
var pauseImages = []string{"registry.k8s.io/pause:3.6", "registry.k8s.io/pause:3.10", "lab.invalid/pause:1"}

// pauseArchive is an image with the program test/e2e/pause and nothing else, in the
// format of `docker save`, built once for all scenarios.
var pauseArchive = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "pause")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(dir, "pause"), "./pause")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, &buildError{err, string(out)}
	}
	program, err := os.ReadFile(filepath.Join(dir, "pause"))
	if err != nil {
		return nil, err
	}
	layer, err := archive(map[string][]byte{"pause": program}, "pause")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(layer)
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/pause"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, hex.EncodeToString(sum[:]))
	tags, err := json.Marshal(pauseImages)
	if err != nil {
		return nil, err
	}
	manifest := fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":%s,"Layers":["layer.tar"]}]`, tags)
	return archive(map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer}, "manifest.json", "config.json", "layer.tar")
})

func archive(files map[string][]byte, order ...string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range order {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// runPod gives the machine the image and its node a pod, and returns the number of
// its container's process on that machine, once it runs.
func runPod(t *testing.T, ctx context.Context, c *cluster.Cluster, m *machine.Machine) (pid string) {
	t.Helper()
	image, err := pauseArchive()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WriteFile(ctx, "/var/tmp/pause.tar", string(image), 0o600); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ctx, m, "ctr", "--namespace", "k8s.io", "images", "import", "/var/tmp/pause.tar")
	name := "probe-" + m.Name
	no, grace := false, int64(1)
	pod := corev1.Pod{Spec: corev1.PodSpec{
		NodeName: m.Name, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &grace,
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Containers:  []corev1.Container{{Name: "pause", Image: "lab.invalid/pause:1", ImagePullPolicy: corev1.PullNever, VolumeMounts: []corev1.VolumeMount{{Name: "memory", MountPath: "/m"}}}},
		Volumes:     []corev1.Volume{{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}},
	}}
	pod.Name = name
	const pods = "/api/v1/namespaces/default/pods"
	// The service account of a new cluster comes a moment after the API.
	if err := await.Until(ctx, "a pod to be taken", 100*time.Millisecond, func(ctx context.Context) error { return c.Do(ctx, "POST", pods, &pod, nil) }); err != nil {
		t.Fatal(err)
	}
	var seen corev1.Pod
	err = await.Until(ctx, "the pod to run", 100*time.Millisecond, func(ctx context.Context) error {
		if err := c.Get(ctx, pods+"/"+name, &seen); err != nil {
			return err
		}
		if seen.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("the pod is %s: %+v", seen.Status.Phase, seen.Status.ContainerStatuses)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(seen.Status.ContainerStatuses[0].ContainerID, "://")
	for _, line := range strings.Split(mustRun(t, ctx, m, "ctr", "--namespace", "k8s.io", "tasks", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == id {
			return fields[1]
		}
	}
	t.Fatalf("container %s has no task", id)
	return ""
}

// startOf is when a process of the machine was started, in ticks since its boot:
// with its number it says which process it is.
func startOf(t *testing.T, ctx context.Context, m *machine.Machine, pid string) string {
	t.Helper()
	stat := mustRun(t, ctx, m, "cat", "/proc/"+pid+"/stat")
	_, rest, _ := strings.Cut(stat, ") ")
	return pid + " since " + strings.Fields(rest)[19]
}

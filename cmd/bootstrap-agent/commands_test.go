package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

const testBoot = "11111111-0000-0000-0000-000000000000"

// fastClock lets the pauses of the loop pass a thousand times faster.
type fastClock struct{ agent.SystemClock }

func (fastClock) After(d time.Duration) (<-chan time.Time, func()) {
	return agent.SystemClock{}.After(max(d/1000, time.Millisecond))
}

// machine gives the door a machine: systemd in one value, a kubelet that is a
// file, and a config for the cluster.
func (d *door) machine(s *testapi.Server) *testsystemd.Manager {
	d.t.Helper()
	binary := d.write("kubelet-binary", "#!/bin/true\n", 0o755)
	units := &testsystemd.Manager{Monotonic: agent.Monotonic, OnStart: func([]string) error {
		s.RegisterNode("worker-9", corev1.NodeSystemInfo{BootID: testBoot})
		return nil
	}}
	d.app.adapt = func(deps *agent.Deps) {
		deps.Units = units
		deps.Clock = fastClock{}
		deps.Machine = agent.Machine{BootID: testBoot, MachineID: "m1"}
		deps.Health = func(context.Context, string) error { return nil }
		deps.Host = agent.Host{
			Host: kubelet.Host{Root: d.dir}, Binaries: []string{binary}, Runtimes: kubelet.Runtimes(),
			AskRuntime: func(context.Context, string) (kubelet.Answer, error) { return kubelet.Answer{}, nil },
		}
	}
	token := d.write("token", s.Token()+"\n", 0o600)
	d.write("config.yaml", "endpoints: [\""+s.Host()+"\"]\ntokenFile: "+token+"\ncaCertHashes: [\""+s.Pin()+"\"]\n"+
		"kubelet: {containerRuntimeEndpoint: \"unix:///run/containerd/containerd.sock\"}\n", 0o600)
	return units
}

func TestJoinThenStatusWaitAndRun(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	if code := d.call("join", "--timeout", "10s"); code != 0 {
		t.Fatalf("join ended with %d: %s", code, d.output())
	}
	if got := d.stdout.String(); !strings.Contains(got, "worker-9 is a node of "+s.URL()) || !strings.Contains(got, "Timeline") {
		t.Errorf("stdout: %s", got)
	}
	if got := d.stderr.String(); !strings.Contains(got, "✓ "+agent.StepDiscover) {
		t.Errorf("stderr: %s", got)
	}
	_, secret, _ := strings.Cut(s.Token(), ".")
	d.wantNoSecret(secret)

	d.wantCode(0, "status")
	d.wantText("Joined", "The agent is not running", "worker-9", "Certificate")
	d.wantCode(0, "status", "-o", "json")
	var got struct {
		Phase   string
		Running *bool
	}
	if err := json.Unmarshal(d.stdout.Bytes(), &got); err != nil || got.Phase != "Joined" || got.Running == nil || *got.Running {
		t.Errorf("status -o json: %v\n%s", err, d.output())
	}
	d.wantCode(0, "status", "-o", "yaml")
	d.wantText("phase: Joined")
	d.wantCode(0, "wait", "--timeout", "5s")
	d.wantText("worker-9 is joined")

	// A node whose config has become bad is still watched.
	d.write("config.yaml", "nonsense: true\n", 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	quiet := &lockedBuffer{}
	d.app.stderr = quiet
	go func() { done <- d.app.run(ctx, []string{"run"}) }()
	running := func() bool {
		_, running, err := agent.ReadStatus(d.app.paths)
		return running && err == nil
	}
	seen := running() // once is enough: the status of the run before goes while this one begins
	for deadline := time.Now().Add(10 * time.Second); !seen && time.Now().Before(deadline); seen = running() {
		<-time.After(5 * time.Millisecond)
	}
	if !seen {
		t.Error("a joined machine with a bad config is not watched")
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("run ended with %d: %s", code, quiet.String())
	}
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestJoinEndsWithTheCodeOfItsReason(t *testing.T) {
	rows := []struct {
		name  string
		spoil func(s *testapi.Server, d *door)
		want  fault.Reason
		code  int
	}{
		{"a wrong pin ends it at once", func(s *testapi.Server, d *door) { d.spoilConfig(s.Pin(), s.ForeignPin()) }, fault.CAPinMismatch, fault.ExitTrust},
		{"a wrong secret", func(s *testapi.Server, d *door) {
			id, _, _ := strings.Cut(s.Token(), ".")
			d.write("token", id+".aaaaaaaabbbbbbbb\n", 0o600)
		}, fault.SignatureMismatch, fault.ExitTrust},
		{"an unknown token", func(s *testapi.Server, d *door) { d.write("token", goodToken+"\n", 0o600) }, fault.TokenUnknown, fault.ExitRefused},
		{"no token", func(s *testapi.Server, d *door) { _ = os.Remove(d.path("token")) }, fault.TokenMissing, fault.ExitConfig},
		{"nobody approves", func(s *testapi.Server, d *door) { s.AutoApprove(false) }, fault.CSRPending, fault.ExitTemporary},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := cluster(t)
			d := newDoor(t)
			d.machine(s)
			row.spoil(s, d)
			d.wantCode(row.code, "join", "--timeout", "700ms")
			d.wantText(string(row.want), "->")
			for _, r := range s.Requests() {
				if row.want != fault.CSRPending && r.Authorization {
					t.Errorf("%s %s carried a credential", r.Method, r.Path)
				}
			}
		})
	}
}

func (d *door) spoilConfig(old, other string) {
	d.t.Helper()
	data, err := os.ReadFile(d.path("config.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("config.yaml", strings.ReplaceAll(string(data), old, other), 0o600)
}

// publish writes a status as a running agent would, and holds its lock.
func (d *door) publish(s agent.Status) {
	d.t.Helper()
	lock, err := os.OpenFile(d.app.paths.LockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = lock.Close() })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.app.paths.LockFile(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.update(s)
}

func (d *door) update(s agent.Status) {
	d.t.Helper()
	s.PID = os.Getpid()
	data, err := json.Marshal(s)
	if err != nil {
		d.t.Fatal(err)
	}
	tmp := d.write("run/.tmp", string(data), 0o644)
	if err := os.Rename(tmp, d.app.paths.StatusFile()); err != nil {
		d.t.Fatal(err)
	}
}

func TestStatusOfARunningAgentIsBelieved(t *testing.T) {
	d := newDoor(t)
	d.publish(agent.Status{Phase: agent.Blocked, Reason: fault.CAPinMismatch, Message: "no pin matches", Node: agent.NodeStatus{Name: "worker-9"}})
	d.wantCode(0, "status")
	d.wantText("Blocked: CAPinMismatch", "no pin matches")
	if strings.Contains(d.output(), "not running") {
		t.Error("a running agent is said not to run")
	}
}

func TestWaitFollowsTheStatus(t *testing.T) {
	d := newDoor(t)
	out := &lockedBuffer{}
	d.app.stderr = out
	no, yes := false, true
	status := agent.Status{Phase: agent.Joined, Node: agent.NodeStatus{Name: "worker-9", Ready: &no, Message: "cni plugin not initialized"}}
	d.publish(status)
	done := make(chan int, 1)
	go func() { done <- d.app.run(t.Context(), []string{"wait", "--for", "ready", "--timeout", "20s"}) }()
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(out.String(), "cni plugin") && time.Now().Before(deadline); {
		<-time.After(2 * time.Millisecond)
	}
	status.Node.Ready = &yes
	start := time.Now()
	d.update(status)
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the change was seen after %v", took)
	}
	if got := d.stdout.String(); got != "worker-9 is ready\n" {
		t.Errorf("stdout %q", got)
	}
}

func TestWaitTellsWhyWhenTheTimeIsUp(t *testing.T) {
	d := newDoor(t)
	d.publish(agent.Status{Phase: agent.RequestingCertificate, Reason: fault.CSRPending, Message: "node-csr-x waits for approval", Hint: "kubectl certificate approve node-csr-x"})
	d.wantCode(fault.ExitTemporary, "wait", "--timeout", "20ms")
	d.wantText("not joined in time", "CSRPending", "kubectl certificate approve node-csr-x")
}

func TestRunWithoutAConfigEndsWithItsCode(t *testing.T) {
	d := newDoor(t)
	d.wantCode(fault.ExitConfig, "run")
	d.wantText("endpoints: is required", "bootstrap-agent configure -")
	if _, err := os.Stat(filepath.Join(d.app.paths.State, "lock")); err == nil {
		t.Error("the lock was taken")
	}
}

func TestWithoutRootItSaysSoFirst(t *testing.T) {
	d := newDoor(t)
	d.app.uid, d.app.paths = 1000, agent.DefaultPaths()
	for _, command := range []string{"run", "join"} {
		d.wantCode(fault.ExitFailed, command)
		d.wantText("only root", "check --cluster")
	}
}

func TestReloadSeesAChangedConfigAndToken(t *testing.T) {
	d := newDoor(t)
	token := d.write("token", goodToken+"\n", 0o600)
	d.write("config.yaml", goodConfig+"tokenFile: "+token+"\n", 0o600)
	cmd := d.app.runCommand()
	l := d.app.loader(cmd.Flags())
	type seen struct {
		cfg agent.Config
		err error
	}
	reloads := make(chan seen, 8)
	stop := d.app.reloadOnChange(t.Context(), l, silence(), func(cfg agent.Config, err error) { reloads <- seen{cfg, err} })
	defer stop()
	next := func(what string) seen {
		t.Helper()
		select {
		case s := <-reloads:
			return s
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not seen", what)
		}
		return seen{}
	}
	d.write("config.yaml", goodConfig+"tokenFile: "+token+"\nnodeName: other\n", 0o600)
	if s := next("a changed config"); s.err != nil || s.cfg.NodeName != "other" {
		t.Errorf("got %q, %v", s.cfg.NodeName, s.err)
	}
	d.write("config.yaml", "nonsense\n", 0o600)
	if s := next("a bad config"); fault.ReasonOf(s.err) != fault.ConfigInvalid {
		t.Errorf("got %v", s.err)
	}
	d.write("config.yaml", goodConfig+"tokenFile: "+token+"\n", 0o600)
	if s := next("a mended config"); s.err != nil {
		t.Errorf("got %v", s.err)
	}
	d.write("token.new", "aaa111.b2c3d4e5f6g7h8i9\n", 0o600)
	if err := os.Rename(d.path("token.new"), token); err != nil {
		t.Fatal(err)
	}
	if s := next("a replaced token"); s.err != nil {
		t.Errorf("got %v", s.err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if s := next("SIGHUP"); s.err != nil {
		t.Errorf("got %v", s.err)
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testsystemd"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nodeName = "worker-1"

// rig is a machine in a folder: real rooms against an API server in this
// process and a systemd in one value.
type rig struct {
	t     *testing.T
	api   *testapi.Server
	units *testsystemd.Manager
	cfg   Config
	deps  Deps
	boot  string
	agent *Agent // where a helper has started it

	mu       sync.Mutex
	statuses []Status
	healthy  bool
	notified []string
}

// fastClock lets the pauses of the loop pass a thousand times faster: a timer
// that fires moves the clock to its end. The network keeps its own time, and the
// API server and the fake systemd are on this clock, too.
type fastClock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *fastClock) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

func (c *fastClock) Now() time.Time           { return time.Now().Add(c.offset()) }
func (c *fastClock) Monotonic() time.Duration { return Monotonic() + c.offset() }

func (c *fastClock) After(d time.Duration) (<-chan time.Time, func()) {
	target := c.Now().Add(d)
	fire := make(chan time.Time, 1)
	timer := time.AfterFunc(d/1000, func() {
		c.mu.Lock()
		c.ahead = max(c.ahead, time.Until(target))
		c.mu.Unlock()
		fire <- target
	})
	return fire, func() { timer.Stop() }
}

func newRig(t *testing.T, o testapi.Options) *rig {
	t.Helper()
	alongside(t)
	clock := &fastClock{}
	o.Logf, o.Now = t.Logf, clock.Now
	api, err := testapi.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	r := &rig{t: t, api: api, boot: "11111111-0000-0000-0000-000000000000", healthy: true}
	root := t.TempDir()
	paths := Paths{
		State: filepath.Join(root, "state"), Run: filepath.Join(root, "run"), Kubelet: filepath.Join(root, "kubelet"),
		Units: filepath.Join(root, "units"), Etc: filepath.Join(root, "etc"),
	}
	if err := os.MkdirAll(paths.Units, 0o700); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(root, "kubelet-binary")
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	endpoint := must(discovery.ParseEndpoint(api.Host()))
	token := must(discovery.ParseToken(api.Token()))
	r.cfg = Config{
		Endpoints: []discovery.Endpoint{endpoint}, Tokens: []TokenSource{TokenInline(token)},
		Pins: must(discovery.ParsePins([]string{api.Pin()})), NodeName: nodeName, AfterJoin: AfterJoinExit,
		Paths: paths, Kubelet: KubeletConfig{RuntimeEndpoint: "unix:///run/containerd/containerd.sock"},
	}
	r.units = &testsystemd.Manager{Monotonic: clock.Monotonic, OnStart: func([]string) error {
		api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: r.boot})
		return nil
	}}
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.DebugLevel)
	r.deps = Deps{
		Discoverer: &discovery.Discoverer{Log: log, Now: clock.Now},
		Connect: func(id Identity) (API, error) {
			return apiclient.New(apiclient.Options{Server: id.Server, CA: id.CA, Bearer: id.Bearer, CertPEM: id.Pair, KeyPEM: id.Pair, Now: clock.Now})
		},
		Units: r.units, Notify: r, Health: r.health, Clock: clock, Log: log, Version: "test",
		// The answers to these come over the network, which keeps its own time: quick
		// waits of 15 ms and 120 ms would be over first on a busy host.
		Pace:    Pace{Reissued: 5 * time.Minute, Signed: 20 * time.Minute},
		Machine: Machine{BootID: r.boot, MachineID: "m1"},
		Host: Host{
			Host: kubelet.Host{Root: root}, Binaries: []string{binary}, Runtimes: kubelet.Runtimes(),
			AskRuntime: func(context.Context, string) (kubelet.Answer, error) { return kubelet.Answer{}, nil },
		},
		OnStatus: func(s Status) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.statuses = append(r.statuses, s)
		},
	}
	return r
}

// alongside lets a test run beside others: rigs share nothing, and for much of its
// time a test waits for the quick clock. Parts of a test decide for themselves.
func alongside(t *testing.T) {
	t.Helper()
	if strings.Contains(t.Name(), "/") {
		return
	}
	// testing panics, and changes nothing, when the test has said it already (also by
	// an earlier rig) or may not (it sets a variable of the environment).
	defer func() { _ = recover() }()
	t.Parallel()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (r *rig) health(context.Context, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.healthy {
		return fault.New(fault.KubeletUnhealthy, "not ok")
	}
	return nil
}

func (r *rig) note(s string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notified = append(r.notified, s)
	return nil
}

func (r *rig) Ready() error            { return r.note("READY") }
func (r *rig) Reloading() error        { return r.note("RELOADING") }
func (r *rig) Stopping() error         { return r.note("STOPPING") }
func (r *rig) Status(string) error     { return nil }
func (r *rig) Watchdog() error         { return r.note("WATCHDOG") }
func (r *rig) Interval() time.Duration { return 0 }

// run runs one agent until it ends by itself or the test's patience does.
func (r *rig) run() error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	return must(New(r.cfg, r.deps)).Run(ctx)
}

// start runs an agent beside the test; stop ends it and returns its error.
func (r *rig) start() (a *Agent, stop func() error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	a = must(New(r.cfg, r.deps))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	r.t.Cleanup(func() { _ = stop() })
	return a, stop
}

// await waits until a published status satisfies want.
func (r *rig) await(what string, want func(Status) bool) Status {
	r.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if s, ok := r.last(); ok && want(s) {
			return s
		}
		<-time.After(2 * time.Millisecond)
	}
	s, _ := r.last()
	r.t.Fatalf("%s did not happen; last status: %+v", what, s)
	return s
}

func (r *rig) last() (Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.statuses) == 0 {
		return Status{}, false
	}
	return r.statuses[len(r.statuses)-1], true
}

func (r *rig) mustJoin() {
	r.t.Helper()
	if err := r.run(); err != nil {
		r.t.Fatalf("not joined: %v", err)
	}
	if s, _ := r.last(); s.Phase != Joined {
		r.t.Fatalf("phase %s: %s %s", s.Phase, s.Reason, s.Message)
	}
}

func phase(p Phase) func(Status) bool { return func(s Status) bool { return s.Phase == p } }

func reason(want fault.Reason) func(Status) bool {
	return func(s Status) bool { return s.Reason == want }
}

func TestAnEmptyMachineJoins(t *testing.T) {
	for name, o := range map[string]testapi.Options{
		"a quiet server":                   {Quiet: true},
		"a hostile but legal one":          {},
		"a cluster made by hand":           {Quiet: true, HandMade: true},
		"a signing CA that is another one": {Quiet: true, SeparateClientCA: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			r.mustJoin()
			p := r.cfg.Paths
			for path, mode := range map[string]os.FileMode{
				filepath.Join(p.Kubelet, "kubeconfig"): 0o600, filepath.Join(p.Kubelet, "config.yaml"): 0o600,
				filepath.Join(p.Kubelet, "pki/ca.crt"): 0o644, filepath.Join(p.Kubelet, "pki/kubelet-client-current.pem"): 0o600,
				p.TrustFile(): 0o600, p.ManifestFile(): 0o600, p.StatusFile(): 0o644,
			} {
				info, err := os.Stat(path)
				if err != nil || info.Mode().Perm() != mode {
					t.Errorf("%s: %v, mode %v", path, err, info)
				}
			}
			for _, gone := range []string{p.PendingKey(), p.NewPair()} {
				if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is left", gone)
				}
			}
			if n := len(r.api.CSRs()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestTheSecretIsInNoFileAndNoStatus(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	_, secret, _ := strings.Cut(r.api.Token(), ".")
	err := filepath.WalkDir(filepath.Dir(r.cfg.Paths.State), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), secret) {
			t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Contains(fmt.Sprintf("%+v", r.statuses), secret) {
		t.Error("a status has the secret")
	}
}

func TestTheJoinIsCheap(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	if n := r.api.Handshakes(); n > 3 {
		t.Errorf("%d TLS handshakes, at most 3 are allowed", n)
	}
	requests := r.api.Requests()
	if len(requests) > 8 {
		t.Errorf("%d requests, at most 8 are allowed: %v", len(requests), requests)
	}
}

func TestAnAgentThatIsStartedAgainChangesNothing(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	before := snapshot(t, r.cfg.Paths)
	calls := len(r.units.Calls())
	r.mustJoin()
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(before, after) {
		t.Errorf("files changed:\n%v\n%v", before, after)
	}
	if n := len(r.units.Calls()); n != calls {
		t.Errorf("units were touched: %v", r.units.Calls())
	}
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// snapshot lists files of kubelet, units and state with inode-true content.
func snapshot(t *testing.T, p Paths) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{p.Kubelet, p.Units} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			out = append(out, fmt.Sprint(path, info.Mode(), info.ModTime(), info.Size()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestARebootKeepsTheCertificate(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.units.Reboot()
	r.boot = "22222222-0000-0000-0000-000000000000"
	r.deps.Machine.BootID = r.boot
	r.mustJoin()
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests after a reboot", n)
	}
	if calls := r.units.Calls(); !slices.Equal(calls, []string{"install", "start", "start"}) {
		t.Errorf("calls %v", calls)
	}
}

func TestFaultsHaveTheirReason(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*rig)
		want    fault.Reason
		exit    int
	}{
		"wrong secret": {func(r *rig) {
			id, _, _ := strings.Cut(r.api.Token(), ".")
			r.cfg.Tokens = []TokenSource{TokenInline(must(discovery.ParseToken(id + ".aaaaaaaaaaaaaaa1")))}
		}, fault.SignatureMismatch, 65},
		"unknown token id": {func(r *rig) {
			r.cfg.Tokens = []TokenSource{TokenInline(must(discovery.ParseToken("zzzzzz.aaaaaaaaaaaaaaa1")))}
		}, fault.TokenUnknown, 77},
		"signer off":      {func(r *rig) { r.api.RemoveSignatures() }, fault.NoSignatures, 77},
		"no cluster-info": {func(r *rig) { r.api.DeleteClusterInfo() }, fault.ClusterInfoMissing, 77},
		"wrong pin": {func(r *rig) {
			r.cfg.Pins = must(discovery.ParsePins([]string{r.api.ForeignPin()}))
		}, fault.CAPinMismatch, 65},
		"no pin":                   {func(r *rig) { r.cfg.Pins = discovery.Pins{} }, fault.PinRequired, 78},
		"token without usage auth": {func(r *rig) { r.api.TokenAuth(false) }, fault.TokenRejected, 77},
		"may not create requests":  {func(r *rig) { r.api.CreateForbidden(true) }, fault.CSRForbidden, 77},
		"no token at all":          {func(r *rig) { r.cfg.Tokens = nil }, fault.TokenMissing, 78},
		"no kubelet":               {func(r *rig) { r.deps.Host.Binaries = nil }, fault.KubeletMissing, 69},
		"no runtime": {func(r *rig) {
			r.deps.Host.AskRuntime = func(context.Context, string) (kubelet.Answer, error) {
				return kubelet.Answer{}, errors.New("refused")
			}
		}, fault.RuntimeNotReady, 69},
		"a foreign identity": {func(r *rig) {
			mustWrite(r.t, filepath.Join(r.cfg.Paths.Etc, "kubernetes/kubelet.conf"), foreignKubeconfig)
		}, fault.ForeignKubelet, 69},
		"a wrong certificate comes back": {func(r *rig) { r.api.SignWrong(testapi.WrongKey) }, fault.CertificateInvalid, 65},
		"a request that waits":           {func(r *rig) { r.api.AutoApprove(false) }, fault.CSRPending, 75},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.deps.StopWhenBlocked = true
			tc.prepare(r)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := must(New(r.cfg, r.deps)).Run(ctx)
			if got := fault.ReasonOf(err); got != tc.want {
				t.Fatalf("got %q (%v), want %s", got, err, tc.want)
			}
			if fault.ExitCode(err) != tc.exit {
				t.Errorf("exit %d, want %d", fault.ExitCode(err), tc.exit)
			}
			if fault.HintOf(err) == "" {
				t.Error("no hint")
			}
		})
	}
}

const foreignKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://10.0.0.1:6443"}}]
users: [{name: a, user: {client-certificate: /x.pem, client-key: /x.pem}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
`

func mustWrite(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAForeignIdentityCausesNoTrafficAndNoWrite(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.deps.StopWhenBlocked = true
	mustWrite(t, filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig"), foreignKubeconfig)
	before := snapshot(t, r.cfg.Paths)
	if err := r.run(); fault.ReasonOf(err) != fault.ForeignKubelet {
		t.Fatal(err)
	}
	if after := snapshot(t, r.cfg.Paths); !slices.Equal(before, after) {
		t.Errorf("changed:\n%v\n%v", before, after)
	}
	if n := len(r.api.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAWaitingRequestIsShownAndSurvivesARestart(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	r.api.NodeClientAllowed(false)
	_, stop := r.start()
	s := r.await("a waiting request", func(s Status) bool { return s.CSR != nil && s.CSR.Approve != "" })
	if !strings.HasPrefix(s.CSR.Approve, "kubectl certificate approve node-csr-") {
		t.Errorf("approve command %q", s.CSR.Approve)
	}
	if err := stop(); err != nil {
		t.Fatalf("a stop is no error: %v", err)
	}
	_, stop = r.start()
	r.await("the same request", func(s Status) bool { return s.CSR != nil && s.CSR.Adopted })
	if n := len(r.api.CSRs()); n != 1 {
		t.Errorf("%d requests", n)
	}
	if !r.api.Approve(s.CSR.Name) {
		t.Fatal("cannot approve")
	}
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestADeniedRequestIsAskedAgainWithANewKey(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.api.AutoApprove(false)
	_, stop := r.start()
	first := must(r.api.AwaitCSR(t.Context()))
	r.api.Deny(first, "not you")
	r.await("the denial", reason(fault.CSRDenied))
	s := r.await("another request", func(s Status) bool { return s.CSR != nil && s.CSR.Name != first && s.CSR.Approve != "" })
	r.api.Approve(s.CSR.Name)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestStopIsQuickInEveryPhase(t *testing.T) {
	for name, prepare := range map[string]func(*rig){
		"waiting for approval": func(r *rig) { r.api.AutoApprove(false) },
		"no endpoint answers":  func(r *rig) { r.api.Close() },
		"kubelet not healthy":  func(r *rig) { r.healthy = false },
		"joined":               func(*rig) {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = AfterJoinHeal
			prepare(r)
			_, stop := r.start()
			r.await("some status", func(s Status) bool { return len(s.Timeline) > 0 })
			began := time.Now()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if n := len(r.notified); n < 2 || r.notified[0] != "READY" || r.notified[n-1] != "STOPPING" {
				t.Errorf("notified %v", r.notified)
			}
		})
	}
}

func TestAPersonsStopIsLeftAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		act  func(*systemd.Unit)
		want bool // reported and not started
	}{
		"systemctl stop":    {func(u *systemd.Unit) { u.ActiveState, u.MainPID = "inactive", 0 }, true},
		"systemctl disable": {func(u *systemd.Unit) { u.UnitFileState = "disabled" }, true},
		"systemctl mask": {func(u *systemd.Unit) {
			u.LoadState, u.UnitFileState, u.ActiveState, u.MainPID = "masked", "masked", "inactive", 0
		}, true},
		"killed by hand, failed": {func(u *systemd.Unit) {
			u.ActiveState, u.Result, u.MainPID = "failed", "signal", 0
		}, true},
		"given up by systemd": {func(u *systemd.Unit) {
			u.ActiveState, u.Result, u.MainPID = "failed", "start-limit-hit", 0
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.cfg.AfterJoin = AfterJoinHeal
			_, stop := r.start()
			r.await("the join", phase(Joined))
			calls := len(r.units.Calls())
			r.units.Change(tc.act)
			if tc.want {
				r.await("the note", func(s Status) bool {
					return slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.KubeletStopped })
				})
				if got := r.units.Calls()[calls:]; len(got) != 0 {
					t.Errorf("the unit was touched: %v", got)
				}
			} else {
				r.await("the start", func(s Status) bool { return len(r.units.Calls()) > calls && s.Phase == Joined })
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDamageIsHealed(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(p Paths) error
		csrs   int
	}{
		"kubeconfig empty":     {func(p Paths) error { return os.WriteFile(filepath.Join(p.Kubelet, "kubeconfig"), nil, 0o600) }, 1},
		"kubeconfig gone":      {func(p Paths) error { return os.Remove(filepath.Join(p.Kubelet, "kubeconfig")) }, 1},
		"CA garbage":           {func(p Paths) error { return os.WriteFile(filepath.Join(p.Kubelet, "pki/ca.crt"), []byte("x"), 0o600) }, 1},
		"config gone":          {func(p Paths) error { return os.Remove(filepath.Join(p.Kubelet, "config.yaml")) }, 1},
		"pair gone":            {func(p Paths) error { return os.Remove(filepath.Join(p.Kubelet, "pki/kubelet-client-current.pem")) }, 2},
		"trust record gone":    {func(p Paths) error { return os.Remove(p.TrustFile()) }, 1},
		"trust record garbage": {func(p Paths) error { return os.WriteFile(p.TrustFile(), []byte("{"), 0o600) }, 1},
		"manifest and config gone": {func(p Paths) error {
			return errors.Join(os.Remove(filepath.Join(p.Kubelet, "config.yaml")))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			r.mustJoin()
			if err := tc.damage(r.cfg.Paths); err != nil {
				t.Fatal(err)
			}
			r.mustJoin()
			if n := len(r.api.CSRs()); n != tc.csrs {
				t.Errorf("%d requests, want %d", n, tc.csrs)
			}
		})
	}
}

func TestTwoAgentsOnOneMachine(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	err := must(New(r.cfg, r.deps)).Run(t.Context())
	if fault.ReasonOf(err) != fault.Locked || fault.ExitCode(err) != 73 {
		t.Errorf("got %v", err)
	}
	if s, running, err := ReadStatus(r.cfg.Paths); err != nil || !running || s.Phase != Joined {
		t.Errorf("status %v %t %v", s.Phase, running, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, running, _ := ReadStatus(r.cfg.Paths); running {
		t.Error("still running")
	}
}

func TestAFreshTokenEndsTheWaitAtOnce(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	good := r.cfg
	r.cfg.Tokens = nil
	r.deps.Clock = SystemClock{} // five minutes, unless the reload ends them
	a, stop := r.start()
	r.await("the fault", reason(fault.TokenMissing))
	if s, _ := r.last(); s.Phase != Blocked {
		t.Errorf("phase %s", s.Phase)
	}
	a.Reload(good, nil)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestABadReloadKeepsTheGoodConfig(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	a, stop := r.start()
	r.await("the join", phase(Joined))
	a.Reload(Config{}, errors.New("line 3: endpoints: must be a list"))
	r.await("the note", func(s Status) bool {
		return s.Phase == Joined && slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.ConfigInvalid })
	})
	a.Reload(r.cfg, nil)
	r.await("the note's end", func(s Status) bool {
		return s.Phase == Joined && !slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.ConfigInvalid })
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestSameName(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*rig)
		want    fault.Reason
	}{
		"nobody has it": {func(*rig) {}, ""},
		"our own Node of this boot": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: r.boot})
		}, ""},
		"a dead namesake": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other"})
			r.api.SetLease(nodeName, r.deps.Clock.Now().Add(-time.Hour), 40)
		}, ""},
		"a namesake without a lease": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other"})
			r.api.DeleteLease(nodeName)
		}, ""},
		"a namesake that has just died": {func(r *rig) {
			r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other"})
		}, ""},
		"a live namesake, taken over on purpose": {func(r *rig) {
			r.cfg.NodeNameTakeover = true
			r.live()
		}, ""},
		"a live namesake": {func(r *rig) { r.live() }, fault.NodeNameTaken},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testapi.Options{Quiet: true})
			tc.prepare(r)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err := must(New(r.cfg, r.deps)).Run(ctx)
			if got := fault.ReasonOf(err); got != tc.want {
				t.Fatalf("got %q (%v), want %q", got, err, tc.want)
			}
			if tc.want != "" {
				if _, err := os.Lstat(filepath.Join(r.cfg.Paths.Kubelet, "kubeconfig")); err == nil {
					t.Error("the identity was installed all the same")
				}
			}
		})
	}
}

// live registers another machine under our name, whose Lease has moved whenever
// it is read.
func (r *rig) live() {
	r.api.RegisterNode(nodeName, corev1.NodeSystemInfo{BootID: "other", MachineID: "m2"})
	connect := r.deps.Connect
	r.deps.Connect = func(id Identity) (API, error) {
		api, err := connect(id)
		return leaseMoves{api, r.api}, err
	}
}

type leaseMoves struct {
	API
	server *testapi.Server
}

func (l leaseMoves) GetLease(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	l.server.RenewLease(nodeName)
	return l.API.GetLease(ctx, name)
}

func TestRenewalIsKnownFromTheFirstDay(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	r.api.SelfNodeClientAllowed(false)
	_, stop := r.start()
	r.await("the note", func(s Status) bool {
		return s.Phase == Joined && slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.RenewalNotAutomatic })
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestReadyIsSeenSoonAfterTheJoin(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", func(s Status) bool { return s.Phase == Joined && s.Node.Ready != nil && !*s.Node.Ready })
	r.api.SetNodeReady(nodeName, true, "")
	r.await("Ready", func(s Status) bool {
		return s.Phase == Joined && s.Node.Ready != nil && *s.Node.Ready && len(s.Notes) == 0
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestADeletedNodeIsOnlyReported(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	calls := len(r.units.Calls())
	r.api.DeleteNode(nodeName)
	r.await("the note", func(s Status) bool {
		return s.Phase == Joined && slices.ContainsFunc(s.Notes, func(n Note) bool { return n.Reason == fault.NodeDeleted })
	})
	if got := r.units.Calls()[calls:]; len(got) != 0 {
		t.Errorf("the unit was touched: %v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestACAOnOfferIsReported(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin, r.cfg.RestartSplay = AfterJoinHeal, 1000*time.Hour
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.AddClusterInfoCA(r.api.ForeignCA())
	r.await("the note", func(s Status) bool {
		return s.Phase == Joined && slices.ContainsFunc(s.Notes, func(n Note) bool {
			return n.Reason == fault.CAOffered && strings.Contains(n.Message, r.api.ForeignPin())
		})
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAnotherServerInClusterInfoIsReported(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	r.api.SetClusterInfoServer("https://127.0.0.1:9")
	r.await("the note", func(s Status) bool {
		return s.Phase == Joined && slices.ContainsFunc(s.Notes, func(n Note) bool {
			return n.Reason == fault.ServerOffered && strings.Contains(n.Message, "127.0.0.1:9") && strings.Contains(n.Message, "not followed: it does not answer")
		})
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestACertificateThatTheAPIRefusesIsReplaced(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.AfterJoin = AfterJoinHeal
	_, stop := r.start()
	r.await("the join", phase(Joined))
	if err := r.api.RotateClientCA(); err != nil {
		t.Fatal(err)
	}
	r.await("the second join", func(s Status) bool {
		return s.Phase == Joined && len(r.api.CSRs()) == 2 && slices.Contains(r.units.Calls(), "stop")
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestTheNextTokenSourceIsTriedWhenOneIsRefused(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	stale := TokenInline(must(discovery.ParseToken("zzzzzz.aaaaaaaaaaaaaaa1")))
	r.cfg.Tokens = append([]TokenSource{stale}, r.cfg.Tokens...)
	r.mustJoin()
}

func TestNoBearerBeforeTrust(t *testing.T) {
	r := newRig(t, testapi.Options{Quiet: true})
	r.cfg.Pins = must(discovery.ParsePins([]string{r.api.ForeignPin()}))
	r.deps.StopWhenBlocked = true
	if err := r.run(); fault.ReasonOf(err) != fault.CAPinMismatch {
		t.Fatal(err)
	}
	for _, req := range r.api.Requests() {
		if req.Authorization {
			t.Errorf("credentials were sent: %+v", req)
		}
	}
}

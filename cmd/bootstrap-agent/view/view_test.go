package view

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./... -update writes it anew):\n%s", name, got)
	}
}

func ptr[T any](v T) *T { return &v }

func step(name string, at time.Duration, seconds float64, detail string) agent.Step {
	return agent.Step{Name: name, Start: noon.Add(at), Seconds: &seconds, Detail: detail}
}

func joined() agent.Status {
	return agent.Status{
		Version: "0.1.0", PID: 812, Time: noon, Phase: agent.Joined, Since: noon.Add(-192 * time.Second),
		Node:    agent.NodeStatus{Name: "worker-1", Seen: true, Ready: ptr(false), Message: "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"},
		Cluster: &agent.ClusterStatus{Server: "https://10.0.0.1:6443", Endpoint: "10.0.0.1:6443", CAPins: []string{"sha256:" + strings.Repeat("a", 64)}},
		CSR:     &agent.CSRStatus{Name: "node-csr-abc", Created: noon.Add(-193 * time.Second), Approved: ptr(noon.Add(-192600 * time.Millisecond))},
		Certificate: &agent.CertificateStatus{
			Serial: "5f3a91c2", NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(364 * 24 * time.Hour),
		},
		Kubelet: agent.KubeletStatus{Unit: "kubelet.service", ActiveState: "active", SubState: "running", MainPID: 901, Started: ptr(noon.Add(-191 * time.Second)), Healthy: ptr(true)},
		Notes:   []agent.Note{{Reason: fault.NodeNotReady, Message: "the Node is not Ready", Hint: "Install a pod network (CNI)."}},
		Timeline: []agent.Step{
			step(agent.StepDiscover, 0, 0.031, ""), step(agent.StepRequest, 31*time.Millisecond, 0.012, "node-csr-abc"),
			step(agent.StepApproval, 43*time.Millisecond, 0.4, ""), step(agent.StepConfigure, 443*time.Millisecond, 0.009, ""),
			step(agent.StepUnit, 452*time.Millisecond, 0.088, ""), step(agent.StepStart, 540*time.Millisecond, 0.61, ""),
			step(agent.StepHealth, 1150*time.Millisecond, 0.25, ""), step(agent.StepRegister, 1400*time.Millisecond, 0.02, ""),
		},
	}
}

func pending() agent.Status {
	return agent.Status{
		Phase: agent.RequestingCertificate, Reason: fault.CSRPending, Since: noon.Add(-12*time.Minute - 3*time.Second),
		Message: "the certificate signing request waits for approval", Hint: "kubectl certificate approve node-csr-abc",
		Node:    agent.NodeStatus{Name: "worker-1"},
		Cluster: &agent.ClusterStatus{Server: "https://10.0.0.1:6443", Provisional: true, CAPins: []string{"sha256:" + strings.Repeat("a", 64)}},
		CSR: &agent.CSRStatus{
			Name: "node-csr-abc", Created: noon.Add(-12 * time.Minute), Adopted: true, WillBeApproved: ptr(false),
			Approve: "kubectl certificate approve node-csr-abc",
		},
		Kubelet:  agent.KubeletStatus{Unit: "kubelet.service", ActiveState: "inactive", SubState: "dead"},
		Timeline: []agent.Step{step(agent.StepDiscover, -723*time.Second, 0.031, ""), {Name: agent.StepApproval, Start: noon.Add(-12 * time.Minute)}},
	}
}

func blocked() agent.Status {
	failed := step(agent.StepDiscover, -time.Second, 0.2, "10.0.0.1:6443")
	failed.Reason = fault.CAPinMismatch
	return agent.Status{
		Phase: agent.Blocked, Reason: fault.CAPinMismatch, Since: noon.Add(-time.Second), Attempt: 3, NextRetry: ptr(noon.Add(5 * time.Minute)),
		Message: "none of the CAs \x1b[2Jhas a configured pin\nsecond line",
		Hint:    "Put the pin that the message shows into `caCertHashes`, after comparing it with one taken on the control plane.",
		Node:    agent.NodeStatus{Name: "worker-1"}, Kubelet: agent.KubeletStatus{Unit: "kubelet.service"},
		Timeline: []agent.Step{failed},
	}
}

func TestStatus(t *testing.T) {
	plain := Style{Now: noon, Width: 100}
	rich := Style{Now: noon, Width: 100, Unicode: true}
	colour := Style{Now: noon, Width: 72, Unicode: true, Colour: true}
	golden(t, "joined", Status(joined(), true, rich))
	golden(t, "joined-ascii", Status(joined(), true, plain))
	golden(t, "joined-colour", Status(joined(), true, colour))
	golden(t, "pending", Status(pending(), true, rich))
	golden(t, "blocked", Status(blocked(), true, rich))
	golden(t, "not-running", Status(agent.Status{Phase: agent.Joined, Kubelet: agent.KubeletStatus{Unit: "kubelet.service"}}, false, rich))
}

func TestStatusLetsNoControlCharacterThrough(t *testing.T) {
	s := blocked()
	s.Node.Name, s.Node.Message, s.Kubelet.ActiveState = "a\x1b[31m", "b\x07\u202e", "c\r\nd"
	s.Timeline[0].Detail = "e\x1b]0;x\x07"
	for i, r := range Status(s, true, Style{Now: noon, Unicode: true}) {
		if r != '\n' && (r < ' ' || r == 0x7f || r == 0x202e) {
			t.Errorf("byte %d is %q", i, r)
		}
	}
}

func TestCluster(t *testing.T) {
	ca := discovery.CertificateReport{Subject: "CN=kubernetes", NotAfter: noon.AddDate(10, 0, 0), Pin: "sha256:" + strings.Repeat("b", 64)}
	server := discovery.CertificateReport{Subject: "CN=kube-apiserver", NotAfter: noon.AddDate(1, 0, 0)}
	passed := discovery.EndpointReport{
		Endpoint: "10.0.0.1:6443", Reached: discovery.StepVerified, Status: 200, LocalTime: noon, SignedFor: []string{"abcdef", "ghijkl"},
		Peer: []discovery.CertificateReport{server}, Server: "https://10.0.0.1:6443", CAs: []discovery.CertificateReport{ca},
	}
	refused := discovery.EndpointReport{
		Endpoint: "10.0.0.2:6443", Err: fault.New(fault.EndpointUnreachable, "10.0.0.2:6443: connection refused"),
	}
	unsigned := discovery.EndpointReport{
		Endpoint: "10.0.0.1:6443", Reached: discovery.StepAnswered, LocalTime: noon, Peer: []discovery.CertificateReport{server},
		SignedFor: []string{"ghijkl"}, Err: fault.New(fault.TokenUnknown, "10.0.0.1:6443: cluster-info is signed for ghijkl, not for abcdef"),
	}
	report := &discovery.Report{
		Endpoints: []discovery.EndpointReport{refused, passed},
		Cluster:   &discovery.Cluster{Server: "https://10.0.0.1:6443"},
	}
	st := Style{Now: noon, Width: 100, Unicode: true}
	started := noon.Add(-31 * time.Millisecond)
	golden(t, "cluster-unpinned", Cluster(Check{Report: report, TokenID: "abcdef", Started: started}, st))
	report.Endpoints[1].CAs[0].Pinned = true
	golden(t, "cluster-pinned", Cluster(Check{Report: report, TokenID: "abcdef", Started: started, Pinned: true}, st))
	report.Cluster.OtherClientCAs = []string{`"CN=client-ca"`}
	if out := Cluster(Check{Report: report, TokenID: "abcdef", Started: started, Pinned: true}, st); !strings.Contains(out, `"CN=client-ca"`) || !strings.Contains(out, "kubelet.clientCAFile") {
		t.Errorf("a client CA that a kubelet would not trust is not told:\n%s", out)
	}
	golden(t, "cluster-failed", Cluster(Check{
		Report: &discovery.Report{Endpoints: []discovery.EndpointReport{unsigned}}, Err: unsigned.Err, TokenID: "abcdef", Started: started,
	}, st))
}

func TestLiveOnATerminalRedrawsInPlace(t *testing.T) {
	var out strings.Builder
	live := &Live{Write: func(text string) { out.WriteString(text) }, Style: Style{Unicode: true, Width: 60}, Terminal: true}
	s := pending()
	live.Update(s, noon)
	live.Tick(noon.Add(time.Second))
	s.Timeline[1].Seconds = ptr(721.0)
	s.Phase, s.Reason, s.Hint = agent.Joined, "", ""
	live.Update(s, noon.Add(2*time.Second))
	live.Done(noon.Add(2*time.Second), false)
	golden(t, "live-terminal", strings.ReplaceAll(out.String(), "\x1b", "<ESC>"))
}

func TestLiveThatIsClearedLeavesNothing(t *testing.T) {
	var last string
	live := &Live{Write: func(text string) { last = text }, Style: Style{Width: 60}, Terminal: true}
	live.Update(pending(), noon)
	live.Done(noon, true)
	if last != "\x1b[4A\r\x1b[J" {
		t.Errorf("got %q", last)
	}
}

func TestLiveWithoutATerminalWritesALineAStep(t *testing.T) {
	var out strings.Builder
	live := &Live{Write: func(text string) { out.WriteString(text) }, Style: Style{Width: 60}}
	s := pending()
	for range 3 {
		live.Update(s, noon)
		live.Tick(noon)
	}
	s.Timeline[1].Seconds = ptr(721.0)
	s.Phase, s.Reason, s.Hint = agent.Joined, "", ""
	live.Update(s, noon)
	live.Done(noon, false)
	want := `ok read and verify cluster-info (31 ms)
RequestingCertificate (CSRPending): the certificate signing request waits for approval
  -> kubectl certificate approve node-csr-abc
ok wait for approval (12m 1s)
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestDurations(t *testing.T) {
	for seconds, want := range map[float64]string{-1: "0 ms", 0.0004: "0 ms", 0.031: "31 ms", 0.9999: "1.0 s", 12.34: "12.3 s", 99.99: "1m 40s", 3700: "1h 1m"} {
		if got := Seconds(seconds); got != want {
			t.Errorf("%v: %q, want %q", seconds, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 25 * time.Hour: "1d 1h", 364 * 24 * time.Hour: "364d"} {
		if got := Age(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestBarShowsWhatIsAboveZeroAndNeverMoreThanItsWidth(t *testing.T) {
	for _, st := range []Style{{Unicode: true}, {}} {
		for _, share := range []float64{-1, 0, 0.0001, 0.5, 0.99, 1, 7} {
			bar := st.bar(share, 10)
			if n := len([]rune(bar)); n > 10 || share > 0 && n == 0 || share <= 0 && n != 0 {
				t.Errorf("share %v: %q", share, bar)
			}
		}
	}
}

func TestMachine(t *testing.T) {
	rows := []*preflight.Row{
		{Name: "kubelet", Verdict: preflight.Pass, Message: "v1.36.3 at /usr/bin/kubelet"},
		{Name: "API server", Verdict: preflight.Warn, Message: "the kubelet (v1.36.3) is newer than the API server (v1.35.4), which Kubernetes does not support", Reason: fault.VersionSkew, Remedy: "Install a kubelet of the API server's minor version, or up to three older."},
		{Name: "identity", Verdict: preflight.Skip, Message: "only root can look: open /var/lib/bootstrap-agent/manifest.json: permission denied", NeedsRoot: true},
		{Name: "swap", Verdict: preflight.Fail, Message: "on (/dev/sda2); the kubelet does not start with it", Reason: fault.MachineUnfit, Remedy: "`swapoff -a`, and take swap out of /etc/fstab."},
		{Name: "port 10250", Verdict: preflight.Warn, Message: "held by \x1b[2J\na process", Reason: fault.MachineWarning, Remedy: "Stop it."},
	}
	rich := Style{Now: noon, Width: 90, Unicode: true}
	golden(t, "machine", Machine(rows, rich))
	golden(t, "machine-ascii", Machine(rows, Style{Now: noon, Width: 72}))
	golden(t, "machine-fit", Machine(rows[:1], rich))
	golden(t, "machine-warned", Machine(rows[:3], rich))
}

package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/adopt"
	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/agent/reset"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// theirNode makes the rig's machine a node that somebody else has joined: the
// vendor's unit, kubeadm's files, a pair that the API server knows.
type theirNode struct {
	*rig
	conf, config, flags, vendor string
}

func newTheirNode(t *testing.T) *theirNode {
	t.Helper()
	r := newRig(t, testapi.Options{Quiet: true})
	r.mustJoin()
	r.awaitLock()
	p := r.cfg.Paths
	n := &theirNode{
		rig: r, conf: filepath.Join(p.Etc, "kubernetes/kubelet.conf"), config: filepath.Join(p.Kubelet, "config.yaml"),
		flags: filepath.Join(p.Kubelet, "kubeadm-flags.env"), vendor: filepath.Join(p.Etc, "vendor/kubelet.service"),
	}
	ca := must(os.ReadFile(r.files().CACert()))
	for _, path := range []string{p.State, p.Run, p.Units, r.files().Kubeconfig(), r.files().CACert()} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(p.Units, 0o700); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "kubelet")
	mustWrite(t, binary, "#!/bin/true\n")
	mustWrite(t, n.conf, n.kubeconfig(ca, "client-certificate: "+r.files().CurrentPair()+", client-key: "+r.files().CurrentPair()))
	mustWrite(t, n.config, "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nrotateCertificates: true\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n")
	mustWrite(t, n.flags, "KUBELET_KUBEADM_ARGS=\"--pod-infra-container-image=pause:3 --v=2\"\n")
	mustWrite(t, n.vendor, "[Service]\nExecStart="+binary+"\n")
	r.units.Change(func(u *systemd.Unit) {
		u.FragmentPath, u.DropInPaths, u.UnitFileState = n.vendor, nil, "enabled"
		u.ExecStart = [][]string{{binary, "$KUBELET_KUBECONFIG_ARGS", "$KUBELET_CONFIG_ARGS", "$KUBELET_KUBEADM_ARGS", "$KUBELET_EXTRA_ARGS"}}
		u.Environment = []string{"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/x --kubeconfig=" + n.conf, "KUBELET_CONFIG_ARGS=--config=" + n.config}
		u.EnvironmentFiles = []string{n.flags}
	})
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	return n
}

func (n *theirNode) kubeconfig(ca []byte, user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: k, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: u, user: {%s}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
current-context: c
`, n.api.Host(), base64.StdEncoding.EncodeToString(ca), user)
}

// adopter is one run of adopt; at is called wherever it touches the world.
func (n *theirNode) adopter(at func()) *adopt.Adopt {
	units := adopt.Units(n.units)
	if at == nil {
		at = func() {}
	}
	return &adopt.Adopt{
		Paths: n.cfg.Paths, Units: atUnits{units, at}, Read: os.ReadFile, Machine: n.deps.Machine, Now: n.deps.Clock.Now,
		Monotonic: n.deps.Clock.Monotonic, Say: func(string, ...any) { at() },
		Ask: func(ctx context.Context, server string, ca, pair []byte, name string) (adopt.Node, error) {
			api, err := n.deps.Connect(Identity{Server: server, CA: ca, Pair: pair})
			if err != nil {
				return adopt.Node{}, err
			}
			defer api.Close()
			node, err := api.GetNode(ctx, name)
			if err != nil {
				return adopt.Node{}, err
			}
			return adopt.Node{UID: string(node.UID), BootID: node.Status.NodeInfo.BootID}, nil
		},
	}
}

type atUnits struct {
	adopt.Units
	at func()
}

func (u atUnits) Install(ctx context.Context, dir string, e systemd.Existing, r systemd.Rendered, enable bool) (bool, error) {
	u.at()
	defer u.at()
	return u.Units.Install(ctx, dir, e, r, enable)
}

func (u atUnits) Restart(ctx context.Context, name string) (systemd.Unit, error) {
	u.at()
	defer u.at()
	return u.Units.Restart(ctx, name)
}

func (u atUnits) Start(ctx context.Context, name string) (systemd.Unit, error) {
	u.at()
	return u.Units.Start(ctx, name)
}

func (u atUnits) Enable(ctx context.Context, name string) (bool, error) {
	u.at()
	defer u.at()
	return u.Units.Enable(ctx, name)
}

func (n *theirNode) plan(f *adopt.Found) adopt.Plan {
	n.t.Helper()
	n.cfg.NodeName = f.NodeName
	return adopt.Plan{
		Service: must(AdoptedService(n.cfg, n.deps, f.Adopted, f.Existing.Unit)), ConfigFile: filepath.Join(n.cfg.Paths.Etc, "bootstrap-agent/config.yaml"),
		Config: []byte("# config\n"), Trust: AdoptedTrust(n.cfg, f.Server, string(f.CA), f.Pins, n.deps.Machine),
	}
}

func (n *theirNode) mustAdopt() *adopt.Found {
	n.t.Helper()
	one := n.adopter(nil)
	f, err := one.Look(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	if f.Done {
		err = one.Wake(n.t.Context())
	} else {
		err = one.Do(n.t.Context(), f, n.plan(f))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.awaitLock()
	return f
}

// theirs are the folders of everybody but the agent.
func (n *theirNode) theirs() tree {
	t := treeOf(n.t, n.cfg.Paths.Kubelet, n.cfg.Paths.Units, n.cfg.Paths.Etc)
	maps.DeleteFunc(t, func(_ string, one node) bool { return one.mode.IsDir() })
	return t
}

// worksOn: the agent finds a node, asks for nothing, restarts nothing, sees no drift.
func (n *theirNode) worksOn(what string, restarts int) {
	n.t.Helper()
	n.cfg.AfterJoin = AfterJoinHeal
	_, stop := n.start()
	s := n.await(what+": the node", phase(Joined))
	if err := stop(); err != nil {
		n.t.Error(err)
	}
	n.awaitLock()
	if csrs := len(n.api.CSRs()); csrs != 1 {
		n.t.Errorf("%s: %d requests", what, csrs)
	}
	for _, note := range s.Notes {
		if note.Reason == fault.Drifted || note.Reason == fault.ConfigInvalid {
			n.t.Errorf("%s: %s: %s", what, note.Reason, note.Message)
		}
	}
	if got := n.restarts(); got > restarts {
		n.t.Errorf("%s: %d restarts", what, got)
	}
}

func (n *theirNode) restarts() (count int) {
	for _, call := range n.units.Calls() {
		if call == "restart" {
			count++
		}
	}
	return count
}

func TestANodeIsTakenOverAndGivenBack(t *testing.T) {
	n := newTheirNode(t)
	before := n.theirs()
	f := n.mustAdopt()
	if want := []string{"KUBELET_KUBEADM_ARGS"}; !slices.Equal(f.Adopted.Variables, want) || len(f.Values.ExtraArgs) != 0 {
		t.Errorf("variables %q, arguments %q", f.Adopted.Variables, f.Values.ExtraArgs)
	}
	for path, one := range before {
		if now := n.theirs()[path]; now != one {
			t.Errorf("%s was changed", path)
		}
	}
	argv := must(n.units.Unit(t.Context(), UnitName)).Argv(os.ReadFile)
	for _, want := range []string{"--kubeconfig=" + n.files().Kubeconfig(), "--config=" + n.config, "--pod-infra-container-image=pause:3", "--v=2"} {
		if !slices.Contains(argv, want) {
			t.Errorf("the kubelet runs as %q, without %s", argv, want)
		}
	}
	n.worksOn("adopted", 1)
	if again, err := n.adopter(nil).Look(t.Context()); err != nil || !again.Done {
		t.Errorf("a second time: %+v, %v", again, err)
	}

	r := n.reset()
	if _, err := r.Restore(t.Context(), n.deps.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	if after := n.theirs(); !maps.Equal(after, before) {
		t.Errorf("after the restore:\n%v\nbefore:\n%v", after.paths(func(node) bool { return true }), before.paths(func(node) bool { return true }))
	}
	if n.restarts() != 2 {
		t.Errorf("%d restarts for both", n.restarts())
	}
	u := must(n.units.Unit(t.Context(), UnitName))
	if !u.Running() || u.UnitFileState != "enabled" || len(u.DropInPaths) != 0 {
		t.Errorf("the unit is %+v", u)
	}
	if _, err := r.Restore(t.Context(), n.deps.Clock.Now()); !errors.Is(err, reset.ErrNeverAdopted) {
		t.Errorf("a second restore: %v", err)
	}
}

type killed struct{}

// killAt runs f until the n-th point and leaves what a kill leaves; false: there
// were fewer.
func killAt(at int, f func(point func())) (died bool) {
	defer func() {
		if what := recover(); what != nil {
			if _, ok := what.(killed); !ok {
				panic(what)
			}
			died = true
		}
	}()
	f(func() {
		if at--; at == 0 {
			panic(killed{})
		}
	})
	return false
}

func TestATakeoverThatIsKilledAnywhereIsEndedByTheNextOrUndone(t *testing.T) {
	for at := 1; ; at++ {
		died := false
		for _, undone := range []bool{false, true} {
			n := newTheirNode(t)
			before := n.theirs()
			died = killAt(at, func(point func()) {
				one := n.adopter(point)
				f := must(one.Look(t.Context()))
				if err := one.Do(t.Context(), f, n.plan(f)); err != nil {
					t.Fatal(err)
				}
			})
			n.awaitLock()
			if undone {
				_, err := n.reset().Restore(t.Context(), n.deps.Clock.Now())
				if err != nil && !errors.Is(err, reset.ErrNeverAdopted) {
					t.Errorf("killed at %d: %v", at, err)
				}
				if after := n.theirs(); !maps.Equal(after, before) {
					t.Errorf("killed at %d, undone: %v, before %v", at, after.paths(func(node) bool { return true }), before.paths(func(node) bool { return true }))
				}
				continue
			}
			n.mustAdopt()
			if _, err := os.Stat(n.plan(&adopt.Found{NodeName: nodeName}).ConfigFile); err != nil {
				t.Errorf("killed at %d: %v", at, err)
			}
			calls := n.units.Calls()
			if !slices.Contains(calls, "enable bootstrap-agent.service") || !slices.Contains(calls, "start bootstrap-agent.service") {
				t.Errorf("killed at %d: the agent is not at work: %v", at, calls)
			}
			n.worksOn(fmt.Sprintf("killed at %d", at), 2)
			for path, one := range before {
				if now := n.theirs()[path]; now != one {
					t.Errorf("killed at %d: %s was changed", at, path)
				}
			}
		}
		if !died {
			if at < 8 {
				t.Errorf("only %d points", at)
			}
			return
		}
	}
}

func TestWhatCannotBeTakenOverIsRefusedByNameAndNotTouched(t *testing.T) {
	edit := func(from, to string) func(*theirNode) {
		return func(n *theirNode) {
			data := string(must(os.ReadFile(n.conf)))
			if !strings.Contains(data, from) {
				n.t.Fatalf("%q is not in %s", from, data)
			}
			mustWrite(n.t, n.conf, strings.ReplaceAll(data, from, to))
		}
	}
	unit := func(change func(*theirNode, *systemd.Unit)) func(*theirNode) {
		return func(n *theirNode) { n.units.Change(func(u *systemd.Unit) { change(n, u) }) }
	}
	for _, tt := range []struct {
		name, want string
		make       func(*theirNode)
	}{
		{"an exec plugin", "exec", edit("users: [{name: u, user: {", "users: [{name: u, user: {exec: {command: aws}, ")},
		{"a token", "token", edit("users: [{name: u, user: {", "users: [{name: u, user: {token: canary, ")},
		{"impersonation", `"as"`, edit("users: [{name: u, user: {", "users: [{name: u, user: {as: admin, ")},
		{"several clusters", "2 clusters", edit("clusters: [", "clusters: [{name: other, cluster: {server: \"https://192.0.2.1\"}}, ")},
		{"insecure", "insecure-skip-tls-verify", edit("clusters: [{name: k, cluster: {", "clusters: [{name: k, cluster: {insecure-skip-tls-verify: true, ")},
		{"a proxy", "proxy-url", edit("clusters: [{name: k, cluster: {", "clusters: [{name: k, cluster: {proxy-url: \"http://x\", ")},
		{"no https", "server", edit("https://", "http://")},
		{"no kubeconfig", "cannot be read", func(n *theirNode) { _ = os.Remove(n.conf) }},
		{"no pair", "cannot be read", func(n *theirNode) { _ = os.Remove(n.files().CurrentPair()) }},
		{"an expired pair", "expired", func(n *theirNode) { n.deps.Clock = lateClock{n.deps.Clock} }},
		{"a pair that the API refuses", "", func(n *theirNode) { n.api.RejectCertificates(true) }},
		{"another CA", "", func(n *theirNode) {
			other := must(testapi.New(testapi.Options{Quiet: true}))
			n.t.Cleanup(other.Close)
			mustWrite(n.t, n.conf, n.kubeconfig(other.CA(), "client-certificate: "+n.files().CurrentPair()+", client-key: "+n.files().CurrentPair()))
		}},
		{"no Node", "not found", func(n *theirNode) { n.api.DeleteNode(nodeName) }},
		{"another machine's Node", "boot ID", func(n *theirNode) { n.deps.Machine.BootID = "99999999-0000-0000-0000-000000000000" }},
		{"a control plane", "control-plane", func(n *theirNode) {
			mustWrite(n.t, filepath.Join(n.cfg.Paths.Etc, "kubernetes/manifests/kube-apiserver.yaml"), "spec: {containers: [{name: kube-apiserver}]}\n")
		}},
		{"another CA where ours would stand", "ca.crt", func(n *theirNode) { mustWrite(n.t, n.files().CACert(), "other") }},
		{"another kubeconfig where ours would stand", "kubeconfig", func(n *theirNode) { mustWrite(n.t, n.files().Kubeconfig(), "other") }},
		{"a kubelet that does not run", "does not run", unit(func(_ *theirNode, u *systemd.Unit) { u.ActiveState, u.MainPID = "inactive", 0 })},
		{"a wrapper", "something else", unit(func(_ *theirNode, u *systemd.Unit) { u.ExecStart[0][0] = "/bin/sh" })},
		{"a second command", "something else", unit(func(_ *theirNode, u *systemd.Unit) {
			u.ExecStart = append(u.ExecStart, []string{"/bin/prepare"})
		})},
		{"no --config", "--config", unit(func(_ *theirNode, u *systemd.Unit) { u.Environment = u.Environment[:1] })},
		{"no --kubeconfig", "--kubeconfig", unit(func(_ *theirNode, u *systemd.Unit) { u.Environment = u.Environment[1:] })},
		{"another root folder", "--root-dir", unit(func(_ *theirNode, u *systemd.Unit) { u.ExecStart[0] = append(u.ExecStart[0], "--root-dir=/mnt") })},
		{"another name", "hostname-override", unit(func(_ *theirNode, u *systemd.Unit) {
			u.ExecStart[0] = append(u.ExecStart[0], "--hostname-override=other")
		})},
		{"what we decide in $KUBELET_EXTRA_ARGS", "KUBELET_EXTRA_ARGS", unit(func(n *theirNode, u *systemd.Unit) {
			u.Environment = append(u.Environment, "KUBELET_EXTRA_ARGS=--kubeconfig="+n.conf)
		})},
		{"no unit", "no kubelet.service", unit(func(_ *theirNode, u *systemd.Unit) { *u = systemd.Unit{} })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newTheirNode(t)
			tt.make(n)
			before, calls := n.theirs(), len(n.units.Calls())
			_, err := n.adopter(nil).Look(t.Context())
			if err == nil || fault.ReasonOf(err) == "" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", fault.ReasonOf(err), err)
			}
			if strings.Contains(fmt.Sprint(err, fault.HintOf(err)), "canary") {
				t.Errorf("it shows a secret: %v", err)
			}
			if after := n.theirs(); !maps.Equal(after, before) || len(n.units.Calls()) != calls {
				t.Error("something was changed")
			}
			if _, err := os.Stat(n.cfg.Paths.State); err == nil {
				t.Error("the agent keeps records")
			}
		})
	}
}

type lateClock struct{ Clock }

func (c lateClock) Now() time.Time { return c.Clock.Now().Add(20 * 365 * 24 * time.Hour) }

// A kubeconfig that embeds the pair, at the agent's own place: what is replaced is
// kept, and comes back.
func TestAPairInAKubeconfigAtOurPlaceIsTakenOverAndGivenBack(t *testing.T) {
	n := newTheirNode(t)
	pair := must(os.ReadFile(n.files().CurrentPair()))
	at := strings.Index(string(pair), "-----BEGIN EC PRIVATE")
	if at < 0 {
		at = strings.Index(string(pair), "-----BEGIN PRIVATE")
	}
	data := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	trusted := must(os.ReadFile(n.conf))
	_, ca, _ := strings.Cut(string(trusted), "certificate-authority-data: ")
	ca, _, _ = strings.Cut(ca, "}")
	mustWrite(t, n.files().Kubeconfig(), n.kubeconfig(must(base64.StdEncoding.DecodeString(ca)), "client-certificate-data: "+data(pair[:at])+", client-key-data: "+data(pair[at:])))
	if err := errors.Join(os.RemoveAll(n.files().PKI()), os.Remove(n.conf)); err != nil {
		t.Fatal(err)
	}
	n.units.Change(func(u *systemd.Unit) {
		u.Environment = nil
		u.ExecStart[0] = []string{u.ExecStart[0][0], "--kubeconfig", n.files().Kubeconfig(), "--config=" + n.config, "--node-labels=a=b,c=d", "--node-ip=192.0.2.7", "--seccomp-default", "--max-pods=9"}
	})
	before := n.theirs()
	f := n.mustAdopt()
	v := f.Values
	if !slices.Equal(v.Labels, []string{"a=b", "c=d"}) || v.NodeIP != "192.0.2.7" || !slices.Equal(v.ExtraArgs, []string{"--seccomp-default", "--max-pods=9"}) || f.InPlace {
		t.Errorf("%+v", f.Values)
	}
	n.worksOn("adopted", 1)
	if _, err := n.reset().Restore(t.Context(), f.NotAfter.Add(time.Hour)); fault.ReasonOf(err) != fault.CertificateInvalid {
		t.Errorf("back to a certificate that has ended: %v", err)
	}
	if _, err := n.reset().Restore(t.Context(), n.deps.Clock.Now()); err != nil {
		t.Fatal(err)
	}
	if after := n.theirs(); !maps.Equal(after, before) {
		t.Errorf("after the restore: %v, before %v", after.paths(func(node) bool { return true }), before.paths(func(node) bool { return true }))
	}
}

// The pair of a node that was taken over is lost: it joins again, and what is
// somebody else's stays as it is.
func TestATakenOverNodeThatJoinsAgainKeepsTheirConfig(t *testing.T) {
	n := newTheirNode(t)
	n.mustAdopt()
	config := must(os.ReadFile(n.config))
	if err := os.Remove(n.files().CurrentPair()); err != nil {
		t.Fatal(err)
	}
	n.cfg.AfterJoin = AfterJoinExit
	n.mustJoin()
	n.awaitLock()
	if now := must(os.ReadFile(n.config)); string(now) != string(config) {
		t.Errorf("the kubelet's configuration was written: %s", now)
	}
	if csrs := len(n.api.CSRs()); csrs != 2 {
		t.Errorf("%d requests", csrs)
	}
}

func TestAResetOfATakenOverNodeLeavesWhatIsKubeadms(t *testing.T) {
	n := newTheirNode(t)
	n.mustAdopt()
	n.mustReset(n.reset())
	for _, path := range []string{n.conf, n.config, n.flags, n.vendor} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{n.files().Kubeconfig(), n.files().CurrentPair(), n.files().CACert(), n.cfg.Paths.TrustFile(), n.cfg.Paths.BeforeAdopt()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if m := must(record.ReadManifest(n.cfg.Paths)); m.Adopted != nil {
		t.Error("the record is still there")
	}
}

// kubeadm puts --hostname-override into its own variable where the node's name is
// not the host's. The variable stays all the same: `kubeadm upgrade node` writes it.
func TestKubeadmsVariableStaysAlsoWhereItNamesTheNode(t *testing.T) {
	n := newTheirNode(t)
	mustWrite(t, n.flags, "KUBELET_KUBEADM_ARGS=\"--hostname-override="+nodeName+" --pod-infra-container-image=pause:3\"\n")
	f := n.mustAdopt()
	if !slices.Contains(f.Adopted.Variables, "KUBELET_KUBEADM_ARGS") || len(f.Values.ExtraArgs) != 0 {
		t.Errorf("variables %q, arguments %q", f.Adopted.Variables, f.Values.ExtraArgs)
	}
	n.worksOn("adopted", 1)
	// What kubeadm writes there with the next version is what the kubelet gets.
	mustWrite(t, n.flags, "KUBELET_KUBEADM_ARGS=\"--hostname-override="+nodeName+" --v=3\"\n")
	argv := must(n.units.Unit(t.Context(), UnitName)).Argv(os.ReadFile)
	if !slices.Contains(argv, "--v=3") || slices.Contains(argv, "--pod-infra-container-image=pause:3") {
		t.Errorf("the kubelet runs as %q", argv)
	}
}

func TestARestoreThatIsKilledWhileItForgetsIsEndedByTheNext(t *testing.T) {
	for at := 1; ; at++ {
		n := newTheirNode(t)
		before := n.theirs()
		n.mustAdopt()
		one := n.reset()
		left := at
		one.Remove = func(path string) error {
			if left--; left < 0 {
				return errKilled
			}
			return os.RemoveAll(path)
		}
		_, err := one.Restore(t.Context(), n.deps.Clock.Now())
		n.awaitLock()
		if err == nil {
			if at < 5 {
				t.Errorf("only %d points", at)
			}
			return
		}
		if _, err := n.reset().Restore(t.Context(), n.deps.Clock.Now()); err != nil {
			t.Errorf("killed at %d: %v", at, err)
		}
		if after := n.theirs(); !maps.Equal(after, before) {
			t.Errorf("killed at %d: %v", at, after.paths(func(node) bool { return true }))
		}
		if m := must(record.ReadManifest(n.cfg.Paths)); m.Adopted != nil {
			t.Errorf("killed at %d: it counts as taken over", at)
		}
	}
}

// `status` where no agent runs knows where somebody else's configuration lies.
func TestAnAdoptedNodeIsSurveyedWithItsOwnConfiguration(t *testing.T) {
	n := newTheirNode(t)
	elsewhere := filepath.Join(n.cfg.Paths.Etc, "kubernetes/kubelet-config.yaml")
	mustWrite(t, elsewhere, string(must(os.ReadFile(n.config))))
	if err := os.Remove(n.config); err != nil {
		t.Fatal(err)
	}
	n.units.Change(func(u *systemd.Unit) { u.Environment[1] = "KUBELET_CONFIG_ARGS=--config=" + elsewhere })
	n.mustAdopt()
	n.worksOn("adopted", 1)
	s, err := Survey(t.Context(), n.cfg, n.deps)
	if err != nil || s.Phase != Joined {
		t.Errorf("%s, %v", s.Phase, err)
	}
}

// The configuration of an adopted node is somebody else's: apply and repair write
// what is the agent's, a certificate that is made anew takes nothing over.
func TestTheConfigurationOfAnAdoptedNodeIsNobodysButTheirs(t *testing.T) {
	n := newTheirNode(t)
	n.mustAdopt()
	config := string(must(os.ReadFile(n.config)))
	n.cfg.AfterJoin, n.cfg.Repair = AfterJoinHeal, true
	answer, err := n.applies(Order{})
	if err != nil || len(answer.Changes) > 0 {
		t.Errorf("%v, apply would change %+v", err, answer)
	}
	if err := n.expire(); err != nil {
		t.Fatal(err)
	}
	_, stop := n.start()
	n.await("the node with a new certificate", func(s Status) bool { return s.Phase == Joined && len(n.api.CSRs()) == 2 })
	n.edit(n.config, "maxPods: 42")
	s := n.awaitLater(40 * time.Minute)
	if hasNote(s, fault.Drifted) {
		t.Errorf("notes %+v", s.Notes)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	n.awaitLock()
	if answer, err = n.applies(Order{}); err != nil || len(answer.Changes) > 0 {
		t.Errorf("%v, apply would change %+v", err, answer)
	}
	if now := string(must(os.ReadFile(n.config))); now != config+"maxPods: 42\n" {
		t.Errorf("it is\n%s", now)
	}
}

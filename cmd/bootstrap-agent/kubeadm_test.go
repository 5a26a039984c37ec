package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

const (
	joinHead = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n"
	// goodJoin ends in nodeRegistration, so that rows can add to it.
	goodJoin = joinHead + `discovery:
  bootstrapToken:
    token: ` + goodToken + `
    apiServerEndpoint: 10.0.0.1:6443
    caCertHashes: ["` + pin + `"]
`
)

// fromKubeadm writes the file and configures from it, with a token file in the
// scratch folder.
func (d *door) fromKubeadm(text string, args ...string) int {
	d.t.Helper()
	path := d.write("join.yaml", text, 0o600)
	return d.call(append([]string{"configure", "--from-kubeadm", path, "--token-file", d.path("token")}, args...)...)
}

// configured is the config file that was written, by the judge's reading.
func (d *door) configured() map[string]any {
	d.t.Helper()
	data, err := os.ReadFile(d.path("config.yaml"))
	if err != nil {
		d.t.Fatal(err)
	}
	values, problems, _ := judgeYAML("config.yaml", data)
	if len(problems) > 0 {
		d.t.Fatalf("%v\n%s", problems, data)
	}
	out := map[string]any{}
	for name, v := range values {
		if name != "apiVersion" && name != "tokenFile" {
			out[name] = v.value
		}
	}
	return out
}

func TestAJoinConfigurationBecomesConfigAndTokenFile(t *testing.T) {
	base := map[string]any{"endpoints": []string{"10.0.0.1:6443"}, "caCertHashes": []string{pin}}
	with := func(more map[string]any) map[string]any {
		all := maps.Clone(base)
		maps.Copy(all, more)
		return all
	}
	rows := []struct {
		name  string
		text  string
		args  []string
		want  map[string]any
		notes []string
	}{
		{name: "what a worker needs", text: goodJoin, want: base},
		{name: "the same token twice", text: strings.Replace(goodJoin, "discovery:\n", "discovery:\n  tlsBootstrapToken: "+goodToken+"\n", 1), want: base},
		{name: "as JSON", text: mustJSON(t, goodJoin), want: base},
		{name: "what kubeadm writes itself: defaults and empty fields mean nothing", text: goodJoin +
			"caCertPath: /etc/kubernetes/pki/ca.crt\ncontrolPlane: null\ndryRun: false\npatches: {}\nskipPhases: []\n" +
			"nodeRegistration: {criSocket: \"unix:///var/run/containerd/containerd.sock\", imagePullPolicy: IfNotPresent, imagePullSerial: true, name: vm, taints: null}\n" +
			"timeouts: {controlPlaneComponentHealthCheck: 4m0s, discovery: 5m0s, etcdAPICall: 2m0s, kubeletHealthCheck: 4m0s, kubernetesAPICall: 1m0s, tlsBootstrap: 5m0s, upgradeManifests: 5m0s}\n",
			want: with(map[string]any{"kubelet.containerRuntimeEndpoint": "unix:///var/run/containerd/containerd.sock", "nodeName": "vm"})},
		{name: "no taints at all is what a worker has", text: goodJoin + "nodeRegistration: {taints: []}\n", want: base},
		{name: "name, socket and taints", text: goodJoin + `nodeRegistration:
  name: Worker-7
  criSocket: /run/crio/crio.sock
  taints:
  - {key: example.org/gpu, value: "true", effect: NoSchedule}
  - {key: a, effect: NoExecute}
`, want: with(map[string]any{"nodeName": "worker-7", "kubelet.containerRuntimeEndpoint": "unix:///run/crio/crio.sock",
			"nodeTaints": []string{"example.org/gpu=true:NoSchedule", "a:NoExecute"}})},
		{name: "arguments of the kubelet, those with a key of ours into it", text: goodJoin + `nodeRegistration:
  kubeletExtraArgs:
  - {name: v, value: "4"}
  - {name: node-labels, value: "example.org/rack=r7,disk=ssd"}
  - {name: node-ip, value: 10.0.0.17}
  - {name: hostname-override, value: Worker-7}
  - {name: container-runtime-endpoint, value: "unix:///run/crio/crio.sock"}
  - {name: register_with_taints, value: "a=b:NoSchedule,c:NoExecute"}
  - {name: config-dir, value: /etc/kubernetes/kubelet.conf.d}
  - {name: config, value: /var/lib/kubelet/config.yaml}
  - {name: feature-gates, value: "A=true"}
  - {name: feature-gates, value: ""}
`, want: with(map[string]any{"nodeName": "worker-7", "kubelet.containerRuntimeEndpoint": "unix:///run/crio/crio.sock", "nodeIP": "10.0.0.17",
			"nodeLabels": []string{"example.org/rack=r7", "disk=ssd"}, "nodeTaints": []string{"a=b:NoSchedule", "c:NoExecute"},
			"kubelet.configDir": "/etc/kubernetes/kubelet.conf.d", "kubelet.extraArgs": []string{"--v=4", "--feature-gates=A=true", "--feature-gates="}}),
			notes: []string{"kubeletExtraArgs[7] means nothing here"}},
		{name: "the same name twice is one name", text: goodJoin + "nodeRegistration: {name: Worker-7, kubeletExtraArgs: [{name: hostname-override, value: worker-7}]}\n",
			want: with(map[string]any{"nodeName": "worker-7"})},
		{name: "without a pin, unsafe", text: strings.Replace(goodJoin, "caCertHashes: [\""+pin+"\"]", "unsafeSkipCAVerification: true", 1),
			want: map[string]any{"endpoints": []string{"10.0.0.1:6443"}, "unsafeSkipCAVerification": true}, notes: []string{"can pretend to be it"}},
		{name: "beside a pin unsafe means nothing, as for kubeadm", text: goodJoin + "    unsafeSkipCAVerification: true\n", want: base, notes: []string{"unsafeSkipCAVerification means nothing"}},
		{name: "what means nothing here is said", text: goodJoin + "nodeRegistration: {ignorePreflightErrors: [Swap]}\ntimeouts: {discovery: 20m}\n", want: base,
			notes: []string{"ignorePreflightErrors means nothing", "timeouts means nothing here: the agent keeps trying"}},
		{name: "documents of other commands are not looked at, as by kubeadm", text: "---\n" + goodJoin + "---\napiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nx: &a [*a]\n---\n", want: base,
			notes: []string{"ClusterConfiguration is not for a worker"}},
		{name: "flags go before the file", text: goodJoin + "nodeRegistration: {name: vm}\n", args: []string{"--node-name", "other", "--after-join", "exit"},
			want: with(map[string]any{"nodeName": "other", "afterJoin": "exit"})},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			if code := d.fromKubeadm(row.text, row.args...); code != 0 {
				t.Fatalf("exit code %d: %s", code, d.output())
			}
			d.wantText(row.notes...)
			d.wantText("token with id zq7w3k", "join.yaml still holds the token")
			d.wantNoSecret("x2m5v8b1n4c6y9ta")
			if d.stdout.Len() > 0 {
				t.Errorf("stdout: %s", d.stdout.String())
			}
			if got, want := fmt.Sprint(d.configured()), fmt.Sprint(row.want); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			for name, want := range map[string]string{"token": goodToken + "\n", "config.yaml": ""} {
				data, err := os.ReadFile(d.path(name))
				info, statErr := os.Stat(d.path(name))
				if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || want != "" && string(data) != want {
					t.Errorf("%s: %v %v, mode %v", name, err, statErr, info.Mode())
				}
			}
		})
	}
}

func mustJSON(t *testing.T, text string) string {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAJoinConfigurationByDiscoveryFile(t *testing.T) {
	d := newDoor(t)
	path := d.path("cluster.kubeconfig") // it comes later
	text := joinHead + "discovery:\n  file: {kubeConfigPath: \"file://" + path + "\"}\n"
	if code := d.fromKubeadm(text + "  tlsBootstrapToken: " + goodToken + "\n"); code != 0 {
		t.Fatalf("exit code %d: %s", code, d.output())
	}
	d.wantText("there is no discovery file", "token with id zq7w3k")
	if got := fmt.Sprint(d.configured()); got != fmt.Sprint(map[string]any{"discoveryFile": path}) {
		t.Errorf("%s", got)
	}
	d = newDoor(t)
	d.write("cluster.kubeconfig", "nonsense", 0o600)
	d.app.hidden = []string{d.path("hidden")}
	for kube, want := range map[string]string{
		d.path("cluster.kubeconfig"):      "join.yaml:4: discovery.file.kubeConfigPath: discovery file " + d.path("cluster.kubeconfig"),
		d.path("hidden") + "/x":           "lies under " + d.path("hidden"),
		"https://10.0.0.1/kubeconfig":     "nothing is downloaded",
		"cluster.kubeconfig":              "must be an absolute path",
		d.path("kubelet") + "/kubeconfig": "is the kubeconfig that the agent writes",
	} {
		if code := d.fromKubeadm(joinHead + "discovery:\n  file: {kubeConfigPath: \"" + kube + "\"}\n"); code != fault.ExitConfig {
			t.Errorf("%s: exit code %d", kube, code)
		}
		d.wantText(want)
	}
	// Without a token of its own, the file's user may have one.
	d = newDoor(t)
	if code := d.fromKubeadm(joinHead + "discovery:\n  file: {kubeConfigPath: " + d.path("later") + "}\n"); code != 0 {
		t.Fatalf("exit code %d: %s", code, d.output())
	}
	d.wantText("bootstrap-agent token set")
	if _, err := os.Stat(d.path("token")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a token file without a token: %v", err)
	}
}

func TestWhatAWorkerOfOursCannotHaveIsRefusedByItsName(t *testing.T) {
	const args = "nodeRegistration:\n  kubeletExtraArgs:\n"
	rows := []struct {
		name string
		text string
		want []string
	}{
		{"a control-plane node", goodJoin + "controlPlane: {certificateKey: " + canary + "}\n", []string{"join.yaml:8: controlPlane: ", "joins workers", "join it with kubeadm"}},
		{"also an empty one", goodJoin + "controlPlane: {}\n", []string{"joins workers"}},
		{"patches", goodJoin + "patches:\n  directory: /etc/patches\n", []string{"join.yaml:9: patches.directory: no patch engine", "--kubelet-config-dir"}},
		{"phases to skip", goodJoin + "skipPhases: [preflight]\n", []string{"skipPhases: the agent has no phases"}},
		{"a dry run", goodJoin + "dryRun: true\n", []string{"dryRun: nothing is dry", "check --config"}},
		{"another path of the CA", goodJoin + "caCertPath: /etc/ca.crt\n", []string{"caCertPath: the agent writes", "/var/lib/kubelet/pki/ca.crt"}},
		{"another token for the request", strings.Replace(goodJoin, "discovery:\n", "discovery:\n  tlsBootstrapToken: abc123.b2c3d4e5f6g7h8i9\n", 1), []string{"tlsBootstrapToken: is another token", "one does both"}},
		{"the form of v1beta3 for the timeout", strings.Replace(goodJoin, "discovery:\n", "discovery:\n  timeout: 5m\n", 1), []string{"discovery.timeout: is of v1beta3"}},
		{"the form of v1beta3 for arguments", goodJoin + "nodeRegistration:\n  kubeletExtraArgs: {v: \"2\"}\n", []string{"kubeletExtraArgs: must be a list of name and value", "v1beta3"}},
		{"flags that the agent decides", goodJoin + args + "  - {name: v, value: \"2\"}\n  - {name: bootstrap-kubeconfig, value: /x}\n", []string{"join.yaml:11: nodeRegistration.kubeletExtraArgs[1]: --bootstrap-kubeconfig is not for extraArgs"}},
		{"an argument without a name", goodJoin + args + "  - {value: x}\n", []string{"kubeletExtraArgs[0].name: is missing"}},
		{"an argument without a value", goodJoin + args + "  - {name: v}\n", []string{"kubeletExtraArgs[0].value: is missing"}},
		{"dashes before the name", goodJoin + args + "  - {name: --v, value: \"2\"}\n", []string{"must be the bare name of a flag"}},
		{"two names", goodJoin + "nodeRegistration:\n  name: a\n  kubeletExtraArgs: [{name: hostname-override, value: b}]\n", []string{"kubeletExtraArgs[0]: says again what nodeRegistration.name says (line 9)"}},
		{"taints in two places", goodJoin + "nodeRegistration:\n  kubeletExtraArgs: [{name: register-with-taints, value: \"a:NoSchedule\"}]\n  taints: [{key: b, effect: NoSchedule}]\n", []string{"says again what nodeRegistration.taints[0] says"}},
		{"labels that a kubelet must not give itself", goodJoin + args + "  - name: node-labels\n    value: a=b,node-role.kubernetes.io/worker=\n", []string{"join.yaml:10: nodeRegistration.kubeletExtraArgs[0]: a kubelet must not give itself"}},
		{"a taint without an effect", goodJoin + "nodeRegistration:\n  taints:\n  - key: a\n", []string{"join.yaml:10: nodeRegistration.taints[0]: effect must be one of"}},
		{"a taint with a time", goodJoin + "nodeRegistration: {taints: [{key: a, effect: NoExecute, timeAdded: \"2026-01-01T00:00:00Z\"}]}\n", []string{"timeAdded: is the control plane's"}},
		{"a socket that is none", goodJoin + "nodeRegistration: {criSocket: \"tcp://10.0.0.1:1\"}\n", []string{"nodeRegistration.criSocket: must be a Unix socket"}},
		{"an image policy that does not exist", goodJoin + "nodeRegistration: {imagePullPolicy: Sometimes}\n", []string{"imagePullPolicy: must be one of"}},
		{"a timeout that is none", goodJoin + "timeouts: {discovery: long}\n", []string{"timeouts.discovery: must be a duration"}},
		{"an unknown field", goodJoin + "nodeRegistration:\n  nam: x\n", []string{"join.yaml:9: nodeRegistration.nam: unknown field; did you mean nodeRegistration.name?"}},
		{"a field in the wrong place", goodJoin + "token: x\n", []string{"token: unknown field of JoinConfiguration v1beta4"}},
		{"a field of another case", goodJoin + "noderegistration: {}\n", []string{"did you mean nodeRegistration?"}},
		{"a secret as a field", goodJoin + canary + ": 1\n", []string{"unknown field (not shown"}},
		{"a field twice", goodJoin + "dryRun: false\ndryRun: false\n", []string{"join.yaml:9: dryRun: is given twice (first at line 8)"}},
		{"a number where a text belongs", goodJoin + args + "  - {name: v, value: 2}\n", []string{"kubeletExtraArgs[0].value: must be a string: put it in quotes"}},
		{"what is true for kubeadm's parser", goodJoin + "nodeRegistration: {name: yes}\n", []string{"nodeRegistration.name: must be a string: put it in quotes"}},
		{"a section that is none", goodJoin + "nodeRegistration: [x]\n", []string{"nodeRegistration: must be a section"}},
		{"no discovery", joinHead, []string{"join.yaml:1: discovery: must say bootstrapToken or file"}},
		{"two ways of discovery", goodJoin + "  file: {kubeConfigPath: /etc/x}\n", []string{"discovery.file: excludes discovery.bootstrapToken"}},
		{"an empty discovery", joinHead + "discovery: {bootstrapToken: {}}\n", []string{"bootstrapToken.token: is missing", "apiServerEndpoint: is missing", "caCertHashes: is missing"}},
		{"no pin and nothing that says so", strings.Replace(goodJoin, "caCertHashes: [\""+pin+"\"]", "caCertHashes: []", 1), []string{"caCertHashes: is missing", "check --cluster shows"}},
		{"a token that is none", strings.Replace(goodJoin, goodToken, canary+"x", 1), []string{"bootstrapToken.token: has a secret"}},
		{"an endpoint that is none", strings.Replace(goodJoin, "10.0.0.1:6443", "http://10.0.0.1", 1), []string{"join.yaml:6: discovery.bootstrapToken.apiServerEndpoint: has another scheme"}},
		{"a pin that is none", strings.Replace(goodJoin, pin, "sha256:"+canary, 1), []string{"join.yaml:7: discovery.bootstrapToken.caCertHashes[0]: "}},
		{"anchors", goodJoin + "nodeRegistration: {name: &a x}\n", []string{"anchors and aliases"}},
		{"v1beta3", strings.Replace(goodJoin, "v1beta4", "v1beta3", 1), []string{"is v1beta3", "kubeadm config migrate --old-config ", "join.yaml --new-config join-v1beta4.yaml", "name and criSocket of where it runs"}},
		{"v1beta2", strings.Replace(goodJoin, "v1beta4", "v1beta2", 1), []string{"kubeadm config migrate --old-config", "first with kubeadm 1.26"}},
		{"a later version", strings.Replace(goodJoin, "v1beta4", "v1", 1), []string{"apiVersion: must be kubeadm.k8s.io/v1beta4"}},
		{"a KubeletConfiguration", goodJoin + "---\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n", []string{"join.yaml:9: a KubeletConfiguration: `kubeadm join` ignores it", "--kubelet-config-file"}},
		{"two of them", goodJoin + "---\n" + goodJoin, []string{"join.yaml:9: a second JoinConfiguration"}},
		{"none of them", "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n", []string{"there is no JoinConfiguration in it"}},
		{"something else", goodJoin + "---\napiVersion: v1\nkind: Secret\n", []string{"a document of kind Secret"}},
		{"a document that does not say what it is", goodJoin + "---\nx: 1\n", []string{"does not say what it is"}},
		{"a join line", joinText, []string{"a document must be a list"}},
		{"an empty file", "", []string{"there is no JoinConfiguration in it"}},
		{"everything at once", joinHead + "controlPlane: {}\nnam: 1\ndiscovery: {bootstrapToken: {token: x}}\nnodeRegistration: {name: A_B}\n",
			[]string{"6 things are wrong", ":3: controlPlane", ":4: nam", ":5: discovery.bootstrapToken.token: ", ":5: discovery.bootstrapToken.apiServerEndpoint: is missing", ":6: nodeRegistration.name: a lowercase"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			d.write("join.yaml", row.text, 0o600)
			before := d.files()
			if code := d.fromKubeadm(row.text); code != fault.ExitConfig {
				t.Errorf("exit code %d", code)
			}
			d.wantText(row.want...)
			d.wantText("ConfigInvalid", "->")
			d.wantNoSecret("zq7w3k9x2m5v8b1n", "x2m5v8b1n4c6y9ta", "b2c3d4e5f6g7h8i9")
			if after := d.files(); after != before {
				t.Errorf("something was written:\n%s", after)
			}
		})
	}
}

func TestConfigureFromKubeadmOnTheCommandLine(t *testing.T) {
	d := newDoor(t)
	d.app.stdin = strings.NewReader(goodJoin)
	d.wantCode(0, "configure", "--from-kubeadm", "-", "--token-file", d.path("token"))
	d.wantText("wrote", "token with id")
	if strings.Contains(d.output(), "still holds") {
		t.Error("stdin holds nothing")
	}
	if got := d.fromKubeadm(goodJoin); got != 0 || !strings.Contains(d.output(), "it says the same already") {
		t.Errorf("the same again: %d, %s", got, d.output())
	}
	if got := d.fromKubeadm(goodJoin + "nodeRegistration: {name: other}\n"); got != fault.ExitConfig || !strings.Contains(d.output(), "says something else") {
		t.Errorf("another config is there: %d, %s", got, d.output())
	}
	d.wantCode(fault.ExitUsage, "configure", "--from-kubeadm", d.path("join.yaml"), "-")
	d.wantText("either a file with the join line")
	d.wantCode(fault.ExitUsage, "configure")
	d.wantCode(fault.ExitFailed, "configure", "--from-kubeadm", d.path("none"))
	d.wantText("no such file")
	d.wantCode(fault.ExitConfig, "configure", d.path("join.yaml")) // as if it were a join line
	d.wantText("configure --from-kubeadm FILE")
	d.write("open.yaml", goodJoin, 0o644)
	d.wantCode(0, "configure", "--from-kubeadm", d.path("open.yaml"), "--token-file", d.path("token"))
	d.wantText("may be read by others")
}

// theirs is kubeadm's v1beta4 as far as a worker goes, for the oracle below:
// written down from its types, and decoded as strictly as `kubeadm config
// validate` does it.
type theirs struct {
	APIVersion       string `json:"apiVersion"`
	Kind             string `json:"kind"`
	DryRun           bool   `json:"dryRun"`
	NodeRegistration struct {
		Name      string `json:"name"`
		CRISocket string `json:"criSocket"`
		Taints    []struct {
			Key    string `json:"key"`
			Value  string `json:"value"`
			Effect string `json:"effect"`
		} `json:"taints"`
		KubeletExtraArgs []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"kubeletExtraArgs"`
		IgnorePreflightErrors []string `json:"ignorePreflightErrors"`
		ImagePullPolicy       string   `json:"imagePullPolicy"`
		ImagePullSerial       *bool    `json:"imagePullSerial"`
	} `json:"nodeRegistration"`
	CACertPath string `json:"caCertPath"`
	Discovery  struct {
		BootstrapToken *struct {
			Token                    string   `json:"token"`
			APIServerEndpoint        string   `json:"apiServerEndpoint"`
			CACertHashes             []string `json:"caCertHashes"`
			UnsafeSkipCAVerification bool     `json:"unsafeSkipCAVerification"`
		} `json:"bootstrapToken"`
		File *struct {
			KubeConfigPath string `json:"kubeConfigPath"`
		} `json:"file"`
		TLSBootstrapToken string `json:"tlsBootstrapToken"`
	} `json:"discovery"`
	ControlPlane *struct{} `json:"controlPlane"`
	SkipPhases   []string  `json:"skipPhases"`
	Patches      *struct {
		Directory string `json:"directory"`
	} `json:"patches"`
	Timeouts map[string]duration `json:"timeouts"`
}

type duration time.Duration

func (d *duration) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	*d = duration(parsed)
	return err
}

// FuzzJoinConfiguration: what is accepted means the same to a decoder of kubeadm's
// kind, is a good config, and nothing that is refused shows the token.
func FuzzJoinConfiguration(f *testing.F) {
	f.Add([]byte(goodJoin))
	f.Add([]byte(goodJoin + "nodeRegistration:\n  name: a\n  criSocket: /run/x.sock\n  taints: [{key: a, effect: NoSchedule}]\n  kubeletExtraArgs: [{name: v, value: \"2\"}, {name: node-labels, value: \"a=b\"}]\n"))
	f.Add([]byte(goodJoin + "timeouts: {discovery: 5m}\ncontrolPlane: null\nskipPhases: []\npatches: {}\n"))
	f.Add([]byte(joinHead + "discovery: {file: {kubeConfigPath: /etc/none}, tlsBootstrapToken: " + goodToken + "}\n"))
	f.Add([]byte("---\n" + goodJoin + "---\nkind: ClusterConfiguration\napiVersion: kubeadm.k8s.io/v1beta4\n"))
	f.Add([]byte("{\"kind\": \"JoinConfiguration\"}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &app{hidden: []string{"/hidden"}, uid: os.Geteuid(), hostname: func() (string, error) { return "h", nil }}
		l := &loader{app: a, file: "config.yaml"}
		file, problems := parseJoinFile("join.yaml", data)
		_, good, err := l.fromJoinFile(file, problems)
		if (good == nil) == (err == nil) {
			t.Fatal("neither a config nor an error, or both")
		}
		if err != nil {
			if strings.Contains(err.Error(), "x2m5v8b1n4c6y9ta") || strings.Contains(fault.HintOf(err), "x2m5v8b1n4c6y9ta") {
				t.Fatalf("the token is shown: %v", err)
			}
			if strings.Contains(err.Error(), "nothing was written") {
				t.Fatalf("what was made of a good file is not good: %v", err)
			}
			return
		}
		if (&joinJudge{}).documents(data)[0].Line > 1 || len((&joinJudge{}).documents(data)) > 1 {
			return // the other decoder takes one document
		}
		var want theirs
		if err := yaml.UnmarshalStrict(data, &want); err != nil {
			t.Fatalf("accepted, and not by kubeadm's decoder: %v", err)
		}
		compareJoin(t, file, want)
	})
}

func compareJoin(t *testing.T, file joinFile, want theirs) {
	t.Helper()
	text := func(key string) string { s, _ := file.values[key].(string); return s }
	list := func(key string) []string { s, _ := file.values[key].([]string); return s }
	args := map[string]string{}
	var extra []string
	for _, a := range want.NodeRegistration.KubeletExtraArgs {
		args[strings.ReplaceAll(a.Name, "_", "-")] = a.Value
		entry := "--" + a.Name + "=" + a.Value
		// What has a key of its own goes there, all else is passed on.
		if kubelet.KeyFor(entry) == "kubelet.extraArgs" || slices.Contains(list("kubelet.extraArgs"), entry) {
			extra = append(extra, entry)
		}
	}
	if !slices.Equal(extra, list("kubelet.extraArgs")) {
		t.Errorf("extra arguments %q, want %q", list("kubelet.extraArgs"), extra)
	}
	name := strings.ToLower(strings.TrimSpace(want.NodeRegistration.Name))
	if name == "" {
		name = nodeNameOf(args["hostname-override"])
	}
	if text("nodeName") != name {
		t.Errorf("name %q, want %q", text("nodeName"), name)
	}
	token := want.Discovery.TLSBootstrapToken
	if b := want.Discovery.BootstrapToken; b != nil {
		token = b.Token
		if !slices.Equal(list("endpoints"), []string{b.APIServerEndpoint}) || !slices.Equal(list("caCertHashes"), b.CACertHashes) {
			t.Errorf("%v against %+v", file.values, b)
		}
		if unsafe, _ := file.values["unsafeSkipCAVerification"].(bool); unsafe && !b.UnsafeSkipCAVerification || !unsafe && len(b.CACertHashes) == 0 {
			t.Errorf("unsafe %t against %+v", unsafe, b)
		}
	}
	if file.token.Bearer() != strings.TrimSpace(token) {
		t.Error("another token")
	}
	if want.ControlPlane != nil || want.DryRun || len(want.SkipPhases) > 0 || want.Patches != nil && want.Patches.Directory != "" {
		t.Errorf("accepted: %+v", want)
	}
	if n := len(want.NodeRegistration.Taints); n > 0 && n != len(list("nodeTaints")) {
		t.Errorf("%d taints, want %d", len(list("nodeTaints")), n)
	}
}

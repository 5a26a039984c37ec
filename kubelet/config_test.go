package kubelet

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// what kubeadm 1.36 puts into its ConfigMap, shortened.
const kubeadmConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
evictionHard:
  memory.available: 100Mi
healthzBindAddress: 127.0.0.1
healthzPort: 10248
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
memorySwap: {}
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
`

func input(source Source, base string) RenderInput {
	return RenderInput{
		Source: source, Base: []byte(base), Dir: "/var/lib/kubelet",
		ClientCAFile:    "/var/lib/kubelet/pki/ca.crt",
		RuntimeEndpoint: "unix:///run/containerd/containerd.sock",
		ClusterDomain:   "cluster.local",
		CgroupV2:        true,
		FileExists: func(path string) bool {
			return strings.HasPrefix(path, "/there/") || strings.HasPrefix(path, "/var/lib/kubelet/")
		},
	}
}

func render(t *testing.T, in RenderInput) (string, []Note) {
	t.Helper()
	out, notes, err := RenderConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if again, _, err := RenderConfig(in); err != nil || !bytes.Equal(again, out) {
			t.Fatalf("not the same bytes: %v", err)
		}
	}
	return string(out), notes
}

func fields(notes []Note) []string {
	var out []string
	for _, n := range notes {
		out = append(out, n.Field)
	}
	return out
}

func TestConfigGolden(t *testing.T) {
	builtIn := input(BuiltIn, "")
	builtIn.ClusterDNS = []string{"10.96.0.10", "fd00::a"}
	builtIn.RegisterWithTaints = []Taint{{"example.org/new", "", "NoSchedule"}, {"gpu", "yes", "NoExecute"}}
	builtIn.ServingCertificate = ServingSelfSigned
	builtIn.ResolvConf = resolvedConf

	operator := input(Operator, head+`# the operator's own
authentication:
  x509: {clientCAFile: /there/ca.crt}
containerRuntimeEndpoint: unix:///run/crio/crio.sock
resolvConf: ""
registerWithTaints: []
tlsCertFile: pki/kubelet.crt
tlsPrivateKeyFile: /there/key.pem
maxPods: 250
podPidsLimit: 9007199254740993
imageGCHighThresholdPercent: 85
memoryThrottlingFactor: 0.85
aFieldOfTheFuture: {a: [1, two, {three: 3.0}]}
clusterDNS: ["10.0.0.10"]
evictionHard: {"memory.available": "5%", nodefs.available: "10%"}
`)
	operator.RegisterWithTaints = builtIn.RegisterWithTaints
	operator.ServingCertificate = ServingCluster
	operator.ResolvConf = resolvedConf

	cluster := input(Cluster, kubeadmConfig)
	cluster.ResolvConf = resolvedConf
	for name, in := range map[string]RenderInput{"built-in": builtIn, "operator": operator, "cluster": cluster} {
		t.Run(name, func(t *testing.T) {
			out, notes := render(t, in)
			for _, n := range notes {
				out += "# note: " + n.String() + "\n"
			}
			golden(t, "config-"+name+".yaml", []byte(out))
		})
	}
}

func TestRenderingAResultAgainChangesNothing(t *testing.T) {
	for _, in := range []RenderInput{input(Cluster, kubeadmConfig), input(Operator, head)} {
		in.ResolvConf = resolvedConf
		in.FileExists = func(string) bool { return true }
		out, _ := render(t, in)
		in.Base = []byte(out)
		if again, _ := render(t, in); again != out {
			t.Errorf("%s:\n%s\nthen:\n%s", in.Source, out, again)
		}
	}
}

func TestPathsOfTheClusterThatDoNotExistHereCountAsNotGiven(t *testing.T) {
	in := input(Cluster, head+`authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
resolvConf: /run/systemd/resolve/resolv.conf
containerRuntimeEndpoint: unix:///run/other.sock
imageServiceEndpoint: unix:///run/other.sock
staticPodPath: /etc/kubernetes/manifests
clusterDNS: [10.96.0.10]
cgroupDriver: systemd
`)
	out, notes := render(t, in)
	for _, want := range []string{"clientCAFile: /var/lib/kubelet/pki/ca.crt", "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock", "staticPodPath: /etc/kubernetes/manifests"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	for _, gone := range []string{"resolvConf", "imageServiceEndpoint", "/run/other.sock"} {
		if strings.Contains(out, gone) {
			t.Errorf("%q is still in:\n%s", gone, out)
		}
	}
	if got := fields(notes); !slices.Equal(got, []string{"authentication.x509.clientCAFile", "resolvConf", "containerRuntimeEndpoint", "imageServiceEndpoint"}) {
		t.Errorf("notes: %v", notes)
	}
	in.FileExists = func(string) bool { return true }
	out, _ = render(t, in)
	for _, want := range []string{"/etc/kubernetes/pki/ca.crt", "/run/systemd/resolve/resolv.conf", "/run/other.sock"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s exists here, but was replaced:\n%s", want, out)
		}
	}
	in = input(Cluster, head+"containerRuntimeEndpoint: unix:///run/other.sock\n")
	in.RuntimeEndpoint = ""
	if out, _ := render(t, in); !strings.Contains(out, "/run/other.sock") {
		t.Errorf("left out with nothing to put in its place:\n%s", out)
	}
}

func TestNamedFilesThatDoNotExistAreRefused(t *testing.T) {
	for _, c := range []struct {
		source Source
		doc    string
		fields []string
	}{
		{Operator, "tlsCertFile: /no/cert\ntlsPrivateKeyFile: /no/key", []string{"tlsCertFile", "tlsPrivateKeyFile"}},
		{Operator, "authentication: {x509: {clientCAFile: /no/ca}}", []string{"authentication.x509.clientCAFile"}},
		{Operator, "resolvConf: /no/resolv.conf", []string{"resolvConf"}},
		{Operator, "tlsCertFile: no/relative", []string{"tlsCertFile"}},
		{Cluster, "tlsCertFile: /no/cert\ntlsPrivateKeyFile: /no/key", []string{"tlsCertFile", "tlsPrivateKeyFile"}},
	} {
		in := input(c.source, head+c.doc+"\n")
		if strings.Contains(c.doc, "relative") {
			in.FileExists = func(path string) bool {
				if path != "/var/lib/kubelet/no/relative" {
					t.Errorf("looked at %s", path)
				}
				return false
			}
		}
		_, _, err := RenderConfig(in)
		wantFault(t, err, fault.ConfigInvalid, append(c.fields, string(c.source), "does not exist on this machine")...)
		if c.source == Cluster && !strings.Contains(fault.HintOf(err), "kube-system") {
			t.Errorf("hint: %s", fault.HintOf(err))
		}
	}
}

func TestConfigsThatAreNoneAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ doc, text string }{
		"empty":           {"", "is empty"},
		"null":            {"~\n", "no mapping"},
		"other kind":      {"apiVersion: v1\nkind: ConfigMap\n", "apiVersion: kubelet.config.k8s.io/v1beta1"},
		"other version":   {"apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\n", "apiVersion"},
		"no version":      {"kind: KubeletConfiguration\n", "apiVersion"},
		"no kind":         {"apiVersion: kubelet.config.k8s.io/v1beta1\n", "kind"},
		"doubled key":     {head + "maxPods: 1\nmaxPods: 2\n", "maxPods"},
		"doubled deeper":  {head + "authentication: {webhook: {enabled: true, enabled: false}}\n", "enabled"},
		"second document": {head + "---\n" + head, "second document"},
		"tabs":            {head + "a:\n\t- b\n", "does not parse"},
		"text for a map":  {head + "authentication: none\n", "authentication: must be a mapping"},
		"list for a map":  {head + "authentication: {x509: []}\n", "authentication.x509: must be a mapping"},
		"number for path": {head + "tlsCertFile: 5\n", "tlsCertFile: must be a string"},
		"list for path":   {head + "resolvConf: [a]\n", "resolvConf: must be a string"},
		"map for text":    {head + "containerRuntimeEndpoint: {a: b}\n", "containerRuntimeEndpoint: must be a string"},
		"not a number":    {head + "memoryThrottlingFactor: .nan\n", "does not parse"},
		"control":         {head + "clusterDomain: \"a\\x7fb\"\n", "cannot be written as YAML"},
	} {
		for _, source := range []Source{Operator, Cluster} {
			t.Run(name+" from "+string(source), func(t *testing.T) {
				_, _, err := RenderConfig(input(source, c.doc))
				wantFault(t, err, fault.ConfigInvalid, string(source), c.text)
			})
		}
	}
	in := input(BuiltIn, "")
	in.ServingCertificate = "sideways"
	_, _, err := RenderConfig(in)
	wantFault(t, err, fault.ConfigInvalid, "kubelet.servingCertificate", "self-signed or cluster")
}

func TestErrorsOfConfigsDoNotShowValues(t *testing.T) {
	for _, doc := range []string{
		head + "staticPodURLHeader: {Authorization: [hush]}\nmaxPods: 1\nmaxPods: hush\n",
		head + "staticPodURLHeader: !!int hush\n",
		head + "staticPodURLHeader: {~: hush}\n",
		head + "staticPodURLHeader: [hush\n",
		head + "tlsCertFile: {hush: hush}\n",
		head + "authentication: hush\n",
	} {
		if _, _, err := RenderConfig(input(Operator, doc)); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%v", err)
		}
	}
}

func TestWhatIsSetOnTop(t *testing.T) {
	in := input(Operator, head+"rotateCertificates: false\nserverTLSBootstrap: true\ncgroupDriver: systemd\nclusterDNS: [10.0.0.10]\n")
	out, notes := render(t, in)
	for _, want := range []string{"rotateCertificates: true\n", "serverTLSBootstrap: true\n", "clientCAFile: /var/lib/kubelet/pki/ca.crt\n", "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	for _, not := range []string{"resolvConf", "registerWithTaints", "clusterDomain"} {
		if strings.Contains(out, not) {
			t.Errorf("%s was added:\n%s", not, out)
		}
	}
	if len(notes) != 0 {
		t.Errorf("notes: %v", notes)
	}
	in.ServingCertificate = ServingSelfSigned
	if out, _ := render(t, in); !strings.Contains(out, "serverTLSBootstrap: false\n") {
		t.Errorf("self-signed:\n%s", out)
	}
	in = input(Operator, head+"authentication: null\n")
	in.ClientCAFile, in.RuntimeEndpoint = "", ""
	if out, _ := render(t, in); strings.Contains(out, "clientCAFile") || strings.Contains(out, "containerRuntimeEndpoint") {
		t.Errorf("set to nothing:\n%s", out)
	}
}

func TestNotes(t *testing.T) {
	taints := []Taint{{"a", "b", "NoSchedule"}}
	for name, c := range map[string]struct {
		change func(*RenderInput)
		doc    string
		want   []string
	}{
		"all is well":              {nil, "clusterDNS: [a]\ncgroupDriver: systemd\n", nil},
		"no DNS":                   {nil, "cgroupDriver: systemd\n", []string{"clusterDNS"}},
		"other DNS":                {func(in *RenderInput) { in.ClusterDNS = []string{"b"} }, "clusterDNS: [a]\ncgroupDriver: systemd\n", []string{"clusterDNS"}},
		"same DNS":                 {func(in *RenderInput) { in.ClusterDNS = []string{"a"} }, "clusterDNS: [a]\ncgroupDriver: systemd\n", nil},
		"cgroup v1":                {func(in *RenderInput) { in.CgroupV2 = false }, "clusterDNS: [a]\ncgroupDriver: systemd\n", []string{"failCgroupV1"}},
		"cgroup v1, wanted":        {func(in *RenderInput) { in.CgroupV2 = false }, "clusterDNS: [a]\nfailCgroupV1: false\n", nil},
		"cgroup v1, not wanted":    {func(in *RenderInput) { in.CgroupV2 = false }, "clusterDNS: [a]\nfailCgroupV1: true\n", []string{"failCgroupV1"}},
		"runtime differs":          {func(in *RenderInput) { in.CgroupDriver = DriverCgroupfs }, "clusterDNS: [a]\ncgroupDriver: systemd\n", []string{"cgroupDriver"}},
		"runtime differs from it":  {func(in *RenderInput) { in.CgroupDriver = DriverSystemd }, "clusterDNS: [a]\n", []string{"cgroupDriver"}},
		"cgroupfs on v2":           {func(in *RenderInput) { in.CgroupDriver = DriverCgroupfs }, "clusterDNS: [a]\n", []string{"cgroupDriver"}},
		"own taints":               {func(in *RenderInput) { in.RegisterWithTaints = taints }, "clusterDNS: [a]\ncgroupDriver: systemd\nregisterWithTaints: [{key: x, effect: NoExecute}]\n", []string{"registerWithTaints"}},
		"same taints":              {func(in *RenderInput) { in.RegisterWithTaints = taints }, "clusterDNS: [a]\ncgroupDriver: systemd\nregisterWithTaints: [{key: a, value: b, effect: NoSchedule}]\n", nil},
		"own runtime":              {nil, "clusterDNS: [a]\ncgroupDriver: systemd\ncontainerRuntimeEndpoint: unix:///run/crio/crio.sock\n", []string{"containerRuntimeEndpoint"}},
		"own CA":                   {nil, "clusterDNS: [a]\ncgroupDriver: systemd\nauthentication: {x509: {clientCAFile: /there/ca}}\n", []string{"authentication.x509.clientCAFile"}},
		"runtime says the same":    {func(in *RenderInput) { in.CgroupDriver = DriverSystemd }, "clusterDNS: [a]\ncgroupDriver: systemd\n", nil},
		"driver of the wrong kind": {func(in *RenderInput) { in.CgroupDriver = DriverSystemd }, "clusterDNS: [a]\ncgroupDriver: [x]\n", []string{"cgroupDriver"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(Operator, head+c.doc)
			if c.change != nil {
				c.change(&in)
			}
			if _, notes := render(t, in); !slices.Equal(fields(notes), c.want) {
				t.Errorf("notes: %v, want %v", notes, c.want)
			}
		})
	}
}

func TestBuiltInDefaultsAreWhatTheTableSays(t *testing.T) {
	in := input(BuiltIn, "")
	in.ClusterDNS = []string{"10.96.0.10"}
	in.RegisterWithTaints = []Taint{{"a", "", "NoSchedule"}}
	in.ServingCertificate = ServingCluster
	in.ResolvConf = resolvedConf
	out, _ := render(t, in)
	doc, err := parseDocument([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, d := range BuiltInDefaults() {
		if d.Key == "" || d.Value == "" || d.Reason == "" {
			t.Errorf("incomplete: %+v", d)
		}
		if v, err := document(doc).get(d.Key); v == nil || err != nil {
			t.Errorf("%s is in the table, but not in the file", d.Key)
		}
		listed = append(listed, d.Key)
	}
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for k, v := range m {
			key := strings.TrimPrefix(prefix+"."+k, ".")
			if inner, ok := v.(map[string]any); ok {
				walk(key, inner)
			} else if key != "apiVersion" && key != "kind" && !slices.Contains(listed, key) {
				t.Errorf("%s is in the file, but not in the table", key)
			}
		}
	}
	walk("", doc)
	for _, driver := range []string{DriverCgroupfs, DriverSystemd} {
		in.CgroupDriver = driver
		if out, _ := render(t, in); !strings.Contains(out, "cgroupDriver: "+driver+"\n") {
			t.Errorf("runtime says %s:\n%s", driver, out)
		}
	}
}

func FuzzRenderConfig(f *testing.F) {
	f.Add([]byte(head+"maxPods: 10\n"), true)
	f.Add([]byte(kubeadmConfig), false)
	f.Add([]byte(head+"authentication: {x509: null}\nregisterWithTaints: {}\n"), true)
	f.Add([]byte(head+"a: {yes: no, 1e3: 0x10, \"1e3x\": \"0o7\"}\n"), false)
	f.Fuzz(func(t *testing.T, base []byte, exists bool) {
		in := input(Cluster, string(base))
		in.RegisterWithTaints = []Taint{{"a", "b", "NoSchedule"}}
		in.ServingCertificate = ServingCluster
		in.FileExists = func(string) bool { return exists }
		out, _, err := RenderConfig(in)
		if err != nil {
			return
		}
		before, err := parseDocument(base)
		if err != nil {
			t.Fatal(err)
		}
		after, err := parseDocument(out)
		if err != nil {
			t.Fatalf("our own result does not parse: %v\n%s", err, out)
		}
		if after["rotateCertificates"] != true || after["serverTLSBootstrap"] != true {
			t.Errorf("not set on top:\n%s", out)
		}
		managed := []string{"rotateCertificates", "serverTLSBootstrap", "authentication", "containerRuntimeEndpoint", "imageServiceEndpoint", "registerWithTaints", "resolvConf"}
		for key, value := range before {
			if slices.Contains(managed, key) {
				continue
			}
			want, _ := yaml.Marshal(value)
			got, _ := yaml.Marshal(after[key])
			if !bytes.Equal(want, got) {
				t.Errorf("%q: %s became %s", key, want, got)
			}
		}
	})
}

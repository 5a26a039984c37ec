package kubelet

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestParseRuntimeEndpoint(t *testing.T) {
	for in, want := range map[string]Runtime{
		"unix:///run/containerd/containerd.sock":     {Name: containerd, Endpoint: "unix:///run/containerd/containerd.sock", Unit: "containerd.service"},
		"/run/containerd/containerd.sock":            {Name: containerd, Endpoint: "unix:///run/containerd/containerd.sock", Unit: "containerd.service"},
		"unix:///var/run/crio/crio.sock":             {Name: crio, Endpoint: "unix:///var/run/crio/crio.sock", Unit: "crio.service"},
		"unix:///run//cri-dockerd.sock":              {Name: criDockerd, Endpoint: "unix:///run/cri-dockerd.sock", Unit: "cri-docker.service"},
		"unix:///run/k3s/containerd/containerd.sock": {Name: "", Endpoint: "unix:///run/k3s/containerd/containerd.sock", Unit: ""},
	} {
		if got, err := ParseRuntimeEndpoint(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "containerd.sock", "unix://", "unix://run/x", "tcp://1.2.3.4:5", "npipe:////./pipe/x", "http://x", "unix:///a\nb", "unix:///a?b", "unix:///" + strings.Repeat("x", 200)} {
		_, err := ParseRuntimeEndpoint(in)
		wantFault(t, err, fault.ConfigInvalid, "kubelet.containerRuntimeEndpoint")
	}
}

// asks answers for the sockets of Runtimes: absent where nothing is said.
func asks(answers map[string]error) Ask {
	return func(_ context.Context, socket string) (Answer, error) {
		for _, r := range Runtimes() {
			if r.Socket() != socket {
				continue
			}
			err, there := answers[r.Name]
			if !there {
				return Answer{}, unreadyf(absent, "there is no such socket")
			}
			if err == nil {
				return Answer{Version: r.Name + " 9"}, nil
			}
			return Answer{}, err
		}
		return Answer{}, answers[socket]
	}
}

func TestTheFirstRuntimeThatAnswersIsTakenAndTheOthersAreNoted(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]error
		want    string
		notes   []string
	}{
		"one":                        {map[string]error{crio: nil}, crio, nil},
		"two":                        {map[string]error{crio: nil, containerd: nil}, containerd, []string{"CRI-O answers too, on /run/crio/crio.sock; containerd is used. Set kubelet.containerRuntimeEndpoint"}},
		"three":                      {map[string]error{criDockerd: nil, crio: nil, containerd: nil}, containerd, []string{"CRI-O answers too", "cri-dockerd answers too"}},
		"cri-dockerd, with Docker's": {map[string]error{criDockerd: nil, containerd: unreadyf(withoutCRI, "it serves no CRI")}, criDockerd, []string{"/run/containerd/containerd.sock: it serves no CRI; cri-dockerd is used"}},
		"a socket that was left":     {map[string]error{containerd: nil, crio: unreadyf(refused, "nobody listens")}, containerd, []string{"/run/crio/crio.sock: nobody listens"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, notes, err := Host{Root: t.TempDir()}.FindRuntime(t.Context(), Named{}, Runtimes(), asks(c.answers))
			if err != nil || r.Name != c.want || r.Version != c.want+" 9" || len(notes) != len(c.notes) {
				t.Fatalf("%+v, %v, %v", r, notes, err)
			}
			for i, text := range c.notes {
				if !strings.Contains(notes[i].String(), text) {
					t.Errorf("note %q, want %q", notes[i], text)
				}
			}
		})
	}
}

// Each case has a sentence and a next step of its own.
func TestAMachineWithoutARuntimeIsToldWhatIsMissing(t *testing.T) {
	const dockers = "# Docker's packages ship this.\n#root = \"/var/lib/containerd\"\ndisabled_plugins = [\"cri\"]\n"
	noCRI, silence := unreadyf(withoutCRI, "it serves no CRI"), unreadyf(silent, "no answer within 2s")
	for name, c := range map[string]struct {
		files   []string // path, or path and content
		answers map[string]error
		named   string
		says    string
		hint    string
	}{
		"nothing at all": {nil, nil, "",
			"no container runtime is installed: neither a socket (/run/containerd/containerd.sock, /run/crio/crio.sock, /run/cri-dockerd.sock) nor a program (containerd, CRI-O, cri-dockerd)", "`apt-get install containerd`"},
		"installed, not running": {[]string{"/usr/bin/containerd"}, nil, "",
			"containerd is installed (/usr/bin/containerd) but does not run: there is no /run/containerd/containerd.sock", "`systemctl enable --now containerd`"},
		"a tarball's CRI-O":      {[]string{"/usr/local/bin/crio"}, nil, "", "CRI-O is installed (/usr/local/bin/crio)", "`systemctl enable --now crio`"},
		"a folder is no program": {[]string{"/usr/bin/containerd/x"}, nil, "", "no container runtime is installed", "Install one"},
		"a dead socket": {nil, map[string]error{containerd: unreadyf(refused, "nobody listens")}, "",
			"containerd does not run: nobody listens on /run/containerd/containerd.sock", "`systemctl enable --now containerd`"},
		"listens, says nothing": {nil, map[string]error{containerd: silence}, "",
			"containerd listens on /run/containerd/containerd.sock but does not answer: no answer within 2s", "`systemctl restart containerd`"},
		"is starting": {nil, map[string]error{containerd: unreadyf(failing, `"not initialized"`)}, "",
			`containerd answers on /run/containerd/containerd.sock, but is not ready: "not initialized"`, "`journalctl -u containerd`"},
		"CRI disabled as Docker ships it": {[]string{"/etc/containerd/config.toml", dockers}, map[string]error{containerd: noCRI}, "",
			`containerd runs without its CRI plugin: line 3 of /etc/containerd/config.toml disables it (disabled_plugins = ["cri"])`, "Take the CRI plugin out of that line of /etc/containerd/config.toml, then `systemctl restart containerd`."},
		"CRI disabled, and Docker runs": {[]string{"/etc/containerd/config.toml", dockers, "/run/docker.sock", ""}, map[string]error{containerd: noCRI}, "",
			`(disabled_plugins = ["cri"]); Docker runs here (/run/docker.sock), but a kubelet can use Docker only through cri-dockerd`, "`systemctl restart containerd`. Or, to use Docker: install cri-dockerd"},
		"CRI failed, the config is fine": {[]string{"/etc/containerd/config.toml", "version = 2\n"}, map[string]error{containerd: noCRI}, "",
			"containerd runs without its CRI plugin: it is disabled, or failed when containerd was started", "`ctr plugins ls | grep cri`"},
		"no CRI on CRI-O's socket": {nil, map[string]error{crio: noCRI}, "", "what answers on /run/crio/crio.sock serves no CRI", "ss -xlp"},
		"Docker alone": {[]string{"/run/docker.sock", ""}, nil, "",
			"Docker runs here (/run/docker.sock), but a kubelet can use Docker only through cri-dockerd, which has no socket", "install cri-dockerd and run `systemctl enable --now cri-docker.socket`"},
		"Docker, cri-dockerd installed": {[]string{"/run/docker.sock", "", "/usr/bin/cri-dockerd", ""}, nil, "", "cri-dockerd is installed (/usr/bin/cri-dockerd) but does not run", "`systemctl enable --now cri-docker`"},
		"Docker, cri-dockerd starting":  {[]string{"/run/docker.sock", ""}, map[string]error{criDockerd: silence}, "", "cri-dockerd listens on /run/cri-dockerd.sock but does not answer", "`systemctl restart cri-docker`"},
		"too old": {nil, map[string]error{containerd: unreadyf(outdated, "containerd 1.5.9")}, "",
			"containerd on /run/containerd/containerd.sock is too old (containerd 1.5.9): it knows only CRI v1alpha2, a kubelet needs v1", "containerd 1.6 or later"},
		"too old, another": {nil, map[string]error{crio: unreadyf(outdated, "cri-o 1.19")}, "", "CRI-O on /run/crio/crio.sock is too old", "serves CRI v1"},
		"an empty answer": {nil, map[string]error{containerd: unreadyf(incomplete, "runtime_name")}, "",
			"what answers on /run/containerd/containerd.sock does not say what it is (empty: runtime_name)", "Install containerd"},
		"a stranger": {nil, map[string]error{crio: unreadyf(foreign, "it speaks HTTP/1, not gRPC")}, "",
			"what listens on /run/crio/crio.sock is no container runtime for a kubelet: it speaks HTTP/1", "`ss -xlp | grep /run/crio/crio.sock`"},
		"not allowed": {nil, map[string]error{containerd: unreadyf(forbidden, "permission denied")}, "", "/run/containerd/containerd.sock cannot be opened: permission denied", "root"},
		"several, the nearest first in the hint": {nil, map[string]error{containerd: unreadyf(refused, "nobody listens"), crio: silence}, "",
			"containerd does not run: nobody listens on /run/containerd/containerd.sock; CRI-O listens on", "`systemctl restart crio`"},
		"named, absent": {nil, map[string]error{"/run/k3s.sock": unreadyf(absent, "")}, "unix:///run/k3s.sock",
			"kubelet.containerRuntimeEndpoint: there is no /run/k3s.sock", "Start the container runtime that serves /run/k3s.sock. If the runtime has another socket, mend kubelet.containerRuntimeEndpoint."},
		"named, known, not installed": {nil, nil, "/run/crio/crio.sock", "kubelet.containerRuntimeEndpoint: there is no /run/crio/crio.sock", "Install CRI-O and start it: `systemctl enable --now crio`"},
		"named, known, installed":     {[]string{"/usr/bin/crio"}, nil, "/run/crio/crio.sock", "CRI-O is installed (/usr/bin/crio) but does not run", "Start it: `systemctl enable --now crio`"},
		"named, silent":               {nil, map[string]error{"/run/k3s.sock": silence}, "/run/k3s.sock", "the container runtime listens on /run/k3s.sock but does not answer", "It may be starting."},
		"named, it is Docker's": {[]string{"/run/docker.sock", ""}, map[string]error{"/var/run/docker.sock": unreadyf(foreign, "it speaks HTTP/1, not gRPC")}, "unix:///var/run/docker.sock",
			"what listens on /var/run/docker.sock is no container runtime for a kubelet: it speaks HTTP/1, not gRPC; Docker runs here", "To use Docker: install cri-dockerd"},
		"another Ask's error": {nil, map[string]error{containerd: errors.New("refused")}, "", "but is not ready: refused", "It may be starting"},
	} {
		t.Run(name, func(t *testing.T) {
			h := Host{Root: t.TempDir()}
			for i := 0; i < len(c.files); i += 2 {
				content := ""
				if i+1 < len(c.files) {
					content = c.files[i+1]
				}
				write(t, h.Root+c.files[i], []byte(content), 0o644)
			}
			named := Named{}
			if c.named != "" {
				named = Named{c.named, endpointKey}
			}
			_, _, err := h.FindRuntime(t.Context(), named, Runtimes(), asks(c.answers))
			wantFault(t, err, fault.RuntimeNotReady, c.says)
			if hint := fault.HintOf(err); !strings.Contains(hint, c.hint) {
				t.Errorf("hint %q does not say %q", hint, c.hint)
			}
			if strings.Contains(err.Error()+fault.HintOf(err), "  ") || strings.Contains(fault.HintOf(err), "%!") {
				t.Errorf("%v -> %s", err, fault.HintOf(err))
			}
		})
	}
}

func TestANamedSocketIsAskedAloneOverTheWire(t *testing.T) {
	f := newFakeCRI(t, map[string]http.HandlerFunc{version: says(containerd16), runtimeConfig: says(field(1, ""))})
	g := newFakeCRI(t, map[string]http.HandlerFunc{version: says(containerd16)})
	others := []Runtime{{Name: crio, Endpoint: "unix://" + g.socket}}
	r, notes, err := Host{}.FindRuntime(t.Context(), Named{f.socket, endpointKey}, others, nil)
	if err != nil || r.Endpoint != "unix://"+f.socket || r.Version != "containerd 1.6.20~ds1" || len(notes) != 0 || g.connections != 0 {
		t.Errorf("%+v, %v, %v, %d", r, notes, err, g.connections)
	}
	if driver := (Host{Root: t.TempDir()}).CgroupDriver(r); driver != DriverSystemd {
		t.Errorf("driver %q: the runtime's own answer decides", driver)
	}
	_, _, err = Host{}.FindRuntime(t.Context(), Named{"tcp://x", "ConfigMap kube-system/kubelet-config: containerRuntimeEndpoint"}, nil, nil)
	wantFault(t, err, fault.ConfigInvalid, "ConfigMap kube-system/kubelet-config: containerRuntimeEndpoint \"tcp://x\"")
}

// All at once: three that never answer cost the time of one.
func TestCandidatesAreAskedAtOnce(t *testing.T) {
	together := make(chan struct{}, 3)
	full := make(chan struct{})
	ask := func(ctx context.Context, _ string) (Answer, error) {
		if together <- struct{}{}; len(together) == cap(together) {
			close(full)
		}
		select {
		case <-full:
			return Answer{}, unreadyf(silent, "no answer")
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, _, err := Host{Root: t.TempDir()}.FindRuntime(ctx, Named{}, Runtimes(), ask)
	wantFault(t, err, fault.RuntimeNotReady, "containerd listens", "CRI-O listens", "cri-dockerd listens")

	ended, end := context.WithCancel(t.Context())
	end()
	if _, _, err := (Host{}).FindRuntime(ended, Named{}, Runtimes(), nil); !errors.Is(err, context.Canceled) || fault.ReasonOf(err) != "" {
		t.Errorf("cancelled: %v", err)
	}
}

func TestWhoDecidesTheEndpoint(t *testing.T) {
	const configured = "unix:///run/configured.sock"
	says := func(endpoint string) []byte {
		return []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: \"" + endpoint + "\"\n")
	}
	exists := func(path string) bool { return path == "/run/there.sock" }
	for name, c := range map[string]struct {
		in      RenderInput
		dropIns [][]byte
		want    Named
	}{
		"only our config":                     {RenderInput{Source: BuiltIn, Base: says("unix:///run/there.sock")}, nil, Named{configured, endpointKey}},
		"the operator's document":             {RenderInput{Source: Operator, Base: says("unix:///run/later.sock")}, nil, Named{"unix:///run/later.sock", "kubelet.configFile: containerRuntimeEndpoint"}},
		"the operator's, nothing said":        {RenderInput{Source: Operator, Base: says("")}, nil, Named{configured, endpointKey}},
		"the cluster's, it is here":           {RenderInput{Source: Cluster, Base: says("unix:///run/there.sock")}, nil, Named{"unix:///run/there.sock", "ConfigMap kube-system/kubelet-config: containerRuntimeEndpoint"}},
		"the cluster's, it is not here":       {RenderInput{Source: Cluster, Base: says("unix:///run/none.sock")}, nil, Named{configured, endpointKey}},
		"the cluster's, no socket":            {RenderInput{Source: Cluster, Base: says("npipe:////./x")}, nil, Named{"npipe:////./x", "ConfigMap kube-system/kubelet-config: containerRuntimeEndpoint"}},
		"a document that does not parse":      {RenderInput{Source: Operator, Base: []byte("{{")}, nil, Named{configured, endpointKey}},
		"a value that is no string":           {RenderInput{Source: Operator, Base: []byte("containerRuntimeEndpoint: [1]\n")}, nil, Named{configured, endpointKey}},
		"drop-ins over all, the last of them": {RenderInput{Source: Operator, Base: says("unix:///run/there.sock")}, [][]byte{says("/run/a.sock"), says("/run/b.sock"), says("")}, Named{"/run/b.sock", "kubelet.configDir: containerRuntimeEndpoint"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.FileExists = exists
			if got := c.in.NamedRuntime(configured, c.dropIns); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	if got := (RenderInput{Source: BuiltIn}).NamedRuntime("", nil); got != (Named{}) {
		t.Errorf("%+v", got)
	}
}

func TestTheLineThatDisablesTheCRIPluginIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		line int
		says string
	}{
		"Docker's":                 {"# x\n\ndisabled_plugins = [\"cri\"]\n", 3, `disabled_plugins = ["cri"]`},
		"among others":             {`disabled_plugins = ["aufs", 'io.containerd.grpc.v1.cri']  # why`, 1, `disabled_plugins = ["aufs", 'io.containerd.grpc.v1.cri']`},
		"containerd 2":             {`disabled_plugins=["io.containerd.cri.v1.runtime"]`, 1, "io.containerd.cri.v1.runtime"},
		"over several lines":       {"version = 2\ndisabled_plugins = [\n  \"aufs\",\n  \"cri\",\n]\n", 4, `"cri",`},
		"none":                     {"disabled_plugins = []\n", 0, ""},
		"another":                  {"disabled_plugins = [\"aufs\"]\nrequired_plugins = [\"cri\"]\n", 0, ""},
		"another, over lines":      {"disabled_plugins = [\n\"aufs\"\n]\nrequired_plugins = [\"cri\"]\n", 0, ""},
		"commented out":            {"#disabled_plugins = [\"cri\"]\n", 0, ""},
		"commented inside":         {"disabled_plugins = [\n# \"cri\"\n]\n", 0, ""},
		"in a table":               {"[x]\ndisabled_plugins = [\"cri\"]\n", 0, ""},
		"a name that begins so":    {"disabled_plugins = [\"cri-x\"]\n", 0, ""},
		"what is not for a screen": {"disabled_plugins = [\"cri\", \"\x1b[2J\"]\n", 1, `"cri"`},
	} {
		t.Run(name, func(t *testing.T) {
			h := Host{Root: t.TempDir()}
			write(t, h.Root+containerdConfig, []byte(c.text), 0o644)
			line, says := h.disabledCRI(Runtime{Name: containerd})
			if line != c.line || !strings.Contains(says, c.says) || strings.Contains(says, "\x1b") {
				t.Errorf("line %d, %q", line, says)
			}
			if line, _ := h.disabledCRI(Runtime{Name: crio}); line != 0 {
				t.Error("found for another runtime")
			}
		})
	}
	if line, _ := (Host{Root: t.TempDir()}).disabledCRI(Runtime{Name: containerd}); line != 0 {
		t.Error("found in no file")
	}
}

//go:build e2e

package hostile

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

var injectSeed = flag.Uint64("inject.seed", 0, "of the random hostile arguments; 0: another one each time")

// pieces are what a reader of YAML, a parser of units, a shell or a terminal might
// stumble over and a kubelet may all the same be given.
var pieces = []string{
	"\"", "'", "\\", "\\n", "\\x41", "\\\"", "\\ ", " ", "  ", "%", "%%", "%n", "%H", "$", "$$", "$HOME", "${HOME}", "${", "$KUBELET_EXTRA_ARGS", "$(id)", "`id`",
	";", " ; ", "#", " #", "-", "--", "---", "@", "!", "!!str ", "&a", "*a", "+", ":", ": ", "|", ">", "= ", "=", "[Service]", "ExecStart=/bin/false", ",", "/", "..", "?", "[a]", "{b}", "~", "null", "<0>",
	"ü", "節", "🚀", "\u00a0", "\u00ad", "a", "Z", "0", "0x1F", strings.Repeat("x", 100),
}

// yamlOf writes a value as JSON, which is YAML.
func yamlOf(v any) string {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(out.String())
}

// escaped is the same in ASCII alone: a file that holds a control character as it
// is gets refused for that, before its keys are looked at.
func escaped(v any) string {
	var out strings.Builder
	for _, r := range yamlOf(v) {
		if r < 0x7f {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// T17: 500 random hostile arguments and hostile paths go through a config file, the
// packaged program, the unit that it writes and a real systemd, and arrive at the
// kubelet as they were.
func TestRandomHostileArgumentsArriveAtTheKubeletUnchanged(t *testing.T) {
	seed := *injectSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-inject.seed=%d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	extra := []string{"--healthz-port=" + freePort()}
	for range 500 {
		var text strings.Builder
		text.WriteString("--x=")
		for range 1 + random.IntN(8) {
			text.WriteString(pieces[random.IntN(len(pieces))])
		}
		extra = append(extra, text.String())
	}
	const folder = `/etc/kubelet.d/a "b" 'c' \d %n ; # $ é`
	const socket = `/run/r "s" %n.sock`
	const binary = `/opt/b in/ku;be #%n é/kubelet`
	const name = "a-9.b-0"
	labels := []string{"example.org/Foo=a_b.C-1", "z=", "node.kubernetes.io/x=1"}
	taints := []string{"example.org/a=b_c.D:NoSchedule", "q:NoExecute"}

	s := cluster(t, false)
	m := newSmall(t, configFor(s, "nodeName: "+name+"\nnodeLabels: "+yamlOf(labels)+"\nnodeTaints: "+yamlOf(taints)+"\nkubelet: "+yamlOf(map[string]any{
		"extraArgs": extra, "configDir": folder, "containerRuntimeEndpoint": "unix://" + socket, "binary": binary,
	})+"\n"))
	for _, dir := range []string{folder, filepath.Dir(binary)} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runtime(t, filepath.Join(m.dir, socket))
	if err := os.Rename(filepath.Join(m.dir, "opt/bin/kubelet"), filepath.Join(m.dir, binary)); err != nil {
		t.Fatal(err)
	}
	defer registers(t, m, s, name)()
	r := m.run(t, 90*time.Second, "join", "--timeout", "60s")
	if r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.stderr)
	}
	slices.Sort(labels)
	want := append([]string{
		binary, "--config=/var/lib/kubelet/config.yaml", "--kubeconfig=/var/lib/kubelet/kubeconfig", "--cert-dir=/var/lib/kubelet/pki",
		"--rotate-certificates=true", "--hostname-override=" + name, "--config-dir=" + folder, "--node-labels=" + strings.Join(labels, ","),
	}, extra...)
	got := m.argv(t)
	for i := range max(len(want), len(got)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("%d arguments, want %d; the first that differs: %.200q, want %.200q", len(got), len(want), got[min(i, len(got)):], want[min(i, len(want)):])
		}
	}
	config, err := os.ReadFile(filepath.Join(m.dir, "lib/kubelet/config.yaml"))
	if err != nil || !strings.Contains(string(config), socket) || !strings.Contains(string(config), "b_c.D") {
		t.Errorf("the kubelet's config.yaml lacks socket or taint: %v\n%s", err, config)
	}
	judgeText(t, "join", r)
}

// T17: what cannot be carried is refused by the name of its key before anything is
// written or anybody is asked.
func TestWhatCannotBeCarriedIsRefusedByNameBeforeAnything(t *testing.T) {
	evil := []string{"a\nExecStartPre=/bin/touch /pwned", "a\x00b", "a\x1b[2Jb", "a\rb", "a\u202eb", "a\u2028b", "a\u0085b", "a\x7fb"}
	for key, format := range map[string]func(bad string) string{
		"nodeName":      func(bad string) string { return "nodeName: " + escaped(bad) },
		"nodeIP":        func(bad string) string { return "nodeIP: " + escaped(bad) },
		"nodeLabels":    func(bad string) string { return "nodeLabels: " + escaped([]string{"a=" + bad}) },
		"nodeTaints":    func(bad string) string { return "nodeTaints: " + escaped([]string{"a=" + bad + ":NoSchedule"}) },
		"server":        func(bad string) string { return "server: " + escaped("https://"+bad) },
		"endpoints":     func(bad string) string { return "endpoints: " + escaped([]string{bad + ":6443"}) },
		"proxyURL":      func(bad string) string { return "proxyURL: " + escaped("http://"+bad) },
		"noProxy":       func(bad string) string { return "noProxy: " + escaped(bad) + "\nproxyURL: http://127.0.0.1:1" },
		"clusterDomain": func(bad string) string { return "clusterDomain: " + escaped(bad) },
		"clusterDNS":    func(bad string) string { return "clusterDNS: " + escaped([]string{bad}) },
		"tokenFile":     func(bad string) string { return "tokenFile: " + escaped("/etc/"+bad) },
		"caCertHashes":  func(bad string) string { return "caCertHashes: " + escaped([]string{bad}) },
		"kubelet.extraArgs": func(bad string) string {
			return "kubelet: " + escaped(map[string]any{"extraArgs": []string{"--x=" + bad}})
		},
		"kubelet.binary":       func(bad string) string { return "kubelet: " + escaped(map[string]any{"binary": "/opt/" + bad}) },
		"kubelet.configFile":   func(bad string) string { return "kubelet: " + escaped(map[string]any{"configFile": "/etc/" + bad}) },
		"kubelet.configDir":    func(bad string) string { return "kubelet: " + escaped(map[string]any{"configDir": "/etc/" + bad}) },
		"kubelet.clientCAFile": func(bad string) string { return "kubelet: " + escaped(map[string]any{"clientCAFile": "/etc/" + bad}) },
		"kubelet.containerRuntimeEndpoint": func(bad string) string {
			return "kubelet: " + escaped(map[string]any{"containerRuntimeEndpoint": "unix:///run/" + bad})
		},
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			s := cluster(t, false)
			m := newSmall(t, "")
			for i, bad := range evil {
				config := configFor(s, "nodeName: n1\n")
				part := format(bad)
				first, _, _ := strings.Cut(part, ":")
				kept := slices.DeleteFunc(strings.Split(config, "\n"), func(line string) bool { return strings.HasPrefix(line, first+":") })
				m.write(t, "etc/bootstrap-agent/config.yaml", strings.Join(kept, "\n")+part+"\n", 0o600)
				command := []string{"check", "--config"}
				if i == 0 {
					command = []string{"join", "--timeout", "5s"}
				}
				r := m.run(t, 60*time.Second, command...)
				if r.code != fault.ExitConfig || !strings.Contains(r.stderr+r.stdout, key) {
					t.Errorf("%q: exit code %d: %s", bad, r.code, r.stdout+r.stderr)
				}
				judgeText(t, "refused", r)
			}
			if left := m.touched(t); len(left) > 0 || s.Connections() > 0 {
				t.Errorf("%d connections, and there lies %q", s.Connections(), left)
			}
		})
	}
}

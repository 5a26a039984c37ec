package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	pin      = "sha256:3f1a0c9e8d7b6a5f4e3d2c1b0a9f8e7d6c5b4a39281706f5e4d3c2b1a0f9e8d7"
	joinText = "kubeadm join 10.0.0.1:6443 --token " + goodToken + " --discovery-token-ca-cert-hash " + pin + " \n"
)

func TestUsageErrors(t *testing.T) {
	rows := []struct {
		name string
		args []string
		want string
	}{
		{"no command", nil, "Usage:"},
		{"an unknown command", []string{"statsu"}, "did you mean status?"},
		{"a token as command is not shown", []string{goodToken}, "there is no such command"},
		{"an unknown flag", []string{"status", "--frob"}, "there is no flag --frob"},
		{"a token flag", []string{"join", "--token", goodToken}, "other users see the command line"},
		{"a token in a wrong flag is not shown", []string{"join", "--" + goodToken}, "there is no such flag"},
		{"a token as flag value of another kind is not shown", []string{"join", "--timeout", goodToken}, "--timeout: the value is no duration"},
		{"a flag without its value", []string{"join", "--timeout"}, "--timeout needs a value"},
		{"an argument too many", []string{"run", goodToken}, "takes no arguments"},
		{"the token itself on the command line", []string{"token", "set", goodToken}, "never given on the command line"},
		{"token without set", []string{"token"}, "token set"},
		{"the join line on the command line", []string{"configure", joinText}, "not taken from the command line"},
		{"configure without file", []string{"configure"}, "one argument"},
		{"check without object", []string{"check"}, "--cluster, --machine or --config"},
		{"check with two objects", []string{"check", "--cluster", "--config"}, "--cluster, --machine or --config"},
		{"an unknown output", []string{"status", "-o", goodToken}, "--output: must be one of: text, json, yaml"},
		{"an unknown target of wait", []string{"wait", "--for", goodToken}, "--for: must be one of: joined, ready"},
		{"a negative timeout of wait", []string{"wait", "--timeout", "-1s"}, "--timeout"},
		{"a timeout of zero of join", []string{"join", "--timeout", "0s"}, "--timeout"},
		{"an unknown reason", []string{"explain", "CSRPendig"}, "did you mean CSRPending?"},
		{"a token as reason is not shown", []string{"explain", goodToken}, "there is no such reason"},
		{"explain without reason", []string{"explain"}, "--list"},
		{"an unknown shell", []string{"completion", "tcsh"}, "bash, zsh or fish"},
		{"what only builders have", []string{"generate", "catalog"}, "no such command"},
		{"a cluster without a token", []string{"check", "--cluster", "--endpoint", "127.0.0.1:1"}, "--token-file"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			d.wantCode(fault.ExitUsage, row.args...)
			d.wantText(row.want)
			d.wantNoSecret(goodToken, "x2m5v8b1n4c6y9ta")
			if d.stdout.Len() > 0 {
				t.Errorf("stdout has %q", d.stdout.String())
			}
		})
	}
}

func TestExplain(t *testing.T) {
	d := newDoor(t)
	for _, e := range fault.All() {
		d.wantCode(0, "explain", strings.ToLower(string(e.Reason)))
		d.wantText(string(e.Reason), e.Meaning, e.Remedy)
	}
	d.wantCode(0, "explain", "--list")
	for _, e := range fault.All() {
		d.wantText(string(e.Reason))
	}
	if d.stderr.Len() > 0 {
		t.Errorf("stderr has %q", d.stderr.String())
	}
}

func TestVersionAndCompletion(t *testing.T) {
	d := newDoor(t)
	d.wantCode(0, "version")
	d.wantText("bootstrap-agent ")
	d.wantCode(0, "version", "-o", "json")
	var b build
	if err := json.Unmarshal(d.stdout.Bytes(), &b); err != nil || b.Version == "" {
		t.Errorf("no JSON with a version: %v %s", err, d.output())
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		d.wantCode(0, "completion", shell)
		d.wantText("bootstrap-agent")
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestOutputThatCannotBeWrittenIsAFailure(t *testing.T) {
	d := newDoor(t)
	d.app.stdout = fullDisk{}
	d.wantCode(fault.ExitFailed, "version")
	d.wantText("cannot write to stdout")
}

func TestTokenSet(t *testing.T) {
	d := newDoor(t)
	file := d.path("token")
	set := func(stdin string) int {
		d.app.stdin = strings.NewReader(stdin)
		return d.call("token", "set", "--token-file", file)
	}
	if code := set(goodToken + "\n"); code != 0 {
		t.Fatalf("exit code %d: %s", code, d.output())
	}
	data, err := os.ReadFile(file)
	if err != nil || string(data) != goodToken+"\n" {
		t.Errorf("the file holds %q (%v)", data, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	d.wantText("id zq7w3k")
	d.wantNoSecret("x2m5v8b1n4c6y9ta")
	before := d.files()
	for name, stdin := range map[string]string{
		"nothing": "", "no dot": strings.ReplaceAll(goodToken, ".", ""), "upper case": strings.ToUpper(goodToken),
		"two newlines": goodToken + "\n\n", "a NUL": goodToken + "\x00", "quotes": `"` + goodToken + `"`,
		"a blank": "zq7w3k. x2m5v8b1n4c6y9t", "15 characters": goodToken[:22], "17 characters": goodToken + "a",
		"a whole file": strings.Repeat(goodToken+"\n", 1000),
	} {
		if code := set(stdin); code == 0 {
			t.Errorf("%s: accepted", name)
		}
		d.wantNoSecret("x2m5v8b1n4c6y9ta", "X2M5V8B1N4C6Y9TA")
	}
	if d.files() != before {
		t.Error("a refused token changed something")
	}
	d.write("config.yaml", goodConfig+"token: "+goodToken+"\n", 0o600)
	d.app.stdin = strings.NewReader(goodToken)
	d.wantCode(fault.ExitConfig, "token", "set", "--token-file", file)
	d.wantText("stands in the config file itself")
}

func TestTokenSetRefusesPathsOfOthers(t *testing.T) {
	d := newDoor(t)
	d.app.stdin = strings.NewReader(goodToken)
	d.wantCode(fault.ExitConfig, "token", "set", "--token-file", "/hidden/token")
	d.wantText("--token-file: tokenFile: lies under /hidden")
}

func TestConfigureWritesConfigAndToken(t *testing.T) {
	d := newDoor(t)
	token := d.path("etc/ba/token")
	d.app.configFile = d.path("etc/ba/config.yaml")
	args := []string{"configure", "-", "--token-file", token, "--node-label", "example.org/rack=r7", "--after-join", "observe", "--kubelet-extra-arg", "--v=2"}
	d.app.stdin = strings.NewReader(joinText)
	d.wantCode(0, args...)
	d.wantNoSecret("x2m5v8b1n4c6y9ta")
	data, err := os.ReadFile(d.app.configFile)
	if err != nil {
		t.Fatal(err)
	}
	want := `apiVersion: bootstrap-agent/v1
endpoints: ["10.0.0.1:6443"]
tokenFile: "` + token + `"
caCertHashes: ["` + pin + `"]
nodeLabels: ["example.org/rack=r7"]
afterJoin: "observe"
kubelet:
  extraArgs: ["--v=2"]
`
	if got := string(data[strings.Index(string(data), "apiVersion"):]); got != want {
		t.Errorf("config is\n%s\nwant\n%s", got, want)
	}
	for path, mode := range map[string]fs.FileMode{d.app.configFile: 0o600, token: 0o600, d.path("etc/ba"): fs.ModeDir | 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode(), mode, err)
		}
	}
	d.wantCode(0, "check", "--config")

	before := d.files()
	d.app.stdin = strings.NewReader(joinText)
	d.wantCode(0, args...)
	d.wantText("says the same already")
	if d.files() != before {
		t.Error("the same line again changed something")
	}

	other := strings.Replace(joinText, "10.0.0.1", "10.0.0.2", 1)
	d.app.stdin = strings.NewReader(other)
	d.wantCode(fault.ExitConfig, args...)
	d.wantText("exists and says something else; nothing was written", "--force")
	if d.files() != before {
		t.Error("a refused line changed something")
	}

	d.app.stdin = strings.NewReader(other)
	d.wantCode(0, append(args, "--force")...)
	old, err := os.ReadFile(d.app.configFile + ".old")
	if err != nil || string(old) != string(data) {
		t.Errorf("the old config is not kept: %v", err)
	}
}

func TestConfigureLearnsTheKubeletsVersionBeforeTheConfigAppears(t *testing.T) {
	d := newDoor(t)
	kubeletFile := d.write("kubelet-binary", "\x7fELF", 0o755)
	d.app.configFile = d.path("config.yaml")
	d.app.adapt = func(deps *agent.Deps) {
		deps.Host.Binaries = []string{kubeletFile}
		deps.Host.RunKubelet = func(context.Context, string, ...string) ([]byte, error) {
			if _, err := os.Stat(d.app.configFile); err == nil {
				t.Error("the config is there already and may have started the agent")
			}
			return []byte("Kubernetes v1.36.3\n"), nil
		}
	}
	d.app.stdin = strings.NewReader(joinText)
	d.wantCode(0, "configure", "-", "--token-file", d.path("token"))
	data, err := os.ReadFile(d.app.paths.BinaryFile())
	if err != nil || !strings.Contains(string(data), `"v1.36.3"`) {
		t.Errorf("%s (%v)", data, err)
	}
}

func TestConfigureNeedsNoKubelet(t *testing.T) {
	d := newDoor(t)
	d.app.configFile = d.path("config.yaml")
	d.app.adapt = func(deps *agent.Deps) { deps.Host.Binaries = []string{"/none"} }
	d.app.stdin = strings.NewReader(joinText)
	d.wantCode(0, "configure", "-", "--token-file", d.path("token"))
	if text := d.output(); strings.Contains(text, "/none") {
		t.Errorf("it speaks of what it does not need: %s", text)
	}
}

func TestConfigureTakesAFreshTokenForTheSameCluster(t *testing.T) {
	d := newDoor(t)
	for _, token := range []string{goodToken, "aaa111.b2c3d4e5f6g7h8i9"} {
		d.app.stdin = strings.NewReader(strings.Replace(joinText, goodToken, token, 1))
		d.wantCode(0, "configure", "-", "--token-file", d.path("token"))
		data, _ := os.ReadFile(d.path("token"))
		if string(data) != token+"\n" {
			t.Errorf("token file holds another token")
		}
	}
}

func TestConfigureRefuses(t *testing.T) {
	rows := []struct{ name, text, want string }{
		{"nothing", "", "no `kubeadm join` line"},
		{"another command", "kubectl get secret " + canary, "no `kubeadm join` line"},
		{"two lines", joinText + joinText, "2 `kubeadm join` lines"},
		{"a control-plane line", strings.TrimSpace(joinText) + " --control-plane --certificate-key " + canary, "--control-plane: this is a line for a control-plane node"},
		{"a chained command", strings.TrimSpace(joinText) + "; echo " + canary, "one plain command"},
		{"a variable", "kubeadm join $HOST --token " + canary, "shell variable"},
		{"a line without token", "kubeadm join 10.0.0.1:6443", "no --token"},
		{"a line without address", "kubeadm join --token " + canary, "names no API server"},
		{"two addresses", "kubeadm join a " + canary + " --token x", "2 words"},
		{"two tokens", "kubeadm join a --token x --discovery-token " + canary, "two different tokens"},
		{"a discovery file", "kubeadm join --discovery-file " + canary, "--discovery-file: has no counterpart"},
		{"an unknown flag", "kubeadm join a --frob " + canary, "--frob is no flag"},
		{"a secret as flag", "kubeadm join a --" + canary, "a flag is no flag"},
		{"a bad token", "kubeadm join a:1 --token " + canary + "x", "--token: the bootstrap token"},
		{"a bad pin", "kubeadm join a:1 --token " + goodToken + " --discovery-token-ca-cert-hash sha256:" + canary, "caCertHashes[0]"},
		{"a bad address", "kubeadm join http://a:1 --token " + goodToken, "endpoints[0]: has another scheme"},
		{"an open quote", "kubeadm join 'a --token " + canary, "quote that is not closed"},
		{"a half line", "kubeadm join a --token " + canary + " \\", "the line is not whole"},
		{"a half line and its end", "kubeadm join a --token " + canary + " \\\n\n", "the line is not whole"},
		{"two control-plane lines", strings.Repeat("kubeadm join a --token "+canary+" --control-plane\n", 2), "2 `kubeadm join` lines"},
		{"only the control-plane line of kubeadm init", "You can now join:\n\n  kubeadm join a --token " + canary + " \\\n\t--control-plane --certificate-key " + canary, "--control-plane: this is a line for a control-plane node"},
		{"a line inside a sentence", "Now run kubeadm join a --token " + canary, "no `kubeadm join` line"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			before := d.files()
			d.app.stdin = strings.NewReader(row.text)
			d.wantCode(fault.ExitConfig, "configure", "-", "--token-file", d.path("token"))
			d.wantText(row.want)
			d.wantNoSecret(canary, goodToken)
			if d.files() != before {
				t.Error("something was written")
			}
		})
	}
}

func TestExampleConfigIsLoadedWholeAndUncommented(t *testing.T) {
	d := newDoor(t)
	d.generate(0, "config-example")
	text := d.stdout.String()
	// As shipped it holds only comments and the apiVersion.
	values, problems, _ := judgeYAML("example", []byte(text))
	if len(problems) > 0 || len(values) != 1 {
		t.Errorf("as shipped: %v, %d values", problems, len(values))
	}
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "#"); ok && rest != "" && rest[0] != ' ' {
			line = strings.Replace(line, "#", "", 1)
		}
		lines = append(lines, line)
	}
	values, problems, _ = judgeYAML("example", []byte(strings.Join(lines, "\n")))
	if len(problems) > 0 {
		t.Errorf("uncommented: %v", problems)
	}
	for _, k := range keys() {
		v, ok := values[k.name]
		if !ok {
			t.Errorf("%s is not in the example", k.name)
			continue
		}
		if plainValue(v.value) != plainValue(k.def) {
			t.Errorf("%s: the example says %v, the default is %v", k.name, v.value, k.def)
		}
		if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(text, "# ", "")), " "), firstWords(k.doc)) {
			t.Errorf("%s: the example lacks its doc", k.name)
		}
	}
	// The examples beside the defaults are good configs, too.
	for _, k := range keys() {
		if k.example == "" {
			continue
		}
		_, leaf := k.split()
		line := leaf + ": " + k.example
		if section, _ := k.split(); section != "" {
			line = section + ": {" + line + "}"
		}
		if k.name == "noProxy" {
			line += "\nproxyURL: http://p:1"
		}
		content := line + "\n"
		if k.name != "endpoints" && k.name != "discoveryFile" {
			content += "endpoints: [a]\n"
		}
		l := &loader{app: d.app, file: "example"}
		if _, err := l.judge(configFile{path: "example", data: []byte(content), mode: 0o600, owner: uint32(d.app.uid)}); err != nil {
			t.Errorf("%s: its example is refused: %v", k.name, err)
		}
	}
}

func firstWords(doc string) string {
	words := strings.Fields(doc)
	return strings.Join(words[:min(3, len(words))], " ")
}

func TestGeneratedArtefactsNameEveryKeyAndReason(t *testing.T) {
	d := newDoor(t)
	for artefact, wantKeys := range map[string]bool{"keys-md": true, "reasons-md": false, "catalog": false, "commands-md": false} {
		d.generate(0, artefact)
		text := strings.ReplaceAll(d.stdout.String(), `\-`, "-")
		for _, k := range keys() {
			if wantKeys && !strings.Contains(text, k.name) {
				t.Errorf("%s lacks %s", artefact, k.name)
			}
		}
		for _, e := range fault.All() {
			if (artefact == "reasons-md" || artefact == "catalog") && !strings.Contains(text, string(e.Reason)) {
				t.Errorf("%s lacks %s", artefact, e.Reason)
			}
		}
	}
	d.generate(fault.ExitUsage, "nothing")
	d.wantText("no such artefact")
}

func TestSpliceRenewsOnlyWhatIsMarked(t *testing.T) {
	d := newDoor(t)
	page := d.write("page.md", "before\n<!-- generated: reasons-md -->\nold\n<!-- end of reasons-md -->\nafter\n", 0o644)
	for range 2 {
		d.generate(0, "splice", "--to", page)
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		want := "before\n<!-- generated: reasons-md -->\n\n" + reasonsMarkdown() + "\n<!-- end of reasons-md -->\nafter\n"
		if string(data) != want {
			t.Errorf("page is\n%s", data)
		}
	}
	d.generate(1, "splice", "--to", d.path("missing.md"))
	d.write("half.md", "<!-- generated: reasons-md -->\n", 0o644)
	d.generate(fault.ExitFailed, "splice", "--to", d.path("half.md"))
}

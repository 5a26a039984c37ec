package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// kubeconfigOf is a bootstrap-kubeconfig for a server of the test; an empty
// token leaves the user away.
func kubeconfigOf(s *testapi.Server, token string) string {
	text := "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: " + s.URL() +
		"\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(s.CA()) + "\n"
	if token == "" {
		return text
	}
	return text + "users:\n- name: u\n  user:\n    token: " + token + "\ncontexts:\n- name: x\n  context: {cluster: c, user: u}\ncurrent-context: x\n"
}

// Each row is a discovery file, or a config around it, that must be refused:
// with code 78, by key and field, without the canary, and before any traffic.
func TestDiscoveryFileIsRefused(t *testing.T) {
	s := cluster(t)
	good := kubeconfigOf(s, canary)
	with := func(old, replacement string) string { return strings.Replace(good, old, replacement, 1) }
	const keyAndFile = "config.yaml:1: discoveryFile: discovery file "
	rows := []struct {
		name, content, config string
		mode                  os.FileMode
		want                  []string
	}{
		{"a token that others may read", good, "", 0o640, []string{keyAndFile, "holds a token and may be read by others (mode 0640)", "chmod 0600"}},
		{"a file that others may write", kubeconfigOf(s, ""), "", 0o622, []string{"discoveryFile: it may be written by others (mode 0622)"}},
		{"a program", with("token:", "exec:"), "", 0o600, []string{keyAndFile, "users[0].user.exec is not allowed here"}},
		{"an auth provider", with("token:", "auth-provider:"), "", 0o600, []string{"users[0].user.auth-provider is not allowed"}},
		{"a client key", with("token:", "client-key-data:"), "", 0o600, []string{"users[0].user.client-key-data is not allowed"}},
		{"a proxy", with("    server:", "    proxy-url: http://u:"+canary+"@p\n    server:"), "", 0o600, []string{"clusters[0].cluster.proxy-url is not allowed", "proxyURL"}},
		{"another TLS name", with("    server:", "    tls-server-name: "+canary+"\n    server:"), "", 0o600, []string{"clusters[0].cluster.tls-server-name is not allowed"}},
		{"a server nobody verifies", with("    server:", "    insecure-skip-tls-verify: true\n    server:"), "", 0o600, []string{"clusters[0].cluster.insecure-skip-tls-verify is not allowed"}},
		{"an unknown field", with("certificate-authority-data", "server-name"), "", 0o600, []string{"clusters[0].cluster.server-name is not allowed"}},
		{"no CA", with("certificate-authority-data:", "# "), "", 0o600, []string{"clusters[0].cluster has no CA", "--embed-certs"}},
		{"a CA file that the sandbox hides", with("certificate-authority-data: ", "certificate-authority: /hidden/ca.crt\n    # "), "", 0o600, []string{"clusters[0].cluster.certificate-authority:", "lies under /hidden"}},
		{"a path as CA data", with("certificate-authority-data: ", "certificate-authority-data: /etc/kubernetes/pki/ca\n    # "), "", 0o600, []string{"certificate-authority-data: holds a path"}},
		{"a context that is not there", with("current-context: x", "current-context: "+canary), "", 0o600, []string{"current-context names no context"}},
		{"an alias bomb", "a: &a [x,x]\nb: &b [*a,*a]\nusers: [*b,*b]\n", "", 0o600, []string{"an anchor, an alias or a tag"}},
		{"no YAML", "token: \"" + canary, "", 0o600, []string{"is no valid YAML"}},
		{"a lone token", canary, "", 0o600, []string{"the document is no mapping"}},
		{"more than 2 MiB", good + strings.Repeat("# x\n", 1<<19), "", 0o600, []string{"larger than 2097152 bytes"}},
		{"endpoints beside it", good, "endpoints: [\"10.0.0.1:6443\"]\n", 0o600, []string{"config.yaml:2: endpoints: excludes discoveryFile", "config.yaml:1)"}},
		{"a verification that is skipped", good, "unsafeSkipCAVerification: true\n", 0o600, []string{"config.yaml:2: unsafeSkipCAVerification: means nothing with discoveryFile"}},
		{"an inline token of two words", kubeconfigOf(s, ""), "token: \"Bearer " + canary + "\"\n", 0o600, []string{"config.yaml:2: token: has white space"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			file := d.write("cluster.kubeconfig", row.content, row.mode)
			d.write("config.yaml", "discoveryFile: "+file+"\n"+row.config, 0o600)
			before := d.files()
			for _, command := range [][]string{{"check", "--config"}, {"check", "--cluster"}, {"run"}, {"join"}} {
				d.wantCode(fault.ExitConfig, command...)
				d.wantText(append(row.want, "ConfigInvalid")...)
				d.wantNoSecret(canary, "zq7w3k9x")
			}
			if d.files() != before {
				t.Error("something was written")
			}
		})
	}
	if n := s.Connections(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

func TestThePathOfTheDiscoveryFileIsJudged(t *testing.T) {
	d := newDoor(t)
	for path, want := range map[string]string{
		"relative":                   "discoveryFile: must be an absolute path",
		"/hidden/x":                  "discoveryFile: lies under /hidden",
		d.dir + "/kubelet/../x":      "discoveryFile: must be a clean path",
		d.path("kubelet/kubeconfig"): "discoveryFile: is the kubeconfig that the agent writes",
		d.path("state"):              "is no regular file",
	} {
		d.write("config.yaml", "discoveryFile: "+path+"\n", 0o600)
		d.wantCode(fault.ExitConfig, "check", "--config")
		d.wantText(want)
	}
}

// Files are set up in some order: one that may come a moment later is waited
// for, but a check tells.
func TestADiscoveryFileThatIsNotThereYet(t *testing.T) {
	d := newDoor(t)
	path := d.path("later")
	d.write("config.yaml", "discoveryFile: "+path+"\n", 0o600)
	for _, row := range []struct {
		make func()
		want string
	}{
		{func() {}, "there is no discovery file " + path},
		{func() { d.write("later", "\n", 0o600) }, "there is no discovery file " + path},
		{func() {
			d.write("later", "clusters: [{name: c, cluster: {server: \"https://x\", certificate-authority: ca.crt}}]\n", 0o600)
		}, "clusters[0].cluster.certificate-authority: lstat " + d.path("ca.crt")},
	} {
		row.make()
		d.wantCode(fault.ExitConfig, "check", "--config")
		d.wantText("config.yaml:1: discoveryFile: ", row.want)
		good, err := d.app.loader(d.app.runCommand().Flags()).load()
		if err != nil || good.agent.Discovery == nil {
			t.Fatalf("the agent does not wait: %v", err)
		}
	}
}

func TestSourcesOfATokenWithADiscoveryFile(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	file := d.write("cluster.kubeconfig", kubeconfigOf(s, canary), 0o600)
	token := d.write("token", "any-word\n", 0o600)
	d.write("config.yaml", "discoveryFile: "+file+"\ntokenFile: "+token+"\n", 0o600)
	good, err := d.app.loader(d.app.runCommand().Flags()).load()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, source := range good.agent.Tokens {
		bearer, err := source.Read()
		if err != nil {
			t.Error(err)
		}
		got = append(got, source.Name()+"="+bearer.Bearer())
	}
	want := "token file " + token + "=any-word, user of discovery file " + file + "=" + canary
	if strings.Join(got, ", ") != want {
		t.Errorf("got %s", got)
	}
	for _, output := range []string{"text", "json"} {
		d.wantCode(0, "check", "--config", "-o", output)
		d.wantText(file)
		d.wantNoSecret(canary)
	}
	d.app.stdin = strings.NewReader("another-word\n")
	d.wantCode(0, "token", "set")
	d.wantNoSecret("another-word")
	if data, err := os.ReadFile(token); err != nil || string(data) != "another-word\n" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestCheckClusterWithADiscoveryFile(t *testing.T) {
	s := cluster(t)
	s.Anonymous(false)
	d := newDoor(t)
	file := d.write("cluster.kubeconfig", kubeconfigOf(s, canary), 0o600)
	d.wantCode(0, "check", "--cluster", "--discovery-file", file)
	d.wantText("✓ "+s.Host(), s.URL(), "from the discovery file", s.Pin(), "verifies against the CA", "A machine could join with this.")
	d.wantCode(0, "check", "--cluster", "--discovery-file", file, "--ca-cert-hash", s.Pin())
	d.wantText("CA pinned")
	d.wantCode(fault.ExitTrust, "check", "--cluster", "--discovery-file", file, "--ca-cert-hash", s.ForeignPin())
	d.wantText("CAPinMismatch", "✗ CA", s.Pin())
	d.wantNoSecret(canary)

	d.write("config.yaml", "discoveryFile: "+file+"\n", 0o600)
	d.wantCode(0, "check", "--cluster", "-o", "json")
	var got struct {
		OK        bool
		Server    string
		Pins      []string
		Endpoints []struct{ Reached string }
	}
	if err := json.Unmarshal(d.stdout.Bytes(), &got); err != nil || !got.OK || got.Server != s.URL() || got.Pins[0] != s.Pin() || got.Endpoints[0].Reached != "verified" {
		t.Errorf("%v: %s", err, d.stdout.String())
	}
	d.wantNoSecret(canary)

	other := cluster(t)
	d.write("cluster.kubeconfig", strings.Replace(kubeconfigOf(s, canary), s.URL(), other.URL(), 1), 0o600)
	d.wantCode(fault.ExitTrust, "check", "--cluster")
	d.wantText("ServerCertificateInvalid", "✗ certificate")
	for _, r := range append(s.Requests(), other.Requests()...) {
		if r.Authorization {
			t.Errorf("%s %s carried a credential", r.Method, r.Path)
		}
	}
	other.Close()
	d.wantCode(fault.ExitTemporary, "check", "--cluster")
	d.wantText("EndpointUnreachable", "of this machine yet")
}

// The discovery file and the CA file beside it are watched like the token file.
func TestAChangedDiscoveryFileIsTakenInAtOnce(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	ca := d.write("ca.crt", string(s.CA()), 0o644)
	file := d.write("cluster.kubeconfig", "clusters: [{name: c, cluster: {server: \""+s.URL()+"\", certificate-authority: ca.crt}}]\n", 0o644)
	d.write("config.yaml", "discoveryFile: "+file+"\n", 0o600)
	l := d.app.loader(d.app.runCommand().Flags())
	loads := make(chan error, 16)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stop := d.app.reloadOnChange(ctx, l, silence(), func(_ agent.Config, err error) { loads <- err })
	defer stop()
	next := func(want fault.Reason) {
		t.Helper()
		for {
			select {
			case err := <-loads:
				if fault.ReasonOf(err) == want {
					return
				}
			case <-ctx.Done():
				t.Fatalf("no load that gives %q", want)
			}
		}
	}
	d.write("cluster.new", canary, 0o600)
	if err := os.Rename(d.path("cluster.new"), file); err != nil {
		t.Fatal(err)
	}
	next(fault.ConfigInvalid)
	d.write("cluster.kubeconfig", "clusters: [{name: c, cluster: {server: \""+s.URL()+"\", certificate-authority: ca.crt}}]\n", 0o600)
	next("")
	if err := os.WriteFile(ca, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	next(fault.ConfigInvalid)
}

package main

import (
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const goodConfig = "apiVersion: bootstrap-agent/v1\nendpoints: [\"10.0.0.1:6443\"]\n"

// Each row is a config file that must be refused: with code 78, with these
// words, without the canary, and before anything is written.
func TestConfigFileIsRefused(t *testing.T) {
	rows := []struct {
		name, content string
		want          []string
	}{
		{"an empty file lacks its endpoints", "", []string{"endpoints: is required"}},
		{"a file of comments alone lacks its endpoints", "# nothing\n", []string{"endpoints: is required"}},
		{"a binary file is no text", "\x7fELF\x00\x00", []string{":1:", "zero byte"}},
		{"bytes that are no UTF-8 are named by line", goodConfig + "nodeName: \"\xff\"\n", []string{":3:", "not UTF-8"}},
		{"UTF-16 is named", "\xff\xfea\x00", []string{"UTF-16"}},
		{"a control character is named by line", goodConfig + "nodeName: \"a\x1b[31m\"\n", []string{":3:", "control character"}},
		{"a tab as indentation is named", "log:\n\tlevel: info\n", []string{":2:", "tab"}},
		{"a key given twice is named with both lines", goodConfig + "nodeName: a\nnodeName: " + canary + "\n", []string{":4: nodeName: is given twice (first at line 3)"}},
		{"a key given twice in two spellings is named", goodConfig + "nodeName: a\nNodeName: " + canary + "\n", []string{":4: NodeName: is given twice"}},
		{"an unknown key gets a suggestion", goodConfig + "nodname: " + canary + "\n", []string{":3: nodname: unknown key; did you mean nodeName?"}},
		{"an unknown key in a section gets a suggestion", goodConfig + "kubelet:\n  binery: " + canary + "\n", []string{":4: kubelet.binery: unknown key; did you mean kubelet.binary?"}},
		{"a dotted key is no section", goodConfig + "log.level: info\n", []string{":3:", "unknown key"}},
		{"a rotation of CAs that nobody pins is refused", "endpoints: [\"10.0.0.1\"]\nunsafeSkipCAVerification: true\ncaRotation: pinned\n", []string{":3: caRotation: pinned needs the pins in caCertHashes"}},
		{"another word for the rotation of CAs is refused", goodConfig + "caRotation: manual\n", []string{":3: caRotation: must be one of: follow, pinned"}},
		{"a secret in place of a key is not shown", goodConfig + canary + ": x\n", []string{":3: unknown key (not shown"}},
		{"a number is no string", goodConfig + "nodeName: 12345\n", []string{":3: nodeName: must be a string: put it in quotes"}},
		{"a string is no list", "endpoints: " + canary + "\n", []string{":1: endpoints: must be a list"}},
		{"a number in a list is no string", "endpoints: [\"10.0.0.1\", 1e5]\n", []string{":1: endpoints[1]: must be a string"}},
		{"a map in a list is no string", "endpoints:\n- host: " + canary + "\n", []string{":2: endpoints[0]: must be one string"}},
		{"a quoted true is no bool", goodConfig + "nodeNameTakeover: \"true\"\n", []string{":3: nodeNameTakeover: must be true or false"}},
		{"a number is no bool", goodConfig + "nodeNameTakeover: 1\n", []string{":3: nodeNameTakeover: must be true or false"}},
		{"a word outside an enum is told the words", goodConfig + "afterJoin: " + canary + "\n", []string{":3: afterJoin: must be one of: heal, observe, exit"}},
		{"a duration without a unit is refused", goodConfig + "restartSplay: \"30\"\n", []string{":3: restartSplay: must be a duration from 0s to 24h"}},
		{"a negative duration is refused", goodConfig + "restartSplay: -1m\n", []string{":3: restartSplay: must be a duration from 0s to 24h"}},
		{"a duration over a day is refused", goodConfig + "restartSplay: 25h\n", []string{":3: restartSplay: must be a duration from 0s to 24h"}},
		{"an address for metrics without a port is refused", goodConfig + "metricsAddress: \"127.0.0.1\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"a name for metrics is refused", goodConfig + "metricsAddress: \"localhost:9464\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"a secret in place of an address is not shown", goodConfig + "metricsAddress: \"" + canary + "\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"metrics on every address are refused", goodConfig + "metricsAddress: \"0.0.0.0:9464\"\n", []string{":3: metricsAddress: must name one address of this machine"}},
		{"metrics on every address of IPv6 are refused", goodConfig + "metricsAddress: \"[::]:9464\"\n", []string{":3: metricsAddress: must name one address of this machine"}},
		{"metrics on every address in another spelling are refused", goodConfig + "metricsAddress: \"[::ffff:0.0.0.0]:9464\"\n", []string{":3: metricsAddress: must name one address of this machine"}},
		{"metrics on a port alone are refused", goodConfig + "metricsAddress: \":9464\"\n", []string{":3: metricsAddress: must name one address of this machine"}},
		{"metrics on port 0 are refused", goodConfig + "metricsAddress: \"127.0.0.1:0\"\n", []string{":3: metricsAddress: must have a port from 1024 to 65535"}},
		{"metrics on a port that needs a capability are refused", goodConfig + "metricsAddress: \"127.0.0.1:1023\"\n", []string{":3: metricsAddress: must have a port from 1024 to 65535"}},
		{"metrics on the kubelet's port for its health are refused", goodConfig + "metricsAddress: \"127.0.0.1:10248\"\n", []string{":3: metricsAddress: must not have a port of the kubelet's"}},
		{"metrics on the kubelet's port are refused", goodConfig + "metricsAddress: \"10.0.0.7:10250\"\n", []string{":3: metricsAddress: must not have a port of the kubelet's"}},
		{"metrics on port 65536 are refused", goodConfig + "metricsAddress: \"127.0.0.1:65536\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"a bare IPv6 address for metrics is refused", goodConfig + "metricsAddress: \"::1:9464x\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"an address with a zone is refused", goodConfig + "metricsAddress: \"[fe80::1%eth0]:9464\"\n", []string{":3: metricsAddress: must be an address without a zone"}},
		{"the address of a group is refused", goodConfig + "metricsAddress: \"224.0.0.1:9464\"\n", []string{":3: metricsAddress: must be an address of this machine, not one of a group"}},
		{"the address of all neighbours is refused", goodConfig + "metricsAddress: \"255.255.255.255:9464\"\n", []string{":3: metricsAddress: must be an address of this machine, not one of a group"}},
		{"a URL for metrics is refused", goodConfig + "metricsAddress: \"http://127.0.0.1:9464/metrics\"\n", []string{":3: metricsAddress: must be an IP address and a port"}},
		{"another apiVersion is refused", "apiVersion: v2\nendpoints: [a]\n", []string{":1: apiVersion: must be one of: bootstrap-agent/v1"}},
		{"a key without a value is told", goodConfig + "nodeName:\n", []string{":3: nodeName: has no value"}},
		{"a section must be one", goodConfig + "log: " + canary + "\n", []string{":3: log: must be a section"}},
		{"a second document is refused", goodConfig + "---\nnodeName: " + canary + "\n", []string{":3: a second document"}},
		{"anchors and aliases are refused", "nodeName: &a " + canary + "\nserver: *a\n", []string{":1:", "anchors and aliases"}},
		{"an alias bomb is refused", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", []string{"anchors and aliases"}},
		{"an unknown anchor is not repeated", "server: *" + strings.ReplaceAll(canary, ".", "-") + "\n", []string{"anchor"}},
		{"a tag is refused", goodConfig + "nodeName: !!str " + canary + "\n", []string{":3:", "tags"}},
		{"a list at the top is refused", "- " + canary + "\n", []string{":1:", "key: value"}},
		{"a lone word at the top is refused", canary + "\n", []string{":1:", "key: value"}},
		{"a line without a colon is refused", goodConfig + canary + "\n", []string{"no valid YAML"}},
		{"a quote that is not closed is refused", goodConfig + "token: \"" + canary + "\n", []string{"no valid YAML"}},
		{"a bracket that is not closed is refused", "endpoints: [" + canary + "\n", []string{"no valid YAML"}},
		{"a colon in a plain value is refused", goodConfig + "token: " + canary + ": x\n", []string{"no valid YAML"}},
		{"several faults come together", "endpoints: [\"http://" + canary + "\"]\nnodeIP: " + canary + "\nserver: " + canary + "\n", []string{"3 things are wrong", "endpoints[0]", "nodeIP", "server"}},

		{"an endpoint with http is refused", "endpoints: [\"http://a\"]\n", []string{"endpoints[0]: has another scheme than https"}},
		{"an endpoint with a password is refused unseen", "endpoints: [\"https://u:" + canary + "@a\"]\n", []string{"endpoints[0]:", "user name or password"}},
		{"an endpoint with port 0 is refused", "endpoints: [\"a:0\"]\n", []string{"1 to 65535"}},
		{"an endpoint with port 65536 is refused", "endpoints: [\"a:65536\"]\n", []string{"1 to 65535"}},
		{"an endpoint with a path is refused", "endpoints: [\"https://a/" + canary + "\"]\n", []string{"has a path"}},
		{"a bare IPv6 address is refused", "endpoints: [\"fd00::1\"]\n", []string{"brackets"}},
		{"an endpoint with a blank is refused", "endpoints: [\" a\"]\n", []string{"white space"}},
		{"an international name is refused", "endpoints: [\"ä.example\"]\n", []string{"xn--"}},
		{"an empty endpoint is refused", "endpoints: [\"\"]\n", []string{"has no host"}},
		{"one bad endpoint in a list is named by place and line", "endpoints:\n- a\n- \"b:x\"\n", []string{":3: endpoints[1]:"}},
		{"an endpoint given twice is named", "endpoints: [\"a\", \"https://A:6443\"]\n", []string{"endpoints[1]: is the same as element 0"}},
		{"no endpoint is refused", "endpoints: []\n", []string{"endpoints: is required"}},

		{"a pin with 63 digits is counted", goodConfig + "caCertHashes: [\"sha256:" + strings.Repeat("a", 63) + "\"]\n", []string{"caCertHashes[0]: has 63 hex digits"}},
		{"a pin with sha1 is named", goodConfig + "caCertHashes: [\"sha1:" + strings.Repeat("a", 40) + "\"]\n", []string{"SHA-1"}},
		{"a pin without prefix is named", goodConfig + "caCertHashes: [\"" + strings.Repeat("a", 64) + "\"]\n", []string{"lacks the prefix"}},
		{"a pin with a blank before it is named", goodConfig + "caCertHashes: [\" sha256:" + strings.Repeat("a", 64) + "\"]\n", []string{"white space"}},
		{"a token in place of a pin is not shown", goodConfig + "caCertHashes: [\"" + canary + "\"]\n", []string{":3: caCertHashes[0]:"}},
		{"a pin contradicts the unsafe switch", goodConfig + "unsafeSkipCAVerification: true\ncaCertHashes: [\"sha256:" + strings.Repeat("a", 64) + "\"]\n", []string{":3: unsafeSkipCAVerification: contradicts"}},

		{"a token without a dot is refused", goodConfig + "token: \"abcdef0123456789\"\n", []string{":3: token: has no dot"}},
		{"a token in upper case is refused", goodConfig + "token: \"ABCDEF.0123456789ABCDEF\"\n", []string{"upper case"}},
		{"a token with 15 characters is counted", goodConfig + "token: \"abcdef.0123456789abcde\"\n", []string{"15 characters"}},
		{"a token with 17 characters is counted", goodConfig + "token: \"abcdef.0123456789abcdef0\"\n", []string{"17 characters"}},
		{"a token with a blank is refused", goodConfig + "token: \"abcdef. 123456789abcdef\"\n", []string{"white space"}},
		{"a token that is a list is not shown", goodConfig + "token: [\"" + canary + "\"]\n", []string{":3: token: must be one string"}},
		{"two token sources are refused", goodConfig + "token: \"" + goodToken + "\"\ntokenFile: /srv/token\n", []string{":3: token: excludes tokenFile", ":4)"}},

		{"a server without https is refused", goodConfig + "server: \"" + canary + ":6443\"\n", []string{":3: server:", "https://"}},
		{"a proxy of another scheme is refused unseen", goodConfig + "proxyURL: \"ftp://u:" + canary + "@p\"\n", []string{":3: proxyURL: must begin with"}},
		{"noProxy alone means nothing", goodConfig + "noProxy: \"" + canary + "\"\n", []string{"noProxy: means nothing without proxyURL"}},
		{"a node name with an underscore is refused", goodConfig + "nodeName: \"a_b\"\n", []string{":3: nodeName:"}},
		{"a node name of 254 characters is refused", goodConfig + "nodeName: \"" + strings.Repeat("a", 254) + "\"\n", []string{":3: nodeName:"}},
		{"localhost is no node name", goodConfig + "nodeName: localhost\n", []string{":3: nodeName: is no name that tells machines apart"}},
		{"a node name with a leading dot is refused", goodConfig + "nodeName: \".a\"\n", []string{":3: nodeName:"}},
		{"a secret as node name is not shown", goodConfig + "nodeName: \"" + canary + "_\"\n", []string{":3: nodeName:"}},
		{"a secret as node IP is not shown", goodConfig + "nodeIP: \"" + canary + ",10.0.0.1\"\n", []string{":3: nodeIP: must be an IP address"}},
		{"a restricted label is refused before the kubelet exits", goodConfig + "nodeLabels: [\"node-role.kubernetes.io/x=" + canary + "\"]\n", []string{":3: nodeLabels[0]:"}},
		{"a label value of 64 characters is refused", goodConfig + "nodeLabels: [\"a=" + strings.Repeat("b", 64) + "\"]\n", []string{"nodeLabels[0]:"}},
		{"a label with a comma is refused", goodConfig + "nodeLabels: [\"a=b,c=" + canary + "\"]\n", []string{"no commas"}},
		{"a label with a line break is refused", goodConfig + "nodeLabels: [\"a=b\\nc=d\"]\n", []string{"nodeLabels[0]: holds a control character"}},
		{"a label given twice is refused", goodConfig + "nodeLabels: [\"a=b\", \"a=" + canary + "\"]\n", []string{"nodeLabels:", "already"}},
		{"a taint without effect is refused", goodConfig + "nodeTaints: [\"" + canary + "\"]\n", []string{":3: nodeTaints[0]:"}},
		{"a managed kubelet flag is refused by name", goodConfig + "kubelet: {extraArgs: [\"--kubeconfig=" + canary + "\"]}\n", []string{"kubelet.extraArgs[0]: --kubeconfig is not for extraArgs"}},
		{"a program that systemd could not start is refused", goodConfig + "kubelet: {binary: '/opt/a\"b/kubelet'}\n", []string{"kubelet.binary: has one of $"}},
		{"a path that turns the line's direction round is refused", goodConfig + "kubelet: {configDir: \"/etc/a\\u202eb\"}\n", []string{"kubelet.configDir: holds a control character"}},
		{"a kubelet argument with a line break is refused", goodConfig + "kubelet: {extraArgs: [\"--v=2\\n--x\"]}\n", []string{"kubelet.extraArgs[0]: holds a control character"}},
		{"an empty kubelet argument is refused", goodConfig + "kubelet: {extraArgs: [\"\"]}\n", []string{"kubelet.extraArgs[0]:", "is empty"}},
		{"a word that is no flag is refused unseen", goodConfig + "kubelet: {extraArgs: [\"" + canary + "\"]}\n", []string{"kubelet.extraArgs[0]: it is no flag"}},
		{"a relative path is refused", goodConfig + "kubelet: {binary: bin/" + canary + "}\n", []string{"kubelet.binary: must be an absolute path"}},
		{"a path with dots is refused", goodConfig + "kubelet: {binary: /usr/../" + canary + "}\n", []string{"kubelet.binary: must be a clean path"}},
		{"a path that the sandbox hides is refused", goodConfig + "tokenFile: /hidden/" + canary + "\n", []string{"tokenFile: lies under /hidden"}},
		{"a runtime endpoint over TCP is refused", goodConfig + "kubelet: {containerRuntimeEndpoint: \"tcp://" + canary + "\"}\n", []string{"must be a Unix socket"}},
		{"a DNS address that is a name is refused", goodConfig + "clusterDNS: [\"" + canary + "\"]\n", []string{"clusterDNS[0]: must be an IP address"}},
		{"a cluster domain in upper case is refused", goodConfig + "clusterDomain: Cluster.Local\n", []string{"clusterDomain: must be a DNS name"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			d.write("config.yaml", row.content, 0o600)
			before := d.files()
			for _, command := range [][]string{{"check", "--config"}, {"run"}, {"join"}} {
				d.wantCode(fault.ExitConfig, command...)
				d.wantText(append(row.want, "ConfigInvalid")...)
				d.wantNoSecret(canary, strings.ReplaceAll(canary, ".", "-"), "zq7w3k9x")
				if d.stdout.Len() > 0 {
					t.Errorf("stdout has %q", d.stdout.String())
				}
			}
			if d.files() != before {
				t.Error("something was written")
			}
		})
	}
}

func TestConfigFileThatIsNoPlainFileIsRefused(t *testing.T) {
	rows := []struct {
		name string
		make func(d *door)
		want string
	}{
		{"a missing file that was named", func(d *door) {}, "there is no config file"},
		{"a folder", func(d *door) { _ = os.Mkdir(d.path("config.yaml"), 0o755) }, "is a folder"},
		{"a FIFO", func(d *door) { _ = syscall.Mkfifo(d.path("config.yaml"), 0o600) }, "is no regular file"},
		{"a file of more than 1 MiB", func(d *door) { d.write("config.yaml", strings.Repeat("# x\n", 300_000), 0o600) }, "larger than 1 MiB"},
		{"a file of 1 GiB, without reading it", func(d *door) {
			_ = os.Truncate(d.write("config.yaml", goodConfig, 0o600), 1<<30)
		}, "larger than 1 MiB"},
		{"a file that others may write", func(d *door) { d.write("config.yaml", goodConfig, 0o622) }, "may be written by others (mode 0622)"},
		{"an inline token that others may read", func(d *door) {
			d.write("config.yaml", goodConfig+"token: "+goodToken+"\n", 0o640)
		}, "config.yaml:3: token: stands in a file that others may read (mode 0640)"},
		{"a proxy password that others may read", func(d *door) {
			d.write("config.yaml", goodConfig+"proxyURL: http://u:"+goodToken+"@p:3128\n", 0o644)
		}, "config.yaml:3: proxyURL: holds a password"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			row.make(d)
			d.wantCode(fault.ExitConfig, "check", "--config", "--config-file", d.path("config.yaml"))
			d.wantText(row.want)
			d.wantNoSecret(goodToken)
		})
	}
}

func TestEnvironmentIsRefused(t *testing.T) {
	rows := []struct{ name, variable, want string }{
		{"a mistyped variable gets a suggestion", "BOOTSTRAP_AGENT_NODENAME=" + canary, "did you mean BOOTSTRAP_AGENT_NODE_NAME?"},
		{"a variable that names nothing", "BOOTSTRAP_AGENT_FROBNICATE=" + canary, "BOOTSTRAP_AGENT_FROBNICATE: names no key"},
		{"a token", "BOOTSTRAP_AGENT_TOKEN=" + canary, "never taken from the environment"},
		{"a secret in the name", "BOOTSTRAP_AGENT_" + canary + "=x", "names no key"},
		{"a word for a bool", "BOOTSTRAP_AGENT_NODE_NAME_TAKEOVER=" + canary, "nodeNameTakeover: must be true or false"},
		{"a number for a bool", "BOOTSTRAP_AGENT_NODE_NAME_TAKEOVER=1", "nodeNameTakeover: must be true or false"},
		{"a word outside an enum", "BOOTSTRAP_AGENT_LOG_LEVEL=" + canary, "log.level: must be one of"},
		{"a control character", "BOOTSTRAP_AGENT_NODE_NAME=a\nb", "holds a control character"},
		{"a bad endpoint", "BOOTSTRAP_AGENT_ENDPOINTS=a,http://" + canary, "BOOTSTRAP_AGENT_ENDPOINTS: endpoints[1]: has another scheme"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			d.write("config.yaml", goodConfig, 0o600)
			d.app.environ = append(d.app.environ, row.variable)
			d.wantCode(fault.ExitConfig, "check", "--config")
			d.wantText(row.want)
			d.wantNoSecret(canary)
		})
	}
}

func TestConfigIsAccepted(t *testing.T) {
	rows := []struct{ name, content string }{
		{"a byte order mark does no harm", "\xef\xbb\xbf" + goodConfig},
		{"CRLF does no harm", strings.ReplaceAll(goodConfig+"nodeName: a\n", "\n", "\r\n")},
		{"a document marker at the top does no harm", "---\n" + goodConfig},
		{"an empty variable counts as not set", goodConfig},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := newDoor(t)
			d.write("config.yaml", row.content, 0o644)
			d.app.environ = append(d.app.environ, "BOOTSTRAP_AGENT_NODE_NAME=", "BOOTSTRAP_AGENT_ACTIVE_HELP=0")
			d.wantCode(0, "check", "--config")
		})
	}
}

func TestFlagsBeatVariablesBeatFileBeatDefaults(t *testing.T) {
	d := newDoor(t)
	d.write("config.yaml", goodConfig+"nodeName: file\nserver: https://file\nclusterDomain: file.local\nkubelet: {extraArgs: [\"--v=1\"]}\nlog: {level: debug}\n", 0o600)
	d.app.environ = append(d.app.environ,
		"BOOTSTRAP_AGENT_NODE_NAME=env", "BOOTSTRAP_AGENT_SERVER=https://env", "BOOTSTRAP_AGENT_KUBELET_EXTRA_ARGS=--v=2 --feature-gates=A=true,B=true")
	cmd := d.app.runCommand()
	cmd.Flags().String("config-file", d.app.configFile, "")
	err := cmd.ParseFlags([]string{"--node-name", "flag", "--node-label", "a=b", "--node-label=example.org/c=x", "--node-name-takeover"})
	if err != nil {
		t.Fatal(err)
	}
	good, err := d.app.loader(cmd.Flags()).load()
	if err != nil {
		t.Fatal(err)
	}
	cfg := good.agent
	if cfg.NodeName != "flag" || cfg.Server != "https://env" || cfg.ClusterDomain != "file.local" || cfg.AfterJoin != agent.AfterJoinHeal || !cfg.NodeNameTakeover {
		t.Errorf("got %q %q %q %q %t", cfg.NodeName, cfg.Server, cfg.ClusterDomain, cfg.AfterJoin, cfg.NodeNameTakeover)
	}
	if want := []string{"--v=2", "--feature-gates=A=true,B=true"}; !reflect.DeepEqual(cfg.Kubelet.ExtraArgs, want) {
		t.Errorf("extraArgs %q", cfg.Kubelet.ExtraArgs)
	}
	if len(cfg.NodeLabels) != 2 || cfg.NodeLabels[1].Value != "x" {
		t.Errorf("labels %v", cfg.NodeLabels)
	}
	for name, want := range map[string]string{
		"nodeName": "flag --node-name", "server": "environment BOOTSTRAP_AGENT_SERVER",
		"clusterDomain": d.path("config.yaml") + ":5", "log.level": d.path("config.yaml") + ":7", "afterJoin": "default",
	} {
		if got := good.settings.get(name).at.String(); got != want {
			t.Errorf("%s comes from %q, want %q", name, got, want)
		}
	}
}

func TestAnAddressForMetricsIsTakenFromEverySource(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:9464": "127.0.0.1:9464", "[::1]:1024": "[::1]:1024", "[::ffff:10.0.0.17]:65535": "10.0.0.17:65535", "192.0.2.7:10249": "192.0.2.7:10249",
	} {
		t.Run(text, func(t *testing.T) {
			for source, d := range map[string]*door{"file": newDoor(t), "variable": newDoor(t), "flag": newDoor(t)} {
				cmd := d.app.runCommand()
				config := goodConfig
				switch source {
				case "file":
					config += "metricsAddress: \"" + text + "\"\n"
				case "variable":
					d.app.environ = append(d.app.environ, "BOOTSTRAP_AGENT_METRICS_ADDRESS="+text)
				default:
					if err := cmd.ParseFlags([]string{"--metrics-address", text}); err != nil {
						t.Fatal(err)
					}
				}
				d.write("config.yaml", config, 0o600)
				good, err := d.app.loader(cmd.Flags()).load()
				if err != nil {
					t.Fatal(source, err)
				}
				if got := good.agent.MetricsAddress.String(); got != want {
					t.Errorf("%s: %s", source, got)
				}
			}
		})
	}
}

func TestHostNameIsTheDefaultNodeName(t *testing.T) {
	d := newDoor(t)
	d.write("config.yaml", goodConfig, 0o600)
	d.wantCode(0, "check", "--config")
	d.wantText("worker-9")
	d.app.hostname = func() (string, error) { return "localhost", nil }
	d.wantCode(fault.ExitConfig, "check", "--config")
	d.wantText("nodeName:", "host name")
}

func TestTokenSourcesKeepTheirOrder(t *testing.T) {
	d := newDoor(t)
	d.write("config.yaml", goodConfig+"token: "+goodToken+"\n", 0o600)
	d.app.environ = append(d.app.environ, "CREDENTIALS_DIRECTORY="+d.path("run"))
	cmd := d.app.runCommand()
	good, err := d.app.loader(cmd.Flags()).load()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range good.agent.Tokens {
		names = append(names, s.Name())
	}
	want := []string{"token file " + defaultTokenFile, "systemd credential bootstrap-token", "systemd credential bootstrap-token-encrypted", "key token of the config file"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("sources %q", names)
	}
	if _, err := good.agent.Tokens[1].Read(); err == nil {
		t.Error("a missing credential gave a token")
	}
	token, err := good.agent.Tokens[3].Read()
	if err != nil || token.Bearer() != goodToken {
		t.Errorf("inline token: %v", err)
	}
}

func TestCheckConfigRedactsSecrets(t *testing.T) {
	d := newDoor(t)
	d.write("config.yaml", goodConfig+"token: "+goodToken+"\nproxyURL: http://u:"+goodToken+"@p:3128\n", 0o600)
	for _, output := range []string{"text", "json"} {
		d.wantCode(0, "check", "--config", "-o", output)
		d.wantText("redacted", "10.0.0.1:6443")
		d.wantNoSecret(goodToken)
	}
}

func TestPathsOfOthersAreRefused(t *testing.T) {
	d := newDoor(t)
	open := d.path("open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if got := d.app.pathFault(open + "/token"); !strings.Contains(got, "may be written by others") {
		t.Errorf("a folder that others may write to: %q", got)
	}
	link := d.path("link")
	if err := os.Symlink("/proc/self", link); err != nil {
		t.Fatal(err)
	}
	d.app.hidden = []string{"/proc"}
	if got := d.app.pathFault(link); !strings.Contains(got, "is a link into /proc") {
		t.Errorf("a link into a hidden folder: %q", got)
	}
	if os.Geteuid() == 0 {
		theirs := d.write("theirs", "", 0o600)
		if err := os.Chown(theirs, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if got := d.app.pathFault(theirs); !strings.Contains(got, "belongs to user 12345") {
			t.Errorf("a file of somebody else: %q", got)
		}
	}
	for _, folder := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		a := &app{hidden: hiddenFolders()}
		if got := a.pathFault(folder + "/x"); !strings.Contains(got, "lies under "+folder) {
			t.Errorf("%s: %q", folder, got)
		}
	}
}

func TestKeyTable(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range keys() {
		if k.doc == "" || !strings.HasSuffix(k.doc, ".") {
			t.Errorf("%s: doc is no sentence", k.name)
		}
		for _, id := range []string{"key " + strings.ToLower(k.name), "flag " + k.flag, "env " + k.env()} {
			if seen[id] && !strings.HasSuffix(id, " ") {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
		if k.secret && (k.flag != "") {
			t.Errorf("%s: a secret has a flag", k.name)
		}
		if k.flag == "token" || k.env() == envPrefix+"TOKEN" {
			t.Errorf("%s: the token has a flag or a variable", k.name)
		}
		wantType := map[kind]reflect.Kind{kindString: reflect.String, kindEnum: reflect.String, kindBool: reflect.Bool, kindList: reflect.Slice}[k.kind]
		if reflect.TypeOf(k.def).Kind() != wantType {
			t.Errorf("%s: default is a %T", k.name, k.def)
		}
		if k.kind == kindEnum && !contains(k.enum, k.def.(string)) {
			t.Errorf("%s: default is none of its words", k.name)
		}
	}
	if got := (key{name: "kubelet.clientCAFile"}).env(); got != "BOOTSTRAP_AGENT_KUBELET_CLIENT_CA_FILE" {
		t.Errorf("variable is %s", got)
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("log: {level: info}\nkubelet:\n  extraArgs:\n  - --v=2\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("token: \"" + canary + "\nx"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &app{hidden: []string{"/hidden"}, uid: os.Geteuid(), hostname: func() (string, error) { return "h", nil }}
		l := &loader{app: d, file: "config.yaml"}
		good, err := l.judge(configFile{path: "config.yaml", data: data, mode: 0o600})
		if (good == nil) == (err == nil) {
			t.Fatal("neither a config nor an error, or both")
		}
		if err != nil && fault.ExitCode(err) != fault.ExitConfig {
			t.Fatalf("exit code %d", fault.ExitCode(err))
		}
	})
}

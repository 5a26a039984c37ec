package main

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// programs puts scripts in the place of journalctl and systemctl; nothing else of
// a systemd is there.
func (d *door) programs(journalctl, systemctl string) {
	d.app.programs = systemd.Options{
		BusAddress: "unix:path=" + d.path("none"), PrivateSocket: d.path("none"),
		Journalctl: d.write("journalctl", "#!/bin/sh\n"+journalctl, 0o755),
		Systemctl:  d.write("systemctl", "#!/bin/sh\n"+systemctl, 0o755),
	}
}

// reported makes a report and returns it.
func (d *door) reported(args ...string) string {
	d.t.Helper()
	path := d.path("report.md")
	_ = os.Remove(path)
	if code := d.call(append([]string{"report", "-o", path}, args...)...); code != 0 {
		d.t.Fatalf("exit code %d: %s", code, d.output())
	}
	if got := d.stdout.String(); got != path+"\n" {
		d.t.Errorf("stdout %q", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		d.t.Errorf("%v, mode %v", err, info.Mode())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(data)
}

func wantParts(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the report lacks %q", part)
		}
	}
}

func TestAReportOfANode(t *testing.T) {
	s := cluster(t)
	d := newDoor(t)
	d.machine(s)
	d.programs(`case "$*" in *--unit=bootstrap-agent.service*) echo "agent line, $*";; *) echo "kubelet line";; esac`,
		`echo "FragmentPath=`+d.path("units")+`/kubelet.service"; echo "DropInPaths=`+d.path("units")+`/kubelet.service.d/90-bootstrap-agent.conf"; echo "ActiveState=active"`)
	if code := d.call("join", "--timeout", "10s"); code != 0 {
		t.Fatalf("join: %d %s", code, d.output())
	}
	before := d.files()
	text := d.reported("--lines", "7")
	_ = os.Remove(d.path("report.md"))
	if after := d.files(); after != before {
		t.Error("the report changed something")
	}
	wantParts(t, text, "# Report of bootstrap-agent on worker-9", "- Status: whole", "- Journal of the kubelet: whole",
		"Joined", "The agent is not running", `"phase": "Joined"`, "✓ config", "nobody was asked: that is the network",
		"caCertHashes: ["+s.Pin()+"]", "subject  CN=system:node:worker-9,O=system:nodes", "pin "+s.Pin(), "kubelet-client-current.pem -> ", "-rw-------",
		"ExecStart=", "ActiveState=active", "agent line, --no-pager --quiet --utc --output=short-iso-precise --lines=7", "kubelet line",
		"up for ", "kernel ", `"files"`)
	if strings.Contains(text, "check of the cluster") || strings.Contains(text, "Check of the cluster") {
		t.Error("the network was asked unbidden")
	}
	_, secret, _ := strings.Cut(s.Token(), ".")
	for _, bad := range []string{secret, "PRIVATE KEY", "BEGIN CERTIFICATE", "# Written by"} {
		if strings.Contains(text, bad) {
			t.Errorf("the report has %q", bad)
		}
	}
	text = d.reported("--cluster")
	wantParts(t, text, "## Check of the cluster", s.Host())
	if strings.Contains(text, secret) {
		t.Error("the report shows the token")
	}
}

func TestAReportIsNotWrittenOverAnother(t *testing.T) {
	d := newDoor(t)
	d.programs("exit 0", "exit 0")
	d.t.Chdir(d.dir)
	d.wantCode(0, "report")
	if got := d.stdout.String(); got != "bootstrap-agent-report-worker-9.md\n" {
		t.Errorf("stdout %q", got)
	}
	before := d.files()
	d.wantCode(fault.ExitFailed, "report")
	d.wantText("bootstrap-agent-report-worker-9.md is there already", "-o FILE")
	if err := os.Symlink(d.path("elsewhere"), d.path("link")); err != nil {
		t.Fatal(err)
	}
	d.wantCode(fault.ExitFailed, "report", "-o", d.path("link"))
	_ = os.Remove(d.path("link"))
	if d.files() != before {
		t.Error("something was written")
	}
	d.wantCode(fault.ExitFailed, "report", "-o", d.path("no/folder"))
	d.wantText("cannot write the report", "no such file")
	d.wantCode(0, "report", "-o", "-")
	if !strings.HasPrefix(d.stdout.String(), "# Report of bootstrap-agent on worker-9\n") {
		t.Errorf("stdout %.60q", d.stdout.String())
	}
	d.wantCode(fault.ExitUsage, "report", "--lines", "-1")
	d.wantCode(fault.ExitUsage, "report", goodToken)
}

func TestAReportIsMadeWhereNextToNothingCanBeSeen(t *testing.T) {
	d := newDoor(t)
	d.app.uid = 1000
	d.programs("exit 0", "echo 'Failed to connect to bus' >&2; exit 1")
	// Whatever may be broken is: folders in the place of files, and junk.
	for _, dir := range []string{"config.yaml", "state/trust.json", "kubelet/pki/kubelet-client-current.pem"} {
		if err := os.MkdirAll(d.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.write("state/manifest.json", "{", 0o600)
	d.write("kubelet/pki/ca.crt", "no PEM", 0o600)
	d.write("run/status.json", "{", 0o644)
	text := d.reported()
	wantParts(t, text, "without root: **what only root sees is missing**",
		"- Configuration: not whole: "+d.path("config.yaml")+": is a folder",
		"- Unit of the agent: not whole: cannot ask systemd: exit status 1: Failed to connect to bus",
		"- Journal of the kubelet: not whole: nothing of it is to be seen without root",
		"- Certificates: not whole:", "- Records of the agent: not whole:", "is no JSON, 1 bytes", "no certificate in it, 6 bytes")
	d.wantText("not all of it: Configuration: ", "not all of it: Journal of the agent: ", "Read it before you pass it on")
}

// Everything that a person may have put a secret into holds one of its own.
func TestNoSecretIsInAReportWhereverItWasPut(t *testing.T) {
	secrets := map[string]string{}
	secret := func(where string) string {
		secrets[where] = "qz7" + strings.NewReplacer(" ", "", "'", "").Replace(where) + "9xk2m5v8b1"
		return secrets[where]
	}
	token := func(where string) string { // in the form of a bootstrap token
		secrets[where] = ("qz7w3k9x2m5v8b1n" + strings.ReplaceAll(where, " ", ""))[len(strings.ReplaceAll(where, " ", "")):]
		return "abcdef." + secrets[where]
	}
	d := newDoor(t)
	env := d.write("kubelet.env", "# "+secret("comment of an environment file")+"\nKUBELET_EXTRA_ARGS=\"--x="+secret("value of an environment file")+"\"\nMY_PASSWORD="+secret("password in an environment file")+"\n", 0o600)
	for path, content := range map[string]string{
		"config.yaml": "# " + token("comment of the config") + " " + secret("plain comment of the config") + "\n" +
			"token: " + token("config") + " # " + secret("end of a line") + "\ntokne: " + secret("mistyped key") + "\n" +
			"proxyURL: http://u:" + secret("proxy") + "@proxy:3128\nnodeName: " + token("wrong key") + "\n" +
			"kubelet: {extraArgs: [\"--some-token=" + secret("argument") + "\"]}\ndiscoveryFile: " + d.path("discovery.kubeconfig") + "\n",
		"config.yaml.old":                                     "token: " + token("old config") + "\n",
		"discovery.kubeconfig":                                "users: [{name: x, user: {token: " + secret("discovery file") + "}}]\n",
		"etc/bootstrap-agent/token":                           secret("token file") + "\n",
		"etc/kubernetes/bootstrap-kubelet.conf":               "users:\n- user:\n    token: \"" + secret("leftover") + "\"\n",
		"credentials/bootstrap-agent.service/bootstrap-token": secret("credential"),
		"kubelet/kubeconfig":                                  "users: [{user: {client-key-data: " + secret("kubeconfig") + "}}]\n",
		"kubelet/bootstrap-agent.env":                         "HTTPS_PROXY=http://u:" + secret("proxy of the kubelet") + "@p:1\n",
		"kubelet/pki/kubelet-client-current.pem":              "-----BEGIN EC PRIVATE KEY-----\n" + secret("key") + "\n-----END EC PRIVATE KEY-----\n",
		"state/kubelet-client.key":                            "-----BEGIN EC PRIVATE KEY-----\n" + secret("pending key") + "\n-----END EC PRIVATE KEY-----\n",
		"state/trust.json":                                    `{"ca": "x", "odd": "` + token("record") + `"}`,
		"units/kubelet.service":                               "# " + secret("comment of a unit") + "\n[Service]\nEnvironment=\"A=" + secret("variable of a unit") + "\"\nSetCredential=x:" + secret("credential of a unit") + "\nExecStart=/k --a-password=" + secret("flag of a unit") + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(d.path(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		d.write(path, content, 0o600)
	}
	// What others have written into the journals.
	var journal strings.Builder
	for _, line := range []string{
		"Authorization: Bearer " + secret("header"), "token=" + token("journal"), "FLAG: --bootstrap-token=\"" + secret("flag in a journal") + "\"",
		"-----BEGIN RSA PRIVATE KEY-----", secret("key in a journal"), "-----END RSA PRIVATE KEY-----",
		"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0." + secret("JWT"), "http://user:" + secret("URL") + "@host/",
	} {
		journal.WriteString(line + "\n")
	}
	for where, s := range secrets { // and once more, all that the machine has
		if !strings.Contains(where, "comment") && !strings.Contains(where, "value of") && !strings.Contains(where, "variable of") {
			switch where {
			case "token file", "credential", "discovery file", "leftover", "proxy", "proxy of the kubelet", "old config", "config":
				journal.WriteString("leaked " + s + " and " + base64.StdEncoding.EncodeToString([]byte(s)) + "\n")
			}
		}
	}
	d.write("journal", journal.String(), 0o600)
	d.programs("cat "+d.path("journal"), `echo "FragmentPath=`+d.path("units/kubelet.service")+`"; echo "EnvironmentFiles=`+env+` (ignore_errors=no)"; echo "ExecStart={ path=/k ; argv[]=/k --a-password=`+secrets["flag of a unit"]+` ; }"; echo "StatusText=`+token("status")+`"`)
	d.publish(agent.Status{Phase: agent.Blocked, Message: "got " + token("message") + " from the network", Node: agent.NodeStatus{Name: "worker-9"}})
	text := d.reported("--cluster")
	for where, s := range secrets {
		if strings.Contains(text, s) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(s))) {
			t.Errorf("the secret in %s is in the report:\n%s", where, lineWith(text, s))
		}
	}
	wantParts(t, text, "EnvironmentFiles="+env, "MY_PASSWORD=<redacted>", "KUBELET_EXTRA_ARGS=<redacted>", "token=<redacted>", "leaked <redacted> and <redacted>", "kubelet.extraArgs")
	if t.Failed() {
		t.Log(text)
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func TestATextCannotEndItsBlock(t *testing.T) {
	for text, want := range map[string]string{"": "```", "a `b` c": "```", "```": "````", "x ````` y": "``````"} {
		if got := fenceFor(text); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

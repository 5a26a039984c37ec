package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/agent/adopt"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// badPath is a path that no config may name, with what is said of it.
type badPath struct{ name, path, says string }

// badPaths makes one of each kind below the scratch folder; /hidden stands for the
// folders that the sandbox hides.
func badPaths(d *door) []badPath {
	d.t.Helper()
	do := func(errs ...error) {
		d.t.Helper()
		for _, err := range errs {
			if err != nil {
				d.t.Fatal(err)
			}
		}
	}
	folder := func(name string, mode os.FileMode) string {
		d.t.Helper()
		do(os.Mkdir(d.path(name), 0o755), os.Chmod(d.path(name), mode))
		return d.path(name)
	}
	hidden := folder("hidden", 0o755)
	d.app.hidden = []string{hidden}
	d.write("hidden/x", "x", 0o600)
	open := folder("open", 0o777)
	do(os.Mkdir(open+"/closed", 0o755), os.WriteFile(open+"/closed/x", []byte("x"), 0o600))
	do(os.Symlink(hidden+"/x", d.path("link")), os.Symlink(hidden, d.path("linked")), os.Symlink(hidden+"/none", d.path("dangling")),
		os.Symlink(open+"/closed", d.path("through")))
	bad := []badPath{
		{"not absolute", "etc/x", "must be an absolute path"},
		{"not clean", "/etc/../etc/x", "must be a clean path"},
		{"below a hidden folder", hidden + "/x", "lies under " + hidden},
		{"a hidden folder, nothing there", hidden + "/none", "lies under " + hidden},
		{"a link into a hidden folder", d.path("link"), "is a link into " + hidden},
		{"in a link to a hidden folder", d.path("linked/x"), "is a link into " + hidden},
		{"in a link to a hidden folder, nothing there", d.path("linked/none"), "is a link into " + hidden},
		{"a link into a hidden folder, nothing there", d.path("dangling"), "is a link into " + hidden},
		{"in a folder that others may write in", open + "/closed/x", "its folder " + open + " may be written by others (mode 0777)"},
		{"through a link into such a folder", d.path("through/x"), "its folder " + open + " may be written by others (mode 0777)"},
		{"writable for a group", d.write("group", "x", 0o660), "it may be written by others (mode 0660)"},
		{"not there, in a folder where anybody may make it", folder("sticky", 0o777|os.ModeSticky) + "/none", "may be written by others (mode 0777)"},
	}
	if os.Geteuid() == 0 {
		theirs := folder("theirs", 0o755)
		d.write("theirs/x", "x", 0o600)
		do(os.Chown(theirs, 12345, -1), os.Chown(d.write("his", "x", 0o600), 12345, -1))
		do(os.Symlink(d.write("mine", "x", 0o600), d.path("hislink")), os.Lchown(d.path("hislink"), 12345, -1))
		bad = append(bad,
			badPath{"a file of somebody else", d.path("his"), "it belongs to user 12345"},
			badPath{"in a folder of somebody else", theirs + "/x", "its folder " + theirs + " belongs to user 12345"},
			badPath{"a link of somebody else", d.path("hislink"), "it belongs to user 12345"})
	}
	return bad
}

// T19: a path that the service cannot see, or that others may change, is refused by
// every command that takes a config, with the same words, and nothing is written.
func TestEveryCommandRefusesTheSamePaths(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("without root the paths of somebody else are left out")
	}
	s, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	d := newDoor(t)
	d.machine(s)
	bad := badPaths(d)
	commands := map[string][]string{
		"run": {"run"}, "join": {"join"}, "check --config": {"check", "--config"}, "check --machine": {"check", "--machine"},
		"check --cluster": {"check", "--cluster"}, "apply": {"apply", "--dry-run"}, "apply --yes": {"apply", "--yes"},
		"token set": {"token", "set"}, "token set --encrypt": {"token", "set", "--encrypt"}, "configure": {"configure", "-", "--force"},
	}
	keys := map[string]string{ // in the file; the flag of configure
		"tokenFile": "token-file", "discoveryFile": "discovery-file", "kubelet.binary": "kubelet-binary", "kubelet.configFile": "kubelet-config-file",
		"kubelet.configDir": "kubelet-config-dir", "kubelet.clientCAFile": "kubelet-client-ca-file", "kubelet.containerRuntimeEndpoint": "container-runtime-endpoint",
	}
	joinLine := "kubeadm join " + s.Host() + " --token " + s.Token() + " --discovery-token-ca-cert-hash " + s.Pin() + "\n"
	asked := len(s.Requests())
	for name, args := range commands {
		for key, flag := range keys {
			if (args[0] == "token" || name == "check --machine") && key != "tokenFile" {
				continue // token judges no more than what it needs; check --machine looks at much else
			}
			d.app.configFile = d.write("bad.yaml", "", 0o600)
			before := d.files()
			for _, p := range bad {
				value := p.path
				if key == "kubelet.containerRuntimeEndpoint" {
					if value = "unix://" + value; p.name == "not absolute" {
						continue // another rule, and refused as well
					}
				}
				good := "caCertHashes: [\"" + s.Pin() + "\"]\n"
				if key != "discoveryFile" {
					good += "endpoints: [\"" + s.Host() + "\"]\n"
				} else {
					good = ""
				}
				line := key + ": " + value + "\n"
				if section, leaf, ok := strings.Cut(key, "."); ok {
					line = section + ": {" + leaf + ": \"" + value + "\"}\n"
				}
				d.app.stdin, d.app.configFile = strings.NewReader(s.Token()+"\n"), d.write("bad.yaml", good+line, 0o600)
				argv := args
				if args[0] == "configure" {
					d.app.stdin, d.app.configFile = strings.NewReader(joinLine), d.path("new.yaml")
					argv = append(append([]string{}, args...), "--"+flag, value)
				}
				if code := d.call(argv...); code != fault.ExitConfig {
					t.Errorf("%s, %s, %s: exit code %d\n%s", name, key, p.name, code, d.output())
				}
				if said := strings.Join(strings.Fields(d.output()), " "); !strings.Contains(said, key) || !strings.Contains(said, p.says) {
					t.Errorf("%s, %s, %s: does not say %q:\n%s", name, key, p.name, p.says, d.output())
				}
				d.wantNoSecret(s.Token())
			}
			d.write("bad.yaml", "", 0o600)
			if d.files() != before {
				t.Errorf("%s, %s: something was written", name, key)
			}
		}
	}
	if n := len(s.Requests()) - asked; n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// adopt makes the config itself, of what the kubelet's unit says.
func TestAdoptRefusesTheSamePaths(t *testing.T) {
	d := newDoor(t)
	for _, p := range badPaths(d) {
		found := &adopt.Found{Server: "https://10.0.0.1:6443", NodeName: "worker-9", Pins: []string{"sha256:" + strings.Repeat("0", 64)}}
		found.Values.ConfigDir = p.path
		_, _, err := (&loader{app: d.app, file: d.path("new.yaml")}).adoptedConfig(found)
		if fault.ReasonOf(err) != fault.NotAdoptable || !strings.Contains(err.Error(), p.says) {
			t.Errorf("%s: %v", p.name, err)
		}
	}
}

// reset removes nothing that a config names, good path or bad: a bad config keeps
// nobody from leaving.
func TestAResetTouchesNoPathOfTheConfig(t *testing.T) {
	for _, p := range badPaths(newDoor(t)) {
		t.Run(p.name, func(t *testing.T) {
			d := newEmptyMachine(t)
			for _, same := range badPaths(d) {
				if same.name != p.name {
					continue
				}
				d.write("config.yaml", "tokenFile: "+same.path+"\nkubelet: {configDir: \""+same.path+"\"}\n", 0o600)
				_, before := os.Lstat(same.path)
				d.wantCode(fault.ExitDone, "reset", "--yes", "--image")
				if _, after := os.Lstat(same.path); (before == nil) != (after == nil) {
					t.Errorf("%s: before %v, after %v", same.path, before, after)
				}
			}
		})
	}
}

// Whoever may write in the folder of the config can put another in its place.
func TestAConfigInAFolderOfOthersIsRefused(t *testing.T) {
	d := newDoor(t)
	if err := os.Mkdir(d.path("open"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.app.configFile = d.write("open/config.yaml", goodConfig, 0o600)
	d.wantCode(0, "check", "--config")
	link := d.path("link.yaml")
	if err := os.Symlink(d.app.configFile, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.path("open"), 0o775); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"check", "--config"}, {"run"}, {"join"}, {"apply", "--yes"}, {"check", "--config", "--config-file", link}} {
		d.wantCode(fault.ExitConfig, command...)
		d.wantText("its folder "+d.path("open")+" may be written by others (mode 0775)", "another config in its place")
	}
}

// No command waits for the other end of a pipe that stands where a file belongs.
func TestNoCommandHangsOnAPipe(t *testing.T) {
	s, err := testapi.New(testapi.Options{Quiet: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for name, file := range map[string]string{"config": "config.yaml", "token": "token", "lock": "state/lock", "trust record": "state/trust.json", "status": "run/status.json"} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t)
			d.machine(s)
			if err := os.Remove(d.path(file)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(d.path(file), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"status"}, {"check", "--config"}, {"check", "--machine"}, {"join", "--timeout", "1ms"}, {"apply", "--dry-run"}, {"wait", "--timeout", "1ms"}, {"token", "set"}} {
				d.app.stdin = strings.NewReader(s.Token() + "\n")
				d.call(args...) // it ends
			}
			// The status alone is replaced: the agent removes it at each start.
			if info, err := os.Lstat(d.path(file)); (err == nil && info.Mode().Type() == os.ModeNamedPipe) == (name == "status") {
				t.Errorf("%s is %v, %v", file, info, err)
			}
		})
	}
}

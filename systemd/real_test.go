package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// unitFolder is a folder of units that a systemd without privileges can read.
func unitFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bootstrap-agent-units-") //nolint:usetesting // t.TempDir lies in a folder of mode 0700
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// dump lets systemd itself read a folder of units and tell what it makes of
// kubelet.service. (It does so in its test mode, in which it starts nothing and
// which it refuses to root.)
func dump(t *testing.T, files map[string]string) []string {
	t.Helper()
	const systemd = "/lib/systemd/systemd"
	if _, err := os.Stat(systemd); err != nil {
		t.Skip("no " + systemd + " on this machine")
	}
	files["sysinit.target"], files["basic.target"] = "[Unit]\n", "[Unit]\n"
	dir := unitFolder(t, files)
	cmd := exec.Command(systemd, "--test", "--system", "--no-pager", "--unit="+KubeletUnit)
	cmd.Env = []string{"SYSTEMD_UNIT_PATH=" + dir + ":", "PATH=/usr/bin:/bin", "HOME=/"}
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	_, text, found := strings.Cut(string(out), "-> Unit "+KubeletUnit+":")
	if !found {
		if err != nil && !strings.Contains(string(out), KubeletUnit) {
			t.Skipf("systemd's test mode does not run here: %v", err)
		}
		t.Fatalf("no kubelet.service in what systemd says: %v\n%s", err, out)
	}
	text, _, _ = strings.Cut(text, "-> Unit ")
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func TestSystemdReadsOurArgumentsAsTheyAre(t *testing.T) {
	s := service(false)
	s.Binary = "/bin/true"
	s.Args = nil
	for _, text := range hostile {
		if !strings.ContainsAny(text, "\u00a0\u00ad\ufeff") { // systemd prints these in a form of its own
			s.Args = append(s.Args, text)
		}
	}
	r := rendered(t, s)
	lines := dump(t, map[string]string{KubeletUnit: string(r.Unit), KubeletUnit + ".d/" + DropInName: string(r.DropIn)})
	var commands []string
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "Command Line: "); ok {
			commands = append(commands, text)
		}
	}
	if len(commands) != 1 {
		t.Fatalf("%d commands", len(commands))
	}
	if got := unquote(commands[0]); !slices.Equal(got, r.ExecStart) {
		for i := range min(len(got), len(r.ExecStart)) {
			if got[i] != r.ExecStart[i] {
				t.Errorf("argument %d: got %q, want %q", i, got[i], r.ExecStart[i])
			}
		}
		t.Errorf("%d arguments, want %d", len(got), len(r.ExecStart))
	}
}

func TestSystemdTakesOurDropInOverKubeadms(t *testing.T) {
	s := service(true)
	s.Binary = "/bin/true"
	r := rendered(t, s)
	lines := dump(t, map[string]string{
		KubeletUnit:                        testdata(t, "vendor.service"),
		KubeletUnit + ".d/10-kubeadm.conf": testdata(t, "10-kubeadm.conf"),
		KubeletUnit + ".d/" + DropInName:   string(r.DropIn),
	})
	for _, want := range []string{"Type: notify", "Restart: always", "RestartSec: 10s", "TimeoutStartSec: 5min", "ConditionPathExists: /var/lib/kubelet/kubeconfig untested"} {
		if !slices.Contains(lines, want) {
			t.Errorf("systemd does not say %q", want)
		}
	}
	all := strings.Join(lines, "\n")
	if strings.Contains(all, "/etc/kubernetes/kubelet.conf untested") {
		t.Error("the vendor's condition is still there")
	}
	if n := strings.Count(all, "Command Line: "); n != 1 || !strings.Contains(all, "Command Line: /bin/true --config=") {
		t.Errorf("%d commands in\n%s", n, all)
	}
}

// unquote undoes the shell quoting in which systemd prints a command.
func unquote(line string) []string {
	var (
		words []string
		b     strings.Builder
	)
	for i := 0; i < len(line); {
		if line[i] == ' ' {
			i++
			continue
		}
		b.Reset()
		quoted := false
		for ; i < len(line) && (quoted || line[i] != ' '); i++ {
			switch {
			case line[i] == '"':
				quoted = !quoted
			case line[i] == '\\' && quoted && i+1 < len(line):
				i++
				b.WriteByte(line[i])
			default:
				b.WriteByte(line[i])
			}
		}
		words = append(words, b.String())
	}
	return words
}

func TestSystemdAnalyzeFindsNothingToSay(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze on this machine")
	}
	own, alien := service(false), service(true)
	own.Binary, alien.Binary = "/bin/true", "/bin/true"
	for name, files := range map[string]map[string]string{
		"our unit alone":            {KubeletUnit: string(rendered(t, own).Unit)},
		"our unit with our drop-in": {KubeletUnit: string(rendered(t, own).Unit), KubeletUnit + ".d/" + DropInName: string(rendered(t, own).DropIn)},
		"a vendor's with our drop-in": {
			KubeletUnit:                        strings.ReplaceAll(testdata(t, "vendor.service"), "/usr/bin/kubelet", "/bin/true"),
			KubeletUnit + ".d/10-kubeadm.conf": strings.ReplaceAll(testdata(t, "10-kubeadm.conf"), "/usr/bin/kubelet", "/bin/true"),
			KubeletUnit + ".d/" + DropInName:   string(rendered(t, alien).DropIn),
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := unitFolder(t, files)
			cmd := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, KubeletUnit))
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), dir) || strings.Contains(string(out), KubeletUnit) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

package house

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// maxExposure is what systemd-analyze security may say of our unit (0 is closed,
// 10 open; a kubelet has 9.6). It is 1.8 today.
const maxExposure = 2.1

func TestTheUnitIsAsClosedAsWePromise(t *testing.T) {
	dir := units(t)
	for _, name := range []string{"bootstrap-agent.service", "bootstrap-agent-wait.service"} {
		out := analyze(t, "security", "--offline=true", "--no-pager", filepath.Join(dir, name))
		found := regexp.MustCompile(`Overall exposure level for ` + regexp.QuoteMeta(name) + `: ([0-9.]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("no exposure level in the answer of systemd-analyze:\n%s", out)
		}
		level, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if level > maxExposure {
			t.Errorf("%s: exposure level %.1f, more than %.1f:\n%s", name, level, maxExposure, out)
		}
	}
}

func TestSystemdTakesTheUnitsWithoutAWord(t *testing.T) {
	dir := units(t)
	out := analyze(t, "verify", "--man=no", "--recursive-errors=no",
		filepath.Join(dir, "bootstrap-agent.service"), filepath.Join(dir, "bootstrap-agent.path"),
		filepath.Join(dir, "bootstrap-agent-joined.target"), filepath.Join(dir, "bootstrap-agent-wait.service"))
	// Other units of this machine may have words of their own.
	for line := range strings.Lines(out) {
		if strings.Contains(line, "bootstrap-agent") {
			t.Errorf("systemd-analyze verify: %s", strings.TrimSpace(line))
		}
	}
}

// TestTheUnitKeepsItsPromises names the lines that other parts, and the docs, rely
// on: to lose one is not a matter of taste.
func TestTheUnitKeepsItsPromises(t *testing.T) {
	lines := directives(t, "packaging/bootstrap-agent.service")
	for line, reason := range map[string]string{
		"ConditionPathExists=/etc/bootstrap-agent/config.yaml": "an installed package does nothing until configured",
		"ExecStart=/usr/bin/bootstrap-agent run":               "where the package puts the program",
		"Type=notify":                                          "READY=1 is sent by the loop",
		"NotifyAccess=main":                                    "a helper must not speak for the agent",
		"WatchdogSec=60":                                       "a hung loop is restarted",
		"Restart=on-failure":                                   "afterJoin: exit ends with 0 and stays ended",
		"RestartPreventExitStatus=64 78":                       "usage and config faults do not heal by themselves",
		"StartLimitIntervalSec=0":                              "it never gives up",
		"CapabilityBoundingSet=":                               "no capability at all",
		"UMask=0077":                                           "keys are nobody else's business",
		"LimitCORE=0":                                          "a core file would hold the token",
		"RuntimeDirectoryPreserve=yes":                         "status.json outlives the agent",
		"LoadCredential=bootstrap-token":                       "one of the three sources of the token",
		"ProtectSystem=strict":                                 "only the listed paths are writable",
	} {
		if !lines[line] {
			t.Errorf("the unit has no line %q: %s", line, reason)
		}
	}
	for line := range lines {
		for prefix, reason := range map[string]string{
			"ProcSubset=":       "preflight reads /proc/swaps and /proc/sys",
			"Before=":           "the kubelet's start job would wait for the agent that waits for it",
			"Requires=":         "the agent must run when the other does not",
			"SetCredential=":    "an empty one is invalid on systemd 252",
			"Environment=":      "everybody can read the properties of a unit",
			"SuccessExitStatus": "every code but 0 means something went wrong",
		} {
			if strings.HasPrefix(line, prefix) && line != "Environment=SYSTEMD_BOOT_ID=%b" { // no secret: everybody can read it anyway
				t.Errorf("the unit has %q: %s", line, reason)
			}
		}
		if strings.HasPrefix(line, "After=") && (strings.Contains(line, "time-sync") || strings.Contains(line, "cloud-")) {
			t.Errorf("the unit has %q: boot would hang, or the clock fault never be told", line)
		}
	}
}

func TestThePathUnitNeverRestartsAStoppedService(t *testing.T) {
	lines := directives(t, "packaging/bootstrap-agent.path")
	if !lines["PathChanged=/etc/bootstrap-agent/config.yaml"] || !lines["PartOf=bootstrap-agent.service"] {
		t.Error("the path unit must watch the config with PathChanged= and stop with the service (PartOf=)")
	}
	for line := range lines {
		if strings.HasPrefix(line, "PathExists") {
			t.Errorf("the path unit has %q, which starts a stopped service again at once", line)
		}
	}
}

// TestNoBootWaitsForACluster: the two units that others wait with are started by
// the agent, or by whoever needs them, and never by a boot.
func TestNoBootWaitsForACluster(t *testing.T) {
	const target, wait = "packaging/bootstrap-agent-joined.target", "packaging/bootstrap-agent-wait.service"
	for _, path := range []string{target, wait} {
		for line := range directives(t, path) {
			for prefix, reason := range map[string]string{
				"[Install]": "what can be enabled will be, by a preset or a person",
				"Before=":   "something of the boot would wait for a cluster",
				"Wants=":    "an agent that a person has stopped would be started",
				"Requires=": "likewise",
				"Condition": "a false condition lets those go on who wait",
				"StopWhen":  "it would be stopped as soon as it is reached: nothing needs it",
			} {
				if strings.HasPrefix(line, prefix) {
					t.Errorf("%s has %q: %s", path, line, reason)
				}
			}
		}
	}
	lines := directives(t, wait)
	for line, reason := range map[string]string{
		"ExecStart=/usr/bin/bootstrap-agent wait --for joined": "where the package puts the program",
		"Type=oneshot":             "what comes after it waits for its end",
		"RemainAfterExit=yes":      "it is asked once a boot",
		"TimeoutStartSec=infinity": "an approval may take days",
		"CapabilityBoundingSet=":   "it looks and changes nothing",
	} {
		if !lines[line] {
			t.Errorf("%s has no line %q: %s", wait, line, reason)
		}
	}
	for line := range directives(t, "packaging/bootstrap-agent.preset") {
		if strings.Contains(line, "joined") || strings.Contains(line, "wait") {
			t.Errorf("the preset has %q", line)
		}
	}
}

// TestMaintainerScriptsParse asks the shell itself; that they do the right thing
// is shown on real machines.
func TestMaintainerScriptsParse(t *testing.T) {
	for _, pattern := range []string{"packaging/deb/*", "packaging/rpm/*"} {
		scripts, err := filepath.Glob(filepath.Join(top(t), pattern))
		if err != nil || len(scripts) == 0 {
			t.Fatalf("no scripts in %s: %v", pattern, err)
		}
		for _, script := range scripts {
			if out, err := exec.CommandContext(t.Context(), "sh", "-n", script).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", filepath.Base(script), err, out)
			}
			content, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(content, []byte("stop kubelet")) || bytes.Contains(content, []byte("rm -rf /var/lib/kubelet")) {
				t.Errorf("%s touches the kubelet: a node without our package is still a node", script)
			}
		}
	}
}

// units copies the unit files to a folder where systemd finds them, with a
// program that exists in the place of one that may not be installed here.
func units(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	dir := t.TempDir()
	for _, name := range []string{"bootstrap-agent.service", "bootstrap-agent.path", "bootstrap-agent-joined.target", "bootstrap-agent-wait.service"} {
		content, err := os.ReadFile(filepath.Join(top(t), "packaging", name))
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.ReplaceAll(content, []byte("=/usr/bin/bootstrap-agent "), []byte("=/bin/true "))
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// directives returns the lines of a unit file that are neither empty nor comment.
func directives(t *testing.T, path string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(top(t), path))
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines[line] = true
		}
	}
	return lines
}

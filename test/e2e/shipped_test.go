//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// asShipped are properties of the agent's unit as systemd has loaded them from the
// package: the sandbox in which everything of these scenarios has happened.
var asShipped = map[string]string{
	"CapabilityBoundingSet": "", "AmbientCapabilities": "", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
	"PrivateDevices": "yes", "DevicePolicy": "closed", "ProtectProc": "invisible", "ProtectClock": "yes", "ProtectKernelModules": "yes",
	"ProtectKernelTunables": "yes", "ProtectControlGroups": "yes", "RestrictSUIDSGID": "yes", "RestrictNamespaces": "yes", "MemoryDenyWriteExecute": "yes",
	"LockPersonality": "yes", "RestrictRealtime": "yes", "LimitCORE": "0", "UMask": "0077", "User": "", "SystemCallErrorNumber": "1",
	"ReadWritePaths":          "-/var/lib/kubelet /etc/systemd/system /etc/bootstrap-agent",
	"RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
}

// knownDropIns are what scenarios add to the unit, and why: none of them opens it.
var knownDropIns = []string{
	"50-admin.conf",                // a variable: an administrator's drop-in survives an upgrade
	"halt.conf",                    // halts the process before its first step, so that a tracer can take hold of it from outside
	"lab.conf",                     // waits of the start job and the watchdog, for faults of the unit
	"10-encrypted-credential.conf", // the package's own
}

// runsAsShipped fails a scenario that has changed the agent's sandbox. It is asked
// at the end of every scenario with the package, failed ones included.
func runsAsShipped(t *testing.T, m *machine.Machine) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if !m.On() {
		return
	}
	names := []string{"LoadState", "FragmentPath", "DropInPaths"}
	for name := range asShipped {
		names = append(names, name)
	}
	result, err := m.Run(ctx, "systemctl", "show", "--property="+strings.Join(names, ","), agentUnit)
	if err != nil || result.Code != 0 {
		t.Errorf("machine %s: the agent's unit cannot be looked at: %v, %+v", m.Name, err, result)
		return
	}
	is := map[string]string{}
	for line := range strings.Lines(result.Stdout) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		is[name] = value
	}
	if is["LoadState"] != "loaded" || !strings.HasPrefix(strings.TrimPrefix(is["FragmentPath"], "/usr"), "/lib/systemd/system/") {
		return // not installed, or not by the package: a scenario without it
	}
	for _, path := range strings.Fields(is["DropInPaths"]) {
		if !slices.Contains(knownDropIns, filepath.Base(path)) {
			t.Errorf("machine %s: the agent ran with %s", m.Name, path)
		}
	}
	for name, want := range asShipped {
		got := strings.Fields(is[name])
		slices.Sort(got)
		wants := strings.Fields(want)
		slices.Sort(wants)
		if !slices.Equal(got, wants) {
			t.Errorf("machine %s: the agent ran with %s=%s, shipped is %q", m.Name, name, is[name], want)
		}
	}
}

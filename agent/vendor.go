package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// What is on the machine before us: a kubelet.service that somebody else wrote,
// kubelets in several places, arguments that an administrator adds.

// binary is the kubelet that will run: the configured one; else the one that
// somebody else's unit runs, which is the one its owner installed; else the
// first that is found.
func (a *Agent) binary() (string, error) {
	return kubelet.FindBinary(a.cfg.Kubelet.Binary, a.kubelets())
}

// kubelets are the places where a kubelet may be, the most likely first.
func (a *Agent) kubelets() []string {
	places := a.deps.Host.Binaries
	unit := a.memory.unit
	theirs := unit.Kubelet()
	if theirs == "" || a.isOurUnit(unit.FragmentPath) {
		return places
	}
	return append([]string{theirs}, places...)
}

// alsoSay adds to a detail which kubelet is taken, where there are several.
func (a *Agent) alsoSay(detail, taken string) string {
	others := kubelet.OtherBinaries(taken, a.kubelets())
	if len(others) == 0 {
		return detail
	}
	said := fmt.Sprintf("%s is taken, not %s", taken, strings.Join(others, ", "))
	a.log.WithField("detail", said).Info("several kubelets on this machine")
	if detail != "" {
		said = detail + "; " + said
	}
	return said
}

func (a *Agent) isOurUnit(path string) bool {
	if path != filepath.Join(a.cfg.Paths.Units, UnitName) {
		return false
	}
	data, err := readSmall(path)
	return err == nil && systemd.Ours(data)
}

// readFile reads a file that a unit names; tests have an /etc of their own.
func (a *Agent) readFile(path string) ([]byte, error) {
	if below, ok := strings.CutPrefix(path, "/etc/"); ok {
		path = filepath.Join(a.cfg.Paths.Etc, below)
	}
	return readSmall(path)
}

// theirConfig refuses to overwrite a kubelet configuration that somebody else
// put where the agent writes its own, and to read it from there.
func (a *Agent) theirConfig() error {
	path := a.files.ConfigFile()
	const keep = "Keep it by `mv %s /etc/bootstrap-agent/kubelet.yaml` and kubelet.configFile: /etc/bootstrap-agent/kubelet.yaml."
	if a.cfg.Kubelet.ConfigFile == path {
		return fault.New(fault.ConfigInvalid, "kubelet.configFile: %s is where the agent writes what it makes of it", path).WithHint(keep, path)
	}
	if a.isOurs(path) || a.cfg.Kubelet.DropFlags {
		return nil
	}
	data, err := readSmall(path)
	if err != nil || len(data) == 0 || kubelet.IsRendered(data) {
		return nil //nolint:nilerr // what cannot be read is told when it is written
	}
	return fault.New(fault.UnitOverridden, "%s is a kubelet configuration that is not ours, and would be lost", path).
		WithHint(keep+" Else remove it, or set kubelet.dropFlags: true.", path)
}

// lostFlags refuses to take over somebody else's unit while flags of its
// command line would be lost, or anything else that it runs.
func (a *Agent) lostFlags(ctx context.Context, existing systemd.Existing) error {
	if a.cfg.Kubelet.DropFlags || existing.Owner != systemd.OwnerAlien || contains(existing.Unit.DropInPaths, a.dropIn()) {
		return nil
	}
	if besides := existing.Unit.Besides(); len(besides) > 0 {
		return fault.New(fault.UnitOverridden, "%s runs more than a kubelet, which ours would not do: %s", existing.Path, quoted(besides)).
			WithHint("Read `systemctl cat %s`. List the kubelet's flags to keep in kubelet.extraArgs, put what has to happen before its start into ExecStartPre= of a drop-in, then set kubelet.dropFlags: true.", UnitName)
	}
	// Without the two of ours that say the same only with the same value.
	ours := slices.DeleteFunc(a.arguments(a.cfg.Kubelet.ConfigDir), func(word string) bool {
		return strings.HasPrefix(word, "--config=") || strings.HasPrefix(word, "--hostname-override=")
	})
	lost := systemd.LostFlags(existing.Unit.Argv(a.readFile, systemd.ExtraArgs), ours)
	lost = slices.DeleteFunc(lost, func(flag string) bool { return a.saysTheSame(ctx, flag) })
	if len(lost) == 0 {
		return nil
	}
	return fault.New(fault.UnitOverridden, "%s has flags that ours would lose: %s", existing.Path, quoted(lost)).
		WithHint("%s, or set kubelet.dropFlags: true.", keysFor(lost))
}

// saysTheSame tells whether the configuration has by another way what a flag
// says.
func (a *Agent) saysTheSame(ctx context.Context, flag string) bool {
	name, value, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	switch name {
	case "config":
		path := filepath.Clean(value) // what is in ours of somebody else's: theirConfig
		return path == a.files.ConfigFile() || path == a.cfg.Kubelet.ConfigFile
	case "hostname-override":
		return strings.EqualFold(value, a.cfg.NodeName)
	case "register-with-taints":
		return len(a.cfg.NodeTaints) > 0
	case "container-runtime-endpoint":
		if a.cfg.Kubelet.RuntimeEndpoint != "" {
			return true
		}
		// A runtime that is not up yet is waited for later, by its own reason.
		r := a.renderer()
		asked, err := r.runtime(ctx, r.likely())
		return err != nil || socketOf(asked.found.Endpoint) == socketOf(value)
	}
	return false
}

// socketOf makes two spellings of one socket equal: with and without the scheme,
// and by the old name of /run.
func socketOf(endpoint string) string {
	path := filepath.Clean(strings.TrimPrefix(endpoint, "unix://"))
	return strings.TrimPrefix(path, "/var")
}

// keysFor says by which keys flags are kept, ready to paste.
func keysFor(flags []string) string {
	var parts, extra []string
	for _, flag := range flags {
		name, _, _ := strings.Cut(flag, "=")
		if key := kubelet.KeyFor(name); key != "kubelet.extraArgs" {
			parts = append(parts, key+" for "+name)
		} else {
			extra = append(extra, flag)
		}
	}
	if len(extra) > 0 {
		parts = append(parts, "kubelet.extraArgs: ["+quoted(extra)+"]")
	}
	return "Keep those you need, by " + strings.Join(parts, ", ")
}

// quoted shows each text by itself, so that a long list does not hide its end.
func quoted(texts []string) string {
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = fault.Quote(text)
	}
	return strings.Join(out, ", ")
}

// overriddenFlags refuses to join while an administrator's $KUBELET_EXTRA_ARGS,
// which the kubelet reads last, would make it another node than the one that
// gets the certificate.
func (a *Agent) overriddenFlags(existing systemd.Existing) error {
	wrong := kubelet.Overridden(existing.ExtraArgs(a.readFile), a.arguments(a.cfg.Kubelet.ConfigDir))
	if len(wrong) == 0 {
		return nil
	}
	return fault.New(fault.UnitOverridden, "$%s would win over what the agent decides: %s", systemd.ExtraArgs, quoted(wrong)).
		WithHint("Take that out of /etc/default/kubelet (/etc/sysconfig/kubelet, or the drop-in that sets it); the node's name is nodeName, its configuration kubelet.configFile.")
}

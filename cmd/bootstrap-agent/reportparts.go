package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/redact"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

const agentUnit = "bootstrap-agent.service"

// reporter knows where a report looks.
type reporter struct {
	app    *app
	loader *loader
	flags  reportFlags
	units  *systemd.Manager
	layout kubelet.Layout
	hide   redact.Redactor
}

func (a *app) newReporter(l *loader, f reportFlags) *reporter {
	r := &reporter{app: a, loader: l, flags: f, units: systemd.NewManager(a.programs), layout: kubelet.Layout{Dir: a.paths.Kubelet}}
	r.hide.Know(r.secrets()...)
	return r
}

func (r *reporter) close() { r.units.Close() }

// parts are the report, in the order in which somebody reads it.
func (r *reporter) parts() []part {
	a, l := r.app, r.loader
	check := checkFlags{output: "text", timeout: partAtMost - 2*time.Second}
	machine := check
	machine.offline = !r.flags.cluster
	parts := []part{
		{"Status", func(ctx context.Context) (string, error) {
			return a.capture(func(sub *app) error { return sub.status(ctx, l.of(sub), "text") })
		}},
		{"Check of the config", func(context.Context) (string, error) {
			return a.capture(func(sub *app) error { return sub.checkConfig(l.of(sub), "text") })
		}},
		{"Check of the machine", func(ctx context.Context) (string, error) {
			return a.capture(func(sub *app) error { return sub.checkMachine(ctx, l.of(sub), machine) })
		}},
	}
	if r.flags.cluster {
		parts = append(parts, part{"Check of the cluster", func(ctx context.Context) (string, error) {
			return a.capture(func(sub *app) error { return sub.checkCluster(ctx, l.of(sub), check) })
		}})
	}
	return append(parts,
		part{"Configuration", r.config},
		part{"Versions", r.versions},
		part{"Clock", clock},
		part{"Certificates", r.certificates},
		part{"Files", r.files},
		part{"Records of the agent", r.records},
		part{"Unit of the agent", func(ctx context.Context) (string, error) { return r.unit(ctx, agentUnit) }},
		part{"Unit of the kubelet", func(ctx context.Context) (string, error) { return r.unit(ctx, systemd.KubeletUnit) }},
		part{"Status as JSON", func(ctx context.Context) (string, error) {
			return a.capture(func(sub *app) error { return sub.status(ctx, l.of(sub), "json") })
		}},
		part{"Journal of the agent", func(ctx context.Context) (string, error) { return r.journal(ctx, agentUnit) }},
		part{"Journal of the kubelet", func(ctx context.Context) (string, error) { return r.journal(ctx, systemd.KubeletUnit) }},
	)
}

// of is the same loader for another app.
func (l *loader) of(a *app) *loader {
	other := *l
	other.app = a
	return &other
}

// config shows what the judge understood, key by key, without comments. What it
// did not understand was told by the check, without values.
func (r *reporter) config(context.Context) (string, error) {
	content, err := readConfigFile(r.loader.file)
	if errors.Is(err, fs.ErrNotExist) {
		return "there is no " + r.loader.file, nil
	}
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, mode %04o, owner %d\n\n", content.path, content.mode, content.owner)
	values, problems, _ := judgeYAML(content.path, content.data)
	for _, k := range keys() {
		value, ok := values[k.name]
		if !ok {
			continue
		}
		if k.secret && value.value != "" {
			value.value = redact.Mark
		}
		fmt.Fprintf(&b, "line %-3d %s: %s\n", value.line, k.name, plainValue(value.value))
	}
	if len(problems) > 0 {
		fmt.Fprintf(&b, "\n%d things are wrong, see the check of the config\n", len(problems))
	}
	return b.String(), nil
}

func (r *reporter) versions(ctx context.Context) (string, error) {
	var b strings.Builder
	build := buildInfo()
	fmt.Fprintf(&b, "bootstrap-agent  %s %s, %s, %s\n", build.Version, build.Revision, build.Go, build.Platform)
	path, err := r.kubelet(ctx)
	if err == nil {
		var v kubelet.Version
		if v, err = kubelet.BinaryVersion(ctx, path, nil); err == nil {
			fmt.Fprintf(&b, "kubelet          %s at %s\n", v.Text, path)
		}
	}
	if err != nil {
		fmt.Fprintf(&b, "kubelet          %s\n", err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		fmt.Fprintf(&b, "kernel           %s %s %s\n", unix.ByteSliceToString(name.Sysname[:]), unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:]))
	}
	release, err := readConfigFile(filepath.Join(r.app.paths.Etc, "os-release"))
	for line := range strings.Lines(string(release.data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && slices.Contains([]string{"PRETTY_NAME", "ID", "VERSION_ID"}, key) {
			fmt.Fprintf(&b, "os-release       %s=%s\n", key, value)
		}
	}
	manager, showErr := r.units.Show(ctx, "", "Version", "SystemState", "Virtualization", "NFailedUnits", "NJobs")
	for line := range strings.Lines(manager) {
		b.WriteString("systemd          " + line)
	}
	return b.String(), errors.Join(err, showErr)
}

// kubelet finds the one that would run: the configured one, the unit's, else one
// of the usual places.
func (r *reporter) kubelet(ctx context.Context) (string, error) {
	configured := ""
	if good, err := r.loader.load(); err == nil {
		configured = good.agent.Kubelet.Binary
	}
	if u, err := r.units.Unit(ctx, systemd.KubeletUnit); err == nil && configured == "" && len(u.ExecStart) > 0 && len(u.ExecStart[0]) > 0 {
		configured = u.ExecStart[0][0]
	}
	return kubelet.FindBinary(configured, kubelet.BinaryPaths())
}

// clock shows this machine's time and whether something keeps it.
func clock(context.Context) (string, error) {
	now := time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "now      %s\nlocal    %s\nup for   %s\n", now.UTC().Format(time.RFC3339Nano), now.Format(time.RFC3339), agent.Monotonic().Round(time.Second))
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return b.String(), fmt.Errorf("cannot ask the kernel about its clock: %w", err)
	}
	kept := "yes, the estimated error is " + (time.Duration(t.Esterror) * time.Microsecond).String()
	if t.Status&unix.STA_UNSYNC != 0 {
		kept = "no: the kernel knows of nobody who keeps it (in a container that is the host's business)"
	}
	fmt.Fprintf(&b, "kept     %s\n", kept)
	return b.String(), nil
}

// records are the agent's own, which hold no secret.
func (r *reporter) records(context.Context) (string, error) {
	var b strings.Builder
	var faults []error
	for _, path := range []string{r.app.paths.TrustFile(), r.app.paths.ManifestFile()} {
		fmt.Fprintf(&b, "--- %s\n", path)
		record, err := readConfigFile(path)
		if err != nil {
			fmt.Fprintf(&b, "%s\n", err)
			if !errors.Is(err, fs.ErrNotExist) {
				faults = append(faults, err)
			}
			continue
		}
		var content map[string]any
		if err := json.Unmarshal(record.data, &content); err != nil {
			fmt.Fprintf(&b, "is no JSON, %d bytes\n", len(record.data))
			continue
		}
		delete(content, "ca") // stands below Certificates, as what it is
		text, _ := json.MarshalIndent(content, "", "  ")
		b.Write(append(text, '\n'))
	}
	return b.String(), errors.Join(faults...)
}

// shownProperties tell what systemd makes of a unit. Environment is not among
// them: on this machine everybody may see its values, elsewhere nobody has to.
var shownProperties = []string{
	"LoadState", "LoadError", "ActiveState", "SubState", "Result", "UnitFileState", "UnitFilePreset", "FragmentPath", "DropInPaths", "NeedDaemonReload",
	"Job", "MainPID", "NRestarts", "ExecMainStartTimestamp", "ExecMainExitTimestamp", "ExecMainCode", "ExecMainStatus", "StatusText", "StatusErrno",
	"ActiveEnterTimestamp", "InactiveEnterTimestamp", "ConditionResult", "ConditionTimestamp", "AssertResult", "ExecStart", "EnvironmentFiles",
	"Type", "Restart", "RestartUSec", "WatchdogUSec", "StartLimitIntervalUSec", "Requires", "Wants", "WantedBy", "After", "Before", "Conflicts",
	"MemoryCurrent", "TasksCurrent", "CPUUsageNSec", "Slice", "ControlGroup",
}

// unit shows what systemd says of a unit, its files and the variables that it gets.
func (r *reporter) unit(ctx context.Context, name string) (string, error) {
	var b strings.Builder
	shown, err := r.units.Show(ctx, name, shownProperties...)
	faults := []error{err}
	for line := range strings.Lines(shown) {
		if value := strings.TrimSpace(line); !strings.HasSuffix(value, "=") && !strings.HasSuffix(value, "=[not set]") {
			b.WriteString(line)
		}
	}
	property := func(key string) (values []string) {
		for line := range strings.Lines(shown) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
				values = append(values, value)
			}
		}
		return values
	}
	files := property("FragmentPath")
	for _, paths := range property("DropInPaths") {
		files = append(files, strings.Fields(paths)...)
	}
	if len(shown) == 0 { // systemd does not answer
		for _, dir := range []string{"/usr/lib/systemd/system", r.app.paths.Units} {
			more, _ := filepath.Glob(filepath.Join(dir, name+".d", "*.conf"))
			files = append(append(files, filepath.Join(dir, name)), more...)
		}
	}
	show := func(path string, as func(string) string) {
		content, err := readConfigFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return
		case err != nil:
			faults = append(faults, err)
			fmt.Fprintf(&b, "\n--- %s\n%s\n", path, err)
		default:
			fmt.Fprintf(&b, "\n--- %s\n%s", path, as(string(content.data)))
		}
	}
	for _, path := range files {
		if path != "" {
			show(path, redact.Unit)
		}
	}
	for _, value := range property("EnvironmentFiles") {
		path, _, _ := strings.Cut(value, " (")
		show(path, redact.Variables)
	}
	return b.String(), errors.Join(faults...)
}

func (r *reporter) journal(ctx context.Context, unit string) (string, error) {
	text, err := r.units.Journal(ctx, unit, r.flags.lines)
	if err == nil && text == "" && r.app.uid != 0 {
		err = fmt.Errorf("nothing of it is to be seen without root (members of the groups adm and systemd-journal see it): %w", os.ErrPermission)
	}
	return text, err
}

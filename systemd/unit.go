package systemd

import (
	"encoding/hex"
	"slices"
	"strings"
)

// Unit is what systemd says of a unit and its service. Times are microseconds
// of CLOCK_MONOTONIC, zero if it has not happened in this boot. (systemd
// forgets them when it unloads a unit, which it does not do with one that is
// enabled into a running target.)
type Unit struct {
	Name             string
	LoadState        string // loaded, not-found, masked, bad-setting, error
	LoadError        string
	ActiveState      string // active, activating, deactivating, inactive, failed
	SubState         string
	Result           string // of the service's last run: success, exit-code, start-limit-hit, ...
	UnitFileState    string // enabled, disabled, static, masked, generated, transient, ...; empty if there is none
	FragmentPath     string // the unit file; empty if there is none
	DropInPaths      []string
	NeedDaemonReload bool
	Job              uint32 // number of a queued or running job; 0 if none
	ConditionResult  bool   // of the last time the conditions were asked; see ConditionMonotonic
	MainPID          uint32
	NRestarts        uint32 // restarts by Restart= since a person or the agent started it
	ExecMainStatus   int32  // exit code or signal of the last main process
	InvocationID     string // another one for each start; empty before the first
	ExecStart        [][]string
	Environment      []string
	EnvironmentFiles []string

	ConditionMonotonic     uint64
	ActiveEnterMonotonic   uint64
	ActiveExitMonotonic    uint64
	InactiveEnterMonotonic uint64
	ExecMainStartMonotonic uint64
}

// Exists says whether there is such a unit, masked or broken ones included.
func (u Unit) Exists() bool { return u.LoadState != "" && u.LoadState != "not-found" }

// Masked says whether the unit is masked, for good or until the next boot.
func (u Unit) Masked() bool {
	return u.LoadState == "masked" || u.UnitFileState == "masked" || u.UnitFileState == "masked-runtime"
}

// Disabled says whether the unit could start at boot and does not.
func (u Unit) Disabled() bool { return u.UnitFileState == "disabled" }

// Running says whether there is a running main process that systemd calls
// active. A start job whose condition is false ends "done" too, without either.
func (u Unit) Running() bool { return u.ActiveState == "active" && u.MainPID != 0 }

// WasActive says whether the unit has been active in this boot.
func (u Unit) WasActive() bool { return u.ActiveEnterMonotonic != 0 }

// holdsOff says whether the service has died and Restart= will start it again
// when RestartSec= is over.
func (u Unit) holdsOff() bool {
	return u.ActiveState == "activating" && strings.HasPrefix(u.SubState, "auto-restart")
}

// properties is an answer of Properties.GetAll. What is missing or has another
// type than systemd gives it counts as zero.
type properties map[string]any

func property[T any](p properties, name string) T {
	v, _ := p[name].(T)
	return v
}

func unitOf(name string, p properties) Unit {
	text := func(k string) string { return property[string](p, k) }
	u := Unit{
		Name:             name,
		LoadState:        text("LoadState"),
		ActiveState:      text("ActiveState"),
		SubState:         text("SubState"),
		Result:           text("Result"),
		UnitFileState:    text("UnitFileState"),
		FragmentPath:     text("FragmentPath"),
		DropInPaths:      slices.Clone(property[[]string](p, "DropInPaths")),
		NeedDaemonReload: property[bool](p, "NeedDaemonReload"),
		ConditionResult:  property[bool](p, "ConditionResult"),
		MainPID:          property[uint32](p, "MainPID"),
		NRestarts:        property[uint32](p, "NRestarts"),
		ExecMainStatus:   property[int32](p, "ExecMainStatus"),
		InvocationID:     hex.EncodeToString(property[[]byte](p, "InvocationID")),
		Environment:      slices.Clone(property[[]string](p, "Environment")),

		ConditionMonotonic:     property[uint64](p, "ConditionTimestampMonotonic"),
		ActiveEnterMonotonic:   property[uint64](p, "ActiveEnterTimestampMonotonic"),
		ActiveExitMonotonic:    property[uint64](p, "ActiveExitTimestampMonotonic"),
		InactiveEnterMonotonic: property[uint64](p, "InactiveEnterTimestampMonotonic"),
		ExecMainStartMonotonic: property[uint64](p, "ExecMainStartTimestampMonotonic"),
	}
	if job := property[[]any](p, "Job"); len(job) > 0 {
		u.Job, _ = job[0].(uint32)
	}
	if e := property[[]any](p, "LoadError"); len(e) == 2 { // name, message
		u.LoadError, _ = e[1].(string)
	}
	for _, command := range property[[][]any](p, "ExecStart") { // path, argv, ...
		if len(command) < 2 {
			continue
		}
		path, _ := command[0].(string)
		argv, _ := command[1].([]string)
		argv = slices.Clone(argv)
		if len(argv) == 0 {
			argv = []string{path}
		}
		argv[0] = path // the program that runs, whatever it is told its name is
		u.ExecStart = append(u.ExecStart, argv)
	}
	for _, file := range property[[][]any](p, "EnvironmentFiles") { // path, may be missing
		if len(file) > 0 {
			if path, ok := file[0].(string); ok {
				u.EnvironmentFiles = append(u.EnvironmentFiles, path)
			}
		}
	}
	return u
}

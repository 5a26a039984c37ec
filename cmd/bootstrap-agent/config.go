package main

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// source is where a value comes from, in rising order of rank.
type source int

const (
	fromDefault source = iota
	fromFile
	fromEnvironment
	fromFlag
)

// origin is where exactly a value comes from.
type origin struct {
	from source
	name string // file, variable or flag
	line int    // in the file
}

// String is the origin for people: "flag --node-name", "line 3 of /etc/...".
func (o origin) String() string {
	switch o.from {
	case fromFlag:
		return "flag --" + o.name
	case fromEnvironment:
		return "environment " + o.name
	case fromFile:
		return o.short()
	}
	return "default"
}

// short is the origin at the beginning of a message.
func (o origin) short() string {
	switch {
	case o.from == fromFlag:
		return "--" + o.name
	case o.from == fromFile && o.line > 0:
		return o.name + ":" + strconv.Itoa(o.line)
	}
	return o.name
}

// setting is one key with its effective value.
type setting struct {
	key   key
	value any // string, bool or []string
	at    origin
	lines []int // of the elements of a list from the file
}

// settings are all keys with their effective values, in the table's order.
type settings []setting

func (s settings) get(name string) setting {
	for _, one := range s {
		if one.key.name == name {
			return one
		}
	}
	return setting{}
}

func (s settings) text(name string) string { v, _ := s.get(name).value.(string); return v }
func (s settings) flag(name string) bool   { v, _ := s.get(name).value.(bool); return v }
func (s settings) list(name string) []string {
	v, _ := s.get(name).value.([]string)
	return v
}

// loaded is a config that passed every rule.
type loaded struct {
	agent    agent.Config
	settings settings
	warnings []string
	absent   []problem // named files that are not there yet
}

// loader knows where the config of one command comes from; it can load more
// than once (SIGHUP, a changed file).
type loader struct {
	app   *app
	file  string
	named bool // --config-file was given: the file must exist
	flags *pflag.FlagSet
}

func (a *app) loader(flags *pflag.FlagSet) *loader {
	l := &loader{app: a, file: a.configFile, flags: flags}
	if f := flags.Lookup("config-file"); f != nil {
		l.file, l.named = f.Value.String(), f.Changed
	}
	return l
}

// load reads, merges and judges. The error is ConfigInvalid and lists
// everything that is wrong.
func (l *loader) load() (*loaded, error) {
	content, err := readConfigFile(l.file)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist) && !l.named:
		content = configFile{}
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.ConfigInvalid, "there is no config file %s", l.file).
			WithHint("Make it from the control plane's join line: kubeadm token create --print-join-command | bootstrap-agent configure -")
	default:
		return nil, fault.New(fault.ConfigInvalid, "cannot read the config file: %w", err)
	}
	return l.judge(content)
}

// judge is load without reading: content.path is empty where there is no file.
func (l *loader) judge(content configFile) (*loaded, error) {
	merged, problems, unreadable := l.merge(content)
	problems = append(problems, l.permissions(content, merged)...)
	if unreadable {
		return nil, configFault(problems, false, l.file)
	}
	j := &judge{app: l.app, settings: merged, broken: map[string]bool{}}
	for _, p := range problems {
		name, _, _ := strings.Cut(p.key, "[")
		j.broken[name] = true
	}
	cfg := j.config()
	problems = append(problems, j.problems...)
	if len(problems) > 0 {
		err := configFault(problems, content.path == "", l.file)
		if f, ok := fault.As(err); ok && j.hint != "" && len(problems) == 1 {
			f.Hint = j.hint
		}
		return nil, err
	}
	return &loaded{agent: cfg, settings: merged, warnings: j.warnings, absent: j.absent}, nil
}

// configFault puts all problems into one error, one a line.
func configFault(problems []problem, missing bool, file string) error {
	sort.SliceStable(problems, func(a, b int) bool {
		return problems[a].at.from == fromFile && problems[b].at.from == fromFile && problems[a].at.line < problems[b].at.line
	})
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	text := lines[0]
	if len(lines) > 1 {
		text = fmt.Sprintf("%d things are wrong:\n  %s", len(lines), strings.Join(lines, "\n  "))
	}
	err := fault.New(fault.ConfigInvalid, "%s", text)
	if missing {
		return err.WithHint("There is no config file %s. Make one from the control plane's join line: kubeadm token create --print-join-command | bootstrap-agent configure -", file)
	}
	return err.WithHint("Nothing was changed. Every key with its meaning: /usr/share/doc/bootstrap-agent/examples/config.yaml")
}

// merge lets viper put defaults, file, environment and flags over each other.
// What it gets is judged before, so that nothing is left to convert: viper
// would turn 1e5 into "100000" and take any mistyped variable.
func (l *loader) merge(content configFile) (merged settings, problems []problem, unreadable bool) {
	table := keys()
	file, problems, unreadable := judgeYAML(content.path, content.data)
	if unreadable {
		return defaults(), problems, true
	}
	environment, more := judgeEnvironment(table, l.app.environ)
	problems = append(problems, more...)

	v := viper.New()
	for _, k := range table {
		v.SetDefault(k.name, k.def)
	}
	for _, layer := range []map[string]fileValue{file, environment} {
		nested := map[string]any{}
		for name, value := range layer {
			nest(nested, name, value.value)
		}
		if err := v.MergeConfigMap(nested); err != nil {
			problems = append(problems, problem{text: "cannot merge the configuration"})
		}
	}
	out := make(settings, 0, len(table))
	for _, k := range table {
		s := setting{key: k, at: origin{from: fromDefault}}
		if value, ok := file[k.name]; ok {
			s.at, s.lines = origin{fromFile, content.path, value.line}, value.lines
		}
		if _, ok := environment[k.name]; ok {
			s.at, s.lines = origin{from: fromEnvironment, name: k.env()}, nil
		}
		if f := l.changedFlag(k); f != nil {
			s.at, s.lines = origin{from: fromFlag, name: k.flag}, nil
			if err := v.BindPFlag(k.name, f); err != nil {
				problems = append(problems, problem{at: s.at, text: "cannot be used"})
			}
		}
		s.value = typed(v, k)
		if p := checkFlag(s); p != "" {
			problems = append(problems, problem{s.at, k.name, p})
		}
		out = append(out, s)
	}
	return out, problems, false
}

// typed reads a value back in the type of its kind.
func typed(v *viper.Viper, k key) any {
	switch k.kind {
	case kindBool:
		return v.GetBool(k.name)
	case kindList:
		return append([]string{}, v.GetStringSlice(k.name)...)
	}
	return v.GetString(k.name)
}

// checkFlag judges by kind what a flag brought: the file and the environment
// were judged before.
func checkFlag(s setting) string {
	if s.at.from != fromFlag {
		return ""
	}
	switch value := s.value.(type) {
	case string:
		switch {
		case hasControl(value):
			return "holds a control character or a line break"
		case s.key.kind == kindEnum && !contains(s.key.enum, value):
			return "must be one of: " + words(s.key.enum)
		}
	case []string:
		for _, one := range value {
			if hasControl(one) {
				return "holds a control character or a line break"
			}
		}
	}
	return ""
}

func (l *loader) changedFlag(k key) *pflag.Flag {
	if k.flag == "" || l.flags == nil {
		return nil
	}
	if f := l.flags.Lookup(k.flag); f != nil && f.Changed {
		return f
	}
	return nil
}

func nest(into map[string]any, name string, value any) {
	section, leaf, ok := strings.Cut(name, ".")
	if !ok {
		into[name] = value
		return
	}
	inner, _ := into[section].(map[string]any)
	if inner == nil {
		inner = map[string]any{}
		into[section] = inner
	}
	inner[leaf] = value
}

// permissions judges who may read and write the config file.
func (l *loader) permissions(content configFile, merged settings) []problem {
	if content.path == "" {
		return nil
	}
	var out []problem
	add := func(at origin, key, format string, args ...any) {
		out = append(out, problem{at, key, fmt.Sprintf(format, args...)})
	}
	file := origin{from: fromFile, name: content.path}
	if l.app.uid == 0 && content.owner != 0 {
		add(file, "", "belongs to user %d; it must belong to root", content.owner)
	}
	if content.mode&0o022 != 0 {
		add(file, "", "may be written by others (mode %04o); chmod 0600 it", content.mode)
	}
	if what := l.app.foldersFault(content.path); what != "" {
		add(file, "", "%s: whoever may write there can put another config in its place", what)
	}
	if content.mode&0o077 == 0 {
		return out
	}
	if s := merged.get("token"); s.at.from == fromFile && s.value != "" {
		add(s.at, "token", "stands in a file that others may read (mode %04o); chmod 0600 it, and make a new token: others may have read this one", content.mode)
	}
	if s := merged.get("proxyURL"); s.at.from == fromFile && strings.Contains(merged.text("proxyURL"), "@") {
		add(s.at, "proxyURL", "holds a password in a file that others may read (mode %04o); chmod 0600 it", content.mode)
	}
	return out
}

// addKeyFlags gives a command the flags of the table. Their values are judged
// with everything else.
func addKeyFlags(flags *pflag.FlagSet, only ...string) {
	for _, k := range keys() {
		if k.flag == "" || len(only) > 0 && !contains(only, k.name) {
			continue
		}
		help := firstSentence(k.doc)
		switch k.kind {
		case kindBool:
			flags.Bool(k.flag, false, help)
		case kindList:
			flags.StringArray(k.flag, nil, help+" (may be given more than once)")
		default:
			if def, _ := k.def.(string); def != "" {
				help += " (default " + def + ")"
			}
			flags.String(k.flag, "", help)
		}
	}
}

func firstSentence(doc string) string {
	first, _, _ := strings.Cut(doc, ". ")
	return strings.TrimSuffix(first, ".")
}

// hostName is os.Hostname with a cause that is not mysterious.
func (a *app) hostName() (string, error) {
	name, err := a.hostname()
	if err != nil {
		return "", fmt.Errorf("cannot read the host name: %w", err)
	}
	return name, nil
}

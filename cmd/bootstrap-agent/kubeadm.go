package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// stdinName is what stdin is called where a file would be named.
const stdinName = "stdin"

// configureFromKubeadm writes config and token file from a file for `kubeadm join
// --config`.
func (a *app) configureFromKubeadm(ctx context.Context, l *loader, from string, force bool) error {
	path, data, err := a.joinFileText(ctx, from)
	if err != nil {
		return err
	}
	file, problems := parseJoinFile(path, data)
	text, good, err := l.fromJoinFile(file, problems)
	if err != nil {
		return err
	}
	if weak := file.token.Weak(); weak != "" {
		a.say("warning: token: %s", weak)
	}
	for _, note := range file.notes {
		a.say("note: %s", note)
	}
	for _, absent := range good.absent {
		a.say("warning: %s", absent)
	}
	if err := l.writeConfig(ctx, text, good, file.token, force); err != nil {
		return err
	}
	if file.token.IsZero() && !anyToken(good) {
		a.say("note: the file has no token of its own, and nothing else has one here yet: bootstrap-agent token set")
	}
	if from != "-" && !file.token.IsZero() {
		a.say("%s still holds the token, which nobody needs there any more", from)
	}
	return nil
}

// anyToken says whether some source of the config has a token.
func anyToken(good *loaded) bool {
	return slices.ContainsFunc(good.agent.Tokens, func(s agent.TokenSource) bool { _, err := s.Read(); return err == nil })
}

// joinFileText reads the file, or stdin.
func (a *app) joinFileText(ctx context.Context, from string) (path string, data []byte, err error) {
	if from == "-" {
		text, err := readAll(ctx, a.stdin, maxConfigFile)
		return stdinName, []byte(text), err
	}
	content, err := readConfigFile(from)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the file: %w", err)
	}
	if content.mode&0o044 != 0 && strings.Contains(string(content.data), "oken") {
		a.say("warning: %s may be read by others (mode %04o): a token in it is better replaced", from, content.mode)
	}
	return from, content.data, nil
}

// fromJoinFile makes the config file's bytes from file and flags. Our own rules
// judge each value where it stands in the file, and all that is wrong comes at
// once; then the bytes are judged like any config file.
func (l *loader) fromJoinFile(file joinFile, problems []problem) ([]byte, *loaded, error) {
	merged, more, _ := l.merge(configFile{})
	problems = append(problems, more...)
	quiet := *l.app
	quiet.environ = nil // the file has to be good by itself
	j := &judge{app: &quiet, broken: map[string]bool{}}
	values := map[string]any{}
	for _, s := range merged {
		key := s.key.name
		value, said := file.values[key]
		switch {
		case s.at.from == fromFlag:
			values[key] = s.value
		case said:
			s.value, s.at = value, origin{fromFile, file.path, file.stands[key].line}
			values[key] = value
			list, _ := value.([]string)
			s.lines = nil
			for i := range list {
				s.lines = append(s.lines, file.stands[element(key, i)].line)
			}
		default:
			s.value, s.at, s.lines = s.key.def, origin{}, nil
		}
		j.settings = append(j.settings, s)
	}
	// What the file lacks was said in its own terms.
	j.broken["endpoints"] = values["endpoints"] == nil && len(problems) > 0
	j.config()
	for _, p := range j.problems {
		if at, ok := file.stands[p.key]; ok && p.at.from == fromFile {
			p.key = at.field
		}
		problems = append(problems, p)
	}
	if len(problems) > 0 {
		hint := "Nothing was written. Every field of the file, and what becomes of it: https://github.com/bootstrap-agent/bootstrap-agent/blob/main/docs/operations.md#from-a-joinconfiguration"
		if j.hint != "" && len(problems) == 1 {
			hint = j.hint
		}
		err := configFault(problems, false, l.file)
		if f, ok := fault.As(err); ok {
			f.Hint = hint
		}
		return nil, nil, err
	}
	data := renderConfig(keys(), values)
	plain := &loader{app: &quiet, file: l.file}
	good, err := plain.judge(configFile{path: l.file, data: data, mode: 0o600, owner: uint32(max(os.Geteuid(), 0))})
	if err != nil {
		return nil, nil, fmt.Errorf("nothing was written: %w", err)
	}
	return data, good, nil
}

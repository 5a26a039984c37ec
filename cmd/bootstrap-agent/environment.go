package main

import "strings"

// judgeEnvironment takes the variables that name a key, in the table's kinds.
// One that names none is an error: it was meant to do something. An empty one
// counts as not set.
func judgeEnvironment(table []key, environ []string) (map[string]fileValue, []problem) {
	byEnv := map[string]key{}
	var names []string
	for _, k := range table {
		if k.env() != "" {
			byEnv[k.env()] = k
			names = append(names, k.env())
		}
	}
	values := map[string]fileValue{}
	var problems []problem
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || ownVariable(name) {
			continue
		}
		k, known := byEnv[name]
		at := origin{from: fromEnvironment, name: name}
		switch {
		case name == envPrefix+"TOKEN":
			problems = append(problems, problem{at: at, text: "a token is never taken from the environment, where other processes and unit properties show it; use tokenFile"})
		case !known && !showable(name):
			problems = append(problems, problem{at: origin{from: fromEnvironment, name: "environment"}, text: "a variable that begins with " + envPrefix + " names no key"})
		case !known:
			text := "names no key"
			if near := nearest(name, names); near != "" {
				text += "; did you mean " + near + "?"
			}
			problems = append(problems, problem{at: at, text: text})
		case value == "":
		default:
			v, fault := fromVariable(k, value)
			if fault != "" {
				problems = append(problems, problem{at, k.name, fault})
				continue
			}
			values[k.name] = fileValue{value: v}
		}
	}
	return values, problems
}

// ownVariable tells the variables that the shell completion asks for.
func ownVariable(name string) bool {
	return name == envPrefix+"ACTIVE_HELP" || name == envPrefix+"COMPLETION_DESCRIPTIONS"
}

func fromVariable(k key, value string) (v any, fault string) {
	if hasControl(value) {
		return nil, "holds a control character or a line break"
	}
	switch k.kind {
	case kindBool:
		switch value {
		case "true":
			return true, ""
		case "false":
			return false, ""
		}
		return nil, "must be true or false"
	case kindEnum:
		if !contains(k.enum, value) {
			return nil, "must be one of: " + words(k.enum)
		}
	case kindList:
		if k.sep == " " {
			return strings.Fields(value), ""
		}
		list := strings.Split(value, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list, ""
	}
	return value, ""
}

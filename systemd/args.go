package systemd

import (
	"slices"
	"strings"
)

// Argv returns the arguments of u's first command as the program gets them,
// with the variables replaced as systemd does it at start: from Environment=,
// then from the EnvironmentFile=s, read with read (a file that cannot be read
// gives nothing). Variables named in keep stay as they are written.
//
// It serves to look into somebody else's unit. What systemd adds to the
// environment by itself, and patterns in EnvironmentFile=, are not known here.
func (u Unit) Argv(read func(path string) ([]byte, error), keep ...string) []string {
	if len(u.ExecStart) == 0 {
		return nil
	}
	env := map[string]string{}
	for _, assignment := range u.Environment {
		if k, v, ok := strings.Cut(assignment, "="); ok {
			env[k] = v
		}
	}
	for _, path := range u.EnvironmentFiles {
		data, err := read(path)
		if err != nil {
			continue
		}
		for k, v := range parseEnvironment(string(data)) {
			env[k] = v
		}
	}
	var argv []string
	for _, word := range u.ExecStart[0] {
		name, whole := strings.CutPrefix(word, "$")
		switch {
		case whole && isName(name) && slices.Contains(keep, name):
			argv = append(argv, word)
		case whole && isName(name):
			argv = append(argv, splitWords(env[name])...)
		default:
			argv = append(argv, expand(word, env, keep))
		}
	}
	return argv
}

// expand replaces ${NAME} and $$ inside a word. A bare $NAME is a variable only
// when it is the whole word.
func expand(word string, env map[string]string, keep []string) string {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		rest := word[i:]
		if strings.HasPrefix(rest, "$$") {
			b.WriteByte('$')
			i++
			continue
		}
		if strings.HasPrefix(rest, "${") {
			if end := strings.IndexByte(rest, '}'); end > 0 && isName(rest[2:end]) {
				if name := rest[2:end]; slices.Contains(keep, name) {
					b.WriteString(rest[:end+1])
				} else {
					b.WriteString(env[name])
				}
				i += end
				continue
			}
		}
		b.WriteByte(word[i])
	}
	return b.String()
}

func isName(s string) bool {
	for i, r := range s {
		digit := r >= '0' && r <= '9'
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (!digit || i == 0) {
			return false
		}
	}
	return s != ""
}

// parseEnvironment reads the NAME=value lines of an EnvironmentFile=, as far as
// such files go in practice: comments, one pair of quotes around the value, and
// lines continued with a backslash.
func parseEnvironment(text string) map[string]string {
	env := map[string]string{}
	text = strings.ReplaceAll(text, "\\\n", "")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if k = strings.TrimSpace(k); !ok || !isName(k) {
			continue
		}
		v = strings.TrimSpace(v)
		if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
			v = v[1 : n-1]
		}
		env[k] = v
	}
	return env
}

// splitWords splits a variable's value at white space; quotes hold words
// together.
func splitWords(s string) []string {
	var (
		words []string
		word  strings.Builder
		open  bool // inside a word
		quote rune
	)
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, open = r, true
		case quote == 0 && strings.ContainsRune(" \t\n\r", r):
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words
}

// LostFlags returns the flags of existing (the arguments of somebody else's
// unit, see Unit.Argv) that ours does not have at all, each once, in the form
// --name=value that kubelet.extraArgs takes. A flag that ours has with another
// value is not lost but decided. --bootstrap-kubeconfig is how a kubelet joins
// by itself, which is what the agent does in its place. Words that are a
// variable ($KUBELET_EXTRA_ARGS, which our drop-in keeps) are passed over.
func LostFlags(existing, ours []string) []string {
	have := map[string]bool{"bootstrap-kubeconfig": true}
	for _, word := range ours {
		if name := flagName(word); name != "" {
			have[name] = true
		}
	}
	var lost []string
	for i := 0; i < len(existing); i++ {
		word := existing[i]
		name := flagName(word)
		if name == "" || have[name] {
			continue
		}
		have[name] = true
		text := "--" + strings.TrimLeft(word, "-")
		if !strings.Contains(word, "=") && i+1 < len(existing) && flagName(existing[i+1]) == "" && !strings.HasPrefix(existing[i+1], "$") {
			text += "=" + existing[i+1]
		}
		lost = append(lost, text)
	}
	return lost
}

// flagName is the name of a flag as the kubelet knows it, or "".
func flagName(word string) string {
	name := strings.TrimLeft(word, "-")
	if name == word || name == "" {
		return ""
	}
	name, _, _ = strings.Cut(name, "=")
	return strings.ReplaceAll(name, "_", "-")
}

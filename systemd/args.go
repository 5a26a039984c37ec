package systemd

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// Reader reads a small file, such as os.ReadFile.
type Reader func(path string) ([]byte, error)

// Kubelet returns the path of the kubelet that u runs. It is empty where u runs
// none by itself: there is no such unit, or it runs a shell or a wrapper.
func (u Unit) Kubelet() string {
	if at := u.kubeletAt(); at >= 0 {
		return u.ExecStart[at][0]
	}
	return ""
}

func (u Unit) kubeletAt() int {
	return slices.IndexFunc(u.ExecStart, func(command []string) bool {
		return len(command) > 0 && path.Base(command[0]) == "kubelet"
	})
}

// Besides returns those commands of u's ExecStart= that are not a kubelet, one
// line each: a shell, a wrapper, a preparation. What they do is not known here.
func (u Unit) Besides() []string {
	var lines []string
	at := u.kubeletAt()
	for i, command := range u.ExecStart {
		if i != at {
			lines = append(lines, strings.Join(command, " "))
		}
	}
	return lines
}

// Argv returns the arguments of u's kubelet (of its first command, if it runs
// none by itself) as the program gets them, with the variables replaced as
// systemd does it at start: from Environment=, then from the EnvironmentFile=s,
// read with read (a file that cannot be read gives nothing). Variables named in
// keep stay as they are written.
//
// It serves to look into somebody else's unit. What systemd adds to the
// environment by itself, and patterns in EnvironmentFile=, are not known here.
func (u Unit) Argv(read Reader, keep ...string) []string {
	if len(u.ExecStart) == 0 {
		return nil
	}
	env := u.environment(u.EnvironmentFiles, read)
	var argv []string
	for _, word := range u.ExecStart[max(0, u.kubeletAt())] {
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

// Words returns what $name becomes in a command line of u.
func (u Unit) Words(read Reader, name string) []string {
	return splitWords(u.environment(u.EnvironmentFiles, read)[name])
}

func (u Unit) environment(files []string, read Reader) map[string]string {
	env := map[string]string{}
	for _, assignment := range u.Environment {
		if k, v, ok := strings.Cut(assignment, "="); ok {
			env[k] = v
		}
	}
	for _, file := range files {
		data, err := read(file)
		if err != nil {
			continue
		}
		maps.Copy(env, parseEnvironment(string(data)))
	}
	return env
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

// parseEnvironment reads an EnvironmentFile= as systemd does: comments, values
// in quotes (several are put together), a backslash before what shall be taken
// as it is, and lines continued with one.
func parseEnvironment(text string) map[string]string {
	const (
		beforeName = iota
		comment
		inName
		beforeValue
		inValue
		inSingle
		inDouble
	)
	env := map[string]string{}
	var name, value []byte
	state, fixed := beforeName, 0 // what stands before fixed is no white space at the end
	push := func() {
		if name := strings.TrimSpace(string(name)); isName(name) {
			env[name] = string(value[:fixed]) + strings.TrimRight(string(value[fixed:]), " \t\r")
		}
		name, value, fixed, state = nil, nil, 0, beforeName
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		escaped := c == '\\' && i+1 < len(text)
		switch {
		case state == beforeName && (c == '#' || c == ';'):
			state = comment
		case state == beforeName && strings.IndexByte(" \t\r\n", c) < 0:
			state, name = inName, append(name, c)
		case state == beforeName:
		case state == comment && escaped:
			i++
		case state == comment && c == '\n':
			state = beforeName
		case state == comment:
		case state == inName && c == '\n':
			state, name = beforeName, nil
		case state == inName && c == '=':
			state = beforeValue
		case state == inName:
			name = append(name, c)
		case state == inSingle && c == '\'', state == inDouble && c == '"':
			state, fixed = beforeValue, len(value)
		case state == inDouble && escaped:
			if i++; strings.IndexByte("\"\\`$", text[i]) >= 0 {
				value = append(value, text[i])
			} else if text[i] != '\n' {
				value = append(value, '\\', text[i])
			}
		case state == inSingle || state == inDouble:
			value = append(value, c)
		case c == '\n':
			push()
		case state == beforeValue && c == '\'':
			state = inSingle
		case state == beforeValue && c == '"':
			state = inDouble
		case escaped:
			if i++; text[i] != '\n' {
				value = append(value, text[i])
			}
			state, fixed = inValue, len(value)
		case state == beforeValue && strings.IndexByte(" \t\r", c) >= 0:
		default:
			state, value = inValue, append(value, c)
		}
	}
	if state >= beforeValue {
		push()
	}
	return env
}

// splitWords splits a variable's value at white space; quotes hold words
// together, and a backslash takes the meaning from what follows it.
func splitWords(s string) []string {
	var (
		words   []string
		word    strings.Builder
		open    bool // inside a word
		escaped bool
		quote   rune
	)
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped, open = true, true
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
		if level, short := strings.CutPrefix(word, "-v"); short && level != "" && strings.Trim(level, "0123456789") == "" {
			word = "-v=" + level
		}
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

package systemd

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// This is systemd's reading of a unit file written anew after systemd.syntax(7)
// and systemd.service(5), as the other side of Render and Escape. real_test.go
// holds it against systemd itself.

// assignment is one "key=value" line, continued lines joined.
type assignment struct{ section, key, value string }

func parseUnitFile(text string) []assignment {
	var (
		out     []assignment
		section string
		joined  string
		more    bool
	)
	for raw := range strings.Lines(text) {
		line := strings.TrimSuffix(raw, "\n")
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
			continue // also between continued lines
		}
		if strings.HasSuffix(line, `\`) {
			joined += strings.TrimSuffix(line, `\`) + " "
			more = true
			continue
		}
		if more {
			line, joined, more = joined+line, "", false
		}
		line = strings.TrimSpace(line)
		switch key, value, ok := strings.Cut(line, "="); {
		case line == "" || !utf8.ValidString(line):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case ok:
			out = append(out, assignment{section, strings.TrimSpace(key), strings.TrimSpace(value)})
		}
	}
	return out
}

// values are those of a list directive over several files, in which an empty
// assignment clears the ones before it.
func values(section, key string, files ...string) []string {
	var out []string
	for _, text := range files {
		for _, a := range parseUnitFile(text) {
			if a.section == section && a.key == key {
				if a.value == "" {
					out = nil
				} else {
					out = append(out, a.value)
				}
			}
		}
	}
	return out
}

// splitExec reads the value of ExecStart=: the commands with their arguments as
// systemd keeps them, before variables are replaced.
func splitExec(value string) ([][]string, error) {
	words, err := extractWords(value)
	if err != nil {
		return nil, err
	}
	var (
		commands [][]string
		current  []string
	)
	for _, w := range words {
		if w.bare == ";" {
			commands, current = append(commands, current), nil
			continue
		}
		resolved, err := specifiers(w.text)
		if err != nil {
			return nil, err
		}
		current = append(current, resolved)
	}
	return append(commands, current), nil
}

type extracted struct{ text, bare string }

// extractWords splits at white space with quotes and C escapes undone.
func extractWords(s string) ([]extracted, error) {
	var out []extracted
	for i := 0; i < len(s); {
		if strings.IndexByte(" \t\n\r", s[i]) >= 0 {
			i++
			continue
		}
		var (
			b     []byte
			quote byte
			start = i
		)
		for ; i < len(s); i++ {
			c := s[i]
			if c == '\\' {
				decoded, n, err := unescape(s[i:])
				if err != nil {
					return nil, err
				}
				b = append(b, decoded...)
				i += n - 1
				continue
			}
			switch {
			case quote != 0 && c == quote:
				quote = 0
			case quote != 0:
				b = append(b, c)
			case c == '"' || c == '\'':
				quote = c
			case strings.IndexByte(" \t\n\r", c) >= 0:
				goto end
			default:
				b = append(b, c)
			}
		}
		if quote != 0 {
			return nil, errors.New("unbalanced quote")
		}
	end:
		out = append(out, extracted{string(b), s[start:i]})
	}
	return out, nil
}

func unescape(s string) (decoded string, n int, err error) {
	if len(s) < 2 {
		return "", 0, errors.New("trailing backslash")
	}
	simple := map[byte]string{'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '\\': `\`, '"': `"`, '\'': "'", 's': " "}
	if d, ok := simple[s[1]]; ok {
		return d, 2, nil
	}
	digits, base := 0, 16
	switch s[1] {
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return "", 0, errors.New("unknown escape")
	}
	if len(s) < 2+digits {
		return "", 0, errors.New("short escape")
	}
	v, err := strconv.ParseUint(s[2:2+digits], base, 32)
	if err != nil {
		return "", 0, err
	}
	if s[1] == 'x' {
		return string([]byte{byte(v)}), 4, nil
	}
	return string(rune(v)), 2 + digits, nil
}

// specifiers knows %% alone: any other would let the outside into an argument.
func specifiers(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 >= len(s) || s[i+1] != '%' {
			return "", errors.New("a specifier")
		}
		b.WriteByte('%')
		i++
	}
	return b.String(), nil
}

// atStart is what the program gets: variables replaced (Unit.Argv does that as
// systemd does, and is tested by itself), the first word left alone.
func atStart(command []string, env ...string) []string {
	u := Unit{ExecStart: [][]string{append([]string{"/bin/x"}, command[1:]...)}, Environment: env}
	return slices.Concat(command[:1], u.Argv(nil)[1:])
}

package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// joinLine is what a `kubeadm join` line says.
type joinLine struct {
	endpoint  string
	token     string
	pins      []string
	unsafe    bool
	nodeName  string
	criSocket string
	ignored   []string // flags that mean nothing here
}

// parseJoinLine reads the line that `kubeadm token create --print-join-command`
// prints, as it is or as it was copied: with a prompt or sudo before it, over
// several lines, folded, with quotes, or somewhere in all that `kubeadm init`
// said. Errors never repeat a value: one of them is the token.
func parseJoinLine(text string) (joinLine, error) {
	if !utf8.ValidString(text) {
		return joinLine{}, errors.New("is not UTF-8 text")
	}
	var workers, all [][]string
	for _, line := range joinLines(text) {
		words, err := shellWords(line)
		if err != nil {
			return joinLine{}, err
		}
		args, ok := kubeadmJoin(words)
		if !ok {
			continue // it looked like one before its quotes were read
		}
		all = append(all, args)
		if !slices.Contains(args, "--control-plane") {
			workers = append(workers, args)
		}
	}
	if len(all) > 1 && len(workers) > 0 {
		all = workers // kubeadm init prints one for control-plane nodes as well
	}
	switch len(all) {
	case 0:
		return joinLine{}, errors.New("there is no `kubeadm join` line in it")
	case 1:
		return joinFlags(all[0])
	}
	return joinLine{}, fmt.Errorf("there are %d `kubeadm join` lines in it; give one", len(all))
}

// joinLines finds the `kubeadm join` lines in a text, each with the lines in
// which it goes on: after a backslash, or copied without it. All else is what
// somebody printed around them.
func joinLines(text string) []string {
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	var found []string
	goesOn, near := false, false // it ended with a backslash; nothing but blanks since
	for line := range strings.SplitSeq(text, "\n") {
		trimmed := strings.TrimSpace(line)
		_, begins := kubeadmJoin(strings.Fields(line))
		switch {
		case goesOn && trimmed != "":
			found[len(found)-1] += "\n" + line
		case begins:
			found = append(found, line)
		case near && strings.HasPrefix(trimmed, "--"):
			found[len(found)-1] += " " + line
		case trimmed == "":
			continue
		default:
			near = false
			continue
		}
		goesOn, near = strings.HasSuffix(trimmed, "\\"), true
	}
	return found
}

// kubeadmJoin returns what follows `kubeadm join`, after a prompt and sudo.
func kubeadmJoin(words []string) ([]string, bool) {
	for i := min(len(words), 5) - 1; i >= 0; i-- {
		if strings.HasSuffix(words[i], "$") || strings.HasSuffix(words[i], "#") || strings.HasSuffix(words[i], ">") {
			words = words[i+1:] // what stands before was a prompt
			break
		}
	}
	if len(words) > 0 && path.Base(words[0]) == "sudo" {
		words = words[1:]
		for len(words) > 0 && strings.HasPrefix(words[0], "-") {
			words = words[1:]
		}
	}
	if len(words) >= 2 && path.Base(words[0]) == "kubeadm" && words[1] == "join" {
		return words[2:], true
	}
	return nil, false
}

// joinFlags reads the words after `kubeadm join`.
func joinFlags(words []string) (joinLine, error) {
	var out joinLine
	var tokens, addresses []string
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if !strings.HasPrefix(word, "-") || word == "-" {
			addresses = append(addresses, word)
			continue
		}
		name, value, given := strings.Cut(word, "=")
		next := func() error {
			if given {
				return nil
			}
			if len(words) == 0 || strings.HasPrefix(words[0], "--") {
				return fmt.Errorf("%s has no value", name)
			}
			value, words = words[0], words[1:]
			return nil
		}
		var err error
		switch name {
		case "--token", "--discovery-token", "--tls-bootstrap-token":
			if err = next(); err == nil {
				tokens = append(tokens, value)
			}
		case "--discovery-token-ca-cert-hash":
			if err = next(); err == nil {
				out.pins = append(out.pins, strings.Split(value, ",")...)
			}
		case "--discovery-token-unsafe-skip-ca-verification":
			out.unsafe = !given || value == "true"
			if given && value != "true" && value != "false" {
				err = fmt.Errorf("%s must be true or false", name)
			}
		case "--node-name":
			if err = next(); err == nil {
				out.nodeName = value
			}
		case "--cri-socket":
			if err = next(); err == nil {
				out.criSocket = value
				if strings.HasPrefix(value, "/") {
					out.criSocket = "unix://" + value
				}
			}
		case "--ignore-preflight-errors", "--v", "-v":
			err = next()
			out.ignored = append(out.ignored, name)
		case "--control-plane", "--experimental-control-plane", "--certificate-key", "--apiserver-advertise-address", "--apiserver-bind-port":
			return joinLine{}, fmt.Errorf("%s: this is a line for a control-plane node; this agent joins workers. Use the line without it, from: kubeadm token create --print-join-command", name)
		case "--discovery-file", "--config", "--patches", "--skip-phases", "--dry-run":
			return joinLine{}, fmt.Errorf("%s: has no counterpart here; use the plain line from: kubeadm token create --print-join-command", name)
		default:
			if !showable(strings.TrimLeft(name, "-")) {
				name = "a flag"
			}
			return joinLine{}, fmt.Errorf("%s is no flag of `kubeadm join` that is known here", name)
		}
		if err != nil {
			return joinLine{}, err
		}
	}
	switch {
	case len(addresses) == 0, len(addresses) == 1 && addresses[0] == "": // "", of a variable that was empty
		return joinLine{}, errors.New("the line names no API server (HOST:PORT after `kubeadm join`)")
	case len(addresses) == 1:
		out.endpoint = addresses[0]
	default:
		return joinLine{}, fmt.Errorf("the line has %d words that are no flag; one is wanted, HOST:PORT", len(addresses))
	}
	for _, t := range tokens {
		if t != tokens[0] {
			return joinLine{}, errors.New("the line has two different tokens; one is wanted")
		}
		out.token = t
	}
	if out.token == "" {
		return joinLine{}, errors.New("the line has no --token")
	}
	return out, nil
}

// shellWords splits a command into words as a shell does, but only a plain one:
// what a shell would expand, chain or redirect is refused.
func shellWords(text string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		inWord bool
	)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; {
		case r == ' ' || r == '\t' || r == '\n' || r == 0xa0: // a no-break space comes from web pages
			endWord()
		case r == '\\':
			i++
			if end, ok := lineEnd(runes[i:]); ok {
				i += end // the line goes on
				if i >= len(runes) {
					return nil, errors.New("ends with a backslash: the line is not whole")
				}
				if end > 0 || runes[i] != '\n' {
					endWord()
				}
				continue
			}
			word.WriteRune(runes[i])
			inWord = true
		case r == '\'' || r == '"':
			end, inner, err := quoted(runes, i)
			if err != nil {
				return nil, err
			}
			word.WriteString(inner)
			inWord = true
			i = end
		case r == '#' && !inWord && len(words) > 0:
			for i+1 < len(runes) && runes[i+1] != '\n' {
				i++
			}
		case strings.ContainsRune(";|&<>()`", r) && !(r == '>' && !inWord && len(words) == 0):
			return nil, fmt.Errorf("holds a %q; one plain command is wanted", r)
		case r == '$' && i+1 < len(runes) && runes[i+1] != ' ':
			return nil, errors.New("holds a shell variable; one plain command is wanted")
		case r < ' ' || r == 0x7f:
			return nil, errors.New("holds a control character")
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	endWord()
	return words, nil
}

// lineEnd says whether a line ends after a backslash, and how many runes later:
// at once, after blanks (how copied lines break), or where a line was folded into
// the one before it, as YAML does, and its first flag follows.
func lineEnd(runes []rune) (end int, ok bool) {
	blanks := 0
	for blanks < len(runes) && (runes[blanks] == ' ' || runes[blanks] == '\t') {
		blanks++
	}
	rest := runes[blanks:]
	switch {
	case len(rest) == 0 || rest[0] == '\n':
		return blanks, true
	case blanks > 0 && len(rest) > 1 && rest[0] == '-' && rest[1] == '-':
		return blanks - 1, true
	}
	return 0, false
}

// quoted reads a quoted piece that begins at i and returns where it ends.
func quoted(runes []rune, i int) (end int, inner string, err error) {
	var b strings.Builder
	quote := runes[i]
	for i++; i < len(runes); i++ {
		r := runes[i]
		switch {
		case r == quote:
			return i, b.String(), nil
		case quote == '"' && r == '\\' && i+1 < len(runes) && strings.ContainsRune("\"\\$`\n", runes[i+1]):
			i++
			if runes[i] != '\n' {
				b.WriteRune(runes[i])
			}
		case quote == '"' && (r == '$' || r == '`'):
			return 0, "", errors.New("holds a shell variable; one plain command is wanted")
		default:
			b.WriteRune(r)
		}
	}
	return 0, "", errors.New("holds a quote that is not closed")
}

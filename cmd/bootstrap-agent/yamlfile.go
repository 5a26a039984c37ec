package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxConfigFile bounds the config file.
const maxConfigFile = 1 << 20

// problem is one broken rule. It names file, line, key and rule, never the
// value: the value may be a secret in the wrong place.
type problem struct {
	at   origin
	key  string // with an index for an element of a list
	text string
}

func (p problem) String() string {
	where := p.at.short()
	switch {
	case where == "":
		return p.key + ": " + p.text
	case p.key == "":
		return where + ": " + p.text
	}
	return where + ": " + p.key + ": " + p.text
}

// fileValue is what the file says for one key: string, bool or []string.
type fileValue struct {
	value any
	line  int
	lines []int // of the elements of a list
}

// configFile is the content of a config file with what its mode says.
type configFile struct {
	path  string
	data  []byte
	mode  fs.FileMode
	owner uint32
}

// readConfigFile reads a config file whole, at most maxConfigFile bytes of it,
// without hanging on a FIFO. A link is followed; what it leads to is judged.
func readConfigFile(path string) (configFile, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return configFile{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return configFile{}, err
	}
	switch {
	case info.IsDir():
		return configFile{}, fmt.Errorf("%s: is a folder, not a file", path)
	case !info.Mode().IsRegular():
		return configFile{}, fmt.Errorf("%s: is no regular file (%s)", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return configFile{}, err
	}
	if len(data) > maxConfigFile {
		return configFile{}, fmt.Errorf("%s: is larger than 1 MiB; that is no config file of ours", path)
	}
	out := configFile{path: path, data: data, mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		out.owner = st.Uid
	}
	return out, nil
}

// judgeYAML decodes the file once, into nodes, against the table of keys. All
// it finds wrong comes back together. unreadable: there are no keys to judge,
// because the file as a whole is wrong.
func judgeYAML(path string, data []byte) (values map[string]fileValue, problems []problem, unreadable bool) {
	j := yamlJudge{path: path, values: map[string]fileValue{}, table: keys()}
	root := j.document(data)
	unreadable = len(j.problems) > 0
	if root != nil {
		j.mapping(root, "")
	}
	return j.values, j.problems, unreadable
}

type yamlJudge struct {
	path     string
	table    []key
	values   map[string]fileValue
	problems []problem
}

func (j *yamlJudge) fault(line int, key, format string, args ...any) {
	j.problems = append(j.problems, problem{origin{from: fromFile, name: j.path, line: line}, key, fmt.Sprintf(format, args...)})
}

// document returns the mapping at the top, or nil for an empty file or after a
// fault.
func (j *yamlJudge) document(data []byte) *yaml.Node {
	all := j.documents(data)
	switch {
	case len(all) > 1:
		j.fault(all[1].Line, "", "a second document begins here; the file is one document")
		return nil
	case len(all) == 0 || !j.plain(all[0]):
		return nil
	}
	first := all[0]
	if len(first.Content) != 1 || first.Content[0].ShortTag() == "!!null" {
		return nil
	}
	root := first.Content[0]
	if root.Kind != yaml.MappingNode {
		j.fault(root.Line, "", "the file must be a list of `key: value` lines")
		return nil
	}
	return root
}

// documents decodes text into its documents; none after a fault.
func (j *yamlJudge) documents(data []byte) []*yaml.Node {
	switch {
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}), bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		j.fault(1, "", "is UTF-16; save it as UTF-8")
		return nil
	case bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}):
		data = data[3:] // a byte order mark of UTF-8 does no harm
	}
	if line, what := noText(data); line > 0 {
		j.fault(line, "", "%s", what)
		return nil
	}
	var all []*yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var one yaml.Node
		switch err := decoder.Decode(&one); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			j.syntax(data, err)
			return nil
		}
		all = append(all, &one)
	}
}

// noText finds bytes that are no text.
func noText(data []byte) (line int, what string) {
	for i, text := range bytes.Split(data, []byte("\n")) {
		if bytes.IndexByte(text, 0) >= 0 {
			return i + 1, "holds a zero byte; this is no text file"
		}
		if !utf8.Valid(text) {
			return i + 1, "is not UTF-8 text"
		}
		for _, r := range string(bytes.TrimSuffix(text, []byte("\r"))) {
			if r == '\r' {
				return i + 1, "holds a carriage return inside a line"
			}
			if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 && r != 0x85 {
				return i + 1, "holds a control character"
			}
		}
	}
	return 0, ""
}

var (
	errorLine = regexp.MustCompile(`line (\d+)`)
	leadTab   = regexp.MustCompile(`^ *\t[ \t]*[^#\s]`)
)

// syntax tells about a YAML error in words of our own: the parser's may repeat
// what it read.
func (j *yamlJudge) syntax(data []byte, err error) {
	line := 0
	if m := errorLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	for i, text := range strings.Split(string(data), "\n") {
		if leadTab.MatchString(text) && (line == 0 || i+1 <= line+1) {
			j.fault(i+1, "", "is indented with a tab; YAML wants spaces")
			return
		}
	}
	what := "is no valid YAML"
	for part, ours := range map[string]string{ //nolint:gosec // messages of a parser, no credentials
		"mapping values are not allowed":  "is no valid YAML: a colon stands where none may be (put the value in quotes)",
		"could not find expected ':'":     "is no valid YAML: a line without `key:`",
		"did not find expected key":       "is no valid YAML: the indentation or a quote is wrong at or before this line",
		"cannot start any token":          "is no valid YAML: a value begins with a character that needs quotes around it",
		"found unexpected end of stream":  "is no valid YAML: a quote or bracket is not closed",
		"did not find expected ',' or ']": "is no valid YAML: a list in brackets is not closed, or a comma is missing",
		"unknown anchor":                  "refers to an anchor that does not exist; anchors are not used here",
		"unknown escape character":        "is no valid YAML: an unknown \\ escape between double quotes",
		"exceeded max depth":              "is nested too deeply",
	} {
		if strings.Contains(err.Error(), part) {
			what = ours
		}
	}
	j.fault(line, "", "%s", what)
}

// plain refuses what a config file has no use for and what hides things:
// anchors, aliases, explicit tags.
func (j *yamlJudge) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		j.fault(n.Line, "", "anchors and aliases (& and *) are not allowed; put a value that begins so in quotes")
		return false
	case n.Style&yaml.TaggedStyle != 0:
		j.fault(n.Line, "", "tags (!) are not allowed; put a value that begins so in quotes")
		return false
	}
	ok := true
	for _, c := range n.Content {
		ok = j.plain(c) && ok
	}
	return ok
}

// mapping judges the keys of one section ("" is the top).
func (j *yamlJudge) mapping(n *yaml.Node, section string) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str" {
			j.fault(name.Line, "", "a key must be a plain word")
			continue
		}
		full := join(section, name.Value)
		folded := strings.ToLower(full)
		if line, twice := seen[folded]; twice {
			j.fault(name.Line, shown(full), "is given twice (first at line %d)", line)
			continue
		}
		seen[folded] = name.Line
		if section == "" && isSection(j.table, name.Value) {
			if value.Kind != yaml.MappingNode {
				j.fault(value.Line, full, "must be a section with indented keys below it")
				continue
			}
			j.mapping(value, full)
			continue
		}
		row, known := lookupKey(j.table, full)
		if !known || strings.Contains(name.Value, ".") {
			j.unknown(name, section, full)
			continue
		}
		j.value(row, value)
	}
}

func (j *yamlJudge) unknown(name *yaml.Node, section, full string) {
	var siblings []string
	for _, k := range j.table {
		s, leaf := k.split()
		if s == section {
			siblings = append(siblings, leaf)
		} else if section == "" {
			siblings = append(siblings, s)
		}
	}
	switch {
	case !showable(name.Value):
		j.fault(name.Line, "", "unknown key (not shown: it does not look like one)")
	default:
		if near := nearest(name.Value, siblings); near != "" {
			j.fault(name.Line, shown(full), "unknown key; did you mean %s?", join(section, near))
			return
		}
		j.fault(name.Line, shown(full), "unknown key")
	}
}

// value checks the kind of a value. 5 is no string, "true" no bool, and a
// string no list of one.
func (j *yamlJudge) value(k key, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		j.fault(n.Line, k.name, "has no value; remove the line, or give one")
		return
	}
	switch k.kind {
	case kindString, kindEnum:
		if k.kind == kindEnum && (n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str") {
			j.fault(n.Line, k.name, "must be one of: %s", words(k.enum))
			return
		}
		if text, ok := j.text(k.name, n); ok {
			if k.kind == kindEnum && !contains(k.enum, text) {
				j.fault(n.Line, k.name, "must be one of: %s", words(k.enum))
				return
			}
			j.values[k.name] = fileValue{value: text, line: n.Line}
		}
	case kindBool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			j.fault(n.Line, k.name, "must be true or false, without quotes")
			return
		}
		j.values[k.name] = fileValue{value: strings.EqualFold(n.Value, "true"), line: n.Line}
	case kindList:
		j.list(k, n)
	}
}

func (j *yamlJudge) list(k key, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		j.fault(n.Line, k.name, `must be a list: ["...", "..."], or one "- ..." a line`)
		return
	}
	list, lines, good := []string{}, []int{}, true
	for i, item := range n.Content {
		text, ok := j.text(fmt.Sprintf("%s[%d]", k.name, i), item)
		if good = good && ok; ok {
			list, lines = append(list, text), append(lines, item.Line)
		}
	}
	if good {
		j.values[k.name] = fileValue{value: list, line: n.Line, lines: lines}
	}
}

func (j *yamlJudge) text(name string, n *yaml.Node) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		j.fault(n.Line, name, "must be one string")
	case n.ShortTag() == "!!null":
		j.fault(n.Line, name, "has no value")
	case n.ShortTag() != "!!str":
		j.fault(n.Line, name, "must be a string: put it in quotes")
	case hasControl(n.Value):
		j.fault(n.Line, name, "holds a control character or a line break")
	default:
		return n.Value, true
	}
	return "", false
}

// hasControl finds what may never go into a unit, an argument or a header; marks
// that turn a line's direction round are among it, as they are for units.
func hasControl(s string) bool {
	for _, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
			return true
		}
	}
	return false
}

func lookupKey(table []key, name string) (key, bool) {
	for _, k := range table {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

func isSection(table []key, name string) bool {
	for _, k := range table {
		if s, _ := k.split(); s == name && s != "" {
			return true
		}
	}
	return false
}

func join(section, leaf string) string {
	if section == "" {
		return leaf
	}
	return section + "." + leaf
}

// shown returns a key that may stand in a message, or "" when it may not.
func shown(full string) string {
	if showable(strings.ReplaceAll(full, ".", "")) {
		return full
	}
	return ""
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// words shows the values of an enum.
func words(enum []string) string {
	out := make([]string, len(enum))
	for i, w := range enum {
		if out[i] = w; w == "" {
			out[i] = `""`
		}
	}
	return strings.Join(out, ", ")
}

// Package redact takes secrets out of text that leaves the machine: those that
// are known by their value, whatever form they are in, and what looks like one.
//
// It never decides what is shown: who puts a report together leaves out what
// nobody needs, and this comes last, over everything. It rather takes out too much
// than too little, and it never says what it took.
//
//	values -> Redactor.Know; text -> Redactor.Text -> text with Mark in place of secrets
package redact

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode"
)

// Mark stands where a secret was.
const Mark = "<redacted>"

// shortest is how long a value must be to be looked for: a shorter one would tear
// up the text, and tell by that what it is.
const shortest = 6

// idLength is that of the public half of a bootstrap token.
const idLength = 6

// Redactor knows the secrets of one machine. The zero value knows none, and takes
// out what looks like one.
type Redactor struct {
	known    []string
	replacer *strings.Replacer
}

// Know adds values that must not be seen: as they are, quoted, escaped and in
// base64; of a bootstrap token the secret half alone, too.
func (r *Redactor) Know(values ...string) {
	for _, value := range values {
		value = strings.TrimSpace(value)
		r.forms(value)
		if id, secret, ok := strings.Cut(value, "."); ok && len(id) == idLength {
			r.forms(secret)
		}
	}
	// The longest first, or a part of it would leave the rest to be seen.
	sort.Slice(r.known, func(i, j int) bool { return len(r.known[i]) > len(r.known[j]) })
	pairs := make([]string, 0, 2*len(r.known))
	for _, k := range r.known {
		pairs = append(pairs, k, Mark)
	}
	r.replacer = strings.NewReplacer(pairs...)
}

func (r *Redactor) forms(value string) {
	if len(value) < shortest {
		return
	}
	add := func(forms ...string) {
		for _, f := range forms {
			if len(f) >= shortest {
				r.known = append(r.known, f)
			}
		}
	}
	quoted := strconv.Quote(value)
	inJSON, _ := json.Marshal(value)
	add(value, quoted[1:len(quoted)-1], strings.Trim(string(inJSON), `"`), url.QueryEscape(value), url.PathEscape(value))
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		add(encoding.EncodeToString([]byte(value)), encoding.EncodeToString([]byte(value+"\n")))
	}
}

const secretName = `(?:token|passw(?:or)?d|passwd|passphrase|secret|api[-_]?key|access[-_]?key|private[-_]?key|certificate[-_]?key)s?` //nolint:gosec // names of secrets

// shapes are what a secret looks like, or what stands before one. Only letters
// that are there in all of them come first: the text is searched for each.
var shapes = []struct {
	find *regexp.Regexp
	with string
}{
	// A key that is cut off takes the rest of the text along.
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), "<redacted private key>"},
	{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=_-]+`), Mark},                   // "-----BEGIN" in base64, as in client-key-data
	{regexp.MustCompile(`(?i)([a-z][a-z0-9+.-]*://)[^\s"]*@`), "${1}" + Mark + "@"}, // up to the last @: a password may hold one
	{regexp.MustCompile(`(?i)(authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"']+`), "${1}" + Mark},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}`), "${1} " + Mark},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), Mark},
	{regexp.MustCompile(`(?i)\b([a-z0-9]{6})\.[a-z0-9]{16,}`), "${1}." + Mark},
	{regexp.MustCompile(`(?i)(SetCredential(?:Encrypted)?=[^:\s]*:).*`), "${1}" + Mark},
	{regexp.MustCompile(`(?i)(` + secretName + `["']?\s*=\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s"',;&]+)`), "${1}" + Mark},
	{regexp.MustCompile(`(?i)(` + secretName + `["']?:\s*)(?:"[^"\n]+"|'[^'\n]+'|[^\s"',\x60]{4,})`), "${1}" + Mark},
	{regexp.MustCompile(`(?i)(--[a-z0-9_-]*` + secretName + `\s+)[^\s-]\S*`), "${1}" + Mark},
}

// Text returns the text without secrets, and without what a terminal would obey.
func (r *Redactor) Text(text string) string {
	text = strings.Map(func(c rune) rune {
		if c != '\n' && c != '\t' && (unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c)) {
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	if r.replacer != nil {
		text = r.replacer.Replace(text)
	}
	for _, s := range shapes {
		text = s.find.ReplaceAllString(text, s.with)
	}
	return text
}

// Unit returns a unit file, a drop-in or an environment file without its comments,
// in which people keep all sorts of things, and with the names of its environment
// variables only.
func Unit(text string) string {
	var b strings.Builder
	for _, line := range unitLines(text) {
		if name, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(name) == "Environment" {
			line = "Environment=" + strings.Join(assigned(value), " ")
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// unitLines joins the lines that go on, as systemd does: a comment between them
// is left out and ends nothing (systemd.syntax(7)).
func unitLines(text string) []string {
	var lines []string
	open := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && (line[0] == '#' || line[0] == ';') {
			continue
		}
		if before, goesOn := strings.CutSuffix(line, "\\"); goesOn {
			open += before + " "
			continue
		}
		if line = strings.TrimSpace(open + line); line != "" {
			lines = append(lines, line)
		}
		open = ""
	}
	if open = strings.TrimSpace(open); open != "" {
		lines = append(lines, open)
	}
	return lines
}

// Variables returns the names that an environment file sets, one a line.
func Variables(text string) string {
	var b strings.Builder
	for line := range strings.Lines(Unit(text)) {
		if name, _, ok := strings.Cut(line, "="); ok && variable.MatchString(strings.TrimSpace(name)) {
			b.WriteString(strings.TrimSpace(name) + "=" + Mark + "\n")
		}
	}
	return b.String()
}

var (
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	assignment = regexp.MustCompile(`"([A-Za-z_][A-Za-z0-9_]*)=(?:[^"\\]|\\.)*"|'([A-Za-z_][A-Za-z0-9_]*)=[^']*'|([A-Za-z_][A-Za-z0-9_]*)=\S*`)
)

// assigned lists the names of A=b "C=d e". What it does not understand is left out.
func assigned(value string) []string {
	var names []string
	for _, m := range assignment.FindAllStringSubmatch(value, -1) {
		names = append(names, m[1]+m[2]+m[3]+"="+Mark)
	}
	return names
}

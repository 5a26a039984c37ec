package systemd

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWord is the longest text that may become one word of a unit file; the
// kernel takes no longer argument (MAX_ARG_STRLEN).
const maxWord = 128<<10 - 1

// plainWord needs no quotes in ExecStart=. Everything else gets them: among it
// words that begin with # or ; (a comment, at the start of a continued line) and
// the lone ; that would begin another command.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=,@+-]+$`)

// Escape returns text as one word of ExecStart=, so that the started program
// gets exactly this text as one argument. It undoes, in their order, systemd's
// splitting and C-like unescaping (\ and "), its specifiers (%), and the
// replacement of variables at start ($). Refused: what CheckText refuses.
func Escape(text string) (string, error) {
	if err := CheckText(text); err != nil {
		return "", err
	}
	if plainWord.MatchString(text) {
		return text, nil
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(text) + `"`, nil
}

// CheckText refuses text that must not stand in a unit file. systemd drops lines
// that are no UTF-8; control characters could end the line and begin another
// directive; line and paragraph separators and bidirectional controls make the
// line look other than it is to the person who reviews it. No kubelet argument
// needs any of them.
func CheckText(text string) error {
	switch {
	case len(text) > maxWord:
		return fmt.Errorf("is longer than %d bytes", maxWord)
	case !utf8.ValidString(text):
		return errors.New("is not valid UTF-8")
	}
	for i, r := range text {
		switch {
		case unicode.IsControl(r):
			return fmt.Errorf("has the control character %U at byte %d", r, i)
		case r == '\u2028', r == '\u2029':
			return fmt.Errorf("has the line separator %U at byte %d", r, i)
		case unicode.Is(unicode.Bidi_Control, r):
			return fmt.Errorf("has the invisible text-direction character %U at byte %d", r, i)
		}
	}
	return nil
}

// escapePath returns an absolute path as the whole value of a directive that
// takes a path (ConditionPathExists=, EnvironmentFile=). There is no quoting in
// these, so what cannot be said without is refused.
func escapePath(path string) (string, error) {
	if err := checkPath(path); err != nil {
		return "", err
	}
	if strings.ContainsAny(path, `\*?[]"'`) || strings.TrimSpace(path) != path {
		return "", errors.New(`has one of \ * ? [ ] " ' or a space at its end, which a unit file cannot take there`)
	}
	return strings.ReplaceAll(path, "%", "%%"), nil
}

// escapeBinary returns the first word of ExecStart=. Its variables are not
// replaced at start, unlike those of the words after it, so $ has no escape; and
// a name with a quote or a backslash makes systemd refuse the whole unit, however
// it is written ("Executable name contains special characters").
func escapeBinary(path string) (string, error) {
	if err := checkPath(path); err != nil {
		return "", err
	}
	if strings.ContainsAny(path, "$\"'\\") {
		return "", errors.New("has one of $ \" ' \\, which systemd cannot take in the path of a program")
	}
	return Escape(path)
}

func checkPath(path string) error {
	if err := CheckText(path); err != nil {
		return err
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return errors.New("is no absolute, clean path")
	}
	return nil
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.@-]+\.(service|socket|target|mount|path|timer|slice)$`)

func checkUnitName(name string) error {
	if !unitName.MatchString(name) || len(name) > 255 {
		return fmt.Errorf("%q is no name of a unit", name)
	}
	return nil
}

package discovery

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	idLength     = 6
	secretLength = 16
	// maxBearer leaves room for a signed token of a service account.
	maxBearer = 4096
	// sampleSecret stands in much documentation and so in many clusters.
	sampleSecret = "0123456789abcdef"
)

// Token is a bootstrap token, "abcdef.0123456789abcdef", or a static one, which
// is a word without parts (see ParseBearer). Its secret never shows by accident:
// every way of printing or marshalling gives the id, where it has one, and
// "<redacted>". The zero value is no token.
type Token struct {
	// fmt prints an unexported field of somebody else's struct without asking
	// our methods, and follows one pointer to a struct when the verb does not
	// fit. Of a pointer to a pointer it only ever prints the address.
	parts **tokenParts
}

// A static token is all secret: its id is empty.
type tokenParts struct{ id, secret string }

// ParseToken reads a token as it stands in a file: one newline at its end is
// forgiven, nothing else. The error names the broken rule and never the value.
func ParseToken(s string) (Token, error) {
	if t, ok := strings.CutSuffix(s, "\n"); ok {
		s = strings.TrimSuffix(t, "\r")
	}
	if s == "" {
		return Token{}, fault.New(fault.TokenMissing, "the bootstrap token is empty")
	}
	if rule := brokenTokenRule(s); rule != "" {
		return Token{}, fault.New(fault.ConfigInvalid, "the bootstrap token %s", rule).
			WithHint("A token has the form abcdef.0123456789abcdef: 6 characters, a dot, 16 characters, each of a-z and 0-9. Make one with `kubeadm token create`.")
	}
	id, secret, _ := strings.Cut(s, ".")
	parts := &tokenParts{id: id, secret: secret}
	return Token{&parts}, nil
}

// ParseBearer reads whatever an API server may take as a bearer: a bootstrap
// token, or a static one as it stands in the file of --token-auth-file. A static
// one has no id and signs nothing; it serves where the cluster is known already.
func ParseBearer(s string) (Token, error) {
	token, err := ParseToken(s)
	if err == nil || fault.ReasonOf(err) == fault.TokenMissing {
		return token, err
	}
	s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r")
	rule := brokenWordRule(s)
	switch {
	case rule != "":
	case strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }):
		rule = "has a character outside ASCII"
	case len(s) > maxBearer:
		rule = fmt.Sprintf("has %d characters; %d are the most", len(s), maxBearer)
	}
	if rule != "" {
		return Token{}, fault.New(fault.ConfigInvalid, "the token %s", rule).
			WithHint("A bearer token is one word of visible ASCII characters, without quotes around it.")
	}
	parts := &tokenParts{secret: s}
	return Token{&parts}, nil
}

// brokenTokenRule says what is wrong with s, from the broadest fault to the
// finest, in words that hold nothing of s; "" if it is a token.
func brokenTokenRule(s string) string {
	if rule := brokenWordRule(s); rule != "" {
		return rule
	}
	id, secret, found := strings.Cut(s, ".")
	switch {
	case !found:
		return "has no dot between id and secret"
	case strings.Contains(secret, "."):
		return "has more than one dot"
	case len(id) != idLength:
		return fmt.Sprintf("has an id of %d characters, not %d", len(id), idLength)
	case len(secret) != secretLength:
		return fmt.Sprintf("has a secret of %d characters, not %d", len(secret), secretLength)
	case strings.ContainsFunc(s, func(r rune) bool { return r >= 'A' && r <= 'Z' }):
		return "has upper case letters; tokens are lower case"
	case strings.ContainsFunc(id+secret, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return "has a character other than a-z and 0-9"
	}
	return ""
}

// brokenWordRule says why s is not one word as people write it; "" if it is.
func brokenWordRule(s string) string {
	switch {
	case strings.HasPrefix(s, "\ufeff"):
		return "begins with a byte order mark"
	case strings.ContainsAny(s, "\r\n"):
		return "has more than one line"
	case strings.ContainsAny(s, " \t"):
		return "has white space in it"
	case strings.ContainsAny(s, "\"'`"):
		return "has quotes in it"
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return "has a control character in it"
	}
	return ""
}

// IsZero reports whether there is no token.
func (t Token) IsZero() bool { return t.parts == nil }

// Static reports whether this is a token without an id: one of
// --token-auth-file, or of another authenticator of the API server.
func (t Token) Static() bool { return !t.IsZero() && (*t.parts).id == "" }

// ID returns the public half, the name of the token in the cluster; "" for a
// static token.
func (t Token) ID() string {
	if t.IsZero() {
		return ""
	}
	return (*t.parts).id
}

// Bearer returns the whole token for an Authorization header. It is the only
// way out of this type; a caller sends it on verified connections only.
func (t Token) Bearer() string {
	switch {
	case t.IsZero():
		return ""
	case t.Static():
		return t.secret()
	}
	return (*t.parts).id + "." + t.secret()
}

// secret is the half that the signature is made with, or the whole of a static
// token. The token is not zero.
func (t Token) secret() string { return (*t.parts).secret }

// Equal compares two tokens in constant time.
func (t Token) Equal(u Token) bool {
	return subtle.ConstantTimeCompare([]byte(t.Bearer()), []byte(u.Bearer())) == 1
}

// Weak says why the secret is easy to guess, or "". The signature that it makes
// over cluster-info is public, so a guess can be tried without asking anybody.
func (t Token) Weak() string {
	if t.IsZero() || t.Static() { // a static token signs nothing
		return ""
	}
	s := t.secret()
	if s == sampleSecret {
		return "its secret is the sample of the documentation"
	}
	seen, runs := map[byte]bool{}, 0
	for i := range len(s) {
		seen[s[i]] = true
		if i > 0 && s[i]-s[i-1]+1 <= 2 { // one down, the same, or one up
			runs++
		}
	}
	switch {
	case len(seen) < 6:
		return fmt.Sprintf("its secret has only %d different characters", len(seen))
	case runs >= 9:
		return "its secret is mostly a row of neighbouring characters"
	case s[:secretLength/2] == s[secretLength/2:]:
		return "its secret says the same thing twice"
	}
	return ""
}

// String returns "abcdef.<redacted>", or "<redacted>" for a static token.
func (t Token) String() string {
	switch {
	case t.IsZero():
		return "<none>"
	case t.Static():
		return "<redacted>"
	}
	return (*t.parts).id + ".<redacted>"
}

// GoString returns what String does, for %#v.
func (t Token) GoString() string { return t.String() }

// Format prints what String does, whatever the verb and its flags.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText returns what String does.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// MarshalJSON returns what String does, as a JSON string.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// MarshalYAML returns what String does.
func (t Token) MarshalYAML() (any, error) { return t.String(), nil }

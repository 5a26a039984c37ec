package discovery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestParseTokenAccepts(t *testing.T) {
	for name, in := range map[string]string{
		"as it is":              "abcdef.k3j2h4g5f6d7s8a9",
		"one newline at end":    "abcdef.k3j2h4g5f6d7s8a9\n",
		"one DOS newline":       "abcdef.k3j2h4g5f6d7s8a9\r\n",
		"digits only":           "012345.0918273645546372",
		"the sample of the doc": "abcdef.0123456789abcdef",
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := ParseToken(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := tok.Bearer(); got != strings.TrimRight(in, "\r\n") || tok.ID() != in[:6] || tok.IsZero() {
				t.Errorf("got %q, id %q", got, tok.ID())
			}
		})
	}
}

func TestParseTokenNamesTheRuleAndNeverTheValue(t *testing.T) {
	for name, tc := range map[string]struct{ in, rule string }{
		"no dot":              {"abcdefk3j2h4g5f6d7s8a9", "no dot"},
		"two dots":            {"abcdef.k3j2h4g5.f6d7s8a", "more than one dot"},
		"upper case id":       {"ABCDEF.k3j2h4g5f6d7s8a9", "upper case"},
		"upper case secret":   {"abcdef.K3j2h4g5f6d7s8a9", "upper case"},
		"15 characters":       {"abcdef.k3j2h4g5f6d7s8a", "15 characters, not 16"},
		"17 characters":       {"abcdef.k3j2h4g5f6d7s8a9x", "17 characters, not 16"},
		"5 characters of id":  {"abcde.k3j2h4g5f6d7s8a9", "5 characters, not 6"},
		"no id":               {".k3j2h4g5f6d7s8a9", "0 characters"},
		"two newlines":        {"abcdef.k3j2h4g5f6d7s8a9\n\n", "more than one line"},
		"newline before":      {"\nabcdef.k3j2h4g5f6d7s8a9", "more than one line"},
		"inner space":         {"abcdef. 3j2h4g5f6d7s8a9", "white space"},
		"leading space":       {" abcdef.k3j2h4g5f6d7s8a9", "white space"},
		"tab":                 {"abcdef.k3j2h4g5f6d7s8a\t", "white space"},
		"NUL":                 {"abcdef.k3j2h4g5\x006d7s8a9", "control character"},
		"quotes around":       {`"abcdef.k3j2h4g5f6d7s8a9"`, "quotes"},
		"byte order mark":     {"\ufeffabcdef.k3j2h4g5f6d7s8a9", "byte order mark"},
		"a foreign letter":    {"abcdef.k3j2h4g5f6d7s8\u00e9", "a-z and 0-9"},
		"a k3s token":         {"K10" + strings.Repeat("a", 64) + "::server:xyz", "no dot"},
		"hyphen":              {"abcdef.k3j2-4g5f6d7s8a9", "a-z and 0-9"},
		"not valid UTF-8":     {"abcdef.k3j2\xff4g5f6d7s8a9", "a-z and 0-9"},
		"a JWT":               {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "more than one dot"},
		"a line of a command": {"kubeadm join --token abcdef.k3j2h4g5f6d7s8a9", "white space"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := ParseToken(tc.in)
			wantReason(t, err, fault.ConfigInvalid, tc.rule)
			if !tok.IsZero() {
				t.Error("a token came with the error")
			}
			for _, part := range strings.FieldsFunc(tc.in, func(r rune) bool { return r == '.' || r == ' ' || r == '\n' }) {
				if len(part) > 6 && strings.Contains(err.Error(), part) {
					t.Errorf("the error shows %q: %v", part, err)
				}
			}
		})
	}
}

func TestParseTokenEmptyIsMissing(t *testing.T) {
	for _, in := range []string{"", "\n", "\r\n"} {
		_, err := ParseToken(in)
		wantReason(t, err, fault.TokenMissing)
	}
}

// A secret must not come out of any formatting verb or marshaller, nor out of a
// struct that holds a token in a field which fmt may not call methods on.
func TestTokenRedactsEverywhere(t *testing.T) {
	tok := testToken(t)
	type holder struct {
		Public  Token
		private Token
		Pointer *Token
	}
	h := holder{tok, tok, &tok}
	var outs []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%e", "%c", "%U", "%p", "%b", "%o", "%20s", "%-5v", "%T", "%w"} {
		outs = append(outs, fmt.Sprintf(verb, tok), fmt.Sprintf(verb, &tok), fmt.Sprintf(verb, h), fmt.Sprintf(verb, &h), fmt.Sprintf(verb, []Token{tok}), fmt.Sprintf(verb, map[string]Token{"k": tok}))
	}
	outs = append(outs, fmt.Sprint(tok), fmt.Sprintln(h.private), tok.String(), tok.GoString())
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		for _, v := range []any{tok, &tok, h, map[string]any{"t": tok}} {
			b, err := marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			outs = append(outs, string(b))
		}
	}
	text, err := tok.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	outs = append(outs, string(text))
	for _, f := range []logrus.Formatter{&logrus.TextFormatter{}, &logrus.JSONFormatter{}} {
		l := logrus.New()
		var b strings.Builder
		l.SetOutput(&b)
		l.SetFormatter(f)
		l.WithField("token", tok).WithField("holder", h).Info("x")
		outs = append(outs, b.String())
	}
	hex := fmt.Sprintf("%x", testSecret)
	for _, out := range outs {
		if low := strings.ToLower(out); strings.Contains(low, testSecret) || strings.Contains(low, hex) {
			t.Errorf("the secret shows: %s", out)
		}
	}
	if tok.String() != "abcdef.<redacted>" || (Token{}).String() != "<none>" {
		t.Errorf("got %s and %s", tok, Token{})
	}
}

func TestZeroTokenIsHarmless(t *testing.T) {
	var z Token
	if !z.IsZero() || z.ID() != "" || z.Bearer() != "" || z.Weak() != "" || !z.Equal(Token{}) || z.Equal(testToken(t)) {
		t.Error("the zero token is not empty")
	}
	if !testToken(t).Equal(testToken(t)) {
		t.Error("equal tokens differ")
	}
}

func TestWeakSecrets(t *testing.T) {
	for secret, want := range map[string]string{
		"0123456789abcdef": "sample",
		"aaaaaaaaaaaaaaaa": "1 different",
		"abababababababab": "2 different",
		"abcdefghijklmnop": "row",
		"9876543210zyxwvu": "row",
		"a1b2c3d4a1b2c3d4": "twice",
		testSecret:         "",
		"q7x0m2v9p4k8r1t6": "",
	} {
		tok, err := ParseToken("abcdef." + secret)
		if err != nil {
			t.Fatal(err)
		}
		got := tok.Weak()
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", secret, got, want)
		}
		if strings.Contains(got, secret) {
			t.Errorf("%q shows the secret", got)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	for _, s := range []string{"abcdef.0123456789abcdef", "abcdef.0123456789abcdef\n", "", ".", "a.b.c", "ABCDEF.0123456789ABCDEF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if (err == nil) == tok.IsZero() {
			t.Fatal("token and error disagree")
		}
		if err == nil && (len(tok.Bearer()) != 23 || !strings.HasPrefix(s, tok.Bearer()) || len(s) > 25) {
			t.Fatalf("accepted %q", s)
		}
		if err != nil && len(s) > 12 && strings.Contains(err.Error(), s) {
			t.Fatalf("the error shows the value: %v", err)
		}
	})
}

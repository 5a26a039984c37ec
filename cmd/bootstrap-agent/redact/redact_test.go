package redact

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

func TestWhatLooksLikeASecretIsTakenOut(t *testing.T) {
	for name, row := range map[string]struct{ in, want string }{
		"a bootstrap token keeps its id":            {"token abcdef.0123456789abcdef refused", "token abcdef.<redacted> refused"},
		"also one that is mistyped":                 {"ABCDEF.0123456789ABCDEFG", "ABCDEF.<redacted>"},
		"a bearer token":                            {"curl -H 'Authorization: Bearer abc.def-ghi'", "curl -H 'Authorization: <redacted>'"},
		"a bearer token alone":                      {"sent Bearer a-static-token-of-people", "sent Bearer <redacted>"},
		"a JWT":                                     {"got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln now", "got <redacted> now"},
		"a JWS without its middle, as it is stored": {"eyJhbGciOiJIUzI1NiJ9..abcdefghijk", "eyJhbGciOiJIUzI1NiJ9..abcdefghijk"},
		"a private key":                             {"a\n-----BEGIN EC PRIVATE KEY-----\nMHc\nCAQ\n-----END EC PRIVATE KEY-----\nb", "a\n<redacted private key>\nb"},
		"a private key in a journal that is cut":    {"x: -----BEGIN PRIVATE KEY-----\nx: MHc\nx: CAQ", "x: <redacted private key>"},
		"a key in a kubeconfig":                     {"client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRF", "client-key-data: <redacted>"},
		"a password in a URL":                       {"proxy http://user:p4ss@proxy:3128/", "proxy http://<redacted>@proxy:3128/"},
		"a flag with a value":                       {"--foo-token=xyz --v=2", "--foo-token=<redacted> --v=2"},
		"a flag and its value":                      {"--foo-token xyz --v 2", "--foo-token <redacted> --v 2"},
		"a quoted flag, as a kubelet logs it":       {`FLAG: --some-password="x y"`, `FLAG: --some-password=<redacted>`},
		"JSON":                                      {`{"token":"x","name":"y"}`, `{"token":<redacted>,"name":"y"}`},
		"YAML":                                      {"user:\n  token: a-static-token\n", "user:\n  token: <redacted>\n"},
		"a variable":                                {"AWS_SECRET_ACCESS_KEY=abc REGION=eu", "AWS_SECRET_ACCESS_KEY=<redacted> REGION=eu"},
		"a credential in a unit":                    {"SetCredential=bootstrap-token:whatever it is", "SetCredential=bootstrap-token:<redacted>"},
		"what a terminal would obey":                {"a\x1b[31mred\u202e", "a[31mred"},
	} {
		if got := new(Redactor).Text(row.in); got != row.want {
			t.Errorf("%s:\n got %q\nwant %q", name, got, row.want)
		}
	}
}

func TestWhatAColleagueNeedsStays(t *testing.T) {
	for _, text := range []string{
		"tokenFile: /etc/bootstrap-agent/token",
		"caCertHashes: [sha256:3f1a0c9e8d7b6a5f4e3d2c1b0a9f8e7d6c5b4a39281706f5e4d3c2b1a0f9e8d7]",
		"--token-file /etc/bootstrap-agent/token --kubeconfig=/var/lib/kubelet/kubeconfig",
		"TokenRejected: the token was not accepted: 401 at https://10.0.0.1:6443",
		"there is no bootstrap token in any source: cannot read it",
		"LoadCredential=bootstrap-token",
		"Look at the token's Secret: `kubectl -n kube-system get secret bootstrap-token-kvwsw7 -o yaml`",
		"kubernetes.io/kube-apiserver-client-kubelet node-csr-4f7a9c0d1e2b3a4c5d6e7f8a9b0c1d2e",
		"Serial 5f:3a:9c, CN=system:node:worker-1.example.org",
		"I1122 16:30:00.123456  1 kubelet.go:123] \"Starting kubelet main sync loop\"",
		"kubelet.service - kubelet: The Kubernetes Node Agent",
	} {
		if got := new(Redactor).Text(text); got != text {
			t.Errorf("got  %s\nwant %s", got, text)
		}
	}
}

func TestAKnownSecretIsTakenOutInEveryForm(t *testing.T) {
	const secret = `s3cr t"with/odd+letters`
	var r Redactor
	r.Know(secret, "abcdef.zzzzzz", "short")
	for _, form := range []string{
		secret, strconv.Quote(secret), url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret + "\n")),
		"abcdef.zzzzzz", "zzzzzz",
	} {
		if got := r.Text("a " + form + " b"); !strings.Contains(got, Mark) || strings.Contains(got, "odd") || strings.Contains(got, "zzzzzz") || len(got) > len(Mark)+8 {
			t.Errorf("%s: %s", form, got)
		}
	}
	if got := r.Text("a short word"); got != "a short word" {
		t.Errorf("%s", got)
	}
}

func TestUnitsLoseCommentsAndValuesOfVariables(t *testing.T) {
	got := Unit("# SECRET\n[Service]\n; SECRET\nEnvironment=\"A=SECRET x\" B=SECRET 'C=SECRET' \\\n  D=SECRET\nExecStart=/usr/bin/kubelet $A \\\n  --v=2\nEnvironmentFile=-/etc/default/kubelet\n")
	want := "[Service]\nEnvironment=A=<redacted> B=<redacted> C=<redacted> D=<redacted>\nExecStart=/usr/bin/kubelet $A  --v=2\nEnvironmentFile=-/etc/default/kubelet\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// A comment between the lines of one, and the ends of lines of another system.
	for _, text := range []string{"Environment=A=b \\\n# note\nDB=SECRET\n", "Environment=A=b \\\r\n; note\r\n  DB=SECRET\r\n", "Environment=A=b \\\n DB=SECRET"} {
		if got := Unit(text); got != "Environment=A=<redacted> DB=<redacted>\n" {
			t.Errorf("%q becomes %q", text, got)
		}
	}
	if got := Variables("# SECRET\nA=SECRET\nexport B=SECRET\n C = SECRET\nSECRET\n"); got != "A=<redacted>\nC=<redacted>\n" {
		t.Errorf("%q", got)
	}
}

// FuzzRedactor: a secret that is known is never seen, and a text without any is
// text still.
func FuzzRedactor(f *testing.F) {
	f.Add("some text\n-----BEGIN PRIVATE KEY-----\n", "s3cr3t-value", uint8(3))
	f.Add("Environment=\"A=b\" 'C=d\n\\\n#", "x2m5v8b1n4c6y9ta", uint8(0))
	f.Fuzz(func(t *testing.T, text, secret string, at uint8) {
		secret = strings.TrimSpace(strings.ToValidUTF8(secret, ""))
		if len(secret) < shortest || strings.ContainsAny(secret, "\n<>") || strings.Contains(Mark+"<redacted private key>", secret) || new(Redactor).Text(secret) != secret {
			return
		}
		var r Redactor
		r.Know(secret)
		i := min(int(at), len(text))
		if got := r.Text(text[:i] + " " + secret + " " + text[i:]); strings.Contains(got, secret) {
			t.Errorf("%q is in %q", secret, got)
		}
		_, _ = Unit(text), Variables(text)
	})
}

package discovery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// staticToken is a token of --token-auth-file; errors must never show it.
const staticToken = "canary-zq7w3k9x2m5v8b1n"

// noFile is the reader for files that name no CA file.
func noFile(path string) ([]byte, error) {
	return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOENT}
}

// caData is a CA as it stands in certificate-authority-data.
func caData(a *authority) string {
	return base64.StdEncoding.EncodeToString(encodeBundle(certs(a)))
}

// fileText is a whole bootstrap-kubeconfig as clusters made by hand hand it out.
func fileText(cluster, user string) string {
	return `apiVersion: v1
kind: Config
clusters:
- name: hand-made
  cluster: {` + cluster + `}
users:
- name: kubelet-bootstrap
  user: {` + user + `}
contexts:
- name: default
  context: {cluster: hand-made, user: kubelet-bootstrap}
current-context: default
`
}

func TestADiscoveryFileIsRead(t *testing.T) {
	a := newCA(t, "ca")
	cluster := "server: https://10.0.0.1:6443, certificate-authority-data: " + caData(a)
	full := fileText(cluster, "token: "+staticToken)
	asJSON, err := json.MarshalIndent(map[string]any{
		"kind": "Config", "apiVersion": "v1", "current-context": "c", "preferences": map[string]any{},
		"clusters": []any{map[string]any{"name": "k", "cluster": map[string]any{"server": "https://10.0.0.1:6443", "certificate-authority-data": caData(a)}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": staticToken}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "k", "user": "u", "namespace": "x"}}},
	}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	other := newCA(t, "other")
	several := `clusters:
- {name: wrong, cluster: {server: "https://wrong", certificate-authority-data: ` + caData(other) + `}}
- {name: right, cluster: {` + cluster + `}}
users:
- {name: admin, user: {client-certificate: /a, client-key: /b}}
- {name: right, user: {token: ` + staticToken + `}}
contexts:
- {name: a, context: {cluster: wrong, user: admin}}
- {name: b, context: {cluster: right, user: right}}
current-context: b
`
	for name, tc := range map[string]struct {
		text   string
		token  string
		secret bool
	}{
		"a whole bootstrap-kubeconfig":                {full, staticToken, true},
		"the same as JSON":                            {string(asJSON), staticToken, true},
		"of several, current-context decides":         {several, staticToken, true},
		"a byte order mark does no harm":              {"\xef\xbb\xbf" + full, staticToken, true},
		"one cluster alone, as kubeadm's file":        {kubeconfig("https://10.0.0.1:6443", encodeBundle(certs(a))), "", false},
		"one cluster and one user without context":    {"clusters: [{name: a, cluster: {" + cluster + "}}]\nusers: [{name: b, user: {token: " + staticToken + "}}]\n", staticToken, true},
		"a context without a user":                    {"clusters: [{name: a, cluster: {" + cluster + "}}]\ncontexts: [{name: c, context: {cluster: a}}]\ncurrent-context: c\n", "", false},
		"a user that is null":                         {"clusters: [{name: a, cluster: {" + cluster + "}}]\nusers: [{name: b, user: null}]\n", "", false},
		"a bootstrap token as bearer":                 {fileText(cluster, "token: "+testID+"."+testSecret), testID + "." + testSecret, true},
		"empty fields that would be refused":          {fileText(cluster+`, proxy-url: "", tls-server-name: null, insecure-skip-tls-verify: false`, `token: `+staticToken+`, exec: null, username: ""`), staticToken, true},
		"fields of other tools":                       {fileText(cluster+", disable-compression: true, extensions: [{name: x, extension: {a: 1}}]", "token: "+staticToken), staticToken, true},
		"a token that looks like a number, in quotes": {fileText(cluster, `token: "1234567890"`), "1234567890", true},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := ParseFile([]byte(tc.text), "/dir", noFile)
			if err != nil {
				t.Fatal(err)
			}
			if f.Server() != "https://10.0.0.1:6443" || f.Token().Bearer() != tc.token || f.HoldsSecret() != tc.secret || f.CAFile() != "" {
				t.Errorf("server %s, token %t, secret %t, CA file %q", f.Server(), f.Token().Bearer() == tc.token, f.HoldsSecret(), f.CAFile())
			}
			if !slices.Equal(f.Pins(), pinsOf(a).List()) || string(f.CA()) != string(encodeBundle(certs(a))) {
				t.Errorf("pins %v", f.Pins())
			}
			if HoldsToken([]byte(tc.text)) != tc.secret {
				t.Error("HoldsToken says otherwise")
			}
			if all := fmt.Sprintf("%v %+v %#v %s", f, f, *f, f.Digest()); tc.token != "" && strings.Contains(all, tc.token) {
				t.Error("printing the file shows its token")
			}
		})
	}
}

func TestTheDigestIsThatOfServerAndCA(t *testing.T) {
	a, b := newCA(t, "a"), newCA(t, "b")
	digest := func(server string, ca *authority, token string) string {
		f, err := ParseFile([]byte(fileText("server: "+server+", certificate-authority-data: "+caData(ca), "token: "+token)), "", noFile)
		if err != nil {
			t.Fatal(err)
		}
		return f.Digest()
	}
	first := digest("https://x:1", a, staticToken)
	if digest("https://x:1", a, "another") != first {
		t.Error("another token is another ground")
	}
	if digest("https://x:2", a, staticToken) == first || digest("https://x:1", b, staticToken) == first {
		t.Error("another server or CA is the same ground")
	}
}

func TestACAFileIsReadBesideTheDiscoveryFile(t *testing.T) {
	a := newCA(t, "ca")
	for written, want := range map[string]string{"ca.crt": "/etc/x/ca.crt", "../pki/ca.crt": "/etc/pki/ca.crt", "/abs/ca.crt": "/abs/ca.crt"} {
		asked := ""
		f, err := ParseFile([]byte(fileText("server: https://x, certificate-authority: "+written, "")), "/etc/x", func(path string) ([]byte, error) {
			asked = path
			return encodeBundle(certs(a)), nil
		})
		if err != nil || asked != want || f.CAFile() != want || !slices.Equal(f.Pins(), pinsOf(a).List()) {
			t.Errorf("%s: read %s, %v", written, asked, err)
		}
	}
}

func TestADiscoveryFileIsRefusedByFieldName(t *testing.T) {
	a := newCA(t, "ca")
	data := "certificate-authority-data: " + caData(a)
	cluster := "server: https://10.0.0.1:6443, " + data
	one := "clusters: [{name: a, cluster: {" + cluster + "}}]\n"
	for name, tc := range map[string]struct{ text, want string }{
		"an empty file":              {"", "no document"},
		"comments alone":             {"# x\n", "no document"},
		"a second document":          {fileText(cluster, "") + "---\n" + staticToken + "\n", "more than one document"},
		"a lone word":                {staticToken, "the document is no mapping"},
		"no YAML":                    {"a: \"" + staticToken, "no valid YAML"},
		"an unknown anchor":          {"a: *" + staticToken, "no valid YAML"},
		"a file that is no text":     {"\x7fELF\x00\x00" + staticToken, "no valid YAML"},
		"an anchor and an alias":     {"clusters: &a [" + staticToken + "]\nusers: *a\n", "an anchor, an alias or a tag"},
		"an alias bomb":              {"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "an anchor, an alias or a tag"},
		"an alias where none looks":  {one + "extensions: [{name: &x y, extension: *x}]\n", "an anchor, an alias or a tag"},
		"a tag":                      {one + "users: [{name: x, user: {token: !!str " + staticToken + "}}]\n", "an anchor, an alias or a tag"},
		"a merge key":                {one + "<<: {kind: Config}\n", "unknown field"},
		"another kind":               {"kind: Secret\n" + one, "kind is not Config"},
		"another version":            {"apiVersion: v2\n" + one, "apiVersion is not v1"},
		"an unknown field":           {"colour: " + staticToken + "\n" + one, "colour is not allowed here"},
		"a secret as a field":        {staticToken + ": x\n" + one, "not shown"},
		"a field twice":              {one + one, "clusters stands twice"},
		"fields in another case":     {"Clusters: []\n" + one, "Clusters is not allowed here"},
		"clusters as a mapping":      {"clusters: {a: " + staticToken + "}\n", "clusters is no list"},
		"no cluster":                 {"kind: Config\n", "clusters is missing or empty"},
		"an entry that is a word":    {"clusters: [" + staticToken + "]\n", "clusters[0] is no mapping"},
		"two clusters, no context":   {"clusters: [{name: a, cluster: {}}, {name: b, cluster: {}}]\n", "current-context is missing, and clusters has 2 entries"},
		"two users, no context":      {one + "users: [{name: a}, {name: b}]\n", "current-context is missing, and users has 2 entries"},
		"two clusters of one name":   {"clusters: [{name: a, cluster: {}}, {name: a, cluster: {}}]\n", "clusters[1].name stands twice"},
		"a context that is not here": {one + "current-context: " + staticToken + "\n", "current-context names no context"},
		"a cluster that is not here": {one + "contexts: [{name: c, context: {cluster: " + staticToken + "}}]\ncurrent-context: c\n", "contexts[0].context.cluster names no cluster"},
		"a user that is not here":    {one + "contexts: [{name: c, context: {cluster: a, user: " + staticToken + "}}]\ncurrent-context: c\n", "contexts[0].context.user names no user"},
		"preferences with content":   {one + "preferences: {colors: true}\n", "preferences is not empty"},

		"no server":            {fileText(data, ""), "clusters[0].cluster.server is missing"},
		"http":                 {fileText("server: http://"+staticToken+", "+data, ""), "server does not begin with https://"},
		"a password in it":     {fileText("server: https://u:"+staticToken+"@x, "+data, ""), "server has a user name or password"},
		"a path behind it":     {fileText("server: https://x/"+staticToken+", "+data, ""), "server has a path"},
		"no CA":                {fileText("server: https://x", ""), "clusters[0].cluster has no CA"},
		"an empty CA":          {fileText(`server: https://x, certificate-authority-data: ""`, ""), "clusters[0].cluster has no CA"},
		"both CAs":             {fileText(cluster+", certificate-authority: /x", ""), "has both certificate-authority and certificate-authority-data"},
		"a path as data":       {fileText("server: https://x, certificate-authority-data: /etc/kubernetes/pki/ca", ""), "certificate-authority-data: holds a path, not certificates"},
		"a file name as data":  {fileText("server: https://x, certificate-authority-data: ca.crt", ""), "certificate-authority-data: holds a path, not certificates"},
		"a path in base64":     {fileText("server: https://x, certificate-authority-data: "+base64.StdEncoding.EncodeToString([]byte("/etc/kubernetes/pki/ca.crt\n")), ""), "certificate-authority-data: holds a path, not certificates"},
		"PEM as data":          {fileText(`server: https://x, certificate-authority-data: "-----BEGIN CERTIFICATE-----"`, ""), "holds PEM text as it is"},
		"no base64":            {fileText("server: https://x, certificate-authority-data: "+staticToken, ""), "is no base64"},
		"no PEM":               {fileText("server: https://x, certificate-authority-data: "+base64.StdEncoding.EncodeToString([]byte(staticToken)), ""), "holds no PEM certificate"},
		"a CA file that lacks": {fileText("server: https://x, certificate-authority: ca.crt", ""), "clusters[0].cluster.certificate-authority: open /etc/x/ca.crt"},
		"compression as text":  {fileText(cluster+`, disable-compression: "`+staticToken+`"`, ""), "disable-compression is neither true nor false"},

		"a server nobody verifies":  {fileText(cluster+", insecure-skip-tls-verify: true", ""), "clusters[0].cluster.insecure-skip-tls-verify is not allowed"},
		"the same in quotes":        {fileText(cluster+`, insecure-skip-tls-verify: "false"`, ""), "insecure-skip-tls-verify is not allowed"},
		"a proxy":                   {fileText(cluster+", proxy-url: http://u:"+staticToken+"@p", ""), "clusters[0].cluster.proxy-url is not allowed here (line 5): name the proxy in the key proxyURL"},
		"another TLS name":          {fileText(cluster+", tls-server-name: "+staticToken, ""), "clusters[0].cluster.tls-server-name is not allowed"},
		"a program":                 {fileText(cluster, "exec: {command: "+staticToken+"}"), "users[0].user.exec is not allowed"},
		"an auth provider":          {fileText(cluster, "auth-provider: {name: "+staticToken+"}"), "users[0].user.auth-provider is not allowed"},
		"a client certificate":      {fileText(cluster, "client-certificate: /"+staticToken), "users[0].user.client-certificate is not allowed"},
		"its data":                  {fileText(cluster, "client-certificate-data: "+staticToken), "users[0].user.client-certificate-data is not allowed"},
		"a client key":              {fileText(cluster, "client-key-data: "+staticToken), "users[0].user.client-key-data is not allowed"},
		"a password":                {fileText(cluster, "username: x, password: "+staticToken), "users[0].user.password is not allowed"},
		"a token file":              {fileText(cluster, "tokenFile: /"+staticToken), "users[0].user.tokenFile is not allowed here (line 8): name the file in the key tokenFile"},
		"impersonation":             {fileText(cluster, "as: "+staticToken), "users[0].user.as is not allowed"},
		"a token that is a number":  {fileText(cluster, "token: 1234567890"), "users[0].user.token is no text; put it in quotes"},
		"a token that is an old no": {fileText(cluster, "token: no"), "users[0].user.token is no text; put it in quotes"},
		"a token of two words":      {fileText(cluster, `token: "Bearer `+staticToken+`"`), "users[0].user.token: the token has white space"},
		"a token of two lines":      {fileText(cluster, `token: "`+staticToken+`\nx"`), "users[0].user.token: the token has more than one line"},
		"a token in quotes twice":   {fileText(cluster, `token: "'`+staticToken+`'"`), "users[0].user.token: the token has quotes"},
		"a token that is too long":  {fileText(cluster, "token: "+strings.Repeat("x", 4097)), "4097 characters"},
		"more than 2 MiB":           {one + strings.Repeat("# x\n", 1<<19), "larger than 2097152 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseFile([]byte(tc.text), "/etc/x", noFile)
			wantReason(t, err, fault.ConfigInvalid, tc.want)
			if all := err.Error() + fault.HintOf(err); strings.Contains(all, staticToken) || strings.Contains(all, "zq7w3k9x") {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

func TestClusterInfoNamesAPathInPlaceOfTheCA(t *testing.T) {
	_, err := parseKubeconfig("clusters: [{name: '', cluster: {server: 'https://x', certificate-authority-data: /etc/kubernetes/pki/ca}}]")
	wantReason(t, err, fault.ClusterInfoInvalid, "certificate-authority-data holds a path, not certificates")
}

// fileFor is a discovery file for a server of the test.
func fileFor(t *testing.T, server string, cas ...*authority) *File {
	t.Helper()
	data := base64.StdEncoding.EncodeToString(encodeBundle(certs(cas...)))
	f, err := ParseFile([]byte(fileText("server: "+server+", certificate-authority-data: "+data, "token: "+staticToken)), "", noFile)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheServerOfADiscoveryFileMustShowItself(t *testing.T) {
	a, b := newCA(t, "ca"), newCA(t, "other")
	closed := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Unauthorized", http.StatusUnauthorized) })
	good := newRogue(t, a.serving(t, []string{"127.0.0.1"}), closed)
	strange := newRogue(t, b.serving(t, []string{"127.0.0.1"}), closed)
	misnamed := newRogue(t, a.serving(t, []string{"10.9.9.9"}), closed)
	url := func(r *rogue) string { return r.endpoint.URL() }
	for name, tc := range map[string]struct {
		file   *File
		pins   Pins
		server string
		want   fault.Reason
		says   string
	}{
		"anonymous access closed is enough":      {file: fileFor(t, url(good), a)},
		"a pin that matches":                     {file: fileFor(t, url(good), a, b), pins: pinsOf(a)},
		"a pin of another CA":                    {file: fileFor(t, url(good), a), pins: pinsOf(b), want: fault.CAPinMismatch, says: "the discovery file shows"},
		"a CA that no pin names is dropped":      {file: fileFor(t, url(strange), a, b), pins: pinsOf(a), want: fault.ServerCertificateInvalid},
		"a server of another CA":                 {file: fileFor(t, url(strange), a), want: fault.ServerCertificateInvalid},
		"a server of another name":               {file: fileFor(t, url(misnamed), a), want: fault.ServerCertificateInvalid},
		"the key server decides who is asked":    {file: fileFor(t, url(strange), a), server: url(good)},
		"a key server of another CA":             {file: fileFor(t, url(good), a), server: url(strange), want: fault.ServerCertificateInvalid},
		"a key server that no request can reach": {file: fileFor(t, url(good), a), server: "ftp://x", want: fault.ConfigInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Discoverer{}
			req := Request{File: tc.file, Pins: tc.pins, Server: tc.server}
			before := good.tap.Connections() + strange.tap.Connections()
			c, err := d.Discover(t.Context(), req)
			report, inspected := d.Inspect(t.Context(), req)
			if fault.ReasonOf(err) != tc.want || fault.ReasonOf(inspected) != tc.want {
				t.Fatalf("%v, inspected %v", err, inspected)
			}
			if tc.want != "" {
				wantReason(t, err, tc.want, tc.says)
				if tc.want == fault.CAPinMismatch && good.tap.Connections()+strange.tap.Connections() != before {
					t.Error("a pin that does not match cost a connection")
				}
				return
			}
			server := url(good)
			if c.Server != server || c.FileDigest != tc.file.Digest() || c.TokenID != "" || c.Provisional || c.Requests != 1 || c.Handshakes != 1 {
				t.Errorf("%+v", c)
			}
			if !slices.Equal(c.Pins, pinsOf(a).List()) || !report.File || report.Endpoints[0].Reached != StepVerified {
				t.Errorf("pins %v, report %+v", c.Pins, report)
			}
		})
	}
	if strings.Contains(good.tap.Heard()+strange.tap.Heard(), staticToken) {
		t.Error("the token went over the wire")
	}
}

func TestABalancerOfTheNodeThatIsNotThereYetIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	a := newCA(t, "ca")
	file := fileFor(t, "https://"+address, a)
	_, err = (&Discoverer{}).Discover(t.Context(), Request{File: file})
	wantReason(t, err, fault.EndpointUnreachable, address)
	if row, _ := fault.Lookup(fault.ReasonOf(err)); row.Class != fault.Retry || !strings.Contains(fault.HintOf(err), "of this machine yet") {
		t.Errorf("class %s, hint %q", row.Class, fault.HintOf(err))
	}

	// Another machine that refuses is told without guesses.
	d := &Discoverer{Dial: newWires().Dial, Limits: Limits{Dial: time.Millisecond}}
	_, err = d.Discover(t.Context(), Request{File: fileFor(t, "https://10.0.0.1", a)})
	wantReason(t, err, fault.EndpointUnreachable, "10.0.0.1:443")
	if strings.Contains(fault.HintOf(err), "this machine yet") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
}

func TestAClockThatIsWrongIsToldWithADiscoveryFile(t *testing.T) {
	a := newCA(t, "ca")
	r := newRogue(t, a.serving(t, []string{"127.0.0.1"}), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	d := &Discoverer{Now: func() time.Time { return time.Now().AddDate(3, 0, 0) }}
	_, err := d.Discover(t.Context(), Request{File: fileFor(t, r.endpoint.URL(), a)})
	wantReason(t, err, fault.ClockSkew)
}

func TestAStaticTokenCannotVerifyClusterInfo(t *testing.T) {
	token, err := ParseBearer(staticToken)
	if err != nil || !token.Static() || token.ID() != "" || token.Bearer() != staticToken || token.Weak() != "" {
		t.Fatal(err)
	}
	var conns int
	d := &Discoverer{Dial: func(context.Context, string, string) (net.Conn, error) { conns++; return nil, syscall.ECONNREFUSED }}
	_, err = d.Discover(t.Context(), Request{Endpoints: []Endpoint{mustEndpoint(t, "10.0.0.1")}, Token: token})
	wantReason(t, err, fault.ConfigInvalid, "a static token cannot verify cluster-info")
	if conns != 0 {
		t.Error("it was tried")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if text := fmt.Sprintf(verb, struct{ T Token }{token}) + fmt.Sprintf(verb, token); strings.Contains(text, staticToken) {
			t.Errorf("%s shows it", verb)
		}
	}
	if text, err := json.Marshal(token); err != nil || string(text) != `"\u003credacted\u003e"` {
		t.Errorf("%s, %v", text, err)
	}
}

func FuzzParseFile(f *testing.F) {
	a := newCA(f, "ca")
	cluster := "server: https://10.0.0.1:6443, certificate-authority-data: " + caData(a)
	f.Add([]byte(fileText(cluster, "token: "+staticToken)))
	f.Add([]byte(fileText("server: https://x, certificate-authority: ca.crt", "exec: {command: x}")))
	f.Add([]byte(kubeconfig("https://10.0.0.1:6443", encodeBundle(certs(a)))))
	f.Add([]byte(`{"clusters":[{"name":"a","cluster":{"server":"https://x"}}],"users":[{"user":{"token":"x"}}]}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseFile(text, "/etc/x", func(string) ([]byte, error) { return encodeBundle(certs(a)), nil })
		_ = HoldsToken(text)
		if (file == nil) == (err == nil) {
			t.Fatal("neither a file nor an error, or both")
		}
		if err != nil {
			if fault.ReasonOf(err) != fault.ConfigInvalid || strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("%s: %q", fault.ReasonOf(err), err)
			}
			return
		}
		if len(file.Pins()) == 0 || !strings.HasPrefix(file.Server(), "https://") {
			t.Fatalf("accepted without CA or server: %s", file.Server())
		}
		token := file.Token()
		if !token.IsZero() && (!file.HoldsSecret() || !HoldsToken(text)) {
			t.Fatal("a token that nobody guards")
		}
		if len(token.Bearer()) > 12 && strings.Contains(fmt.Sprintf("%+v", file), token.Bearer()) {
			t.Fatal("printing shows the token")
		}
	})
}

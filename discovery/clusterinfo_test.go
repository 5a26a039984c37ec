package discovery

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestParseConfigMap(t *testing.T) {
	for name, tc := range map[string]struct {
		body   string
		reason fault.Reason
		says   string
	}{
		"good":                       {`{"kind":"ConfigMap","data":{"kubeconfig":"x"}}`, "", ""},
		"HTML":                       {"<html>\x1b[2J</html>", fault.ServerError, "no JSON"},
		"empty":                      {"", fault.ServerError, "no JSON"},
		"cut off":                    {`{"kind":"ConfigMap","data":{"kube`, fault.ServerError, "no JSON"},
		"text after it":              {`{"kind":"ConfigMap","data":{"kubeconfig":"x"}} {}`, fault.ServerError, "no JSON"},
		"a list":                     {`[]`, fault.ServerError, "no JSON that fits"},
		"a Status":                   {`{"kind":"Status","message":"no"}`, fault.ServerError, `kind "Status"`},
		"a kind with escapes":        {`{"kind":"\u001b[2J\n"}`, fault.ServerError, `\x1b[2J\n`},
		"data of another type":       {`{"kind":"ConfigMap","data":{"kubeconfig":1}}`, fault.ServerError, "no JSON that fits"},
		"other data of another type": {`{"kind":"ConfigMap","data":{"kubeconfig":"x","y":[1]}}`, fault.ServerError, "data.y is no text"},
		"data is a list":             {`{"kind":"ConfigMap","data":["kubeconfig","x"]}`, fault.ServerError, "data is no object"},
		"null among the data":        {`{"kind":"ConfigMap","data":{"y":null,"kubeconfig":"x"}}`, "", ""},
		"null for data":              {`{"kind":"ConfigMap","data":null}`, fault.ClusterInfoInvalid, "data.kubeconfig"},
		"no data":                    {`{"kind":"ConfigMap"}`, fault.ClusterInfoInvalid, "data.kubeconfig"},
		"no kubeconfig key":          {`{"kind":"ConfigMap","data":{"other":"x"}}`, fault.ClusterInfoInvalid, "data.kubeconfig"},
		"empty kubeconfig":           {`{"kind":"ConfigMap","data":{"kubeconfig":""}}`, fault.ClusterInfoInvalid, "data.kubeconfig"},
		"in binaryData instead":      {`{"kind":"ConfigMap","binaryData":{"kubeconfig":"eA=="}}`, fault.ClusterInfoInvalid, "data.kubeconfig"},
		"deep nesting":               {strings.Repeat("[", 20000), fault.ServerError, "no JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := parseConfigMap([]byte(tc.body))
			if tc.reason == "" {
				if err != nil || data[kubeconfigKey] != "x" {
					t.Fatalf("got %v, %v", data, err)
				}
				return
			}
			wantReason(t, err, tc.reason, tc.says)
		})
	}
}

// T3: what a stranger adds to cluster-info is not kept.
func TestOnlyTheKubeconfigAndItsSignaturesAreKept(t *testing.T) {
	got, err := parseConfigMap([]byte(`{"kind":"ConfigMap","data":{"kubeconfig":"x","jws-kubeconfig-abcdef":"y","other":"z",
		"jws-kubeconfig-` + strings.Repeat("x", 65) + `":"w","kubeconfig ":"v"}}`))
	if err != nil || !maps.Equal(got, map[string]string{kubeconfigKey: "x", signaturePrefix + "abcdef": "y"}) {
		t.Errorf("%v, %v", got, err)
	}
}

const (
	server = "https://10.0.0.1:6443"
	caText = "anything" // the bundle is read later
)

func TestParseKubeconfigAccepts(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString([]byte(caText))
	asJSON, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config",
		"clusters": []any{map[string]any{"name": "x", "cluster": map[string]any{"server": server, "certificate-authority-data": b64}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster := "clusters: [{cluster: {server: '" + server + "', certificate-authority-data: " + b64 + "}}]\n"
	for name, in := range map[string]string{
		"as kubeadm writes it":       kubeconfig(server, []byte(caText)),
		"JSON, which is YAML too":    string(asJSON),
		"the cluster alone":          cluster,
		"empty lists and maps":       cluster + "users: []\ncontexts: []\npreferences: {}\ncurrent-context: ''\n",
		"nulls":                      cluster + "users: null\ncontexts: ~\npreferences:\ncurrent-context: null\n",
		"CRLF":                       strings.ReplaceAll(kubeconfig(server, []byte(caText)), "\n", "\r\n"),
		"comments and document mark": "---\n# hello\n" + cluster,
		"base64 over two lines":      "clusters:\n- cluster:\n    server: " + server + "\n    certificate-authority-data: |\n      " + b64[:4] + "\n      " + b64[4:] + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := parseKubeconfig(in)
			if err != nil {
				t.Fatal(err)
			}
			if c.server.URL() != server || string(c.ca) != caText {
				t.Errorf("got %s, %q", c.server.URL(), c.ca)
			}
		})
	}
}

// One hostile or broken document for every field; each names the field.
func TestParseKubeconfigRefusesAndNamesTheField(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString([]byte(caText))
	doc := func(inCluster, inEntry, atTop string) string {
		return "apiVersion: v1\nkind: Config\nclusters:\n- name: x\n" + inEntry + "  cluster:\n    server: " + server +
			"\n    certificate-authority-data: " + b64 + "\n" + inCluster + atTop
	}
	in := func(line string) string { return doc("    "+line+"\n", "", "") }
	top := func(line string) string { return doc("", "", line+"\n") }
	just := func(server, ca string) string {
		return fmt.Sprintf("clusters: [{cluster: {server: %s, certificate-authority-data: %s}}]", server, ca)
	}
	for name, tc := range map[string]struct{ in, says string }{
		"insecure flag":             {in("insecure-skip-tls-verify: true"), "clusters[0].cluster.insecure-skip-tls-verify"},
		"insecure flag, false":      {in("insecure-skip-tls-verify: false"), "insecure-skip-tls-verify"},
		"CA as a file":              {in("certificate-authority: /etc/shadow"), "clusters[0].cluster.certificate-authority "},
		"proxy-url":                 {in("proxy-url: http://evil:3128"), "proxy-url"},
		"tls-server-name":           {in("tls-server-name: evil"), "tls-server-name"},
		"disable-compression":       {in("disable-compression: true"), "disable-compression"},
		"extensions in cluster":     {in("extensions: [{name: x, extension: {}}]"), "extensions"},
		"case of a field":           {in("Server: https://evil"), "clusters[0].cluster.Server"},
		"server twice":              {in("server: https://evil"), "server stands twice"},
		"merge key":                 {in("<<: {server: https://evil}"), "<<"},
		"unknown with escapes":      {in(`"a\e[2J\nb": 1`), `a\x1b[2J\nb`},
		"number as key":             {in("1: 2"), "clusters[0].cluster.1"},
		"unknown beside cluster":    {doc("", "  user: x\n", ""), "clusters[0].user"},
		"exec user":                 {top("users: [{name: x, user: {exec: {command: /bin/sh}}}]"), "users is not empty"},
		"user with auth-provider":   {top("users: [{name: x, user: {auth-provider: {name: gcp}}}]"), "users is not empty"},
		"user with token":           {top("users: [{name: x, user: {token: abc}}]"), "users is not empty"},
		"users is a map":            {top("users: {x: 1}"), "users is not empty"},
		"contexts with content":     {top("contexts: [{name: x, context: {cluster: x, user: x}}]"), "contexts is not empty"},
		"preferences with content":  {top("preferences: {colors: true}"), "preferences is not empty"},
		"current-context":           {top("current-context: x"), "current-context is not empty"},
		"extensions at top":         {top("extensions: []"), "extensions"},
		"unknown at top":            {top("foo: 1"), "foo is not allowed"},
		"clusters twice":            {top("clusters: []"), "clusters stands twice"},
		"a second document":         {top("---\nclusters: []"), "more than one document"},
		"an anchor":                 {"clusters: &a\n- cluster: {server: " + server + ", certificate-authority-data: " + b64 + "}", "alias or an anchor"},
		"an alias":                  {"apiVersion: &a v1\nkind: *a", "alias or an anchor"},
		"anchor on the entry":       {"clusters:\n- &a {cluster: {server: x}}", "clusters[0] is no plain mapping"},
		"alias bomb":                {"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nclusters: [*b,*b]", "a is not allowed"},
		"other apiVersion":          {"apiVersion: v2\nclusters: []", "apiVersion is not v1"},
		"other kind":                {"kind: Secret\nclusters: []", "kind is not Config"},
		"no clusters":               {"apiVersion: v1\nkind: Config", "clusters is missing"},
		"zero clusters":             {"clusters: []", "clusters is missing or empty"},
		"null clusters":             {"clusters:", "clusters is missing or empty"},
		"two clusters":              {"clusters: [{cluster: {}}, {cluster: {}}]", "2 entries"},
		"clusters is a map":         {"clusters: {a: 1}", "clusters is no list"},
		"entry is text":             {"clusters: [x]", "clusters[0] is no plain mapping"},
		"entry without cluster":     {"clusters: [{name: x}]", "clusters[0].cluster is missing"},
		"cluster is null":           {"clusters: [{cluster: null}]", "clusters[0].cluster is no plain mapping"},
		"name is a number":          {"clusters: [{name: 1, cluster: {}}]", "clusters[0].name"},
		"no server":                 {"clusters: [{cluster: {certificate-authority-data: " + b64 + "}}]", "cluster.server is missing"},
		"server is a number":        {just("6443", b64), "cluster.server is no text"},
		"server is http":            {just("'http://10.0.0.1:6443'", b64), "https://"},
		"server with userinfo":      {just("'https://u:hunter2@10.0.0.1'", b64), "user name"},
		"server with a path":        {just("'https://10.0.0.1/x'", b64), "path"},
		"server with a query":       {just("'https://10.0.0.1?x'", b64), "query"},
		"server with a fragment":    {just("'https://10.0.0.1#x'", b64), "fragment"},
		"server with port 0":        {just("'https://10.0.0.1:0'", b64), "1 to 65535"},
		"server with newline":       {just(`"https://10.0.0.1\n"`, b64), "control character"},
		"server without scheme":     {just("'10.0.0.1:6443'", b64), "https://"},
		"no CA data":                {"clusters: [{cluster: {server: '" + server + "'}}]", "certificate-authority-data is missing"},
		"empty CA data":             {just("'"+server+"'", "''"), "certificate-authority-data is missing or empty"},
		"CA data is no base64":      {just("'"+server+"'", "'%%%'"), "certificate-authority-data is no base64"},
		"CA data as !!binary":       {just("'"+server+"'", "!!binary "+b64), "certificate-authority-data is no text"},
		"empty document":            {"\n", "no document"},
		"only a comment":            {"# hello\n", "no document"},
		"text":                      {"hello", "no plain mapping"},
		"a list":                    {"[]", "no plain mapping"},
		"tabs":                      {"clusters:\n\t- x", "is no YAML"},
		"YAML with escapes in it":   {"{\x1b[2J", "is no YAML"},
		"binary":                    {"\x00\x01\x02", "is no YAML"},
		"not UTF-8":                 {"clusters: \xff\xfe", "is no YAML"},
		"nesting":                   {strings.Repeat("[", 900), "is no YAML"},
		"deep nesting":              {strings.Repeat("[", 20000), "has 20000 marks"},
		"a megabyte of entries":     {"clusters: [" + strings.Repeat("1,", 500<<10) + "1]", "marks like"},
		"a megabyte of comments":    {"clusters: []\n" + strings.Repeat("#\n", 500<<10), "marks like"},
		"a custom tag on the whole": {"!!python/object:os.system {clusters: []}", "clusters is missing or empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseKubeconfig(tc.in)
			wantReason(t, err, fault.ClusterInfoInvalid, tc.says, "data.kubeconfig")
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error shows a password")
			}
		})
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	f.Add(kubeconfig(server, []byte(caText)))
	f.Add("clusters: [{cluster: {server: 'https://a', certificate-authority-data: eA==}}]")
	f.Add("a: &a [*a]")
	f.Add("---\n---\n")
	f.Add("{")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseKubeconfig(s)
		if err != nil {
			if fault.ReasonOf(err) != fault.ClusterInfoInvalid || strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
				t.Fatalf("reason %s, error %q", fault.ReasonOf(err), err)
			}
			return
		}
		if _, err := ParseServer(c.server.URL()); err != nil || len(c.ca) == 0 && !strings.Contains(s, "certificate-authority-data") {
			t.Fatalf("accepted %q: %v", s, err)
		}
	})
}

func FuzzParseConfigMap(f *testing.F) {
	f.Add([]byte(`{"kind":"ConfigMap","data":{"kubeconfig":"x"}}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := parseConfigMap(b)
		if (err == nil) != (data[kubeconfigKey] != "") {
			t.Fatalf("%v, %v", data, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b\x00") {
			t.Fatalf("unclean error %q", err)
		}
		// What is kept is what a plain reader would see.
		var plain struct{ Data map[string]string }
		if err == nil && json.Unmarshal(b, &plain) != nil {
			t.Fatalf("accepted what is no map of strings: %v", data)
		}
		for name, value := range data {
			if plain.Data[name] != value {
				t.Fatalf("%q is %q, plainly %q", name, value, plain.Data[name])
			}
		}
	})
}

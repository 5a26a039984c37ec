//go:build e2e

package hostile

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// documents: a kubeconfig that a holder of the token has signed, one for each
// field that must not be there, and the tricks of YAML.
func documents() []attack {
	cluster := func(line string) func(string) string {
		return func(good string) string { return strings.Replace(good, "    server:", "    "+line+"\n    server:", 1) }
	}
	top := func(field, line string) func(string) string {
		return func(good string) string {
			for old := range strings.Lines(good) {
				if strings.HasPrefix(old, field+":") {
					return strings.Replace(good, old, line+"\n", 1)
				}
			}
			return good + line + "\n"
		}
	}
	server := func(url string) func(string) string {
		return func(good string) string {
			before, after, _ := strings.Cut(good, "    server: ")
			_, after, _ = strings.Cut(after, "\n")
			return before + "    server: " + url + "\n" + after
		}
	}
	rest := func(text string) func(string) string { return func(good string) string { return good + text } }
	only := func(text string) func(string) string { return func(string) string { return text } }
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i, name := range strings.Split("bcdefghi", "") {
		bomb += name + ": &" + name + " [" + strings.TrimSuffix(strings.Repeat("*"+string(rune('a'+i))+",", 9), ",") + "]\n"
	}
	var all []attack
	for _, row := range []struct {
		threat, name string
		change       func(string) string
		says         string
	}{
		{"T5", "insecure-skip-tls-verify", cluster("insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"},
		{"T5", "certificate-authority", cluster("certificate-authority: /etc/shadow"), "certificate-authority "},
		{"T5", "proxy-url", cluster("proxy-url: http://evil.example:3128"), "proxy-url"},
		{"T5", "tls-server-name", cluster("tls-server-name: evil.example"), "tls-server-name"},
		{"T5", "disable-compression", cluster("disable-compression: false"), "disable-compression"},
		{"T5", "extensions of the cluster", cluster("extensions: [{name: x, extension: {}}]"), "extensions"},
		{"T5", "extensions", top("extensions", "extensions: [{name: x, extension: {}}]"), "extensions"},
		{"T5", "exec", top("users", "users: [{name: x, user: {exec: {apiVersion: v1, command: /bin/sh, args: [-c, id]}}}]"), "users"},
		{"T5", "auth-provider", top("users", "users: [{name: x, user: {auth-provider: {name: oidc}}}]"), "users"},
		{"T5", "token", top("users", "users: [{name: x, user: {token: aaaa}}]"), "users"},
		{"T5", "tokenFile", top("users", "users: [{name: x, user: {tokenFile: /etc/shadow}}]"), "users"},
		{"T5", "client-key", top("users", "users: [{name: x, user: {client-certificate: /a, client-key: /b}}]"), "users"},
		{"T5", "client-certificate-data", top("users", "users: [{name: x, user: {client-certificate-data: eA==}}]"), "users"},
		{"T5", "client-key-data", top("users", "users: [{name: x, user: {client-key-data: eA==}}]"), "users"},
		{"T5", "as-uid", top("users", "users: [{name: x, user: {as-uid: a}}]"), "users"},
		{"T5", "as-groups", top("users", "users: [{name: x, user: {as-groups: [system:masters]}}]"), "users"},
		{"T5", "as-user-extra", top("users", "users: [{name: x, user: {as-user-extra: {a: [b]}}}]"), "users"},
		{"T5", "a user without anything", top("users", "users: [{}]"), "users"},
		{"T5", "extensions of the preferences", top("preferences", "preferences: {extensions: [{name: x, extension: {}}]}"), "preferences"},
		{"T5", "a context with a namespace alone", top("contexts", "contexts: [{name: x, context: {namespace: kube-system}}]"), "contexts"},
		{"T5", "username and password", top("users", "users: [{name: x, user: {username: a, password: b}}]"), "users"},
		{"T5", "as", top("users", "users: [{name: x, user: {as: system:admin}}]"), "users"},
		{"T5", "a context", top("contexts", "contexts: [{name: x, context: {cluster: \"\", user: x}}]"), "contexts"},
		{"T5", "current-context", top("current-context", "current-context: x"), "current-context"},
		{"T5", "preferences", top("preferences", "preferences: {colors: true}"), "preferences"},
		{"T5", "a second cluster", func(good string) string {
			return strings.Replace(good, "clusters:\n", "clusters:\n- cluster: {server: 'https://evil.example', certificate-authority-data: eA==}\n  name: x\n", 1)
		}, "2 entries"},
		{"T5", "an unknown field with escapes in its name", cluster(`"\e[2J\n<0>panic": 1`), `\x1b[2J\n<0>panic`},
		{"T6", "server by http", server("http://127.0.0.1:6443"), "https://"},
		{"T6", "server with a password", server("https://u:hunter2@127.0.0.1"), "user name"},
		{"T6", "server with a path", server("https://127.0.0.1/../x"), "path"},
		{"T6", "server with a newline", server(`"https://127.0.0.1\nHost: evil"`), "control character"},
		{"T6", "server that is a file", server("file:///etc/shadow"), "https://"},
		{"T18", "server twice", cluster("server: https://evil.example"), "twice"},
		{"T18", "clusters twice", rest("clusters: []\n"), "twice"},
		{"T18", "a merge key", cluster("<<: {server: https://evil.example}"), "<<"},
		{"T18", "a second document", rest("---\nkind: Config\n"), "more than one document"},
		{"T18", "an alias bomb", only(bomb), ""},
		{"T18", "an alias bomb where clusters belong", func(good string) string { return "clusters: " + strings.TrimPrefix(bomb, "a: ") }, ""},
		{"T18", "brackets as deep as fit", only("clusters: " + strings.Repeat("[", 1<<20)), ""},
		{"T18", "an entry of a list for each two bytes", only("clusters: [" + strings.Repeat("1,", 900<<10) + "1]"), ""},
		{"T18", "an entry of a mapping for each few bytes", only("clusters: {" + strings.Repeat("? ,", 600<<10) + "}"), ""},
		{"T18", "a list of a line each", only("clusters:\n" + strings.Repeat("- 1\n", 400<<10)), ""},
		{"T18", "documents as many as fit", only(strings.Repeat("---\n", 400<<10)), ""},
		{"T18", "comments as many as fit", rest(strings.Repeat("#\n", 600<<10)), "marks"},
		{"T18", "empty lines as many as fit", only("clusters: |" + strings.Repeat("\n", 900<<10)), ""},
		{"T18", "tags as many as fit", only("clusters: [" + strings.Repeat("!a ,", 400<<10) + "1]"), ""},
		{"T18", "one text of a megabyte", only("clusters: " + strings.Repeat("x", 1<<20)), ""},
		{"T18", "not YAML at all", only("\x00\x01\x02"), "no YAML"},
	} {
		all = append(all, attack{threat: row.threat, name: "kubeconfig: " + row.name, serve: withKubeconfig(row.change), want: fault.ClusterInfoInvalid, says: row.says})
	}
	// JSON is YAML, too: it means the same, and passes.
	all = append(all, attack{threat: "T18", name: "kubeconfig: JSON for YAML", serve: answer(func(url string, ca *authority) map[string]string {
		text := must(json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "Config",
			"clusters": []any{map[string]any{"name": "", "cluster": map[string]any{"server": url, "certificate-authority-data": ca.pem()}}},
		}))
		return signed(string(text))
	})})
	return all
}

// texts: what the server says is made for the eyes, the terminal and the journal
// of whoever reads it.
func texts() []attack {
	status := func(message string) string {
		return string(must(json.Marshal(map[string]string{"kind": "Status", "apiVersion": "v1", "message": message})))
	}
	var all []attack
	for _, row := range []struct{ name, message string }{
		{"terminal escapes", "\x1b[2J\x1b]0;pwned\x07\x1b[31mroot"},
		{"newlines and a priority of the journal", "fine\n<0>kernel: panic\r\nSTATUS=Joined\nREADY=1"},
		{"marks that turn the line round", "abc\u202egnp.exe\u2066\u2029\u0085"},
		{"a line that looks like ours", `denied" reason=Joined phase="Joined`},
		{"a megabyte", strings.Repeat("A very long message. ", 50<<10)},
		{"bytes that are no text", "\xff\xfe\x80"},
	} {
		for code, want := range map[int]fault.Reason{403: fault.ClusterInfoForbidden, 404: fault.ClusterInfoMissing, 500: fault.ServerError} {
			all = append(all, attack{threat: "T11", name: "error " + strconv.Itoa(code) + " with " + row.name, serve: always(failing(code, status(row.message))), want: want})
		}
	}
	for _, row := range []struct {
		name, data string
		want       fault.Reason
	}{
		{"ids of tokens", "jws-kubeconfig-\x1b[2J\n<0>", fault.TokenUnknown},
		{"a megabyte of id", "jws-kubeconfig-" + strings.Repeat("x", 1<<20), fault.NoSignatures}, // it is none
	} {
		all = append(all, attack{threat: "T11", name: "cluster-info with escapes in " + row.name, serve: always(configMap(map[string]string{"kubeconfig": "x", row.data: "y"})), want: row.want})
	}
	return append(all, attack{threat: "T11", name: "a kind with escapes", serve: always(failing(200, `{"kind":"\u001b[2J\n<0>x"}`)), want: fault.ServerError})
}

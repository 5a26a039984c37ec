package kubelet

import (
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestKubeconfigGolden(t *testing.T) {
	got, err := Layout{}.RenderKubeconfig("https://api.example.org:6443")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "kubeconfig.yaml", got)
}

func TestServersThatAreNoneAreRefused(t *testing.T) {
	for _, server := range []string{"", "10.0.0.1:6443", "http://10.0.0.1:6443", "https://", "https://user:secret@host:6443", "https://host:6443?x=1", "https://host:6443#x", "https://host:6443\nusers: []", "https://ho st", "://"} {
		_, err := Layout{}.RenderKubeconfig(server)
		wantFault(t, err, fault.ConfigInvalid, "server")
	}
	_, err := Layout{Dir: "relative"}.RenderKubeconfig("https://host:6443")
	wantFault(t, err, fault.ConfigInvalid, "absolute path")
}

// a kubeconfig with one thing changed.
func kubeconfigWith(cluster, user string) string {
	return "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n" +
		"clusters: [{name: k, cluster: {server: \"https://h:1\", " + cluster + "}}]\nusers: [{name: u, user: {" + user + "}}]\n"
}

func TestKubeconfigsOfOthersAreUnderstood(t *testing.T) {
	for name, c := range map[string]struct {
		doc        string
		credential string
		extra      []string
	}{
		"files":            {kubeconfigWith("", "client-certificate: /a, client-key: /b"), "client-certificate", nil},
		"data":             {kubeconfigWith("certificate-authority-data: QQ==", "client-certificate-data: QQ==, client-key-data: QQ=="), "client-certificate-data", []string{"certificate-authority-data", "client-certificate-data"}},
		"token":            {kubeconfigWith("", "token: hush"), "token", []string{"token"}},
		"token beside":     {kubeconfigWith("", "client-certificate: /a, client-key: /b, token: hush"), "token", []string{"token"}},
		"token file":       {kubeconfigWith("", "tokenFile: /t"), "tokenFile", []string{"tokenFile"}},
		"password":         {kubeconfigWith("", "username: a, password: hush"), "username", []string{"username"}},
		"exec":             {kubeconfigWith("", "exec: {command: x}"), "exec", []string{"exec"}},
		"auth provider":    {kubeconfigWith("", "auth-provider: {name: x}"), "auth-provider", []string{"auth-provider"}},
		"nobody":           {kubeconfigWith("", ""), "", nil},
		"no verification":  {kubeconfigWith("insecure-skip-tls-verify: true", ""), "", []string{"insecure-skip-tls-verify"}},
		"proxy and name":   {kubeconfigWith("proxy-url: \"http://p\", tls-server-name: x", ""), "", []string{"proxy-url", "tls-server-name"}},
		"another's user":   {strings.Replace(kubeconfigWith("", ""), "users: [", "users: [{name: other, user: {token: hush}}, ", 1), "token", nil},
		"JSON":             {`{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"clusters":[{"name":"k","cluster":{"server":"https://h:1"}}],"users":null}`, "", nil},
		"extra fields":     {kubeconfigWith("extensions: [{name: x}]", "as: me") + "preferences: {colors: true}\n", "", nil},
		"leading document": {"---\n" + kubeconfigWith("", "token: hush"), "token", []string{"token"}},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := ParseKubeconfig([]byte(c.doc))
			if err != nil || k.Server != "https://h:1" || k.Credential != c.credential || !slices.Equal(k.Extra, c.extra) {
				t.Errorf("%+v, %v", k, err)
			}
			if (Layout{}).Ours(k) {
				t.Error("taken for ours")
			}
		})
	}
}

func TestKubeconfigsThatAreNoneAreRefused(t *testing.T) {
	good := kubeconfigWith("", "token: hush")
	for name, c := range map[string]struct{ doc, text string }{
		"empty":              {"", "is empty"},
		"spaces":             {" \n\n", "is empty"},
		"only a comment":     {"# hello\n", "is empty"},
		"text":               {"hello", "no mapping"},
		"list":               {"[a, b]", "no mapping"},
		"half":               {good[:len(good)-5], "does not parse"},
		"no current context": {strings.Replace(good, "current-context: c\n", "", 1), "current-context"},
		"unknown context":    {strings.Replace(good, "current-context: c\n", "current-context: d\n", 1), "current-context"},
		"unknown cluster":    {strings.Replace(good, "name: k", "name: other", 1), "no cluster"},
		"no server":          {strings.Replace(good, "server: \"https://h:1\",", "", 1), "no cluster with a server"},
		"doubled key":        {good + "kind: Config\n", "already"},
		"two documents":      {good + "---\n" + good, "second document"},
		"wrong kind":         {strings.Replace(good, "token: hush", "token: [hush]", 1), "wrong kind"},
		"number for a token": {strings.Replace(good, "token: hush", "token: 123456", 1), "wrong kind"},
		"key is no string":   {good + "1: 2\n", "no string"},
		"null key":           {good + "~: hush\n", "no string"},
		"explicit tag":       {strings.Replace(good, "token: hush", "token: !!int hush", 1), "explicit tag"},
		"unknown alias":      {strings.Replace(good, "token: hush", "token: *hush", 1), "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseKubeconfig([]byte(c.doc))
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("err = %v, want %q", err, c.text)
			}
			if err != nil && (strings.Contains(err.Error(), "hush") && name != "unknown alias" || strings.Contains(err.Error(), "123456")) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	f.Add([]byte(kubeconfigWith("", "token: x")))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("current-context: c"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKubeconfig(data)
		if err == nil && k.Server == "" {
			t.Error("no server")
		}
	})
}

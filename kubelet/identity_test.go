package kubelet

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"
)

func theirs(cluster, user string) string {
	return "apiVersion: v1\nkind: Config\npreferences: {}\nclusters: [{name: k, cluster: {" + cluster + "}}]\nusers: [{name: u, user: {" + user + "}}]\ncontexts: [{name: c, context: {cluster: k, user: u, namespace: x}}]\ncurrent-context: c\n"
}

const (
	goodCluster = "server: \"https://10.0.0.1:6443\", certificate-authority: pki/ca.crt"
	goodUser    = "client-certificate: /pki/a.pem, client-key: ../a.key"
)

func TestCredentialsOfSomebodyElsesKubeconfig(t *testing.T) {
	c, err := ParseCredentials([]byte(theirs(goodCluster, goodUser)), "/etc/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	if c.Server != "https://10.0.0.1:6443" || c.CAFile != "/etc/kubernetes/pki/ca.crt" || c.CertFile != "/pki/a.pem" || c.KeyFile != "/etc/a.key" {
		t.Errorf("%+v", c)
	}
	data := base64.StdEncoding.EncodeToString([]byte("text"))
	c, err = ParseCredentials([]byte(theirs("server: \"https://a/\", certificate-authority-data: "+data, "client-certificate: /x, client-certificate-data: "+data+", client-key-data: "+data)), "/")
	if err != nil || string(c.CA) != "text" || string(c.Cert) != "text" || string(c.Key) != "text" || c.CertFile != "" || c.Server != "https://a" {
		t.Errorf("embedded: %+v, %v", c, err)
	}
}

func TestAKubeconfigThatSaysMoreThanOneThingIsRefusedByName(t *testing.T) {
	const secret = "zq7w3k.x2m5v8b1n4c6y9ta"
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "empty"},
		{"no kubeconfig", "a: b\n", "\"a"},
		{"another kind", strings.Replace(theirs(goodCluster, goodUser), "Config", "Pod", 1), "kind"},
		{"two documents", theirs(goodCluster, goodUser) + "---\na: b\n", ""},
		{"a wrong kind of value", theirs(goodCluster, "token: [1]"), "wrong kind"},
		{"no user", strings.Replace(theirs(goodCluster, goodUser), "users: [", "users: []\nx: [", 1), ""},
		{"another context", strings.Replace(theirs(goodCluster, goodUser), "current-context: c", "current-context: d", 1), "current-context"},
		{"another user in the context", strings.Replace(theirs(goodCluster, goodUser), "user: u, n", "user: v, n", 1), "another cluster or user"},
		{"a path", theirs(strings.Replace(goodCluster, "6443", "6443/x", 1), goodUser), "server"},
		{"a password in the server", theirs(strings.Replace(goodCluster, "//", "//a:"+secret+"@", 1), goodUser), "server"},
		{"tls-server-name", theirs(goodCluster+", tls-server-name: x", goodUser), "tls-server-name"},
		{"no CA", theirs("server: \"https://a\"", goodUser), "certificate-authority"},
		{"a CA that is no base64", theirs("server: \"https://a\", certificate-authority-data: \"*\"", goodUser), "base64"},
		{"no key", theirs(goodCluster, "client-certificate: /x"), "client-key"},
		{"a token", theirs(goodCluster, goodUser+", token: "+secret), "token"},
		{"a token file", theirs(goodCluster, goodUser+", tokenFile: /x"), "tokenFile"},
		{"exec", theirs(goodCluster, goodUser+", exec: {command: x}"), "exec"},
		{"auth-provider", theirs(goodCluster, goodUser+", auth-provider: {name: x}"), "auth-provider"},
		{"a password", theirs(goodCluster, goodUser+", username: a, password: "+secret), "username"},
		{"a field of tomorrow", theirs(goodCluster+", new-way: "+secret, goodUser), "new-way"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseCredentials([]byte(tt.text), "/")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("shows a secret: %v", err)
			}
		})
	}
}

// Whatever is in the file: an error, or a server by https and three parts each of
// which is data or an absolute path.
func FuzzParseCredentials(f *testing.F) {
	f.Add([]byte(theirs(goodCluster, goodUser)))
	f.Add([]byte(theirs("server: \"https://a\", certificate-authority-data: QQ==", "client-certificate-data: QQ==, client-key-data: QQ==")))
	f.Add([]byte(theirs(goodCluster, goodUser+", exec: {}")))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCredentials(data, "/etc/kubernetes")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		if !strings.HasPrefix(c.Server, "https://") || control(c.Server) {
			t.Errorf("server %q", c.Server)
		}
		for _, part := range []struct {
			data []byte
			path string
		}{{c.CA, c.CAFile}, {c.Cert, c.CertFile}, {c.Key, c.KeyFile}} {
			if (len(part.data) > 0) == (part.path != "") || part.path != "" && (!filepath.IsAbs(part.path) || control(part.path)) {
				t.Errorf("%+v", c)
			}
		}
		if _, err := (Layout{}).RenderKubeconfig(c.Server); err != nil {
			t.Errorf("the server cannot be written: %v", err)
		}
	})
}

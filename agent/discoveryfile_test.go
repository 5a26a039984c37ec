package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

const staticToken = "canary-zq7w3k9x2m5v8b1n"

// bootstrapKubeconfig is what clusters made by hand hand out; an empty token
// leaves the user away.
func bootstrapKubeconfig(server string, ca []byte, token string) string {
	text := "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: " + server +
		"\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(ca) + "\n"
	if token == "" {
		return text
	}
	return text + "users:\n- name: u\n  user:\n    token: " + token + "\n"
}

// byFile lets the rig join by a discovery file, on a cluster where anonymous
// access is closed.
func byFile(t *testing.T, o testapi.Options, token string) (r *rig, path string) {
	t.Helper()
	r = newRig(t, o)
	r.api.Anonymous(false)
	path = filepath.Join(r.cfg.Paths.Etc, "cluster.kubeconfig")
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), r.api.CA(), token))
	r.cfg.Endpoints, r.cfg.Pins = nil, discovery.Pins{}
	r.cfg.Discovery = &DiscoveryFile{Path: path}
	return r, path
}

func TestAMachineJoinsByADiscoveryFile(t *testing.T) {
	for name, hostile := range map[string]bool{"a quiet server": true, "a hostile but legal one": false} {
		t.Run("server and CA with a bootstrap token, "+name, func(t *testing.T) {
			r, path := byFile(t, testapi.Options{Quiet: hostile}, "")
			r.mustJoin()
			s, _ := r.last()
			if s.Cluster.DiscoveryFile != path || s.Cluster.Server != r.api.URL() || s.Cluster.CAPins[0] != r.api.Pin() {
				t.Errorf("%+v", s.Cluster)
			}
			for _, note := range s.Notes {
				if note.Reason == fault.TokenLeftBehind {
					t.Errorf("a file without a token is told of: %+v", note)
				}
			}
		})
		t.Run("a whole bootstrap-kubeconfig with a static token, "+name, func(t *testing.T) {
			r, _ := byFile(t, testapi.Options{Quiet: hostile, HandMade: true, NoToken: true}, staticToken)
			r.api.AddStaticToken(testapi.StaticToken{Token: staticToken, User: "kubelet-bootstrap"})
			r.cfg.Tokens = []TokenSource{r.cfg.Discovery.Token()}
			r.mustJoin()
			if csrs := r.api.CSRs(); len(csrs) != 1 || csrs[0].Spec.Username != "kubelet-bootstrap" {
				t.Errorf("%d requests", len(csrs))
			}
			record, err := os.ReadFile(r.cfg.Paths.TrustFile())
			if err != nil || !strings.Contains(string(record), `"discoveryFile": "sha256:`) {
				t.Errorf("the grounds lack the file: %s, %v", record, err)
			}
			wantNoCanary(t, r)
		})
	}
}

// wantNoCanary looks for the static token in everything that was written or
// told, but for the discovery file itself.
func wantNoCanary(t *testing.T, r *rig) {
	t.Helper()
	err := filepath.WalkDir(filepath.Dir(r.cfg.Paths.State), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == "cluster.kubeconfig" {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), staticToken) {
			t.Errorf("%s has the token", path)
		}
		return err
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || strings.Contains(fmt.Sprintf("%+v", r.statuses), staticToken) {
		t.Errorf("a status has the token (%v)", err)
	}
}

func TestAJoinByFileIsCheapToo(t *testing.T) {
	r, _ := byFile(t, testapi.Options{Quiet: true}, "")
	r.mustJoin()
	if n, requests := r.api.Handshakes(), r.api.Requests(); n > 3 || len(requests) > 8 {
		t.Errorf("%d TLS handshakes, %d requests: %v", n, len(requests), requests)
	}
}

func TestABadDiscoveryFileCausesNoTraffic(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, r *rig, path string)
		want  fault.Reason
		says  string
	}{
		"it is not there":                 {func(_ *testing.T, _ *rig, path string) { _ = os.Remove(path) }, fault.ConfigInvalid, "there is no discovery file"},
		"it is empty":                     {func(t *testing.T, _ *rig, path string) { mustWrite(t, path, "\n") }, fault.ConfigInvalid, "there is no discovery file"},
		"it is a folder":                  {func(_ *testing.T, r *rig, path string) { r.cfg.Discovery.Path = filepath.Dir(path) }, fault.ConfigInvalid, "is no regular file"},
		"its token may be read by others": {func(_ *testing.T, _ *rig, path string) { _ = os.Chmod(path, 0o640) }, fault.ConfigInvalid, "may be read by others (mode 0640)"},
		"it runs a program": {func(t *testing.T, r *rig, path string) {
			mustWrite(t, path, strings.Replace(bootstrapKubeconfig(r.api.URL(), r.api.CA(), staticToken), "token:", "exec:", 1))
		}, fault.ConfigInvalid, "users[0].user.exec"},
		"a pin of another CA": {func(_ *testing.T, r *rig, _ string) {
			r.cfg.Pins = must(discovery.ParsePins([]string{r.api.ForeignPin()}))
		}, fault.CAPinMismatch, "the discovery file shows"},
		"a path that is not safe": {func(_ *testing.T, r *rig, _ string) {
			r.cfg.Discovery.PathFault = func(string) string { return "lies under /hidden" }
		}, fault.ConfigInvalid, "lies under /hidden"},
		"there is no token anywhere": {func(t *testing.T, r *rig, path string) {
			mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), r.api.CA(), ""))
		}, fault.TokenMissing, "no bootstrap token in any source"},
	} {
		t.Run(name, func(t *testing.T) {
			r, path := byFile(t, testapi.Options{Quiet: true}, staticToken)
			r.cfg.Tokens = []TokenSource{r.cfg.Discovery.Token()}
			test.spoil(t, r, path)
			r.deps.StopWhenBlocked = true
			err := r.run()
			if fault.ReasonOf(err) != test.want || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			if n := r.api.Connections(); n != 0 {
				t.Errorf("%d connections", n)
			}
			wantNoCanary(t, r)
		})
	}
}

func TestALinkToADiscoveryFileIsJudgedByItsEnd(t *testing.T) {
	dir := t.TempDir()
	end, link := filepath.Join(dir, "end"), filepath.Join(dir, "link")
	mustWrite(t, end, bootstrapKubeconfig("https://x", []byte("no PEM"), staticToken))
	if err := errors.Join(os.Chmod(end, 0o644), os.Symlink(end, link)); err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	file := DiscoveryFile{Path: link, PathFault: func(path string) string { asked[path] = true; return "" }}
	if _, err := file.Read(); fault.ReasonOf(err) != fault.ConfigInvalid || !asked[link] || !asked[end] {
		t.Errorf("%v, asked %v", err, asked)
	}
}

func TestANewerDiscoveryFileIsANewGround(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true}, "")
	r.api.AutoApprove(false)
	// First another cluster's file: its CA is accepted, then nothing serves it.
	other := newRig(t, testapi.Options{Quiet: true})
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), other.api.CA(), ""))
	a, stop := r.start()
	r.await("a server of another CA", reason(fault.ServerCertificateInvalid))
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), r.api.CA(), ""))
	a.Reload(r.cfg, nil)
	r.await("the request", func(s Status) bool { return s.CSR != nil && s.CSR.Name != "" })
	trust := func() (t record.Trust) {
		data, _ := os.ReadFile(r.cfg.Paths.TrustFile())
		_ = json.Unmarshal(data, &t)
		return t
	}
	first := trust()
	// The same cluster under another name is discovered anew, with the same key.
	mustWrite(t, path, bootstrapKubeconfig(strings.Replace(r.api.URL(), "127.0.0.1", "localhost", 1), r.api.CA(), ""))
	a.Reload(r.cfg, nil)
	r.await("the new server", func(s Status) bool { return s.Cluster != nil && strings.Contains(s.Cluster.Server, "localhost") })
	r.await("the same request", func(s Status) bool { return s.CSR != nil && s.CSR.Adopted })
	if second := trust(); first.DiscoveryFile == "" || second.DiscoveryFile == first.DiscoveryFile || len(r.api.CSRs()) != 1 {
		t.Errorf("%q, then %q; %d requests", first.DiscoveryFile, second.DiscoveryFile, len(r.api.CSRs()))
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A request with a static token that waits is found again after a restart: no
// second one is made, and no key is lost.
func TestARestartFindsTheRequestOfAStaticToken(t *testing.T) {
	r, _ := byFile(t, testapi.Options{Quiet: true, HandMade: true}, staticToken)
	r.api.AddStaticToken(testapi.StaticToken{Token: staticToken, User: "kubelet-bootstrap"})
	r.cfg.Tokens = []TokenSource{r.cfg.Discovery.Token()}
	r.api.AutoApprove(false)
	_, stop := r.start()
	name := r.await("the request", func(s Status) bool { return s.CSR != nil && s.CSR.Name != "" }).CSR.Name
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.statuses = nil
	r.mu.Unlock()
	_, stop = r.start()
	again := r.await("the request again", func(s Status) bool { return s.CSR != nil && s.CSR.Name != "" }).CSR
	if again.Name != name || !again.Adopted || len(r.api.CSRs()) != 1 {
		t.Errorf("%+v, %d requests", again, len(r.api.CSRs()))
	}
	r.api.Approve(name)
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAStaticTokenThatIsRefusedIsToldByItsOwnRemedy(t *testing.T) {
	r, _ := byFile(t, testapi.Options{Quiet: true, HandMade: true}, staticToken)
	r.cfg.Tokens = []TokenSource{r.cfg.Discovery.Token()}
	_, stop := r.start()
	s := r.await("a refusal", reason(fault.TokenRejected))
	if !strings.Contains(s.Hint, "--token-auth-file") {
		t.Errorf("hint %q", s.Hint)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestABalancerThatComesUpLaterIsWaitedFor(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true}, "")
	b := newBalancer(t)
	mustWrite(t, path, bootstrapKubeconfig("https://"+b.addr, r.api.CA(), ""))
	_, stop := r.start()
	s := r.await("nobody there", reason(fault.EndpointUnreachable))
	if s.Phase != Discovering || s.NextRetry == nil || !strings.Contains(s.Hint, "of this machine yet") {
		t.Errorf("%s, hint %q", s.Phase, s.Hint)
	}
	b.open(r.api.Host())
	r.await("the join", phase(Joined))
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// tokenLineAndRest is what sed takes out by the remedy.
var tokenLineAndRest = regexp.MustCompile(`(?m)^ *token:.*\n`)

func TestTheDiscoveryFileShowsANewCAWhereClusterInfoIsClosed(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true}, "")
	r.cfg.AfterJoin, r.cfg.RestartSplay = AfterJoinHeal, 1000*time.Hour
	a, stop := r.start()
	r.await("the join", phase(Joined))
	s := r.await("a look at the API", func(s Status) bool { return s.Node.Ready != nil })
	for _, note := range s.Notes {
		if note.Reason == fault.CARefreshUnavailable {
			t.Errorf("the file is there to be read: %+v", note)
		}
	}
	foreign := newRig(t, testapi.Options{Quiet: true})
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), append(append([]byte(nil), r.api.CA()...), foreign.api.CA()...), ""))
	a.Reload(r.cfg, nil)
	r.await("the offered CA", func(s Status) bool {
		for _, n := range s.Notes {
			if n.Reason == fault.CAOffered && strings.Contains(n.Message, "the discovery file shows") && strings.Contains(n.Message, foreign.api.Pin()) {
				return true
			}
		}
		return false
	})
	// Another server in the file is told of, and cluster-info's own is not asked for.
	mustWrite(t, path, bootstrapKubeconfig("https://127.0.0.1:9", r.api.CA(), ""))
	a.Reload(r.cfg, nil)
	r.await("the offered server", func(s Status) bool {
		for _, n := range s.Notes {
			if n.Reason == fault.ServerOffered && strings.Contains(n.Message, `the discovery file names another server than this node uses: "https://127.0.0.1:9"`) {
				return true
			}
		}
		return false
	})
	r.api.Anonymous(true)
	mustWrite(t, path, bootstrapKubeconfig(strings.Replace(r.api.URL(), "127.0.0.1", "localhost", 1), r.api.CA(), ""))
	a.Reload(r.cfg, nil)
	r.await("the server of the file where cluster-info is open", func(s Status) bool {
		for _, n := range s.Notes {
			if n.Reason == fault.ServerOffered && strings.Contains(n.Message, "the discovery file") && strings.Contains(n.Message, "localhost") {
				return true
			}
		}
		return false
	})
	mustWrite(t, path, bootstrapKubeconfig(r.api.URL(), r.api.CA(), ""))
	a.Reload(r.cfg, nil)
	r.await("nothing on offer", func(s Status) bool { return !hasNote(s, fault.ServerOffered) && !hasNote(s, fault.CAOffered) })
	r.api.Anonymous(false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.await("nothing to read", func(s Status) bool { return hasNote(s, fault.CARefreshUnavailable) })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func hasNote(s Status, want fault.Reason) bool {
	for _, n := range s.Notes {
		if n.Reason == want {
			return true
		}
	}
	return false
}

func TestATokenThatIsLeftBehindIsPointedOut(t *testing.T) {
	r, path := byFile(t, testapi.Options{Quiet: true, HandMade: true}, staticToken)
	r.api.AddStaticToken(testapi.StaticToken{Token: staticToken, User: "kubelet-bootstrap"})
	r.cfg.Tokens = []TokenSource{r.cfg.Discovery.Token()}
	kubeadm := filepath.Join(r.cfg.Paths.Etc, "kubernetes/bootstrap-kubelet.conf")
	plain := filepath.Join(r.cfg.Paths.Kubelet, "bootstrap-kubeconfig")
	mustWrite(t, kubeadm, bootstrapKubeconfig("https://x", []byte("x"), staticToken))
	mustWrite(t, plain, bootstrapKubeconfig("https://x", []byte("x"), ""))
	r.mustJoin()
	s, _ := r.last()
	told := map[string]string{}
	for _, n := range s.Notes {
		if n.Reason == fault.TokenLeftBehind {
			name, _, _ := strings.Cut(n.Message, " ")
			told[name] = n.Hint
		}
	}
	if len(told) != 2 || !strings.HasPrefix(told[path], "sed -i '/^ *token:/d' "+path) || !strings.HasPrefix(told[kubeadm], "rm "+kubeadm) {
		t.Errorf("told %v", told)
	}
	// The remedies work, and the file still names the cluster.
	text, _ := os.ReadFile(path)
	mustWrite(t, path, tokenLineAndRest.ReplaceAllString(string(text), ""))
	if err := os.Remove(kubeadm); err != nil {
		t.Fatal(err)
	}
	file, err := r.cfg.Discovery.Read()
	if err != nil || !file.Token().IsZero() || file.HoldsSecret() {
		t.Errorf("without its token: %v", err)
	}
	if left := Leftovers(r.cfg.Paths, r.cfg.Discovery); len(left) != 0 {
		t.Errorf("still told: %v", left)
	}
}

func TestSourcesOfAnyBearer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	mustWrite(t, path, staticToken+"\n")
	if _, err := TokenFile(path).Read(); fault.ReasonOf(err) != fault.ConfigInvalid {
		t.Errorf("a static token without a discovery file: %v", err)
	}
	token, err := AnyBearer(TokenFile(path)).Read()
	if err != nil || token.Bearer() != staticToken {
		t.Errorf("%v", err)
	}
	if _, err := AnyBearer(TokenFile(path + "-not")).Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	inline := TokenInline(token)
	if AnyBearer(inline) != inline {
		t.Error("an inline token is another")
	}
}

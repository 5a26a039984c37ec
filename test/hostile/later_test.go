//go:build e2e

package hostile

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// point is a request of a join that comes after the first: the server has been
// believed by then, and still it may not cost more than anybody else.
type point struct {
	name  string
	match func(testapi.Request) bool
}

func points() []point {
	named := func(verb, resource, name string) func(testapi.Request) bool {
		return func(r testapi.Request) bool { return r.Verb == verb && r.Resource == resource && r.Name == name }
	}
	return []point{
		{"create", testapi.Is("create", "certificatesigningrequests")},
		{"watch", testapi.Is("watch", "certificatesigningrequests")},
		{"get", testapi.Is("get", "certificatesigningrequests")},
		{"review", testapi.Is("create", "selfsubjectaccessreviews")},
		{"kubelet-config", named("get", "configmaps", "kubelet-config")},
		{"node", testapi.Is("get", "nodes")},
		{"lease", testapi.Is("get", "leases")},
	}
}

// lies are what is answered, once at each point.
func lies() map[string]http.HandlerFunc {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	x := strings.Repeat("x", 32<<10)
	evil := "\x1b[2J\x1b]0;pwned\x07fine\n<0>kernel: panic\r\nSTATUS=Joined\nREADY=1 \u202egnp.exe"
	status := func(code int, message string) http.HandlerFunc {
		return failing(code, string(must(json.Marshal(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": message}))))
	}
	pod := string(must(json.Marshal(map[string]any{"kind": "Pod", "apiVersion": "v1", "metadata": map[string]any{"name": evil}})))
	return map[string]http.HandlerFunc{
		"an endless body":                        endless(ok+"\r\n", x),
		"endless events":                         endless(ok+"\r\n", strings.Repeat(`{"type":"BOOKMARK","object":{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","metadata":{"name":"x"}}}`+"\n", 300)),
		"endless headers":                        endless(ok, strings.Repeat("X-A: y\r\n", 4000)),
		"a redirect":                             redirect("https://127.0.0.2:1/evil"),
		"another object":                         failing(200, pod),
		"no object":                              failing(200, evil),
		"a bomb of gzip":                         zipped(),
		"a body of brackets":                     failing(200, strings.Repeat("[", 2<<20-10)),
		"an object of objects":                   failing(200, strings.Repeat(`{"metadata":`, 160<<10)),
		"500 with a megabyte":                    status(500, strings.Repeat(evil, 20<<10)),
		"403 with escapes":                       status(403, evil),
		"409 with escapes":                       status(409, evil),
		"a success that is a failure":            status(200, evil),
		"nothing":                                failing(200, ""),
		"no answer but a closed line":            wire(func(io.Writer) error { return nil }),
		"an empty object":                        failing(200, "{}"),
		"null":                                   failing(200, "null"),
		"two megabytes of conditions":            failing(200, `{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","status":{"conditions":[`+strings.Repeat(`{},`, 600<<10)+`{}]}}`),
		"as many conditions as fit":              failing(200, `{"kind":"CertificateSigningRequest","apiVersion":"certificates.k8s.io/v1","status":{"conditions":[`+strings.Repeat(`{},`, 9_900)+`{}]}}`),
		"as many labels as fit":                  failing(200, stuffed(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","labels":{`, `"%x":"",`, 19_900, `"a":""}}}`)),
		"as many marks in kubelet-config as fit": failing(200, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"kubelet-config"},"data":{"kubelet":"`+strings.Repeat(`- 1\n`, 9_900)+`"}}`),
		"as many owners as fit":                  failing(200, `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"ownerReferences":[`+strings.Repeat(`{},`, 9_900)+`{}]}}`),
		"one text of 2 MB":                       failing(200, `{"kind":"ConfigMap","apiVersion":"v1","data":{"kubelet":"`+strings.Repeat(`\n`, 1000<<10)+`"}}`),
	}
}

// stuffed is a document with many numbered parts.
func stuffed(head, format string, n int, tail string) string {
	var b strings.Builder
	b.WriteString(head)
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	b.WriteString(tail)
	return b.String()
}

// reasons are what three of the points must be told as, in this order: create,
// get, node. Where nothing is here it is ServerError at each.
func reasons(lie string) [3]string {
	switch lie {
	case "endless headers", "no answer but a closed line":
		return [3]string{"EndpointUnreachable", "EndpointUnreachable", "EndpointUnreachable"}
	case "403 with escapes":
		return [3]string{"CSRForbidden", "CSRForbidden", "Failed"}
	case "409 with escapes":
		return [3]string{"CSRFailed", "CSRFailed", "Failed"}
	}
	return [3]string{"ServerError", "ServerError", "ServerError"}
}

// T3, T4, T11: with a join under way each later request is answered once with a
// lie: the program names what it met, costs no more than at the first request,
// shows the token to nobody but the API server and never beside a certificate,
// and joins.
func TestALyingServerIsMetAlikeAtEachLaterRequest(t *testing.T) {
	all := lies()
	t.Logf("%d lies at %d requests", len(all), len(points()))
	for name, lie := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := cluster(t, true)
			for _, p := range points() {
				s.Inject(testapi.Fault{Match: p.match, Serve: lie})
			}
			s.AutoApprove(false)
			s.RegisterNode("n1", corev1.NodeSystemInfo{BootID: "of another"})
			s.SetLease("n1", time.Now().Add(-time.Hour), 40)
			m := newSmall(t, configFor(s, "nodeName: n1\nkubelet: {extraArgs: [--healthz-port="+freePort()+"]}\n"))
			defer registers(t, m, s, "n1")()
			defer approves(t, s)()
			r := m.run(t, 100*time.Second, "join", "--timeout", "60s")
			t.Logf("exit code %d after %s, %d KiB, %d bytes shown", r.code, r.took.Round(time.Millisecond), r.resident, len(r.stdout)+len(r.stderr))
			if r.code != 0 || m.argv(t) == nil {
				t.Errorf("exit code %d: %s", r.code, r.stderr)
			}
			if r.resident > mostResident {
				t.Errorf("%d KiB resident", r.resident)
			}
			judgeText(t, "join", r)
			want := reasons(name)
			for i, step := range []string{"request certificate", "wait for approval", "check node name"} {
				if i == 1 && name == "no answer but a closed line" {
					continue // the read is made once more on a new connection
				}
				if !regexp.MustCompile("XX " + step + ` \([^)]*\): ` + want[i]).MatchString(r.stderr) {
					t.Errorf("%s: is not told as %s:\n%s", step, want[i], r.stderr)
				}
			}
			judgeRequests(t, s)
		})
	}
}

// approves approves each request some time after it was made, so that there is a watch.
func approves(t *testing.T, s *testapi.Server) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := s.AwaitRequest(ctx, testapi.Is("watch", "certificatesigningrequests")); err != nil {
			return
		}
		soon, enough := context.WithTimeout(ctx, 1500*time.Millisecond) // there is none where the watch is made once more
		_, _ = s.AwaitRequest(soon, testapi.Is("get", "certificatesigningrequests"))
		enough()
		for ctx.Err() == nil {
			for _, csr := range s.CSRs() {
				s.Approve(csr.Name)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return func() { cancel(); <-gone }
}

// judgeRequests looks at who was shown what.
func judgeRequests(t *testing.T, s *testapi.Server) {
	t.Helper()
	seen := map[string]bool{}
	all := s.Requests()
	for _, r := range all {
		seen[r.Verb+" "+r.Resource] = true
		if r.Certificate && r.Authorization || r.Name == "cluster-info" && r.Authorization {
			t.Errorf("%s %s: the token was shown where it does not belong", r.Verb, r.Path)
		}
	}
	for _, must := range []string{"watch certificatesigningrequests", "get leases", "get configmaps"} {
		if !seen[must] {
			t.Errorf("nobody asked for %s: this shows nothing about it", must)
		}
	}
	if len(all) > 40 {
		t.Errorf("%d requests", len(all))
	}
}

// T1, T7: the server shows a good certificate while it is only asked for
// cluster-info, and another one to whoever comes with the token: it never gets it.
func TestAnotherCertificateAtALaterConnectionNeverHearsTheToken(t *testing.T) {
	shifted := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = c.NotBefore.Add(d), c.NotAfter.Add(d) }
	}
	for name, later := range map[string]func(ca *authority) tls.Certificate{
		"of another CA": func(*authority) tls.Certificate { return newAuthority("kubernetes", nil).serving(nil) },
		"for another name": func(ca *authority) tls.Certificate {
			return ca.serving(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"evil.example"} })
		},
		"of yesterday": func(ca *authority) tls.Certificate { return ca.serving(shifted(-24 * time.Hour)) },
		"of tomorrow":  func(ca *authority) tls.Certificate { return ca.serving(shifted(24 * time.Hour)) },
		"of a client": func(ca *authority) tls.Certificate {
			return ca.serving(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		},
		"signed by its own serving": func(ca *authority) tls.Certificate {
			first := ca.serving(nil)
			leaf := must(x509.ParseCertificate(first.Certificate[0]))
			return (&authority{leaf, first.PrivateKey.(*ecdsa.PrivateKey)}).serving(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority("kubernetes", nil)
			good, bad := ca.serving(nil), later(ca)
			answers := &late{}
			s, shut := openChanging(ca, func(n int) tls.Certificate {
				if n == 1 {
					return good
				}
				return bad
			}, answers)
			defer shut()
			answers.Handler = configMap(signed(kubeconfig("https://"+s.host, ca.pem())))
			m := newSmall(t, fmt.Sprintf("apiVersion: bootstrap-agent/v1\nendpoints: [%q]\ntokenFile: /etc/bootstrap-agent/token\ncaCertHashes: [%q]\nnodeName: n1\n", s.host, ca.pin()))
			r := m.run(t, 60*time.Second, "join", "--timeout", "3s")
			t.Logf("exit code %d after %s, %d KiB", r.code, r.took.Round(time.Millisecond), r.resident)
			if want := codeOf(fault.ServerCertificateInvalid); r.code != want || !strings.Contains(r.stderr, "request certificate") || !strings.Contains(r.stderr, string(fault.ServerCertificateInvalid)) {
				t.Errorf("exit code %d, want %d: %s", r.code, want, r.stderr)
			}
			if r.resident > mostResident {
				t.Errorf("%d KiB resident", r.resident)
			}
			judgeText(t, "join", r)
			judgeHeard(t, s)
			if connections := s.tap.Connections(); connections < 2 {
				t.Errorf("%d connections: nobody came back with the token", connections)
			}
		})
	}
}

//go:build e2e

package hostile

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// attack is one row: what the server does, and what the program must say.
type attack struct {
	threat string // row of docs/security.md
	name   string
	// serve makes the answer; the server's own URL and CA are those of a cluster
	// whose token is known to the attacker where he signs.
	serve func(url string, ca *authority) http.Handler
	pair  func(ca *authority) tls.Certificate // nil: a good one
	root  func(*x509.Certificate)             // changes the CA itself; nil: a good one
	want  fault.Reason                        // "": it passes, the lie has no effect
	says  string                              // part of the error
	slow  bool                                // it takes as long as the limits let it: once is enough
}

func answer(data func(url string, ca *authority) map[string]string) func(string, *authority) http.Handler {
	return func(url string, ca *authority) http.Handler { return configMap(data(url, ca)) }
}

func always(h http.HandlerFunc) func(string, *authority) http.Handler {
	return func(string, *authority) http.Handler { return h }
}

// withSignature serves a good kubeconfig under this signature.
func withSignature(sign func(content string) string) func(string, *authority) http.Handler {
	return answer(func(url string, ca *authority) map[string]string {
		content := kubeconfig(url, ca.pem())
		return map[string]string{"kubeconfig": content, "jws-kubeconfig-" + tokenID: sign(content)}
	})
}

// withKubeconfig serves a kubeconfig that a holder of the token has signed.
func withKubeconfig(change func(good string) string) func(string, *authority) http.Handler {
	return answer(func(url string, ca *authority) map[string]string { return signed(change(kubeconfig(url, ca.pem()))) })
}

// withBundle is the same with another bundle of CAs.
func withBundle(bundle func(ca *authority) []byte) func(string, *authority) http.Handler {
	return answer(func(url string, ca *authority) map[string]string { return signed(kubeconfig(url, bundle(ca))) })
}

func attacks() []attack {
	var all []attack
	all = append(all, signatures()...)
	all = append(all, floods()...)
	all = append(all, documents()...)
	all = append(all, bundles()...)
	return append(all, texts()...)
}

// signatures: the content is good, the signature is a trick.
func signatures() []attack {
	enc := base64.RawURLEncoding
	good := `{"alg":"HS256","kid":"` + tokenID + `"}`
	header := func(h string) func(string) string {
		return func(content string) string { return jws(h, content, secret) }
	}
	edit := func(f func(string) string) func(string) string {
		return func(content string) string { return f(goodJWS(content)) }
	}
	var all []attack
	for _, row := range []struct {
		name string
		sign func(content string) string
	}{
		{"alg none, no signature", func(string) string { return enc.EncodeToString([]byte(`{"alg":"none","kid":"`+tokenID+`"}`)) + ".." }},
		{"alg None, signed all the same", header(`{"alg":"None","kid":"` + tokenID + `"}`)},
		{"alg RS256", header(`{"alg":"RS256","kid":"` + tokenID + `"}`)},
		{"alg HS512, really", func(content string) string {
			head := enc.EncodeToString([]byte(`{"alg":"HS512","kid":"` + tokenID + `"}`))
			mac := hmac.New(sha512.New, []byte(secret))
			mac.Write([]byte(head + "." + enc.EncodeToString([]byte(content))))
			return head + ".." + enc.EncodeToString(mac.Sum(nil))
		}},
		{"kid of another token", header(`{"alg":"HS256","kid":"aaaaaa"}`)},
		{"kid that is a path", header(`{"alg":"HS256","kid":"../../dev/null"}`)},
		{"the header's fields in another order", header(`{"kid":"` + tokenID + `","alg":"HS256"}`)},
		{"one field more", header(`{"alg":"HS256","kid":"` + tokenID + `","crit":[]}`)},
		{"alg twice", header(`{"alg":"HS256","alg":"none","kid":"` + tokenID + `"}`)},
		{"a key of its own in the header", header(`{"alg":"HS256","jwk":{"kty":"oct","k":"AA"},"kid":"` + tokenID + `"}`)},
		{"a URL for the key in the header", header(`{"alg":"HS256","jku":"https://evil.example/k","kid":"` + tokenID + `"}`)},
		{"white space in the header", header(`{"alg": "HS256", "kid": "` + tokenID + `"}`)},
		{"padding", edit(func(s string) string { return s + "=" })},
		{"padding everywhere", func(content string) string {
			pad := base64.URLEncoding
			head := pad.EncodeToString([]byte(good))
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(head + "." + pad.EncodeToString([]byte(content))))
			return head + ".." + pad.EncodeToString(mac.Sum(nil))
		}},
		{"a newline behind it", edit(func(s string) string { return s + "\n" })},
		{"a space before it", edit(func(s string) string { return " " + s })},
		{"a zero byte behind it", edit(func(s string) string { return s + "\x00" })},
		{"the payload not left out", func(content string) string {
			return strings.Replace(goodJWS(content), "..", "."+enc.EncodeToString([]byte(content))+".", 1)
		}},
		{"no header", edit(func(s string) string { _, sig, _ := strings.Cut(s, ".."); return ".." + sig })},
		{"a part more", edit(func(s string) string { return s + ".AA" })},
		{"in upper case", edit(strings.ToUpper)},
		{"of JSON's form", edit(func(s string) string {
			head, sig, _ := strings.Cut(s, "..")
			return `{"protected":"` + head + `","signature":"` + sig + `"}`
		})},
		{"made with the whole token", func(content string) string { return jws(good, content, tokenID+"."+secret) }},
		{"made with nothing", func(content string) string { return jws(good, content, "") }},
		{"over other content", func(content string) string { return goodJWS(content + " ") }},
		{"empty", func(string) string { return "" }},
		{"a megabyte of it", func(string) string { return strings.Repeat("A", 1<<20) }},
	} {
		all = append(all, attack{threat: "T2", name: "signature: " + row.name, serve: withSignature(row.sign), want: fault.SignatureMismatch})
	}
	return all
}

// floods: too much of something.
func floods() []attack {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	x := strings.Repeat("x", 32<<10)
	small := func(pattern string, n int) string { return strings.Repeat(pattern, n) }
	keys := func(format string, n int) string {
		var b strings.Builder
		b.WriteString(`{"kind":"ConfigMap","data":{`)
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		b.WriteString(`"kubeconfig":"x"}}`)
		return b.String()
	}
	body := func(text string) func(string, *authority) http.Handler {
		return always(failing(http.StatusOK, text))
	}
	return []attack{
		{threat: "T3", name: "10 GiB of body with a length", serve: always(endless(ok+"Content-Length: 10737418240\r\n\r\n", x)), want: fault.ServerError},
		{threat: "T3", name: "an endless body", serve: always(endless(ok+"\r\n", x)), want: fault.ServerError},
		{threat: "T3", name: "an endless body in chunks", serve: always(endless(ok+"Transfer-Encoding: chunked\r\n\r\n", "8000\r\n"+x+"\r\n")), want: fault.ServerError},
		{threat: "T3", name: "an endless body in chunks of one byte", serve: always(endless(ok+"Transfer-Encoding: chunked\r\n\r\n", small("1\r\nx\r\n", 5000))), want: fault.ServerError},
		{threat: "T3", name: "an endless chunk header", serve: always(endless(ok+"Transfer-Encoding: chunked\r\n\r\n1;", x)), want: fault.ServerError},
		{threat: "T3", name: "endless trailers", serve: always(endless(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n", "X-A: y\r\n")), want: fault.ServerError},
		{threat: "T3", name: "endless headers", serve: always(endless(ok, small("X-A: y\r\n", 4000))), want: fault.ServerError},
		{threat: "T3", name: "one endless header", serve: always(endless(ok+"X-A: ", x)), want: fault.ServerError},
		{threat: "T3", name: "an endless status line", serve: always(endless("HTTP/1.1 200 ", x)), want: fault.ServerError},
		{threat: "T3", name: "endless early hints", serve: always(endless("", small("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 500))), want: fault.ServerError},
		{threat: "T3", name: "10 GiB of error", serve: always(endless("HTTP/1.1 403 Forbidden\r\n\r\n", x)), want: fault.ClusterInfoForbidden},
		{threat: "T3", name: "a quarter of a gibibyte in a megabyte of gzip", serve: always(zipped()), want: fault.ServerError, says: "gzip"},
		{threat: "T3", name: "a body of brackets", serve: body(small("[", 2<<20-10)), want: fault.ServerError},
		{threat: "T3", name: "an object of objects", serve: body(small(`{"data":`, 200<<10)), want: fault.ServerError},
		{threat: "T3", name: "as many keys as fit", serve: body(keys(`"%x":"",`, 180<<10)), want: fault.NoSignatures},
		{threat: "T3", name: "as many signatures as fit", serve: body(keys(`"jws-kubeconfig-%06x":"",`, 70<<10)), want: fault.TokenUnknown},
		{threat: "T3", name: "as many keys of other types as fit", serve: body(keys(`"%x":1,`, 200<<10)), want: fault.ServerError},
		{threat: "T3", name: "a string of escapes", serve: body(`{"kind":"ConfigMap","data":{"kubeconfig":"` + small(`\u0000`, 300<<10) + `"}}`), want: fault.NoSignatures},
		{threat: "T4", name: "redirect to plain http", serve: always(redirect("http://evil.example/")), want: fault.ServerError, says: "never followed"},
		{threat: "T4", name: "redirect to another host", serve: always(redirect("https://127.0.0.2:1/")), want: fault.ServerError, says: "never followed"},
		{threat: "T4", name: "redirect to itself", serve: always(redirect("/api/v1/namespaces/kube-public/configmaps/cluster-info")), want: fault.ServerError},
		{threat: "T4", name: "redirect to a file", serve: always(redirect("file:///etc/shadow")), want: fault.ServerError},
		{threat: "T4", name: "redirect with a megabyte of target", serve: always(redirect("https://evil.example/" + small("x", 50<<10))), want: fault.ServerError},
		{threat: "T3", name: "a byte of a header a second", serve: always(drip(ok+"X-A: ", "x")), want: fault.EndpointUnreachable, slow: true},
		{threat: "T3", name: "a byte of the body a second", serve: always(drip(ok+"\r\n", " ")), want: fault.EndpointUnreachable, slow: true},
	}
}

// zipped answers with a quarter of a gibibyte in a megabyte of gzip.
func zipped() http.HandlerFunc {
	var b bytes.Buffer
	z := must(gzip.NewWriterLevel(&b, gzip.BestSpeed))
	for range 256 {
		_, _ = z.Write(make([]byte, 1<<20))
	}
	_ = z.Close()
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(b.Bytes())
	}
}

func redirect(target string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// bundles: the CAs are the trick. The pin is that of the server's own CA, which
// the attacker cannot change.
func bundles() []attack {
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	}
	future := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
	}
	beside := func(n int, change func(*x509.Certificate)) func(*authority) []byte {
		return func(ca *authority) []byte {
			out := bytes.Repeat(newAuthority("extra", change).pem(), n)
			return append(out, ca.pem()...)
		}
	}
	leaf := func(ca *authority) []byte { return pemOf(ca.serving(nil).Certificate[0]) }
	return []attack{
		{threat: "T8", name: "bundle: a CA of his own beside the real one", serve: withBundle(beside(1, nil))},
		{threat: "T8", name: "bundle: an expired CA beside it", serve: withBundle(beside(1, expired))},
		{threat: "T8", name: "bundle: a CA of tomorrow beside it", serve: withBundle(beside(1, future))},
		{threat: "T8", name: "bundle: only a CA of his own", serve: withBundle(func(*authority) []byte { return newAuthority("his", nil).pem() }), want: fault.CAPinMismatch, says: "sha256:"},
		{threat: "T8", name: "bundle: the server's certificate as CA", serve: withBundle(leaf), want: fault.ClusterInfoInvalid, says: "no CA certificate"},
		{threat: "T8", name: "bundle: a leaf behind the CA", serve: withBundle(func(ca *authority) []byte { return append(ca.pem(), leaf(ca)...) }), want: fault.ClusterInfoInvalid},
		{threat: "T8", name: "bundle: 10,000 times one CA", serve: withBundle(beside(10000, nil)), want: fault.ServerError, says: "longer than"},
		{threat: "T8", name: "bundle: as many as fit", serve: withBundle(beside(2200, nil)), want: fault.ClusterInfoInvalid, says: "more than 100"},
		{threat: "T8", name: "bundle: a CA with a name of 200 KiB and escapes in it", serve: withBundle(beside(1, func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "\x1b[2J\n<0>" + strings.Repeat("x", 200<<10)}
		}))},
		{threat: "T8", name: "bundle: a private key", serve: withBundle(func(ca *authority) []byte {
			return append(ca.pem(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")})...)
		}), want: fault.ClusterInfoInvalid},
		{threat: "T8", name: "bundle: headers in the PEM", serve: withBundle(func(ca *authority) []byte {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"X": "y"}, Bytes: ca.cert.Raw})
		})},
		{threat: "T8", name: "bundle: no certificate", serve: withBundle(func(*authority) []byte { return []byte("hello") }), want: fault.ClusterInfoInvalid},
		{threat: "T20", name: "bundle: the pinned CA itself has expired", serve: withBundle((*authority).pem), root: expired, want: fault.ServerCertificateInvalid},
		{threat: "T20", name: "bundle: the pinned CA itself is of tomorrow", serve: withBundle((*authority).pem), root: future, want: fault.ServerCertificateInvalid},
		{threat: "T1", name: "server: a certificate of another CA", serve: withBundle((*authority).pem), pair: func(*authority) tls.Certificate {
			return newAuthority("kubernetes", nil).serving(nil)
		}, want: fault.ServerCertificateInvalid},
		{threat: "T1", name: "server: a certificate for another name", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			return ca.serving(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"evil.example"} })
		}, want: fault.ServerCertificateInvalid},
		{threat: "T1", name: "server: a client's certificate", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			return ca.serving(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, want: fault.ServerCertificateInvalid},
		{threat: "T20", name: "server: an expired certificate", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			return ca.serving(expired)
		}, want: fault.ServerCertificateInvalid},
		{threat: "T20", name: "server: a certificate of tomorrow", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			return ca.serving(future)
		}, want: fault.ServerCertificateInvalid},
		{threat: "T1", name: "server: a chain of two hundred certificates", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			pair := newAuthority("kubernetes", nil).serving(nil)
			for range 200 {
				pair.Certificate = append(pair.Certificate, newAuthority("kubernetes", nil).cert.Raw)
			}
			return pair
		}, want: fault.ServerCertificateInvalid},
		{threat: "T1", name: "server: 10,000 names in its certificate", serve: withBundle((*authority).pem), pair: func(ca *authority) tls.Certificate {
			return ca.serving(func(c *x509.Certificate) {
				c.IPAddresses = nil
				for i := range 9000 {
					c.DNSNames = append(c.DNSNames, fmt.Sprintf("%d.e", i))
				}
			})
		}, want: fault.ServerCertificateInvalid},
	}
}

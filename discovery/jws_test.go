package discovery

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"k8s.io/cluster-bootstrap/token/jws"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The vector stands in the tests of k8s.io/cluster-bootstrap.
func TestDetachedJWSMatchesUpstreamVector(t *testing.T) {
	const want = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
	if got := detachedJWS("Hello from the other side. I must have called a thousand times.", "joshua", "my voice is my passcode"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestDetachedJWSIsWhatTheSignerMakes(t *testing.T) {
	for _, content := range []string{"", "x", "a: b\n", strings.Repeat("kubeconfig\n", 1000), "\x00\xff\xfe", "\u00e9\u2028"} {
		want, err := jws.ComputeDetachedSignature(content, testID, testSecret)
		if err != nil {
			t.Fatal(err)
		}
		if got := detachedJWS(content, testID, testSecret); got != want {
			t.Errorf("%.20q: got %s, want %s", content, got, want)
		}
	}
}

func TestCheckSignatureTellsTheCasesApart(t *testing.T) {
	tok := testToken(t)
	const content = "apiVersion: v1\n"
	good := detachedJWS(content, testID, testSecret)
	part := strings.Split(good, "..")
	enc := base64.RawURLEncoding.EncodeToString
	with := func(header, sig string) string { return enc([]byte(header)) + ".." + sig }
	many := map[string]string{signaturePrefix + testID: good}
	for i := range 1000 {
		many[fmt.Sprintf("%sx%05d", signaturePrefix, i)] = "x"
	}
	for name, tc := range map[string]struct {
		data   map[string]string
		reason fault.Reason
		says   string
	}{
		"ours is there and right":           {map[string]string{signaturePrefix + testID: good}, "", ""},
		"ours among a thousand others":      {many, "", ""},
		"no signature at all":               {map[string]string{}, fault.NoSignatures, "no signature of any token"},
		"only for another id":               {map[string]string{signaturePrefix + "zzzzzz": good}, fault.TokenUnknown, `signed for "zzzzzz", not for token id abcdef`},
		"many others, the list is bounded":  {without(many, signaturePrefix+testID), fault.TokenUnknown, "and 995 more"},
		"an id with escapes is quoted":      {map[string]string{signaturePrefix + "\x1b[2J\n": good}, fault.TokenUnknown, `\x1b[2J\n`},
		"a key that only begins like it":    {map[string]string{"jws-kubeconfigabcdef": good}, fault.NoSignatures, ""},
		"made with another secret":          {map[string]string{signaturePrefix + testID: detachedJWS(content, testID, "0000000000000000")}, fault.SignatureMismatch, "not made with our secret"},
		"made over other content":           {map[string]string{signaturePrefix + testID: detachedJWS(content+"#", testID, testSecret)}, fault.SignatureMismatch, "over this content"},
		"made with the whole token":         {map[string]string{signaturePrefix + testID: detachedJWS(content, testID, testID+"."+testSecret)}, fault.SignatureMismatch, "whole token as key"},
		"made over one newline less":        {map[string]string{signaturePrefix + testID: detachedJWS(strings.TrimSpace(content), testID, testSecret)}, fault.SignatureMismatch, "without the newline"},
		"made over one newline more":        {map[string]string{signaturePrefix + testID: detachedJWS(content+"\n", testID, testSecret)}, fault.SignatureMismatch, "one more newline"},
		"empty":                             {map[string]string{signaturePrefix + testID: ""}, fault.SignatureMismatch, "empty"},
		"alg none, no signature":            {map[string]string{signaturePrefix + testID: with(`{"alg":"none","kid":"abcdef"}`, "")}, fault.SignatureMismatch, ""},
		"alg none, right mac":               {map[string]string{signaturePrefix + testID: with(`{"alg":"none","kid":"abcdef"}`, part[1])}, fault.SignatureMismatch, ""},
		"alg RS256":                         {map[string]string{signaturePrefix + testID: with(`{"alg":"RS256","kid":"abcdef"}`, part[1])}, fault.SignatureMismatch, ""},
		"members in another order":          {map[string]string{signaturePrefix + testID: with(`{"kid":"abcdef","alg":"HS256"}`, part[1])}, fault.SignatureMismatch, ""},
		"white space in the header":         {map[string]string{signaturePrefix + testID: with(`{"alg":"HS256", "kid":"abcdef"}`, part[1])}, fault.SignatureMismatch, ""},
		"one more header":                   {map[string]string{signaturePrefix + testID: with(`{"alg":"HS256","kid":"abcdef","crit":[]}`, part[1])}, fault.SignatureMismatch, ""},
		"another kid":                       {map[string]string{signaturePrefix + testID: detachedJWS(content, "zzzzzz", testSecret)}, fault.SignatureMismatch, ""},
		"padded":                            {map[string]string{signaturePrefix + testID: good + "="}, fault.SignatureMismatch, ""},
		"a newline behind it":               {map[string]string{signaturePrefix + testID: good + "\n"}, fault.SignatureMismatch, ""},
		"a space before it":                 {map[string]string{signaturePrefix + testID: " " + good}, fault.SignatureMismatch, ""},
		"the payload put back":              {map[string]string{signaturePrefix + testID: part[0] + "." + enc([]byte(content)) + "." + part[1]}, fault.SignatureMismatch, ""},
		"only dots":                         {map[string]string{signaturePrefix + testID: ".."}, fault.SignatureMismatch, ""},
		"huge":                              {map[string]string{signaturePrefix + testID: strings.Repeat("A", 1<<20)}, fault.SignatureMismatch, ""},
		"signature in standard base64 only": {map[string]string{signaturePrefix + testID: part[0] + ".." + strings.Repeat("+", len(part[1]))}, fault.SignatureMismatch, ""},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string]string{kubeconfigKey: content}
			for k, v := range tc.data {
				data[k] = v
			}
			err := checkSignature(data, tok)
			if tc.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantReason(t, err, tc.reason, tc.says)
		})
	}
}

func TestATokenThatSignsNothingIsSentToItsSecretAndTheFieldInIt(t *testing.T) {
	const content = "apiVersion: v1\n"
	for name, data := range map[string]map[string]string{
		"no signature at all": {kubeconfigKey: content},
		"others alone":        {kubeconfigKey: content, signaturePrefix + "zzzzzz": "x"},
	} {
		hint := fault.HintOf(checkSignature(data, testToken(t)))
		for _, part := range []string{"get secret bootstrap-token-" + testID + " -o yaml", "usage-bootstrap-signing", "not be expired", "bootstrap-agent token set"} {
			if !strings.Contains(hint, part) {
				t.Errorf("%s: the hint lacks %q: %s", name, part, hint)
			}
		}
		if signer := strings.Contains(hint, "bootstrapsigner"); signer != (len(data) == 1) {
			t.Errorf("%s: %s", name, hint)
		}
	}
}

func without(m map[string]string, key string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// Every changed, missing or added byte is refused.
func TestCheckSignatureAcceptsExactlyOneString(t *testing.T) {
	tok := testToken(t)
	const content = "apiVersion: v1\nkind: Config\n"
	good := detachedJWS(content, testID, testSecret)
	refused := func(content, sig string) {
		t.Helper()
		if checkSignature(map[string]string{kubeconfigKey: content, signaturePrefix + testID: sig}, tok) == nil {
			t.Errorf("accepted %q over %q", sig, content)
		}
	}
	for i := range len(good) {
		refused(content, good[:i])
		refused(content, good[:i]+good[i+1:])
		refused(content, good[:i]+"A"+good[i:])
		for bit := range 8 {
			b := []byte(good)
			b[i] ^= 1 << bit
			refused(content, string(b))
		}
	}
	for i := range len(content) {
		b := []byte(content)
		b[i] ^= 1
		refused(string(b), good)
		refused(content[:i], good)
	}
}

// What we accept, the verifier of kubeadm accepts, and the other way round: for
// what the fuzzer makes up, for what kubeadm's own signer makes of it, and for that
// with one edit.
func FuzzCheckSignature(f *testing.F) {
	good := detachedJWS("content", testID, testSecret)
	f.Add("content", good, uint16(0), "")
	f.Add("content", good+"=", uint16(3), "x")
	f.Add("other", good, uint16(40), ".")
	f.Add("", "..", uint16(200), "\n")
	f.Add("a\xffb", good[:len(good)-1], uint16(len(good)-1), "A") // the last character has bits that decode to nothing
	f.Add("content", strings.Replace(good, "..", ".Y29udGVudA.", 1), uint16(41), "=")
	tok := testToken(f)
	agree := func(t *testing.T, content, sig string) bool {
		upstream := jws.DetachedTokenIsValid(sig, content, testID, testSecret)
		err := checkSignature(map[string]string{kubeconfigKey: content, signaturePrefix + testID: sig}, tok)
		if (err == nil) != upstream {
			t.Fatalf("upstream says %t of %q, we say %v", upstream, sig, err)
		}
		return upstream
	}
	f.Fuzz(func(t *testing.T, content, sig string, at uint16, edit string) {
		agree(t, content, sig)
		real, err := jws.ComputeDetachedSignature(content, testID, testSecret)
		if err != nil {
			t.Fatal(err)
		}
		// An empty kubeconfig is refused by us for being none, with any signature.
		if content != "" && !agree(t, content, real) {
			t.Fatal("upstream refuses what it makes")
		}
		i := int(at) % (len(real) + 1)
		for _, changed := range []string{real[:i] + edit + real[i:], real[:i] + edit, edit + real[i:]} {
			if content != "" && agree(t, content, changed) && changed != real {
				t.Fatalf("%q passes beside %q", changed, real)
			}
		}
	})
}

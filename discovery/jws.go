package discovery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"sort"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const (
	kubeconfigKey   = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

// detachedJWS builds the one valid signature over content: HS256, a protected
// header with alg and kid in this order, the payload left out. Verifying means
// to build this string and compare; a header that a stranger sent is never
// read, so no trick with it can work.
func detachedJWS(content, id, key string) string {
	enc := base64.RawURLEncoding
	header := enc.EncodeToString([]byte(`{"alg":"HS256","kid":"` + id + `"}`)) // an id is [a-z0-9]{6}: nothing to escape
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(header + "."))
	payload := base64.NewEncoder(enc, mac) // two megabytes of it need no copy; a MAC cannot fail
	_, _ = io.WriteString(payload, content)
	_ = payload.Close()
	return header + ".." + enc.EncodeToString(mac.Sum(nil))
}

// checkSignature finds the signature of our token among the ConfigMap's keys
// and checks it over data.kubeconfig. The ways to fail are told apart, because
// each is mended elsewhere.
func checkSignature(data map[string]string, t Token) error {
	content := data[kubeconfigKey]
	id, secret := t.ID(), t.secret()
	got, ok := data[signaturePrefix+id]
	if !ok {
		others := signedFor(data)
		if len(others) == 0 {
			return fault.New(fault.NoSignatures, "cluster-info carries no signature of any token").
				WithHint("Run kube-controller-manager with `--controllers=*,bootstrapsigner,tokencleaner`. If it does: %s", secretHint(id))
		}
		return fault.New(fault.TokenUnknown, "cluster-info is signed for %s, not for token id %s", listQuoted(others), id).
			WithHint("%s", secretHint(id))
	}
	if hmac.Equal([]byte(got), []byte(detachedJWS(content, id, secret))) {
		return nil
	}
	if made := otherSignature(got, content, t); made != "" {
		return fault.New(fault.SignatureMismatch, "the signature for token id %s is not valid: %s", id, made)
	}
	return fault.New(fault.SignatureMismatch, "the signature for token id %s was not made with our secret over this content", id).
		WithHint("Compare the token with `kubeadm token list` or with `kubectl -n kube-system get secret bootstrap-token-%s -o yaml`: the secret (the 16 characters after the dot) must be the same. "+
			"If it is, the signature is a stale one (the bootstrapsigner does not run any more), or the content was altered on the way.", id)
}

// secretHint says where to look for why a token signs nothing.
func secretHint(id string) string {
	return "Look at the token's Secret: `kubectl -n kube-system get secret bootstrap-token-" + id + " -o yaml` (see `kubeadm token list`). " +
		"It must be there, not be expired, and have `usage-bootstrap-signing: \"true\"`. " +
		"Or make a fresh token with `kubeadm token create` and give it to this machine with `bootstrap-agent token set`."
}

// otherSignature recognises signatures that were made by hand and nearly right.
// Nothing it finds is accepted.
func otherSignature(got, content string, t Token) string {
	id, secret := t.ID(), t.secret()
	is := func(content, key string) bool {
		return hmac.Equal([]byte(got), []byte(detachedJWS(content, id, key)))
	}
	switch {
	case got == "":
		return "it is empty"
	case is(content, t.Bearer()):
		return "it was made with the whole token as key; the key is the 16 characters after the dot alone"
	case is(content+"\n", secret):
		return "it was made over the content with one more newline at its end"
	case strings.HasSuffix(content, "\n") && is(strings.TrimSuffix(content, "\n"), secret):
		return "it was made over the content without the newline at its end"
	}
	return ""
}

// signedFor returns the ids that cluster-info carries a signature for, sorted.
func signedFor(data map[string]string) []string {
	var ids []string
	for key := range data {
		if id, ok := strings.CutPrefix(key, signaturePrefix); ok {
			ids = append(ids, id)
		}
	}
	sort.Strings(ids)
	return ids
}

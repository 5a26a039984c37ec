package cluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
)

// Token is a bootstrap token: id.secret.
type Token struct{ ID, Secret string }

// String is the token as people pass it on. It is a secret of a cluster that
// lives for minutes.
func (t Token) String() string { return t.ID + "." + t.Secret }

// TokenOptions shape a token. The zero value is what a cluster of the shape
// hands out: valid for an hour, for signing and authentication, with kubeadm's
// group on a cluster of kubeadm's.
type TokenOptions struct {
	Groups []string      // nil: the shape's; empty: none
	Usages []string      // nil: signing and authentication; empty: none
	Expiry time.Duration // from now; 0: an hour; negative: expired already
	// Expiration is written as it is, instead of Expiry: another time zone, say.
	Expiration string
	// ID of a token that is not there (any more); "" for a random one.
	ID string
}

// RandomToken returns a well-formed token that no cluster knows.
func RandomToken() Token {
	text := strings.ToLower(rand.Text())
	token := Token{ID: text[:6], Secret: text[6:22]}
	made.Lock()
	defer made.Unlock()
	made.secrets = append(made.secrets, token.Secret)
	return token
}

// made are the secrets of all tokens that this process has made.
var made struct {
	sync.Mutex
	secrets []string
}

// Secrets returns the secret of every token that this process has made, so that
// whoever used them can be searched for all of them.
func Secrets() []string {
	made.Lock()
	defer made.Unlock()
	return slices.Clone(made.secrets)
}

// NewToken makes a token that authenticates at once. Whether it has signed
// cluster-info already is another matter: AwaitSignature.
func (c *Cluster) NewToken(ctx context.Context, opts TokenOptions) (Token, error) {
	token := RandomToken()
	if opts.Groups == nil && c.Shape == Kubeadm {
		opts.Groups = []string{"system:bootstrappers:kubeadm:default-node-token"}
	}
	if opts.Usages == nil {
		opts.Usages = []string{"signing", "authentication"}
	}
	if opts.Expiry == 0 {
		opts.Expiry = time.Hour
	}
	if opts.Expiration == "" {
		opts.Expiration = time.Now().Add(opts.Expiry).UTC().Format(time.RFC3339)
	}
	if opts.ID != "" {
		token.ID = opts.ID
	}
	data := map[string]string{
		"token-id": token.ID, "token-secret": token.Secret,
		"expiration": opts.Expiration,
	}
	for _, usage := range opts.Usages {
		data["usage-bootstrap-"+usage] = "true"
	}
	if len(opts.Groups) > 0 {
		data["auth-extra-groups"] = strings.Join(opts.Groups, ",")
	}
	secret := corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + token.ID, Namespace: "kube-system"},
		Type:       "bootstrap.kubernetes.io/token",
		StringData: data,
	}
	if err := c.Do(ctx, http.MethodPost, "/api/v1/namespaces/kube-system/secrets", secret, nil); err != nil {
		return Token{}, fmt.Errorf("cannot make a token: %w", err)
	}
	return token, nil
}

// DeleteToken revokes a token.
func (c *Cluster) DeleteToken(ctx context.Context, token Token) error {
	return c.Do(ctx, http.MethodDelete, "/api/v1/namespaces/kube-system/secrets/bootstrap-token-"+token.ID, nil, nil)
}

// AwaitSignature waits until cluster-info is signed with the token, which the
// bootstrapsigner does a moment after the token is made.
func (c *Cluster) AwaitSignature(ctx context.Context, token Token) error {
	return await.Until(ctx, "the signature of "+token.ID, 25*time.Millisecond, func(ctx context.Context) error {
		var info corev1.ConfigMap
		if err := c.Get(ctx, "/api/v1/namespaces/kube-public/configmaps/cluster-info", &info); err != nil {
			return err
		}
		if info.Data["jws-kubeconfig-"+token.ID] == "" {
			return fmt.Errorf("cluster-info holds %d keys, none of this token", len(info.Data))
		}
		return nil
	})
}

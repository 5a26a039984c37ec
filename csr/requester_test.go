package csr

import (
	"os"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/internal/testapi"
)

// With a static token only the server knows who we are. What it says decides
// whether an undecided request is ours; a request that is decided is taken
// whoever made it.
func TestWhoWeAreIsAskedOnlyWhereItDecides(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*certificatesv1.CertificateSigningRequest)
		onAsk   func() (string, []string, error)
		asked   int
		creates int // beside that of the earlier attempt
		want    fault.Reason
	}{
		"our own undecided request is adopted": {asked: 1},
		"an undecided one of somebody else costs one key": {
			change: func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Username = "somebody" }, asked: 1, creates: 1,
		},
		"an approved one is taken without asking": {change: conditioned(certificatesv1.CertificateApproved)},
		"a denied one is replaced without asking": {change: conditioned(certificatesv1.CertificateDenied), creates: 1},
		"a server that does not tell costs one key": {
			onAsk: func() (string, []string, error) {
				return "", nil, apierrors.NewForbidden(certificatesv1.Resource("selfsubjectreviews"), "", nil)
			}, asked: 1, creates: 1,
		},
		"a server that is down costs nothing": {
			onAsk: func() (string, []string, error) { return "", nil, fault.New(fault.ServerError, "down") }, asked: 1, want: fault.ServerError,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				api := leftover(t, dir)
				if test.change != nil {
					api.change(test.change)
				}
				api.onWhoAmI = test.onAsk
				before, _ := os.ReadFile(dir + "/kubelet-client.key")
				made := len(api.objects)
				a := startAs(t, api, dir, "")
				if test.want != "" {
					if _, err := a.mustEnd(t); fault.ReasonOf(err) != test.want {
						t.Errorf("got %v", err)
					}
				} else {
					a.mustWait(t)
				}
				if a.whoAmIs != test.asked || len(a.objects)-made != test.creates {
					t.Errorf("asked %d times, %d new requests", a.whoAmIs, len(a.objects)-made)
				}
				after, err := os.ReadFile(a.r.KeyPath)
				if err != nil || (string(after) != string(before)) != (test.creates > 0) {
					t.Errorf("the key on disk is the wrong one: %v", err)
				}
			})
		})
	}
}

func TestTheServerTellsAStaticTokensName(t *testing.T) {
	s, c, target := startAPI(t, testapi.Options{Quiet: true, HandMade: true})
	const static = "any-word"
	s.AddStaticToken(testapi.StaticToken{Token: static, User: "kubelet-bootstrap"})
	s.AutoApprove(false)
	c.Close()
	client, err := apiclient.New(apiclient.Options{Server: s.URL(), CA: s.CA(), Bearer: bearer(static)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	target.API, target.Requester = client, ""
	r := keyIn(t)
	waiter := func() *waiter {
		k, err := r.key()
		if err != nil {
			t.Fatal(err)
		}
		q, err := newRequest(k, node)
		if err != nil {
			t.Fatal(err)
		}
		return &waiter{r: r, t: target, q: q}
	}
	for adopted := range 2 {
		w := waiter()
		if err := w.submit(limited(t)); err != nil || w.progress.Adopted != (adopted == 1) || w.latest.Spec.Username != "kubelet-bootstrap" {
			t.Fatalf("%v, %+v", err, w.progress)
		}
	}
	if n := len(s.CSRs()); n != 1 {
		t.Errorf("%d requests are there", n)
	}
}

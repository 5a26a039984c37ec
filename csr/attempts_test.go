package csr

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestADeletedRequestIsNoticedAtOnce(t *testing.T) {
	for name, happen := range map[string]func(a *attempt, t *testing.T){
		"told by the watch": func(a *attempt, t *testing.T) {
			a.stream(t).Delete(a.change(func(*certificatesv1.CertificateSigningRequest) {}))
		},
		"found by a read": func(a *attempt, _ *testing.T) {
			a.mu.Lock()
			clear(a.objects)
			a.mu.Unlock()
			a.pass(firstBackstop)
		},
		"made again by somebody, told by the watch": func(a *attempt, t *testing.T) {
			a.stream(t).Modify(a.change(func(o *certificatesv1.CertificateSigningRequest) { o.UID = "another" }))
		},
		"made again by somebody, found by a read": func(a *attempt, _ *testing.T) {
			a.change(func(o *certificatesv1.CertificateSigningRequest) { o.UID = "another" })
			a.pass(firstBackstop)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{}, dir)
				happen(a, t)
				_, err := a.mustEnd(t)
				if !errors.Is(err, ErrDeleted) || fault.ReasonOf(err) != fault.CSRDeleted {
					t.Fatalf("got %v", err)
				}
				if _, err := os.Stat(a.r.KeyPath); err != nil {
					t.Error("the key is gone")
				}
				clear(a.objects)
				again := start(t, a.fakeAPI, dir)
				again.mustWait(t)
				if len(a.creates) != 2 || a.creates[0] != a.creates[1] {
					t.Errorf("created %v, want the same name again", a.creates)
				}
			})
		})
	}
}

func TestACertificateInADeletedRequestIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.stream(t).Delete(a.change(newAuthority(t).issued(t, nil)))
		if _, err := a.mustEnd(t); err != nil {
			t.Error(err)
		}
	})
}

func TestARequestThatIsDeletedBetweenCreateAndReadIsMadeAgain(t *testing.T) {
	for name, test := range map[string]struct {
		conflicts int
		want      bool
	}{"once": {1, true}, "always": {100, false}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				n := 0
				a := start(t, &fakeAPI{onCreate: func(o *certificatesv1.CertificateSigningRequest) error {
					if n++; n <= test.conflicts {
						return apierrors.NewAlreadyExists(resource, o.Name)
					}
					return nil
				}}, dir)
				if test.want {
					a.mustWait(t)
					return
				}
				if _, err := a.mustEnd(t); !errors.Is(err, ErrDeleted) || n != 2 {
					t.Errorf("%v after %d creates", err, n)
				}
			})
		})
	}
}

func TestARefusedRequestCostsTheKey(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*certificatesv1.CertificateSigningRequest)
		want   fault.Reason
	}{
		"denied":              {conditioned(certificatesv1.CertificateDenied), fault.CSRDenied},
		"failed":              {conditioned(certificatesv1.CertificateFailed), fault.CSRFailed},
		"approved and denied": {conditioned(certificatesv1.CertificateApproved, certificatesv1.CertificateDenied), fault.CSRDenied},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{}, dir)
				a.stream(t).Modify(a.change(test.change))
				_, err := a.mustEnd(t)
				if fault.ReasonOf(err) != test.want || !strings.Contains(err.Error(), `"of\nthis"`) || !strings.Contains(fault.HintOf(err), "kubectl describe csr "+a.creates[0]) {
					t.Errorf("got %v, hint %q", err, fault.HintOf(err))
				}
				if _, err := os.Stat(a.r.KeyPath); !errors.Is(err, os.ErrNotExist) {
					t.Error("the key is still there")
				}
				again := start(t, a.fakeAPI, dir)
				again.mustWait(t)
				if len(a.creates) != 2 || a.creates[0] == a.creates[1] {
					t.Errorf("created %v, want another name", a.creates)
				}
			})
		})
	}
}

// leftover makes a request with a key and stops before it is decided.
func leftover(t *testing.T, dir string) *fakeAPI {
	t.Helper()
	a := start(t, &fakeAPI{}, dir)
	a.cancel()
	if _, err := a.mustEnd(t); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	a.creates, a.watches, a.streams = nil, nil, nil
	return a.fakeAPI
}

func TestTheNextAttemptFindsItsOwnRequest(t *testing.T) {
	for name, change := range map[string]func(*certificatesv1.CertificateSigningRequest){
		"pending":  func(*certificatesv1.CertificateSigningRequest) {},
		"approved": conditioned(certificatesv1.CertificateApproved),
		"issued":   nil,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				api := leftover(t, dir)
				want := change
				if want == nil {
					want = newAuthority(t).issued(t, nil)
				}
				api.change(want)
				a := start(t, api, dir)
				if !a.last(t).Adopted || len(a.creates) != 1 {
					t.Errorf("progress %+v, creates %v", a.last(t), a.creates)
				}
				if change == nil {
					if _, err := a.mustEnd(t); err != nil {
						t.Error(err)
					}
					return
				}
				a.mustWait(t)
				if !slices.Equal(a.watches, []string{"2"}) {
					t.Errorf("watched from %v", a.watches)
				}
			})
		})
	}
}

func TestAnUnusableLeftoverCostsOneKeyAtOnce(t *testing.T) {
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	for name, test := range map[string]struct {
		change func(t *testing.T) func(*certificatesv1.CertificateSigningRequest)
		again  bool // the second one meets the same
		want   fault.Reason
	}{
		"denied": {change: func(*testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return conditioned(certificatesv1.CertificateDenied)
		}},
		"failed": {change: func(*testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return conditioned(certificatesv1.CertificateFailed)
		}},
		"issued and expired": {change: func(t *testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return newAuthority(t).issued(t, expired)
		}},
		"issued wrongly": {change: func(t *testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return newAuthority(t).issued(t, func(c *x509.Certificate) { c.IsCA = true })
		}},
		"of another token": {change: func(*testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return func(o *certificatesv1.CertificateSigningRequest) { o.Spec.Username = "system:bootstrap:zzzzzz" }
		}},
		"denied, and again": {again: true, want: fault.CSRDenied, change: func(*testing.T) func(*certificatesv1.CertificateSigningRequest) {
			return conditioned(certificatesv1.CertificateDenied)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				api := leftover(t, dir)
				old := api.change(test.change(t)).Name
				before, _ := os.ReadFile(dir + "/kubelet-client.key")
				if test.again {
					api.onCreate = func(o *certificatesv1.CertificateSigningRequest) error {
						if _, there := api.objects[o.Name]; !there {
							o = o.DeepCopy()
							o.Spec.Username = requester
							test.change(t)(o)
							api.put(o)
						}
						return nil
					}
				}
				a := start(t, api, dir)
				if len(a.creates) != 2 || a.creates[0] != old || a.creates[1] == old {
					t.Fatalf("created %v, the old one is %s", a.creates, old)
				}
				if test.again {
					if _, err := a.mustEnd(t); fault.ReasonOf(err) != test.want {
						t.Errorf("got %v", err)
					}
					return
				}
				a.mustWait(t)
				after, err := os.ReadFile(a.r.KeyPath)
				if err != nil || string(after) == string(before) || a.last(t).Adopted {
					t.Errorf("the key is not a new one on disk: %v; %+v", err, a.last(t))
				}
			})
		})
	}
}

func TestANewKeyThatCannotBeWrittenIsNotRequested(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		api := leftover(t, dir)
		api.change(conditioned(certificatesv1.CertificateDenied))
		api.onCreate = func(*certificatesv1.CertificateSigningRequest) error { return os.RemoveAll(dir) }
		a := start(t, api, dir)
		if _, err := a.mustEnd(t); fault.ReasonOf(err) != fault.WriteFailed || len(a.creates) != 1 {
			t.Errorf("%v after creates %v", err, a.creates)
		}
	})
}

func TestAWrongClockDoesNotCostTheKey(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		api := leftover(t, dir)
		api.change(newAuthority(t).issued(t, nil))
		api.clock = func() (time.Time, time.Time, bool) { return time.Now(), time.Now().Add(-24 * time.Hour), true }
		r := &Requester{KeyPath: dir + "/kubelet-client.key", Now: func() time.Time { return time.Now().Add(-24 * time.Hour) }}
		_, err := r.Request(t.Context(), Target{API: api, NodeName: node, Requester: requester})
		if fault.ReasonOf(err) != fault.ClockSkew || len(api.creates) != 1 {
			t.Errorf("%v after creates %v", err, api.creates)
		}
		r.Now = nil // somebody sets the clock
		api.clock = nil
		if _, err := r.Request(t.Context(), Target{API: api, NodeName: node, Requester: requester}); err != nil {
			t.Error(err)
		}
	})
}

func TestAFreshCertificateThatIsWrongIsNotInstalledAndNotAskedForInALoop(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.stream(t).Modify(a.change(newAuthority(t).issued(t, func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} })))
		if _, err := a.mustEnd(t); fault.ReasonOf(err) != fault.CertificateInvalid || len(a.creates) != 1 {
			t.Errorf("%v after creates %v", err, a.creates)
		}
	})
}

func TestApprovedButNeverSignedIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.pass(time.Hour)
		a.stream(t).Modify(a.change(conditioned(certificatesv1.CertificateApproved)))
		a.pass(signedWithin - time.Second)
		a.mustWait(t)
		a.pass(2 * time.Second)
		if _, err := a.mustEnd(t); fault.ReasonOf(err) != fault.CSRNotSigned {
			t.Fatalf("got %v", err)
		}
		again := start(t, a.fakeAPI, dir)
		again.mustWait(t)
		if !again.last(t).Adopted || again.last(t).Approved.IsZero() {
			t.Errorf("the next attempt starts with %+v", again.last(t))
		}
		again.pass(signedWithin + time.Second)
		if _, err := again.mustEnd(t); fault.ReasonOf(err) != fault.CSRNotSigned {
			t.Errorf("the next attempt: %v", err)
		}
		third := start(t, a.fakeAPI, dir)
		third.stream(t).Modify(a.change(newAuthority(t).issued(t, nil)))
		if _, err := third.mustEnd(t); err != nil {
			t.Error(err)
		}
	})
}

func TestEveryAnswerToTheCreateHasItsReason(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want fault.Reason
	}{
		"403":                 {apierrors.NewForbidden(resource, "x", errors.New("no")), fault.CSRForbidden},
		"404":                 {apierrors.NewNotFound(resource, "x"), fault.CSRFailed},
		"400":                 {apierrors.NewBadRequest("no"), fault.CSRFailed},
		"422":                 {apierrors.NewInvalid(certificatesv1.Kind("CertificateSigningRequest"), "x", nil), fault.CSRFailed},
		"a dead token":        {fault.New(fault.TokenRejected, "401"), fault.TokenRejected},
		"unreachable":         {fault.New(fault.EndpointUnreachable, "refused"), fault.EndpointUnreachable},
		"wrapped":             {fmt.Errorf("cannot: %w", fault.New(fault.Throttled, "429")), fault.Throttled},
		"only the caller's":   {errUnplugged, ""},
		"the caller's ending": {context.Canceled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{onCreate: func(*certificatesv1.CertificateSigningRequest) error { return test.err }}, dir)
				_, err := a.mustEnd(t)
				if fault.ReasonOf(err) != test.want || !errors.Is(err, test.err) || len(a.creates) != 1 {
					t.Errorf("got %v (%q) after %d creates", err, fault.ReasonOf(err), len(a.creates))
				}
			})
		})
	}
}

func TestAfterAnUnknownEndOfTheCreateTheRequestIsFoundAgain(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		api := &fakeAPI{}
		api.onCreate = func(o *certificatesv1.CertificateSigningRequest) error {
			o = o.DeepCopy()
			o.Spec.Username = requester
			api.put(o)
			return fault.New(fault.EndpointUnreachable, "the connection broke")
		}
		a := start(t, api, dir)
		if _, err := a.mustEnd(t); fault.ReasonOf(err) != fault.EndpointUnreachable {
			t.Fatal(err)
		}
		api.onCreate = nil
		again := start(t, api, dir)
		again.mustWait(t)
		if !again.last(t).Adopted || len(api.objects) != 1 {
			t.Errorf("%d requests, %+v", len(api.objects), again.last(t))
		}
	})
}

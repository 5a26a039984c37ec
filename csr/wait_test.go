package csr

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// bubble runs a test in fake time with a folder of its own.
func bubble(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { test(t, dir) })
}

func TestAnApprovalIsSeenByTheWatchWithoutAnyRead(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.mustWait(t)
		if len(a.creates) != 1 || !slices.Equal(a.watches, []string{"1"}) || a.gets != 0 {
			t.Fatalf("creates %v, watches from %v, reads %d: want one create, then one watch from its version", a.creates, a.watches, a.gets)
		}
		a.stream(t).Modify(a.change(conditioned(certificatesv1.CertificateApproved)))
		a.mustWait(t)
		if a.last(t).Approved.IsZero() {
			t.Error("the approval was not told")
		}
		ca := newAuthority(t)
		a.stream(t).Modify(a.change(func(o *certificatesv1.CertificateSigningRequest) { o.Status.Certificate = ca.sign(t, o, nil) }))
		got, err := a.mustEnd(t)
		if err != nil {
			t.Fatal(err)
		}
		key, _ := os.ReadFile(a.r.KeyPath)
		if got.CSR != a.creates[0] || string(got.KeyPEM) != string(key) || got.Leaf.Subject.CommonName != "system:node:n1" || got.Approved.IsZero() || got.Created.IsZero() {
			t.Errorf("got %+v", got)
		}
		if a.gets != 0 || len(a.reviews) != 0 || !a.stream(t).stopped {
			t.Errorf("%d reads, %d reviews, watch stopped: %v", a.gets, len(a.reviews), a.stream(t).stopped)
		}
	})
}

func TestACertificateThatIsThereAtOnceNeedsNoWatch(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		ca := newAuthority(t)
		a := start(t, &fakeAPI{onCreate: func(o *certificatesv1.CertificateSigningRequest) error { ca.issued(t, nil)(o); return nil }}, dir)
		if _, err := a.mustEnd(t); err != nil || len(a.watches) != 0 || a.gets != 0 {
			t.Errorf("%v after watches %v, %d reads", err, a.watches, a.gets)
		}
	})
}

func TestAPendingRequestWaitsForDaysAndSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{onReview: func(context.Context) (bool, error) { return false, nil }}, dir)
		if p := a.last(t); p.Name != a.creates[0] || p.Created.IsZero() || p.Adopted || p.WillBeApproved != nil || p.Backstops != 0 {
			t.Errorf("first told: %+v", p)
		}
		a.pass(reviewAfter + time.Millisecond)
		if p := a.last(t); p.WillBeApproved == nil || *p.WillBeApproved || len(a.reviews) != 1 {
			t.Fatalf("after 3 s: %+v, %d reviews", p, len(a.reviews))
		}
		if p := a.last(t); p.Bind != areApproved.command("", []string{"system:bootstrappers"}) {
			t.Errorf("the binding that is missing: %q", p.Bind)
		}
		if r := a.reviews[0]; r.Group != "certificates.k8s.io" || r.Resource != "certificatesigningrequests" || r.Subresource != "nodeclient" || r.Verb != "create" {
			t.Errorf("asked about %+v", r)
		}
		a.pass(72 * time.Hour)
		a.mustWait(t)
		told := len(a.progress)
		reads := 4 + 72*3600/400 - 2 // at 40, 93, 218 and 508 s, then every 400 s at the latest
		if p := a.last(t); p.Backstops != reads || a.gets != reads || len(a.reviews) != 1 || len(a.watches) != 1 {
			t.Errorf("after 72 h: %+v, %d reads, %d reviews, %d watches", p, a.gets, len(a.reviews), len(a.watches))
		}
		if told < 72*120 {
			t.Errorf("progress was told %d times, want every 30 s", told)
		}
		a.stream(t).Modify(a.change(newAuthority(t).issued(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Minute) })))
		if _, err := a.mustEnd(t); err != nil {
			t.Error(err)
		}
	})
}

func TestNobodyIsAskedAboutARequestThatIsDecided(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.stream(t).Modify(a.change(conditioned(certificatesv1.CertificateApproved)))
		a.pass(10 * time.Second)
		if len(a.reviews) != 0 {
			t.Error("a review was asked for after the approval")
		}
	})
}

func TestANodeAsksAboutItsOwnRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		api := &fakeAPI{}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r := &Requester{KeyPath: dir + "/k"}
		_, err := r.Request(ctx, Target{API: api, NodeName: node, Requester: "system:node:n1"})
		if !errors.Is(err, context.DeadlineExceeded) || len(api.reviews) != 1 || api.reviews[0].Subresource != "selfnodeclient" {
			t.Errorf("%v, reviews %+v", err, api.reviews)
		}
	})
}

func TestAFailedReviewIsNoFault(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{onReview: func(context.Context) (bool, error) { return true, errUnplugged }}, dir)
		a.pass(time.Minute)
		a.mustWait(t)
		if a.last(t).WillBeApproved != nil {
			t.Error("a failed review told something")
		}
	})
}

func TestADeafWatchIsCaughtByTheBackstop(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.change(newAuthority(t).issued(t, nil)) // and the watch stays silent
		a.pass(firstBackstop - time.Millisecond)
		a.mustWait(t)
		a.pass(2 * time.Millisecond)
		if _, err := a.mustEnd(t); err != nil || a.gets != 1 {
			t.Errorf("%v after %d reads", err, a.gets)
		}
	})
}

// F51: what waits long reads seldom, and what began together does not read
// together. A deaf watch still makes nobody wait for more than some minutes.
func TestTheReadsBesideTheWatchOfAHerdAreFewAndSpread(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		var bounds []time.Duration
		a := start(t, &fakeAPI{jitter: func(d time.Duration) time.Duration {
			bounds = append(bounds, d) // on the waiter's goroutine, as all that reads it comes after pass
			return d - 1
		}}, dir)
		a.pass(time.Hour)
		a.mustWait(t)
		if a.gets < 9 || a.gets > 14 {
			t.Errorf("%d reads in an hour", a.gets)
		}
		for i, bound := range bounds {
			if least := []time.Duration{10 * time.Second, 13 * time.Second}; bound < least[min(i, 1)] || bound > backstopMost/3 {
				t.Errorf("pause %d is spread over %s", i, bound)
			}
		}
	})
}

func TestASlowReadOrReviewDoesNotHoldUpAnApproval(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		a := start(t, &fakeAPI{onGet: hang, onReview: func(ctx context.Context) (bool, error) { return false, hang(ctx) }}, dir)
		a.pass(5 * time.Minute)
		a.mustWait(t)
		if a.gets != 1 || a.last(t).Backstops != 1 || len(a.progress) < 10 {
			t.Errorf("%d reads at a time, progress %+v told %d times", a.gets, a.last(t), len(a.progress))
		}
		a.stream(t).Modify(a.change(newAuthority(t).issued(t, nil)))
		if _, err := a.mustEnd(t); err != nil {
			t.Error(err)
		}
	})
}

func TestAWatchThatEndsIsOpenedAgainAfterARead(t *testing.T) {
	expired := metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired, Message: "too old\nresource version"}
	for name, end := range map[string]func(s *fakeStream, o *certificatesv1.CertificateSigningRequest){
		"closed":            func(s *fakeStream, _ *certificatesv1.CertificateSigningRequest) { s.FakeWatcher.Stop() },
		"410":               func(s *fakeStream, _ *certificatesv1.CertificateSigningRequest) { s.Error(&expired) },
		"an error":          func(s *fakeStream, _ *certificatesv1.CertificateSigningRequest) { s.Error(nil) },
		"an unknown event":  func(s *fakeStream, o *certificatesv1.CertificateSigningRequest) { s.Action("TELEPORTED", o) },
		"an unknown object": func(s *fakeStream, _ *certificatesv1.CertificateSigningRequest) { s.Modify(&corev1.Node{}) },
		"no object":         func(s *fakeStream, _ *certificatesv1.CertificateSigningRequest) { s.Modify(nil) },
		"another request": func(s *fakeStream, o *certificatesv1.CertificateSigningRequest) {
			o.Name = "another"
			s.Modify(o)
		},
		"another deleted": func(s *fakeStream, o *certificatesv1.CertificateSigningRequest) {
			o.UID = "another"
			s.Delete(o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{}, dir)
				first := a.stream(t)
				end(first, a.change(func(*certificatesv1.CertificateSigningRequest) {}))
				a.pass(reopenFirst)
				a.mustWait(t)
				if a.gets != 1 || !slices.Equal(a.watches, []string{"1", "2"}) || !first.stopped {
					t.Fatalf("%d reads, watches from %v, first one stopped: %v; want a read, then a watch from what it showed", a.gets, a.watches, first.stopped)
				}
				a.stream(t).Modify(a.change(newAuthority(t).issued(t, nil)))
				if _, err := a.mustEnd(t); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWhatHappenedBetweenTwoWatchesIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		a.stream(t).FakeWatcher.Stop()
		a.change(newAuthority(t).issued(t, nil))
		a.pass(reopenFirst)
		if _, err := a.mustEnd(t); err != nil || len(a.watches) != 1 {
			t.Errorf("%v, watches %v", err, a.watches)
		}
	})
}

func TestABookmarkChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		o := &certificatesv1.CertificateSigningRequest{}
		o.ResourceVersion = "9"
		a.stream(t).Action(watch.Bookmark, o)
		a.pass(5 * time.Second)
		a.mustWait(t)
		if a.gets != 0 || len(a.watches) != 1 || a.stream(t).stopped {
			t.Error("a bookmark ended the watch")
		}
	})
}

func TestAWatchThatNeverOpensBacksOffAndLeavesItToReads(t *testing.T) {
	for name, refusal := range map[string]error{
		"refused":   fault.New(fault.ServerError, "503"),
		"forbidden": apierrors.NewForbidden(resource, "x", errors.New("no watch")),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{onWatch: func(context.Context, int) error { return refusal }}, dir)
				a.pass(10 * time.Minute)
				a.mustWait(t)
				if n := len(a.watches); n < 10 || n > 120 {
					t.Errorf("%d watches in 10 minutes", n)
				}
				a.change(newAuthority(t).issued(t, nil))
				a.pass(reopenLast)
				if _, err := a.mustEnd(t); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAWatchThatLivedForLongIsOpenedAgainSoon(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{}, dir)
		for n := 1; n <= 20; n++ { // servers end a watch every half hour or so
			a.pass(30 * time.Minute)
			a.stream(t).FakeWatcher.Stop()
			a.pass(reopenFirst)
			a.mustWait(t)
			if len(a.watches) != n+1 {
				t.Fatalf("%d watches after %d ends", len(a.watches), n)
			}
		}
	})
}

func TestRetryAfterOfAWatchIsObeyed(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		busy := &fault.Error{Reason: fault.Throttled, Err: errors.New("429"), RetryAfter: 2 * time.Minute}
		a := start(t, &fakeAPI{onWatch: func(_ context.Context, nth int) error {
			if nth == 1 {
				return busy
			}
			return nil
		}}, dir)
		a.pass(2*time.Minute - time.Second)
		if a.gets != 0 || len(a.watches) != 1 || a.last(t).Backstops != 0 {
			t.Errorf("%d reads, watches %v before the time was over", a.gets, a.watches)
		}
		if len(a.progress) < 4 {
			t.Error("nobody was told that it still waits")
		}
		a.pass(time.Minute + 2*time.Second)
		a.mustWait(t)
		if a.gets != 1 || len(a.watches) != 2 {
			t.Errorf("%d reads, watches %v after the time was over", a.gets, a.watches)
		}
	})
}

func TestAFailedReadEndsTheWaitOnlyWhereNothingElseIsLeft(t *testing.T) {
	busy := fault.New(fault.ServerError, "503")
	for name, test := range map[string]struct {
		err    error
		closed bool // no watch is open
		after  time.Duration
		want   fault.Reason // "": it still waits
	}{
		"once, the watch is open":        {err: busy, after: firstBackstop + time.Second},
		"three times":                    {err: busy, after: 4 * firstBackstop, want: fault.ServerError},
		"no watch either":                {err: busy, closed: true, after: reopenFirst, want: fault.ServerError},
		"the token is dead":              {err: fault.New(fault.TokenRejected, "401"), after: firstBackstop + time.Second, want: fault.TokenRejected},
		"reading is forbidden":           {err: apierrors.NewForbidden(resource, "x", nil), after: firstBackstop + time.Second, want: fault.CSRForbidden},
		"the certificate is not trusted": {err: fault.New(fault.ServerCertificateInvalid, "x509"), after: firstBackstop + time.Second, want: fault.ServerCertificateInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, dir string) {
				a := start(t, &fakeAPI{onGet: func(context.Context) error { return test.err }}, dir)
				if test.closed {
					a.stream(t).FakeWatcher.Stop()
				}
				a.pass(test.after)
				if test.want == "" {
					a.mustWait(t)
					return
				}
				if _, err := a.mustEnd(t); fault.ReasonOf(err) != test.want {
					t.Errorf("got %v", err)
				}
				if _, err := os.Stat(a.r.KeyPath); err != nil {
					t.Error("the key is gone, the next attempt cannot find its request")
				}
			})
		})
	}
}

func TestFailedReadsCountOnlyInARow(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		n := 0
		a := start(t, &fakeAPI{onGet: func(context.Context) error {
			if n++; n%badBackstops == 0 {
				return nil
			}
			return fault.New(fault.Throttled, "429")
		}}, dir)
		a.pass(20 * firstBackstop)
		a.mustWait(t)
	})
}

func TestTheEndOfTheContextEndsTheWaitAtOnceAndKeepsTheKey(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, api := range map[string]*fakeAPI{
		"watching":           {},
		"opening the watch":  {onWatch: func(ctx context.Context, _ int) error { return hang(ctx) }},
		"reading, reviewing": {onGet: hang, onReview: func(ctx context.Context) (bool, error) { return false, hang(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				a := start(t, api, dir)
				a.pass(firstBackstop + time.Second)
				a.mustWait(t)
				before := time.Now()
				a.cancel()
				if _, err := a.mustEnd(t); !errors.Is(err, context.Canceled) || fault.ReasonOf(err) != "" || time.Since(before) != 0 {
					t.Errorf("%v after %v", err, time.Since(before))
				}
				if _, err := os.Stat(a.r.KeyPath); err != nil {
					t.Error("the key is gone")
				}
				for _, s := range a.streams {
					if !s.stopped {
						t.Error("a watch is left open")
					}
				}
			})
		})
	}
}

// A watch that opens only after the request has ended is stopped, too.
func TestAWatchThatOpensTooLateIsStopped(t *testing.T) {
	bubble(t, func(t *testing.T, dir string) {
		a := start(t, &fakeAPI{onWatch: func(ctx context.Context, _ int) error { <-ctx.Done(); return nil }}, dir)
		a.cancel()
		if _, err := a.mustEnd(t); !errors.Is(err, context.Canceled) || !a.stream(t).stopped {
			t.Errorf("%v, stopped: %v", err, a.stream(t).stopped)
		}
	})
}

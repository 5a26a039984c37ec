package csr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	node      = "n1"
	requester = "system:bootstrap:abcdef"
)

var resource = certificatesv1.Resource("certificatesigningrequests")

// fakeAPI is an API server with nothing but requests in it. on* replace what it
// does; set them before the request starts.
type fakeAPI struct {
	mu      sync.Mutex
	objects map[string]*certificatesv1.CertificateSigningRequest
	version int
	creates []string
	gets    int
	whoAmIs int
	watches []string // the resourceVersions watched from
	reviews []authorizationv1.ResourceAttributes
	streams []*fakeStream

	jitter   func(time.Duration) time.Duration // nil: as long as it may be
	onCreate func(*certificatesv1.CertificateSigningRequest) error
	onGet    func(context.Context) error
	onWatch  func(context.Context, int) error
	onReview func(context.Context) (bool, error)
	onWhoAmI func() (string, []string, error)
	clock    func() (server, local time.Time, ok bool)
}

type fakeStream struct {
	*watch.FakeWatcher
	stopped bool
	mu      sync.Mutex
}

func (s *fakeStream) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.FakeWatcher.Stop()
}

func (f *fakeAPI) CreateCSR(_ context.Context, in *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.creates = append(f.creates, in.Name)
	if f.onCreate != nil {
		if err := f.onCreate(in); err != nil {
			return nil, err
		}
	}
	if _, ok := f.objects[in.Name]; ok {
		return nil, apierrors.NewAlreadyExists(resource, in.Name)
	}
	o := in.DeepCopy()
	o.Spec.Username = requester
	f.put(o)
	return o.DeepCopy(), nil
}

// put stores an object as a new one. The caller holds mu, or nobody runs yet.
func (f *fakeAPI) put(o *certificatesv1.CertificateSigningRequest) {
	f.version++
	o.UID, o.ResourceVersion = types.UID("uid-"+strconv.Itoa(f.version)), strconv.Itoa(f.version)
	o.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	if f.objects == nil {
		f.objects = map[string]*certificatesv1.CertificateSigningRequest{}
	}
	f.objects[o.Name] = o
}

func (f *fakeAPI) GetCSR(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	f.mu.Lock()
	f.gets++
	on := f.onGet
	f.mu.Unlock()
	if on != nil {
		if err := on(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if o, ok := f.objects[name]; ok {
		return o.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(resource, name)
}

func (f *fakeAPI) WatchCSR(ctx context.Context, _, version string) (watch.Interface, error) {
	f.mu.Lock()
	f.watches = append(f.watches, version)
	nth, on := len(f.watches), f.onWatch
	f.mu.Unlock()
	if on != nil {
		if err := on(ctx, nth); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fakeStream{FakeWatcher: watch.NewFakeWithChanSize(8, false)}
	f.streams = append(f.streams, s)
	return s, nil
}

func (f *fakeAPI) WhoAmI(context.Context) (string, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.whoAmIs++
	if f.onWhoAmI != nil {
		return f.onWhoAmI()
	}
	return requester, []string{"system:bootstrappers", "system:authenticated"}, nil
}

func (f *fakeAPI) Allowed(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	f.mu.Lock()
	f.reviews = append(f.reviews, what)
	on := f.onReview
	f.mu.Unlock()
	if on != nil {
		return on(ctx)
	}
	return true, nil
}

func (f *fakeAPI) Clock() (server, local time.Time, ok bool) {
	if f.clock != nil {
		return f.clock()
	}
	return time.Time{}, time.Time{}, false
}

// change edits the one object and returns it with a new version.
func (f *fakeAPI) change(edit func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.objects {
		f.version++
		o.ResourceVersion = strconv.Itoa(f.version)
		edit(o)
		return o.DeepCopy()
	}
	panic("there is no request")
}

func (f *fakeAPI) stream(t *testing.T) *fakeStream {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) == 0 {
		t.Fatal("nothing is watched")
	}
	return f.streams[len(f.streams)-1]
}

func condition(typ certificatesv1.RequestConditionType, status corev1.ConditionStatus) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{Type: typ, Status: status, Reason: "Because", Message: "of\nthis"}
}

func conditioned(types ...certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) {
	return func(o *certificatesv1.CertificateSigningRequest) {
		for _, typ := range types {
			o.Status.Conditions = append(o.Status.Conditions, condition(typ, corev1.ConditionTrue))
		}
	}
}

// signer of the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKeyPair(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := newKeyPair(t, elliptic.P256())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert: cert, key: key}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// sign makes the certificate that a request asks for; change may spoil it.
func (a authority) sign(t testing.TB, o *certificatesv1.CertificateSigningRequest, change func(*x509.Certificate)) []byte {
	t.Helper()
	block, _ := pem.Decode(o.Spec.Request)
	q, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: q.Subject, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	public := q.PublicKey
	if change != nil {
		change(template)
		if template.PublicKey != nil {
			public = template.PublicKey
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issued approves and signs.
func (a authority) issued(t testing.TB, change func(*x509.Certificate)) func(*certificatesv1.CertificateSigningRequest) {
	return func(o *certificatesv1.CertificateSigningRequest) {
		conditioned(certificatesv1.CertificateApproved)(o)
		o.Status.Certificate = a.sign(t, o, change)
	}
}

// attempt runs one Request inside a synctest bubble.
type attempt struct {
	*fakeAPI
	r        *Requester
	cancel   context.CancelFunc
	done     chan struct{}
	got      *Credentials
	err      error
	progress []Progress
}

// firstBackstop is when the first read beside a watch comes at the latest.
const firstBackstop = backstopEvery + backstopEvery/3

func start(t *testing.T, api *fakeAPI, dir string) *attempt {
	t.Helper()
	return startAs(t, api, dir, requester)
}

func startAs(t *testing.T, api *fakeAPI, dir, who string) *attempt {
	t.Helper()
	a := &attempt{fakeAPI: api, done: make(chan struct{})}
	a.r = &Requester{KeyPath: filepath.Join(dir, "kubelet-client.key"), Jitter: api.jitter, OnProgress: func(p Progress) {
		api.mu.Lock()
		defer api.mu.Unlock()
		a.progress = append(a.progress, p)
	}}
	if a.r.Jitter == nil {
		a.r.Jitter = func(d time.Duration) time.Duration { return d - 1 }
	}
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	t.Cleanup(cancel)
	go func() {
		defer close(a.done)
		a.got, a.err = a.r.Request(ctx, Target{API: api, NodeName: node, Requester: who})
	}()
	synctest.Wait()
	return a
}

// pass lets fake time pass. The lock orders what the test has read before what
// happens in that time.
func (a *attempt) pass(d time.Duration) {
	a.mu.Lock()
	a.mu.Unlock() //nolint:staticcheck // empty on purpose, see above
	time.Sleep(d)
	synctest.Wait()
}

func (a *attempt) ended() bool {
	synctest.Wait()
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// mustEnd waits without letting fake time pass on its own account.
func (a *attempt) mustEnd(t *testing.T) (*Credentials, error) {
	t.Helper()
	if !a.ended() {
		a.cancel()
		<-a.done
		t.Fatal("the request still waits")
	}
	if (a.got == nil) == (a.err == nil) {
		t.Fatalf("Request() = %v, %v", a.got, a.err)
	}
	return a.got, a.err
}

func (a *attempt) mustWait(t *testing.T) {
	t.Helper()
	if a.ended() {
		t.Fatalf("the request ended: %v, %v", a.got, a.err)
	}
}

func (a *attempt) last(t *testing.T) Progress {
	t.Helper()
	if len(a.progress) == 0 {
		t.Fatal("no progress was told")
	}
	return a.progress[len(a.progress)-1]
}

var errUnplugged = errors.New("unplugged")

package agent

import (
	"context"
	"net"
	"time"

	"github.com/sirupsen/logrus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/bootstrap-agent/bootstrap-agent/csr"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Deps are the rooms and the outside world as the agent needs them. The
// concrete types do not know these interfaces; package cmd puts them together.
type Deps struct {
	Discoverer Discoverer
	Connect    func(Identity) (API, error) // a fresh connection for each call
	Units      Units
	Notify     Notifier
	Health     func(ctx context.Context, url string) error // nil error: the kubelet answers ok at url
	Host       Host
	Machine    Machine
	Clock      Clock
	Pace       Pace                              // the zero value: DefaultPace
	Jitter     func(time.Duration) time.Duration // nil: math/rand
	Log        logrus.FieldLogger
	Version    string
	// OnStatus is called with each new status, from the loop's goroutine; it
	// must not block. Nil: nobody listens.
	OnStatus func(Status)
	// Listen opens the port of metricsAddress. Nil: the real one.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	// AtRest is called when there is nothing to do for minutes: a good moment to
	// give memory back. Nil: nothing is done.
	AtRest func()
	// StopWhenBlocked ends Run with the fault at the first blocked reason: the
	// one-shot `join`.
	StopWhenBlocked bool
}

// Host is what the agent looks at on this machine beside its own folders.
type Host struct {
	kubelet.Host                   // cgroup version, resolv.conf, the container runtime
	Binaries     []string          // where a kubelet may be
	Runtimes     []kubelet.Runtime // which container runtimes may be there
	AskRuntime   kubelet.Ask       // nil: kubelet.AskRuntime
	RunKubelet   kubelet.Run       // nil: kubelet.RunProgram

	Statfs func(path string) (preflight.Space, error) // nil: the real one
}

// Discoverer finds the cluster and decides whether to trust it.
type Discoverer interface {
	Discover(ctx context.Context, r discovery.Request) (*discovery.Cluster, error)
}

// Identity is who we are to the API server, and how we know that server.
type Identity struct {
	Server string
	CA     []byte
	Bearer interface{ Bearer() string } // the token, or
	Pair   []byte                       // the node's pair (one PEM text), or neither: anonymous
}

// API is the Kubernetes API as a joining node uses it. Every error has its
// fault.Reason where it is one of the connection.
type API interface {
	csr.API
	GetNode(ctx context.Context, name string) (*corev1.Node, error)
	WatchNode(ctx context.Context, name, resourceVersion string) (watch.Interface, error)
	GetLease(ctx context.Context, nodeName string) (*coordinationv1.Lease, error)
	KubeletConfig(ctx context.Context) (string, error)
	ClusterInfo(ctx context.Context) (string, error)
	// VerifiesUnder says whether the server that answered last would verify under
	// another bundle (PEM) as well.
	VerifiesUnder(ca []byte) error
	PendingCSR(ctx context.Context, signer, user string) (*apiclient.PendingCSR, error)
	ServerVersion(ctx context.Context) (gitVersion string, err error)
	AnnotateNode(ctx context.Context, name string, change map[string]*string) error
	Close()
}

// Units is kubelet.service, and the target that others wait for.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Existing(ctx context.Context, dir string) (systemd.Existing, error)
	Install(ctx context.Context, dir string, e systemd.Existing, r systemd.Rendered, enable bool) (changed bool, err error)
	Reload(ctx context.Context) error
	Start(ctx context.Context, name string) (systemd.Unit, error)
	Restart(ctx context.Context, name string) (systemd.Unit, error)
	Stop(ctx context.Context, name string) (systemd.Unit, error)
	Watch(ctx context.Context, names ...string) <-chan struct{}
	LastLines(ctx context.Context, name string, n int) ([]string, error)
	// Said tells whether the unit's processes wrote a line like that, within so long.
	Said(ctx context.Context, name, pattern string, within time.Duration) (bool, error)
	// Reach starts a target without waiting for what belongs to it; false: there is
	// no such target.
	Reach(ctx context.Context, target string) (bool, error)
}

// Notifier is sd_notify. A daemon outside systemd has nobody to tell: then its
// methods do nothing.
type Notifier interface {
	Ready() error
	Reloading() error
	Stopping() error
	Status(line string) error
	Watchdog() error
	// Interval is how often Watchdog wants to be called; zero: not at all.
	Interval() time.Duration
}

// Clock is time as the loop sees it; tests pass a faster one.
type Clock interface {
	Now() time.Time
	Monotonic() time.Duration // CLOCK_MONOTONIC, see moment
	// After is a timer: the channel fires once after d; stop releases it.
	After(d time.Duration) (fire <-chan time.Time, stop func())
}

// SystemClock is the real clock.
type SystemClock struct{}

// Now returns the wall clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Monotonic returns CLOCK_MONOTONIC.
func (SystemClock) Monotonic() time.Duration { return Monotonic() }

// After starts a timer.
func (SystemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

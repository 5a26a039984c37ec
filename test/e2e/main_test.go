//go:build e2e

// Package e2e holds the scenarios on real components: a real control plane
// (test/cluster) and real machines with systemd (test/machine). Each scenario is
// one test with a name that is a sentence, bounded by a deadline of its own.
//
// It never skips: what is missing on this host is an error in one line, and
// whoever calls it decides beforehand (machine.Missing). It leaves nothing
// behind.
//
//	go test -tags e2e ./test/e2e: binaries, root folder -> clusters, machines -> scenarios -> seconds
package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/crash"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// What all scenarios share.
var (
	lab      *machine.Lab
	kubelet  string // path of the real kubelet
	clusters = sharedClusters{running: map[string]*cluster.Cluster{}}
	clock    timings
	asides   = &turns{free: lanes}
)

func TestMain(m *testing.M) {
	if code, ok := crash.Child(); ok { // this process is an agent that a scenario kills
		os.Exit(code)
	}
	if err := run(m); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(m *testing.M) (err error) {
	// Two hours cover a cold build on a slow host; each scenario has its own, far
	// shorter deadline. A first Ctrl-C ends a build; later ones are for go test.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
	defer cancel()
	building, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := machine.Prepare(building, logf); err != nil {
		return err
	}
	bin, err := cluster.Build(building, logf)
	if err != nil {
		return err
	}
	kubelet = bin + "/kubelet"
	// Fetched here, where no scenario's deadline runs.
	if _, err := machine.Prometheus(building, logf); err != nil {
		return err
	}
	if lab, err = machine.Open(building, logf); err != nil {
		return err
	}
	stop()
	defer func() { err = errors.Join(err, clusters.stop(), lab.Close()) }()
	if err := manyAtOnce(); err != nil {
		return err
	}
	if code := m.Run(); code != 0 {
		err = fmt.Errorf("scenarios failed (%d)", code)
	}
	clock.print()
	return err
}

func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// sharedClusters starts one control plane of each kind when the first scenario
// asks for it; they last until the end.
type sharedClusters struct {
	mu      sync.Mutex
	running map[string]*cluster.Cluster
}

// sharedCluster returns the control plane that scenarios share which leave it as
// they found it, but for nodes, tokens and CSRs with names of their own.
func sharedCluster(t *testing.T, ctx context.Context, shape cluster.Shape) *cluster.Cluster {
	t.Helper()
	return clusters.get(t, ctx, string(shape), cluster.Options{Shape: shape})
}

// severalCAs is a control plane made by hand with every CA that it can have: the
// API server's certificate is issued below the one in cluster-info, clients and
// kubelets have another, cluster-info holds both and one more that was retired.
// The API server checks the certificates of kubelets.
func severalCAs(t *testing.T, ctx context.Context) *cluster.Cluster {
	t.Helper()
	return clusters.get(t, ctx, "several CAs", cluster.Options{
		Shape: cluster.ByHand, VerifyKubelets: true, Authorities: cluster.Authorities{Clients: true, Intermediate: true, Bundle: true},
	})
}

// get returns the one of that name, started with opts by the first who asks.
func (s *sharedClusters) get(t *testing.T, ctx context.Context, name string, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.running[name]
	if c == nil {
		opts.Address, opts.Log = lab.Address, logf
		var err error
		if c, err = cluster.Start(ctx, opts); err != nil {
			t.Fatal(err)
		}
		s.running[name] = c
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs(15))
		}
	})
	return c
}

// ownCluster starts a control plane for one scenario, on the lab's address.
func ownCluster(t *testing.T, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	opts.Address, opts.Log = lab.Address, logf
	return cluster.StartTest(t, opts)
}

func (s *sharedClusters) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var faults []error
	for _, c := range s.running {
		faults = append(faults, c.Stop())
	}
	return errors.Join(faults...)
}

// timings are the seconds of each scenario, for the summary at the end.
type timings struct {
	mu   sync.Mutex
	rows []row
}

type row struct {
	verdict, name string
	took          time.Duration
}

// scenario gives a test its deadline and notes its seconds.
func scenario(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, fmt.Errorf("the scenario's limit of %s is over", limit))
	began := time.Now()
	t.Cleanup(func() {
		cancel()
		verdict := "ok"
		if t.Failed() {
			verdict = "FAILED"
		}
		clock.mu.Lock()
		defer clock.mu.Unlock()
		clock.rows = append(clock.rows, row{verdict, t.Name(), time.Since(began)})
	})
	return ctx
}

// aside is scenario for one that may run beside others, a few at a time (turns),
// once those that may not have ended. It changes nothing that another could see: nodes,
// tokens and requests have names of their own, no controller of a shared control
// plane is stopped, and no second counts. Its deadline begins when it does; so it
// has no parallel parts of its own, which would wait for a turn while that runs.
func aside(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	asides.beside(t, limit)
	return scenario(t, limit)
}

func (c *timings) print() {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortStableFunc(c.rows, func(a, b row) int { return cmp.Compare(a.verdict, b.verdict) }) // what failed first
	for _, row := range c.rows {
		fmt.Printf("%7.1f s  %-6s  %s\n", row.took.Seconds(), row.verdict, row.name)
	}
}

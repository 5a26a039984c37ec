// Package crowd lets many machines join one real control plane at once, from one
// process: every machine is an agent.Agent as it is shipped, with its own files,
// its own pace and its own retries; systemd and the kubelet are stand-ins
// (test/standin), and the stand-in of the kubelet makes the Node with the
// certificate that the agent has installed, as the first thing a kubelet does.
//
// It counts what that costs, on both sides: what each machine has sent, and what
// the API server says it has served, refused and kept waiting. It never runs a
// kubelet (what those cost is in docs/bench.md), and never judges what it counts.
//
//	cluster, Options --Join, Bare, Sign, Rest--> figures
package crowd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/apiclient"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/standin"
)

// Options of one crowd.
type Options struct {
	Prefix string          // of the names of the nodes
	Tokens []cluster.Token // machine i has Tokens[i % len(Tokens)]
	Joins  int
	Folder string // for the files of all machines; must exist
	// Change is called with each machine before it begins; nil: nothing is changed.
	Change func(*standin.Machine)
}

// Join is how one machine fared.
type Join struct {
	Name  string
	Err   error          // why it has not joined
	Phase agent.Phase    // where it ended
	Seen  []fault.Reason // what its status told meanwhile, each once

	Discovery   time.Duration // from the first question to a cluster that is trusted, retries included
	Certificate time.Duration // from the first attempt to request until the certificate was there
	Own         time.Duration // from the start of the agent until it asked systemd for the kubelet
	Whole       time.Duration // from there until Joined

	Reads       int   // of cluster-info by nobody, retries included
	Requests    int64 // all, these included; not those of the kubelet's stand-in
	Connections int64
	Handshakes  int64
	Backstops   int // of Requests: reads of its own request beside the watch
}

// one is a machine of the crowd while it runs.
type one struct {
	*standin.Machine
	join   Join
	began  time.Time
	asked  atomic.Int64 // nanoseconds until discovery began; 0: not yet
	found  atomic.Int64 // and until it had found the cluster
	own    atomic.Int64 // and until the kubelet was wanted
	dials  atomic.Int64
	reads  atomic.Int64
	joined atomic.Int64
	looks  atomic.Int64 // at the Node, by its own agent
	mu     sync.Mutex   // guards clients
	client []*apiclient.Client
	last   agent.Status
}

// Run lets them all begin at the same moment and returns when each has joined or
// ctx has ended; after that the machines that stay (afterJoin: heal) are stopped.
func Run(ctx context.Context, c *cluster.Cluster, o Options) ([]Join, error) {
	kubelets, stop := newKubelets(ctx, c)
	defer stop()
	all, err := o.machines(c, kubelets)
	if err != nil {
		return nil, err
	}
	return runAll(ctx, all), nil
}

func (o Options) machines(c *cluster.Cluster, kubelets *kubelets) (all []*one, err error) {
	all = make([]*one, o.Joins)
	for i := range all {
		if all[i], err = o.machine(c, kubelets, i); err != nil {
			return nil, fmt.Errorf("cannot make machine %d: %w", i, err)
		}
	}
	return all, nil
}

func runAll(ctx context.Context, all []*one) []Join {
	gate := make(chan struct{})
	var wait sync.WaitGroup
	for _, m := range all {
		wait.Go(func() {
			<-gate
			m.run(ctx)
		})
	}
	close(gate)
	wait.Wait()
	joins := make([]Join, len(all))
	for i, m := range all {
		joins[i] = m.join
	}
	return joins
}

// Failed are the machines that have not joined.
func Failed(joins []Join) error {
	var errs []error
	for _, j := range joins {
		if j.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", j.Name, j.Err))
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

func (o Options) machine(c *cluster.Cluster, kubelets *kubelets, i int) (*one, error) {
	name := fmt.Sprintf("%s-%d", o.Prefix, i)
	folder := filepath.Join(o.Folder, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	m := &one{join: Join{Name: name}}
	who := agent.Machine{BootID: randomUUID(), MachineID: strings.ReplaceAll(randomUUID(), "-", ""), UUID: randomUUID()}
	stand, err := standin.New(standin.Options{
		Folder: folder, NodeName: name, Endpoint: c.Endpoint(), Token: o.Tokens[i%len(o.Tokens)].String(), Pin: c.Pin(), Who: who,
		OnStart: func([]string) error {
			m.own.CompareAndSwap(0, int64(time.Since(m.began)))
			kubelets.start(name, who.BootID, m.Config.Paths.Kubelet)
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	m.Machine = stand
	m.Deps.Discoverer = &asking{m, &discovery.Discoverer{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		m.reads.Add(1)
		return m.dial(ctx, network, addr)
	}}}
	m.Deps.Connect = m.connect
	m.Deps.OnStatus = m.note
	if o.Change != nil {
		o.Change(stand)
	}
	return m, nil
}

func (m *one) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	m.dials.Add(1)
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
}

// connect is the shipped agent's, with a count.
func (m *one) connect(id agent.Identity) (agent.API, error) {
	options := standin.ClientOptions(id)
	options.Dial = m.dial
	client, err := apiclient.New(options)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.client = append(m.client, client)
	return looking{client, m}, nil
}

// looking counts how often the agent looks at its Node.
type looking struct {
	*apiclient.Client
	m *one
}

func (l looking) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	l.m.looks.Add(1)
	return l.Client.GetNode(ctx, name)
}

// sent is what all clients of this machine have asked of the API server.
func (m *one) sent() (s apiclient.Stats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, client := range m.client {
		one := client.Stats()
		s.Requests, s.Handshakes = s.Requests+one.Requests, s.Handshakes+one.Handshakes
	}
	return s
}

// asking takes the time of discovery.
type asking struct {
	m    *one
	real agent.Discoverer
}

func (a *asking) Discover(ctx context.Context, r discovery.Request) (*discovery.Cluster, error) {
	a.m.asked.CompareAndSwap(0, int64(time.Since(a.m.began)))
	found, err := a.real.Discover(ctx, r)
	if err == nil {
		a.m.found.Store(int64(time.Since(a.m.began)))
	}
	return found, err
}

// note is called by the loop of one agent, so it needs no lock.
func (m *one) note(s agent.Status) {
	m.last = s
	if s.Phase == agent.Joined {
		m.joined.CompareAndSwap(0, int64(time.Since(m.began)))
	}
	if s.CSR != nil {
		m.join.Backstops = s.CSR.BackstopGets
	}
	if s.Reason != "" && !slices.Contains(m.join.Seen, s.Reason) {
		m.join.Seen = append(m.join.Seen, s.Reason)
	}
}

func (m *one) run(ctx context.Context) {
	j := &m.join
	a, err := agent.New(m.Config, m.Deps)
	if err != nil {
		j.Err = err
		return
	}
	m.began = time.Now()
	err = a.Run(ctx)
	j.Whole = time.Duration(m.joined.Load())
	if j.Whole == 0 {
		j.Err = errors.Join(fmt.Errorf("ended in phase %s (%s: %s)", m.last.Phase, m.last.Reason, m.last.Message), err, context.Cause(ctx))
	}
	j.Discovery = time.Duration(m.found.Load() - m.asked.Load())
	j.Own, j.Reads, j.Connections = time.Duration(m.own.Load()), int(m.reads.Load()), m.dials.Load()
	sent := m.sent()
	j.Requests, j.Handshakes = m.reads.Load()+sent.Requests, m.reads.Load()+sent.Handshakes
	j.Certificate = between(m.last.Timeline, agent.StepRequest, agent.StepApproval)
}

// between is the time from the first begin of one step to the last end of another.
func between(steps []agent.Step, first, last string) time.Duration {
	var from, to time.Time
	for _, s := range steps {
		if s.Name == first && from.IsZero() {
			from = s.Start
		}
		if s.Name == last && s.Seconds != nil {
			to = s.Start.Add(time.Duration(*s.Seconds * float64(time.Second)))
		}
	}
	return to.Sub(from)
}

func randomUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

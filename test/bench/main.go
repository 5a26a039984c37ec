// The benchmark measures how long it takes until a machine is a node: with the
// agent, with kubeadm join, with the kubelet's own TLS bootstrap, and with a
// kubelet that has its certificate already. All of it happens in one run, on this
// host, against one real control plane, on machines that are fresh at every
// start. It measures besides what the agent costs once the node is joined.
//
// It never prints a figure that it has not measured in this run, and judges none
// by another run's. It leaves nothing behind but the report.
//
//	go run ./test/bench [--rounds N] [--quick]: starts -> samples -> bench.md, bench.svg
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// options of one run.
type options struct {
	rounds int
	window time.Duration // in which a joined agent is watched
	settle time.Duration // after the join, before that
	out    string        // folder of the report
	deb    string
	own    int // > 0: nothing else is measured
}

func main() {
	var o options
	quick := flag.Bool("quick", false, "one round and a short watch: to try the benchmark, not to publish; the report goes to bin/")
	flag.IntVar(&o.rounds, "rounds", 9, "starts of each kind, with warm and again with cold page cache")
	flag.DurationVar(&o.window, "window", 5*time.Minute, "how long a joined agent is watched")
	flag.StringVar(&o.out, "out", "", "folder of bench.md and bench.svg (default docs, with --quick bin)")
	flag.IntVar(&o.own, "own", 0, "only this many warm starts of the agent, and where its own time goes; no report is written")
	flag.StringVar(&o.deb, "deb", os.Getenv("BOOTSTRAP_AGENT_DEB"), "the package (default $BOOTSTRAP_AGENT_DEB)")
	flag.Parse()
	o.settle = time.Minute
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if *quick {
		o.settle = 5 * time.Second
		if !given["rounds"] {
			o.rounds = 1
		}
		if !given["window"] {
			o.window = 10 * time.Second
		}
	}
	if o.out == "" {
		o.out = map[bool]string{false: "docs", true: "bin"}[*quick]
	}
	s := screen.New(os.Stdout, os.Getenv)
	ctx, stop := s.UntilInterrupted()
	defer stop()
	if err := run(ctx, s, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s *screen.Screen, o options) (err error) {
	switch reasons := machine.Missing(false); {
	case len(reasons) > 0:
		s.Printf("skipped: %s", strings.Join(reasons, "; "))
		return nil
	case o.rounds < 1:
		return errors.New("--rounds: at least one")
	case o.window < time.Second:
		return errors.New("--window: at least 1s")
	}
	if _, err := os.Stat(o.deb); err != nil {
		return fmt.Errorf("the package that is to be measured: %w (make bench builds it)", err)
	}
	began := time.Now()
	b := &bench{options: o, screen: s}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx); err != nil {
		return err
	}
	if o.own > 0 {
		return b.ownTime(ctx)
	}
	var r report
	if r, err = b.measure(ctx); err != nil {
		return err
	}
	r.took = time.Since(began)
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"bench.md": r.markdown(), "bench.svg": chart(r)} {
		if err := os.WriteFile(filepath.Join(o.out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	s.Print("\n" + r.markdown())
	s.Printf("written: %s/bench.md and bench.svg", o.out)
	return nil
}

// bench is what one run holds.
type bench struct {
	options
	screen   *screen.Screen
	bin      string // folder of the real components
	lab      *machine.Lab
	cluster  *cluster.Cluster
	api      *api
	scratch  string // policy and log of the audit
	token    cluster.Token
	restless int // starts before which the host did not get quiet
	execs    *execTrace
}

func (b *bench) open(ctx context.Context) error {
	return b.screen.Together(ctx, screen.Task{Name: "lab and control plane", Do: func(ctx context.Context, say func(string)) (err error) {
		log := func(format string, args ...any) { say(fmt.Sprintf(format, args...)) }
		if err := machine.Prepare(ctx, log); err != nil {
			return err
		}
		if b.bin, err = cluster.Build(ctx, log); err != nil {
			return err
		}
		if b.lab, err = machine.Open(ctx, log); err != nil {
			return err
		}
		if b.scratch, err = os.MkdirTemp("", "bootstrap-agent-bench-"); err != nil {
			return err
		}
		flags, err := auditFlags(b.scratch)
		if err != nil {
			return err
		}
		b.cluster, err = cluster.Start(ctx, cluster.Options{Shape: cluster.Kubeadm, Address: b.lab.Address, APIServerFlags: flags, Log: log})
		if err != nil {
			return err
		}
		if b.execs, err = openExecTrace("*/bootstrap-agent"); err != nil {
			say("the sandbox cannot be told from the agent here: " + err.Error())
		}
		if b.api, err = newAPI(b.cluster.AdminKubeconfig()); err != nil {
			return err
		}
		if b.token, err = b.cluster.NewToken(ctx, cluster.TokenOptions{}); err != nil {
			return err
		}
		return b.cluster.AwaitSignature(ctx, b.token)
	}})
}

func (b *bench) close() error {
	if b.api != nil {
		b.api.close()
	}
	faults := []error{b.lab.Close(), b.cluster.Stop(), b.execs.close()}
	if b.scratch != "" {
		faults = append(faults, os.RemoveAll(b.scratch))
	}
	return errors.Join(faults...)
}

// measure does all rounds, first with warm, then with cold page cache; in each
// round every contestant starts once, another one first each time.
func (b *bench) measure(ctx context.Context) (report, error) {
	r := report{options: b.options, contestants: contestants(), warm: map[string]samples{}, cold: map[string]samples{}, kubernetes: b.version(ctx)}
	for round := range b.rounds + 1 {
		for i := range r.contestants {
			c := r.contestants[(i+round)%len(r.contestants)]
			started, err := b.start(ctx, c, fmt.Sprintf("%s-warm-%d", c.key, round), false)
			if err != nil {
				return r, err
			}
			if round == 0 {
				b.screen.Printf("  warming up    %-34s %6.2f s  (not counted)", c.title, started.seen.Seconds())
				continue
			}
			b.screen.Printf("  warm %d/%d      %-34s %6.2f s", round, b.rounds, c.title, started.seen.Seconds())
			r.warm[c.key] = append(r.warm[c.key], started.seen)
			r.addOwn(started)
		}
		floor, err := b.floor(ctx, fmt.Sprintf("floor-%d", round))
		if err != nil {
			return r, err
		}
		if round > 0 {
			b.screen.Printf("  warm %d/%d      %-34s %6.3f s", round, b.rounds, "discovery to certificate, unsafe", floor.Seconds())
			r.floor = append(r.floor, floor)
		}
	}
	for round := range b.rounds {
		for i := range r.contestants {
			c := r.contestants[(i+round)%len(r.contestants)]
			started, err := b.start(ctx, c, fmt.Sprintf("%s-cold-%d", c.key, round), true)
			if err != nil {
				return r, err
			}
			b.screen.Printf("  cold %d/%d      %-34s %6.2f s", round+1, b.rounds, c.title, started.seen.Seconds())
			r.cold[c.key] = append(r.cold[c.key], started.seen)
		}
	}
	r.restless = b.restless
	var err error
	if r.upkeep, err = b.upkeep(ctx); err != nil {
		return r, err
	}
	if r.inProcess, err = countInProcess(ctx); err != nil {
		return r, err
	}
	r.host, err = describeHost()
	return r, err
}

func (b *bench) version(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "kubelet"), "--version").Output()
	if err != nil {
		return "Kubernetes (version unknown)"
	}
	return strings.TrimSpace(string(out))
}

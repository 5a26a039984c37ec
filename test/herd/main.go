// The herd measures what it costs a real control plane when many machines join
// at the same moment, and what they ask of it afterwards: docs/herd.md. Each row
// of it is a crowd (test/herd/crowd) on a control plane of its own, so that no row
// pays for the one before.
//
// It never prints a figure that it has not measured in this run. It needs no
// root, runs no kubelet, and leaves nothing behind but the report.
//
//	go run ./test/herd [--joins N]: crowds -> herd.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/herd/crowd"
)

// rowLimit bounds one row with its control plane.
const rowLimit = 8 * time.Minute

// flowManifest is what gives joins a level of their own.
const flowManifest = "packaging/cluster/join-flow.yaml"

// quick is a controller-manager that may ask ten times as often as by default.
var quick = []string{"--kube-api-qps=200", "--kube-api-burst=300"}

func main() {
	joins := flag.Int("joins", 500, "machines that join at once")
	many := flag.Int("many", 2000, "machines of the row with every knob turned; 0: leave it out")
	out := flag.String("out", "docs", "folder of herd.md")
	flag.Parse()
	s := screen.New(os.Stdout, os.Getenv)
	ctx, stop := s.UntilInterrupted()
	defer stop()
	if err := run(ctx, s, *joins, *many, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// row is one crowd and the control plane that it meets.
type row struct {
	name   string
	joins  int
	tokens int
	flow   bool // the manifest is applied
	quick  bool // the controller-manager is
}

func run(ctx context.Context, s *screen.Screen, joins, many int, out string) error {
	began := time.Now()
	r := &report{joins: joins, many: many}
	rows := []row{
		{name: "one token", joins: joins, tokens: 1},
		{name: "a token for each", joins: joins, tokens: joins},
		{name: "one token, join-flow.yaml", joins: joins, tokens: 1, flow: true},
		{name: "one token, controller-manager with --kube-api-qps=200", joins: joins, tokens: 1, quick: true},
		{name: "both of these", joins: joins, tokens: 1, flow: true, quick: true},
	}
	if many > 0 {
		rows = append(rows, row{name: "both of these", joins: many, tokens: 1, flow: true, quick: true})
	}
	for _, row := range rows {
		if err := r.do(ctx, s, row, fmt.Sprintf("%d agents, %s", row.joins, row.name), r.agents); err != nil {
			return err
		}
	}
	for _, row := range []row{rows[0], rows[4]} {
		if err := r.do(ctx, s, row, fmt.Sprintf("%d clients without safety, %s", row.joins, row.name), r.bare); err != nil {
			return err
		}
	}
	for _, row := range []row{{joins: joins, tokens: 1}, {joins: joins, tokens: 1, quick: true}} {
		if err := r.do(ctx, s, row, fmt.Sprintf("%d requests of an administrator", row.joins), r.signer); err != nil {
			return err
		}
	}
	if err := r.do(ctx, s, row{joins: 100, tokens: 1, quick: true}, "100 joined nodes", r.rest); err != nil {
		return err
	}
	r.took = time.Since(began)
	r.host = fmt.Sprintf("%d processors (%s), Go %s", runtime.NumCPU(), runtime.GOARCH, strings.TrimPrefix(runtime.Version(), "go"))
	path := filepath.Join(out, "herd.md")
	if err := os.WriteFile(path, []byte(r.markdown()), 0o644); err != nil {
		return err
	}
	s.Print("\n" + r.markdown())
	s.Printf("written: %s", path)
	return nil
}

// measure fills in one row of the report.
type measure func(context.Context, *cluster.Cluster, row, crowd.Options) error

// do makes a control plane for one row, and a folder in memory: 500 machines have
// 500 disks, and this host has one.
func (r *report) do(ctx context.Context, s *screen.Screen, row row, title string, m measure) error {
	return s.Together(ctx, screen.Task{Name: title, Do: func(ctx context.Context, say func(string)) (err error) {
		ctx, cancel := context.WithTimeoutCause(ctx, rowLimit, fmt.Errorf("%s took more than %s", title, rowLimit))
		defer cancel()
		c, err := cluster.Start(ctx, cluster.Options{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Stop()) }()
		version, err := c.Kubectl(ctx, "version", "-o", "yaml")
		if err != nil {
			return err
		}
		r.kubernetes = serverVersion(version)
		o, err := prepare(ctx, c, row)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Folder)) }()
		say("at it")
		return m(ctx, c, row, o)
	}})
}

func prepare(ctx context.Context, c *cluster.Cluster, row row) (o crowd.Options, err error) {
	o = crowd.Options{Prefix: "herd", Joins: row.joins}
	if row.quick {
		c.StopControllers()
		if err := c.StartControllers(quick...); err != nil {
			return o, err
		}
	}
	if row.flow {
		if _, err := c.Kubectl(ctx, "apply", "-f", absolute(flowManifest)); err != nil {
			return o, err
		}
	}
	for range row.tokens {
		token, err := c.NewToken(ctx, cluster.TokenOptions{})
		if err != nil {
			return o, err
		}
		o.Tokens = append(o.Tokens, token)
	}
	for _, token := range o.Tokens {
		if err := c.AwaitSignature(ctx, token); err != nil {
			return o, err
		}
	}
	o.Folder, err = os.MkdirTemp(memory(), "bootstrap-agent-herd-")
	return o, err
}

// memory is a folder in memory, where this host has one.
func memory() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return ""
}

func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

func serverVersion(yaml string) string {
	_, server, _ := strings.Cut(yaml, "serverVersion:")
	_, version, _ := strings.Cut(server, "gitVersion: ")
	version, _, _ = strings.Cut(version, "\n")
	return version
}

// own is the processor time of this process: that of all the machines.
func own() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

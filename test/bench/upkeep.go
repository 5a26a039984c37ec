package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
	"github.com/bootstrap-agent/bootstrap-agent/test/rehearsal/play"
)

// upkeep is what the agent costs beside the time of a join.
type upkeep struct {
	binary, deb  int64 // bytes
	rss, pss     int64 // bytes, at the end of the window
	processor    time.Duration
	window       time.Duration // in which processor and requests were counted
	settle       time.Duration // after the join, before that
	requests     int           // in the window
	joinRequests []string      // of the join, in the audit log of the API server
}

// upkeep joins once more and watches the agent of that node for a while.
func (b *bench) upkeep(ctx context.Context) (r upkeep, err error) {
	c := contestants()[0]
	const name = "agent-watched"
	m, err := b.boot(ctx, c, name)
	defer func() { err = errors.Join(err, b.remove(m, name)) }()
	if err != nil {
		return r, err
	}
	began := time.Now()
	if _, err := m.Output(ctx, c.start(b)...); err != nil {
		return r, err
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = await.Until(limited, "the join", 100*time.Millisecond, func(ctx context.Context) error {
		status, err := readStatus(ctx, m)
		if err == nil && status.Phase != agent.Joined {
			err = fmt.Errorf("phase %s", status.Phase)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	if _, err := b.cluster.AwaitReady(limited, name); err != nil {
		return r, err
	}
	pid, err := m.Output(ctx, "systemctl", "show", "--property=MainPID", "--value", "bootstrap-agent.service")
	if err != nil {
		return r, err
	}
	joined := time.Now()
	task := screen.Task{Name: fmt.Sprintf("watching the joined agent for %s", b.settle+b.window), Do: func(ctx context.Context, _ func(string)) error {
		return b.watch(ctx, m, strings.TrimSpace(pid), &r)
	}}
	if err := b.screen.Together(ctx, task); err != nil {
		return r, err
	}
	if err := r.readSizes(ctx, b, m); err != nil {
		return r, err
	}
	// The audit log is written within a second of a request.
	if err := pause(ctx, 3*time.Second); err != nil {
		return r, err
	}
	return r, r.readAudit(b, m, began, joined)
}

// watch lets the agent settle, then counts for the length of the window.
func (b *bench) watch(ctx context.Context, m *machine.Machine, pid string, r *upkeep) error {
	if err := pause(ctx, b.settle); err != nil {
		return err
	}
	r.settle = b.settle
	before, err := cpuTime(ctx, m, pid)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := pause(ctx, b.window); err != nil {
		return err
	}
	r.window = time.Since(began)
	after, err := cpuTime(ctx, m, pid)
	if err != nil {
		return err
	}
	r.processor = after - before
	if r.rss, err = memory(ctx, m, pid, "status", "VmRSS:"); err != nil {
		return err
	}
	r.pss, err = memory(ctx, m, pid, "smaps_rollup", "Pss:")
	return err
}

// cpuTime is utime + stime of a process.
func cpuTime(ctx context.Context, m *machine.Machine, pid string) (time.Duration, error) {
	text, err := m.ReadFile(ctx, "/proc/"+pid+"/stat")
	if err != nil {
		return 0, err
	}
	return cluster.ParseProcessorTime(text)
}

// memory reads one line of a file in /proc/PID: bytes.
func memory(ctx context.Context, m *machine.Machine, pid, file, key string) (int64, error) {
	text, err := m.ReadFile(ctx, "/proc/"+pid+"/"+file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == key && fields[2] == "kB" {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/PID/%s", key, file)
}

func (r *upkeep) readSizes(ctx context.Context, b *bench, m *machine.Machine) error {
	info, err := os.Stat(b.deb)
	if err != nil {
		return err
	}
	r.deb = info.Size()
	out, err := m.Output(ctx, "stat", "--format=%s", "/usr/bin/bootstrap-agent")
	if err != nil {
		return err
	}
	r.binary, err = strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// inProcess is what a join costs the API server, counted where TLS handshakes
// can be: by the double of an API server in the rehearsal.
type inProcess struct {
	requests   []string
	handshakes int64
}

func countInProcess(ctx context.Context) (inProcess, error) {
	result, err := play.Join(ctx, play.Options{})
	if err != nil {
		return inProcess{}, err
	}
	p := inProcess{handshakes: result.Handshakes}
	for _, request := range result.Requests {
		p.requests = append(p.requests, strings.TrimSpace(request.Verb+" "+request.Resource))
	}
	return p, nil
}

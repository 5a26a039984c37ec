package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/herd/crowd"
)

// report is all that was measured.
type report struct {
	joins, many int
	crowds      []result
	bareOnes    []result
	signers     []crowd.Signing
	upkeep      crowd.Upkeep
	kubernetes  string
	host        string
	took        time.Duration
}

// result is one row.
type result struct {
	row
	joins  []crowd.Join
	times  [3]samples // discovery, request to certificate, whole; the last is empty for clients without safety
	failed int
	took   time.Duration
	server crowd.Server
	own    time.Duration // processor time of all machines together
}

// around takes what the server and this process did while f ran.
func around(ctx context.Context, c *cluster.Cluster, r *result, f func() error) error {
	before, err := crowd.Look(ctx, c)
	if err != nil {
		return err
	}
	used, began := own(), time.Now()
	if err := f(); err != nil {
		return err
	}
	r.took, r.own = time.Since(began), own()-used
	after, err := crowd.Look(ctx, c)
	r.server = after.Since(before)
	return err
}

func (r *report) agents(ctx context.Context, c *cluster.Cluster, row row, o crowd.Options) error {
	res := result{row: row}
	err := around(ctx, c, &res, func() (err error) {
		if res.joins, err = crowd.Run(ctx, c, o); err != nil {
			return err
		}
		return crowd.Failed(res.joins) // a machine that has not joined is no figure but a defect
	})
	for _, j := range res.joins {
		res.times[0] = append(res.times[0], j.Discovery)
		res.times[1] = append(res.times[1], j.Certificate)
		res.times[2] = append(res.times[2], j.Whole)
	}
	r.crowds = append(r.crowds, res)
	return err
}

func (r *report) bare(ctx context.Context, c *cluster.Cluster, row row, o crowd.Options) error {
	res := result{row: row}
	err := around(ctx, c, &res, func() error {
		times, _ := crowd.Bare(ctx, c, o) // who failed is counted; nobody tries again for them
		res.failed = row.joins - len(times)
		for _, t := range times {
			res.times[0] = append(res.times[0], t.Discovery)
			res.times[1] = append(res.times[1], t.Certificate-t.Discovery)
			res.times[2] = append(res.times[2], t.Certificate)
		}
		return nil
	})
	r.bareOnes = append(r.bareOnes, res)
	return err
}

func (r *report) signer(ctx context.Context, c *cluster.Cluster, row row, o crowd.Options) error {
	s, err := crowd.Sign(ctx, c, o.Prefix, row.joins)
	r.signers = append(r.signers, s)
	return err
}

func (r *report) rest(ctx context.Context, c *cluster.Cluster, _ row, o crowd.Options) (err error) {
	r.upkeep, err = crowd.Rest(ctx, c, o, 2*time.Second, 20*time.Second)
	return err
}

// samples are durations of one kind.
type samples []time.Duration

// share is the least of them that a share q is not above (nearest rank).
func (s samples) share(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, max(0, int(q*float64(len(sorted))+0.999999)-1))]
}

func (s samples) cell() string {
	return fmt.Sprintf("%.2f / %.2f / %.2f", s.share(.5).Seconds(), s.share(.99).Seconds(), s.share(1).Seconds())
}

// spread writes how often each number occurs: "8 (38), 9 (287)".
func spread(joins []crowd.Join, number func(crowd.Join) int) string {
	counts := map[int]int{}
	for _, j := range joins {
		counts[number(j)]++
	}
	var keys []int
	for k := range counts {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out []string
	for _, k := range keys {
		out = append(out, fmt.Sprintf("%d (%d)", k, counts[k]))
	}
	return strings.Join(out, ", ")
}

func (res result) sum(number func(crowd.Join) int) (n int) {
	for _, j := range res.joins {
		n += number(j)
	}
	return n
}

// faults are answers of 500 and above.
func (res result) faults() (n float64) {
	for code, count := range res.server.Answers {
		if code >= "500" {
			n += count
		}
	}
	return n
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString(`# What a herd costs

This page is written by ` + "`make herd`" + ` and by nothing else; what follows from it for a fleet stands in [fleet.md](fleet.md).
All figures come from one run on one host against real control planes (etcd, kube-apiserver, kube-controller-manager),
a fresh one for each row. All machines of a row begin at the same moment.

## Agents

Every machine is the shipped agent with its own files, pace and retries; systemd and the kubelet are doubles, and the kubelet's
makes the Node with the certificate that was installed. All of them joined, in each row. Seconds, median / 99th percentile / most.

| machines | | discovery | request to certificate | start to Joined | all joined after |
|---:|---|---:|---:|---:|---:|
`)
	for _, res := range r.crowds {
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %.1f s |\n", res.row.joins, res.name, res.times[0].cell(), res.times[1].cell(), res.times[2].cell(), res.took.Seconds())
	}
	b.WriteString(`
The same clients' requests: of each machine (so many machines), and what the API server counted. An anonymous read is one
read of cluster-info, each on a connection of its own. A read beside the watch covers one that has gone deaf.

| machines | | requests a join | anonymous reads | reads beside the watch | TLS handshakes a join | 429 | 5xx |
|---:|---|---|---:|---:|---|---:|---:|
`)
	for _, res := range r.crowds {
		fmt.Fprintf(&b, "| %d | %s | %s | %d | %d | %s | %.0f | %.0f |\n", res.row.joins, res.name,
			spread(res.joins, func(j crowd.Join) int { return int(j.Requests) }),
			res.sum(func(j crowd.Join) int { return j.Reads }), res.sum(func(j crowd.Join) int { return j.Backstops }),
			spread(res.joins, func(j crowd.Join) int { return int(j.Handshakes) }), res.server.Answers["429"], res.faults())
	}
	b.WriteString(`
How long requests waited for their turn at the API server, by the flow schema that took them (its own histogram: at most so
long; the sum of all), and how many it refused (429).

| machines | | flow schema | requests | half within | 99 % within | together | refused |
|---:|---|---|---:|---:|---:|---:|---:|
`)
	for _, res := range r.crowds {
		for _, schema := range []string{"global-default", "bootstrap-agent-cluster-info", "bootstrap-agent-certificates", "system-nodes", "kube-system-service-accounts"} {
			w, ok := res.server.Waits[schema]
			if !ok || w.Requests < 50 {
				continue
			}
			fmt.Fprintf(&b, "| %d | %s | %s | %.0f | %s | %s | %.1f s | %.0f |\n", res.row.joins, res.name, schema, w.Requests,
				within(w, .5), within(w, .99), w.Seconds, res.server.Rejected[schema])
		}
	}
	b.WriteString(`
Processor time of a join in milliseconds: that row's time of each process, divided by its machines. The machines share this
host's processors with the control plane, which they do not in a real cluster.

| machines | | API server | etcd | controller-manager | the agents |
|---:|---|---:|---:|---:|---:|
`)
	for _, res := range r.crowds {
		each := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(res.row.joins) }
		p := res.server.Processor
		fmt.Fprintf(&b, "| %d | %s | %.1f | %.1f | %.1f | %.1f |\n", res.row.joins, res.name,
			each(p["kube-apiserver"]), each(p["etcd"]), each(p["kube-controller-manager"]), each(res.own))
	}
	r.floors(&b)
	fmt.Fprintf(&b, `
## How it was measured

- Kubernetes %s; %s; %.0f minutes for all rows, on the host that also ran the machines.
- Control plane with the flags of kubeadm, in its shape (PKI, RBAC, bootstrap token by kubeadm's phases); etcd without fsync. No
  scheduler, no pods, no kubelets: Leases and node status of kubelets are not in these figures.
- The files of the machines lie in memory: as many machines have as many disks, and this host has one.
- 429 and 5xx are counters of the API server (`+"`apiserver_request_total`"+`), so are the waits
  (`+"`apiserver_flowcontrol_request_wait_duration_seconds`"+`); processor time is utime + stime of each process.
`, r.kubernetes, r.host, r.took.Minutes())
	return b.String()
}

func within(w crowd.Wait, q float64) string {
	if d, ok := w.AtMost(q); ok {
		return d.String()
	}
	return "more than the histogram knows"
}

// floors are what stands beside the agents.
func (r *report) floors(b *strings.Builder) {
	b.WriteString(`
## Beside them

Clients without any safety, as many at once: cluster-info, request and watch on one connection that verifies nobody, nothing is
kept and nothing tried again. Seconds, median / 99th percentile / most, of those that got a certificate.

| clients | | discovery | request to certificate | both | without a certificate | 429 |
|---:|---|---:|---:|---:|---:|---:|
`)
	for _, res := range r.bareOnes {
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %d | %.0f |\n", res.row.joins, res.name, res.times[0].cell(), res.times[1].cell(), res.times[2].cell(), res.failed, res.server.Answers["429"])
	}
	b.WriteString(`
The controller-manager's own rate: an administrator makes requests as fast as the API server takes them, and nobody else does
anything.

| requests | controller-manager | made within | all certificates after | certificates a second |
|---:|---|---:|---:|---:|
`)
	for i, s := range r.signers {
		fmt.Fprintf(b, "| %d | %s | %.1f s | %.1f s | %.1f |\n", s.Requests, []string{"default flags (20 requests a second)", strings.Join(quick, " ")}[i], s.Made.Seconds(), s.Issued.Seconds(), s.Rate())
	}
	u := r.upkeep
	looks := float64(u.Looks)
	fmt.Fprintf(b, `
## Once joined

%d joined agents whose quarter of an hour is two seconds, for %s: what one look at the API is made of. The API
server's processor time is what it used beyond a window of the same length in which the agents were stopped.

| looks | requests a look | connections a look | TLS handshakes a look | processor time of the API server a look |
|---:|---:|---:|---:|---:|
| %d | %.2f | %.2f | %.2f | %.1f ms |
`, u.Nodes, u.Window, u.Looks, float64(u.Requests)/looks, float64(u.Connections)/looks, float64(u.Handshakes)/looks, u.Processor.Seconds()*1000/looks)
}

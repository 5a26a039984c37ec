package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
)

// The targets of the design.
const (
	maxWarmRatio  = 1.25
	maxColdRatio  = 1.1
	maxOwn        = 100 * time.Millisecond
	maxHandshakes = 3
	maxRequests   = 8
	maxBytes      = 16 << 20 // binary, and resident memory
	maxProcessor  = 0.1      // percent of one core
	restWindow    = 5 * time.Minute
	maxInWindow   = 1 // requests in restWindow
)

// report is all that was measured.
type report struct {
	options
	contestants []contestant
	warm, cold  map[string]samples
	own         samples            // the agent's own part of the warm starts, systemd's sandbox included
	bare        samples            // the same without it; empty: it could not be told apart
	floor       samples            // discovery to certificate without any safety
	steps       map[string]samples // of the agent's timeline, warm: how long each takes
	begins      map[string]samples // and when it begins, from the start of the process
	order       []string           // of the steps
	upkeep      upkeep
	inProcess   inProcess
	kubernetes  string
	host        string
	restless    int
	took        time.Duration
}

func (r *report) addOwn(s started) {
	if s.own == 0 {
		return
	}
	r.own = append(r.own, s.own)
	if s.box != 0 {
		r.bare = append(r.bare, s.own-s.box)
	}
	if r.steps == nil {
		r.steps, r.begins = map[string]samples{}, map[string]samples{}
	}
	for _, step := range s.path {
		if step.Seconds == nil {
			continue
		}
		if _, known := r.steps[step.Name]; !known {
			r.order = append(r.order, step.Name)
		}
		r.steps[step.Name] = append(r.steps[step.Name], time.Duration(*step.Seconds*float64(time.Second)))
		r.begins[step.Name] = append(r.begins[step.Name], step.Start.Sub(s.process))
	}
}

func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(`# What a join costs

This page is written by ` + "`make bench`" + ` and by nothing else. All figures come from one run on
one machine against one real control plane.

![Start to Node seen](bench.svg)

## Start to Node seen

From the start command to the first event of the Node, as a watch on the host sees it that was
opened before. Median of ` + fmt.Sprint(r.rounds) + ` starts each, and the least and the most; the ratio is that of the
medians to a kubelet that has its certificate already.

| | warm page cache | least to most | ratio | cold page cache | least to most | ratio |
|---|---:|---:|---:|---:|---:|---:|
`)
	for _, c := range r.contestants {
		w, k := r.warm[c.key], r.cold[c.key]
		fmt.Fprintf(&b, "| %s | %s | %.3f to %.3f | %.2f | %s | %.3f to %.3f | %.2f |\n", c.title,
			inSeconds(w.median()), w.least().Seconds(), w.most().Seconds(), ratio(w, r.warm[certifiedKey]),
			inSeconds(k.median()), k.least().Seconds(), k.most().Seconds(), ratio(k, r.cold[certifiedKey]))
	}
	b.WriteString("\n## Against the targets\n\n| figure | measured | target | reached |\n|---|---:|---:|---|\n")
	for _, row := range r.targets() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.figure, row.measured, row.target, row.reached)
	}
	fmt.Fprintf(&b, "\nThe package is %s. PSS, the memory that the agent does not share, is %s.\n", inMiB(r.upkeep.deb), inMiB(r.upkeep.pss))
	fmt.Fprintf(&b, "\n## The agent's own part\n\nFrom the start of its process (systemd's time stamp, when it forks) until it sends the kubelet's\nstart job, in the warm starts: first systemd makes the sandbox (%s), then the program is\n"+
		"executed. It holds the work of the cluster, too: to approve and to sign. Its steps, from\nthe agent's timeline (one may go on while another does):\n\n| step | begins after | takes | least to most |\n|---|---:|---:|---:|\n", r.sandbox())
	for _, name := range r.order {
		s := r.steps[name]
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f to %.0f ms |\n", name, inMillis(r.begins[name].median()), inMillis(s.median()), s.least().Seconds()*1000, s.most().Seconds()*1000)
		if name == agent.StepUnit {
			fmt.Fprintf(&b, "| **process start to start job sent** | 0 ms | **%s** | %.0f to %.0f ms |\n", inMillis(r.own.median()), r.own.least().Seconds()*1000, r.own.most().Seconds()*1000)
		}
	}
	fmt.Fprintf(&b, "\nRequests of a join, on the real API server (its audit log): %d (%s).\n", len(r.upkeep.joinRequests), strings.Join(r.upkeep.joinRequests, ", "))
	fmt.Fprintf(&b, "On the double of an API server in the rehearsal, which can count handshakes: %d requests over\n%d TLS handshakes (%s).\n",
		len(r.inProcess.requests), r.inProcess.handshakes, strings.Join(r.inProcess.requests, ", "))
	r.method(&b)
	return b.String()
}

// row is one target.
type row struct{ figure, measured, target, reached string }

func (r report) targets() []row {
	yes := func(reached bool) string {
		if reached {
			return "yes"
		}
		return "**no**"
	}
	warm, cold := ratio(r.warm[agentKey], r.warm[certifiedKey]), ratio(r.cold[agentKey], r.cold[certifiedKey])
	share := 100 * r.upkeep.processor.Seconds() / r.upkeep.window.Seconds()
	resolution := 100 * cluster.ClockTick.Seconds() / r.upkeep.window.Seconds()
	requests := max(len(r.upkeep.joinRequests), len(r.inProcess.requests))
	later := row{
		"requests to the API server once joined, in " + r.upkeep.window.Round(time.Second).String(), fmt.Sprint(r.upkeep.requests),
		fmt.Sprintf("≤ %d in %s", maxInWindow, "5 min"), yes(r.upkeep.requests <= maxInWindow),
	}
	if r.upkeep.window < restWindow {
		later.reached = "not judged: watched for less than 5 min"
	}
	return []row{
		{"start to Node seen, against a kubelet that has its certificate, warm", fmt.Sprintf("%.2f times", warm), fmt.Sprintf("≤ %.2f times", maxWarmRatio), yes(warm <= maxWarmRatio)},
		{"the same with a cold page cache", fmt.Sprintf("%.2f times", cold), fmt.Sprintf("≤ %.1f times", maxColdRatio), yes(cold <= maxColdRatio)},
		r.bareRow(yes),
		{"the same from systemd's stamp of the process, the making of the sandbox included", inMillis(r.own.median()), "≤ " + inMillis(maxOwn), yes(r.own.median() <= maxOwn)},
		{"of it, what no client could save: discovery to certificate with no safety at all, here", inMillis(r.floor.median()), "", ""},
		{"TLS handshakes of a join (in-process)", fmt.Sprint(r.inProcess.handshakes), fmt.Sprintf("≤ %d", maxHandshakes), yes(r.inProcess.handshakes <= maxHandshakes)},
		{"requests of a join (the greater of audit log and in-process)", fmt.Sprint(requests), fmt.Sprintf("≤ %d", maxRequests), yes(requests <= maxRequests)},
		{"stripped binary", inMiB(r.upkeep.binary), "≤ 16 MiB", yes(r.upkeep.binary <= maxBytes)},
		{"resident memory once joined (VmRSS)", inMiB(r.upkeep.rss), "≤ 16 MiB", yes(r.upkeep.rss <= maxBytes)},
		{"processor once joined, of one core", fmt.Sprintf("%.3f %% (± %.3f)", share, resolution), fmt.Sprintf("≤ %.1f %%", maxProcessor), yes(share <= maxProcessor)},
		later,
	}
}

// sandbox is systemd's part of the agent's start, in words.
func (r report) sandbox() string {
	if len(r.bare) == 0 {
		return "not told apart here"
	}
	return inMillis(r.own.median() - r.bare.median())
}

// bareRow is the agent's own part from the execution of its program.
func (r report) bareRow(yes func(bool) string) row {
	row := row{"agent's own part, from the execution of its program to the kubelet's start job, median", "", "≤ " + inMillis(maxOwn), "not measured: the kernel let nobody trace"}
	if len(r.bare) > 0 {
		row.measured, row.reached = inMillis(r.bare.median()), yes(r.bare.median() <= maxOwn)
	}
	return row
}

// method says how all this was measured, and on what.
func (r report) method(b *strings.Builder) {
	fmt.Fprintf(b, `
## How it was measured

- Every start is on a machine of its own: a fresh overlay over one Debian root folder, systemd as
  PID 1 in systemd-nspawn, containerd running, nothing else being started. What is written before
  is synced, and the host has had at most a tenth of its processors busy for half a second
  (not so, after ten seconds of waiting, before %d of the starts).
- The four take turns, another one first in each round. One round to warm up is not counted. The
  rounds with a cold page cache come after those with a warm one; in them everything that no
  process has mapped is dropped just before the start (`+"`echo 3 > /proc/sys/vm/drop_caches`"+`): the
  binaries of the agent, of kubeadm and of the kubelet, and the tools of systemd. The control
  plane keeps running.
- bootstrap-agent: `+"`systemctl start bootstrap-agent`"+`, the .deb installed with apt and configured from
  kubeadm's join line before. kubeadm join: `+"`kubeadm join ENDPOINT --token ... --discovery-token-ca-cert-hash ...`"+`
  with the vendor's kubelet unit and 10-kubeadm.conf, and `+"`--ignore-preflight-errors=%s`"+`:
  checks that fail only because the machine is a container. The kubelet's own TLS bootstrap and
  the kubelet that has its certificate: `+"`systemctl start kubelet`"+` with the same vendor files and the
  cluster's kubelet-config already in place.
- The execution of the program comes from the kernel's tracepoint sched_process_exec. The floor is
  taken once a round on the host itself, over loopback: cluster-info, request and watch on one
  connection that verifies nobody.
- Requests are approved and signed by the cluster itself. All use one token.
- Memory, processor time (utime + stime) and requests once joined: one agent, %s after its join,
  for %s, while nothing else is measured.

Machine: %s. %s. Agent: %s. The run took %s.
`, r.restless, strings.Join(containerOnly, ","), r.upkeep.settle, r.upkeep.window.Round(time.Second), r.host, r.kubernetes, debVersion(r.deb), r.took.Round(time.Second))
}

// debVersion is the version in a package's file name.
func debVersion(path string) string {
	parts := strings.Split(path, "_")
	if len(parts) < 2 {
		return "unknown"
	}
	return parts[len(parts)-2]
}

// describeHost names what figures depend on: processors, memory, kernel, system.
func describeHost() (string, error) {
	model, err := valueOf("/proc/cpuinfo", "model name", ":")
	if err != nil {
		return "", err
	}
	memory, err := valueOf("/proc/meminfo", "MemTotal", ":")
	if err != nil {
		return "", err
	}
	var kib int64
	if _, err := fmt.Sscan(memory, &kib); err != nil {
		return "", err
	}
	system, err := valueOf("/etc/os-release", "PRETTY_NAME", "=")
	if err != nil {
		return "", err
	}
	kernel, err := exec.CommandContext(context.Background(), "uname", "-r").Output()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d × %s, %d GiB, Linux %s, %s, %s", runtime.NumCPU(), model, (kib+1<<19)>>20,
		strings.TrimSpace(string(kernel)), strings.Trim(system, `"`), runtime.Version()), nil
}

// valueOf reads the value of the first line that begins with key.
func valueOf(path, key, separator string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		name, value, found := strings.Cut(line, separator)
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value), nil
		}
	}
	return "unknown", nil // some architectures name no model
}

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/proxy"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// `make soak` asks for half an hour; a seed is asked for again by its number.
var (
	soakFor  = flag.Duration("soak.for", 2*time.Minute, "how long the soak lasts")
	soakSeed = flag.Uint64("soak.seed", 0, "which faults; 0: any")
)

// soakSigning makes certificates that live for three minutes: the kubelet renews
// its own one 36 to 132 s after it has got it.
const soakSigning = 3 * time.Minute

const anHourAhead = "clock an hour ahead"

// soak is one agent through all weathers.
type soak struct {
	t      *testing.T
	ctx    context.Context
	c      *cluster.Cluster
	m      *machine.Machine
	pipe   *proxy.Pipe
	random *rand.Rand
	pace   labSettings
	pid    string
	done   map[string]int
	seen   []footprint
}

// footprint is what the agent's process takes of the machine.
type footprint struct{ resident, own, files, threads int } // KiB, KiB of its own, descriptors

// TestASoakThroughRandomFaultsEndsJoinedAndFlat plays random faults on one agent
// and the real control plane: the API server restarts, refuses with 429, is cut off
// or silent; the agent's clock steps; the kubelet is killed, systemd executes itself
// anew, the agent is told to read its config; and certificates live for three
// minutes. In the end the agent is the same process, Joined, and no bigger than it
// was: memory, descriptors and goroutines; there is one Node, and the requests for
// certificates are those of the kubelet's renewals and of one join.
func TestASoakThroughRandomFaultsEndsJoinedAndFlat(t *testing.T) {
	ctx := aside(t, *soakFor+5*time.Minute)
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("again with: make soak SOAK_FOR=%s E2E_ARGS=-soak.seed=%d", *soakFor, seed)
	s := &soak{
		t: t, ctx: ctx, random: rand.New(rand.NewPCG(seed, 0)), done: map[string]int{},
		pace: labSettings{Pace: map[string]string{
			"LocalCheck": "2s", "APICheck": "4s", "VanishGrace": "2s", "EagerFirst": "1s", "UnauthorizedGap": "3s", "Slow": "5s", "Blocked": "10s",
		}},
	}
	s.c = ownCluster(t, cluster.Options{SigningDuration: soakSigning})
	s.pipe = newPipe(t, ctx, s.c)
	token := newToken(t, ctx, s.c)
	s.begin(token)
	began := time.Now()
	faults := s.faults()
	for time.Since(began) < *soakFor {
		f := faults[s.random.IntN(len(faults))]
		s.done[f.what]++
		heal, err := f.begin()
		if err != nil {
			t.Fatalf("%s: %v", f.what, err)
		}
		s.sleep(f.least, f.most)
		if heal != nil {
			if err := heal(); err != nil {
				t.Fatalf("the end of: %s: %v", f.what, err)
			}
		}
		s.sleep(time.Second, 4*time.Second)
		s.look()
	}
	s.end(token, time.Since(began))
}

// begin joins the machine through the pipe.
func (s *soak) begin(token cluster.Token) {
	t, ctx := s.t, s.ctx
	s.m = agentMachine(t, ctx, machine.Options{Name: "soak", Kubelet: kubelet, Containerd: true, CNI: true})
	labAgent(t, ctx, s.m, s.pace)
	prepare(t, ctx, s.m, settings{endpoints: []string{s.pipe.Endpoint()}, pin: s.c.Pin(), server: "https://" + s.pipe.Endpoint(), token: token.String()})
	mustRun(t, ctx, s.m, "systemctl", "start", agentUnit)
	awaitStatus(t, ctx, s.m, "the join", time.Minute, inPhase(agent.Joined))
	s.pid = strings.TrimSpace(mustRun(t, ctx, s.m, "systemctl", "show", "--property=MainPID", "--value", agentUnit))
	s.sleep(3*time.Second, 4*time.Second)
	s.look()
}

// weather is one fault. What begin returns ends it.
type weather struct {
	what        string
	least, most time.Duration // how long it lasts
	begin       func() (heal func() error, err error)
}

func (s *soak) faults() []weather {
	ctx := s.ctx
	run := func(argv ...string) func() (func() error, error) {
		return func() (func() error, error) {
			_, err := s.m.Output(ctx, argv...)
			return nil, err
		}
	}
	mode := func(m proxy.Mode) func() (func() error, error) {
		return func() (func() error, error) {
			s.pipe.Set(m)
			return func() error { s.pipe.Set(proxy.Cut); s.pipe.Set(proxy.Pass); return nil }, nil
		}
	}
	clock := func(offset string) func() (func() error, error) {
		return func() (func() error, error) {
			moved := s.pace
			moved.ClockOffset = offset
			setLab(s.t, ctx, s.m, moved)
			return func() error { setLab(s.t, ctx, s.m, s.pace); return nil }, nil
		}
	}
	return []weather{
		{"API server restarted", time.Second, 4 * time.Second, func() (func() error, error) {
			s.c.StopAPI()
			return func() error { return s.c.StartAPI(ctx) }, nil
		}},
		{"429 storm", 3 * time.Second, 6 * time.Second, s.storm},
		{"connections cut", time.Second, 3 * time.Second, mode(proxy.Cut)},
		{"silence", 2 * time.Second, 6 * time.Second, mode(proxy.Silent)},
		{"clock 20 s ahead", 3 * time.Second, 5 * time.Second, clock("20s")},
		{"clock 2 min behind", 3 * time.Second, 5 * time.Second, clock("-2m")},
		{anHourAhead, 3 * time.Second, 5 * time.Second, clock("1h")},
		{"clock an hour behind", 3 * time.Second, 5 * time.Second, clock("-1h")},
		{"kubelet killed", 0, 0, run("systemctl", "kill", "--signal=KILL", "kubelet.service")},
		{"daemon-reexec", 0, 0, run("systemctl", "daemon-reexec")},
		{"daemon-reload", 0, 0, run("systemctl", "daemon-reload")},
		{"config read anew", 0, 0, run("systemctl", "kill", "--signal=HUP", "--kill-who=main", agentUnit)},
	}
}

// storm has the real API server refuse every request of nodes, tokens and
// strangers with 429, by its own priority and fairness.
func (s *soak) storm() (func() error, error) {
	const group = "/apis/flowcontrol.apiserver.k8s.io/v1/"
	level := map[string]any{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": map[string]any{"name": "storm"},
		"spec": map[string]any{"type": "Limited", "limited": map[string]any{"nominalConcurrencyShares": 0, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": map[string]any{"type": "Reject"}}},
	}
	if err := s.c.Do(s.ctx, http.MethodPost, group+"prioritylevelconfigurations", level, nil); err != nil && !cluster.IsStatus(err, http.StatusConflict) {
		return nil, err
	}
	var subjects []any
	for _, g := range []string{"system:nodes", "system:bootstrappers", "system:unauthenticated"} {
		subjects = append(subjects, map[string]any{"kind": "Group", "group": map[string]any{"name": g}})
	}
	all := []string{"*"}
	schema := map[string]any{
		"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": map[string]any{"name": "storm"},
		"spec": map[string]any{
			"priorityLevelConfiguration": map[string]any{"name": "storm"}, "matchingPrecedence": 10,
			"rules": []any{map[string]any{
				"subjects":         subjects,
				"resourceRules":    []any{map[string]any{"verbs": all, "apiGroups": all, "resources": all, "namespaces": all, "clusterScope": true}},
				"nonResourceRules": []any{map[string]any{"verbs": all, "nonResourceURLs": all}},
			}},
		},
	}
	if err := s.c.Do(s.ctx, http.MethodPost, group+"flowschemas", schema, nil); err != nil {
		return nil, err
	}
	return func() error { return s.c.Do(s.ctx, http.MethodDelete, group+"flowschemas/storm", nil, nil) }, nil
}

func (s *soak) sleep(least, most time.Duration) {
	d := least
	if most > least {
		d += time.Duration(s.random.Int64N(int64(most - least)))
	}
	select {
	case <-s.ctx.Done():
		s.t.Fatal(context.Cause(s.ctx))
	case <-time.After(d):
	}
}

// look notes the footprint of the agent, which has to be the same process still.
func (s *soak) look() {
	s.t.Helper()
	pid := strings.TrimSpace(mustRun(s.t, s.ctx, s.m, "systemctl", "show", "--property=MainPID", "--value", agentUnit))
	if pid != s.pid {
		journal, err := s.m.Journal(s.ctx, agentUnit)
		s.t.Fatalf("after %v the agent is process %s, it was %s; %v\n%s", s.done, pid, s.pid, err, lastLines(journal, 60))
	}
	out := mustRun(s.t, s.ctx, s.m, "sh", "-c", "cd /proc/"+pid+" && grep -E '^(VmRSS|RssAnon|Threads)' status && echo Files: $(ls fd | wc -l)")
	var f footprint
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(line, ":")
		n, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			s.t.Fatal(err)
		}
		*map[string]*int{"VmRSS": &f.resident, "RssAnon": &f.own, "Threads": &f.threads, "Files": &f.files}[name] = n
	}
	s.seen = append(s.seen, f)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// end checks what the faults have left.
func (s *soak) end(token cluster.Token, took time.Duration) {
	t, ctx := s.t, s.ctx
	awaitStatus(t, ctx, s.m, "the end of the soak", 90*time.Second, inPhase(agent.Joined))
	if _, err := s.c.AwaitReady(ctx, s.m.Name); err != nil {
		t.Error(err)
	}
	s.sleep(6*time.Second, 6*time.Second) // what is begun is over
	awaitStatus(t, ctx, s.m, "rest", time.Minute, inPhase(agent.Joined))
	s.look()
	var nodes corev1.NodeList
	if err := s.c.Get(ctx, "/api/v1/nodes", &nodes); err != nil || len(nodes.Items) != 1 {
		t.Errorf("%d nodes, %v", len(nodes.Items), err)
	}
	byToken := len(csrsOf(t, ctx, s.c, token))
	all, err := s.c.CSRs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// A renewal at most every 36 s, and a few more for those that a fault cut off.
	renewals, most := len(all)-byToken, int(took/(36*time.Second))+s.done["kubelet killed"]+6
	// By a clock that is an hour ahead the pair is over: one is asked for, and
	// refused, because the server's clock says otherwise (ClockSkew).
	journal, err := s.m.Journal(ctx, agentUnit)
	if err != nil {
		t.Fatal(err)
	}
	installed := strings.Count(journal, "certificate installed")
	if mostByToken := installed + s.done[anHourAhead]; byToken > mostByToken || renewals > most {
		t.Errorf("%d requests by the token and %d renewals, at most %d and %d are right", byToken, renewals, mostByToken, most)
	}
	// A pair may come to its end while the API is away when its renewal is due.
	if installed > 1+int(took/(5*time.Minute)) {
		t.Errorf("the agent has installed %d certificates", installed)
	}
	goroutines := s.goroutines()
	fresh := s.goroutines()
	n := len(s.seen)
	first, last, third := s.seen[0], s.seen[n-1], max(1, n/3)
	of := func(field func(footprint) int, part []footprint) (middle, most int) {
		var values []int
		for _, f := range part {
			values = append(values, field(f))
		}
		slices.Sort(values)
		return values[len(values)/2], values[len(values)-1]
	}
	own := func(f footprint) int { return f.own }
	resident := func(f footprint) int { return f.resident }
	files := func(f footprint) int { return f.files }
	early, _ := of(own, s.seen[:third])
	late, _ := of(own, s.seen[n-third:])
	_, mostResident := of(resident, s.seen)
	_, mostFiles := of(files, s.seen)
	t.Logf("soak: %s, faults %v (%d)\nsoak: resident KiB first %d, last %d, most %d; its own, middle of the first third %d, of the last %d\n"+
		"soak: descriptors first %d, last %d, most %d; threads %d to %d; goroutines in the end %d, of a fresh agent %d\nsoak: requests by the token %d, renewals %d, certificates installed by the agent %d",
		took.Round(time.Second), s.done, n-2, first.resident, last.resident, mostResident, early, late,
		first.files, last.files, mostFiles, first.threads, last.threads, goroutines, fresh, byToken, renewals, installed)
	const noise = 2 << 10
	if late > early+early/4+noise {
		t.Errorf("it grew from %d to %d KiB", early, late)
	}
	if last.files > first.files+2 {
		t.Errorf("it had %d files open, it has %d", first.files, last.files)
	}
	if goroutines > fresh+2 {
		t.Errorf("it has %d goroutines, a fresh one %d", goroutines, fresh)
	}
	if err := s.c.DeleteNode(ctx, s.m.Name); err != nil {
		t.Error(err)
	}
}

// goroutines kills the agent with SIGQUIT, counts what Go then prints into the
// journal, and waits until its successor is at rest.
func (s *soak) goroutines() int {
	t, ctx := s.t, s.ctx
	cursor := mustRun(t, ctx, s.m, "sh", "-c", "journalctl --sync; journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'")
	mustRun(t, ctx, s.m, "systemctl", "kill", "--signal=QUIT", "--kill-who=main", agentUnit)
	awaitProps(t, ctx, s.m, agentUnit, "the agent to be started again", func(p map[string]string) bool {
		return p["ActiveState"] == "active" && p["MainPID"] != "0" && p["MainPID"] != s.pid
	})
	awaitStatus(t, ctx, s.m, "the agent that was started again", time.Minute, inPhase(agent.Joined))
	s.sleep(3*time.Second, 3*time.Second)
	out := mustRun(t, ctx, s.m, "journalctl", "--after-cursor="+strings.TrimSpace(cursor), "--unit="+agentUnit, "--output=cat", "--no-pager")
	s.pid = strings.TrimSpace(mustRun(t, ctx, s.m, "systemctl", "show", "--property=MainPID", "--value", agentUnit))
	n := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "goroutine ") && strings.Contains(line, "[") {
			n++
		}
	}
	if n == 0 {
		t.Error(errors.New("Go printed no goroutines"), fmt.Sprintf("\n%s", lastLines(out, 20)))
	}
	return n
}

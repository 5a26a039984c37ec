package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster"
	"github.com/bootstrap-agent/bootstrap-agent/test/cluster/await"
	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/machine"
)

// nodeName is the machine's host name, and so the node's name.
const nodeName = "fresh-debian"

// stage is what stands when the curtain rises.
type stage struct {
	lab     *machine.Lab
	cluster *cluster.Cluster
	machine *machine.Machine
	deb     string
}

// joinForReal joins a fresh machine to a real control plane and removes both.
func joinForReal(ctx context.Context, s *screen.Screen, p *plan) (err error) {
	s.Title("THE REAL THING: Kubernetes' own binaries, a Debian machine with systemd")
	st := &stage{}
	defer func() {
		began := time.Now()
		if cleaning := st.strike(); cleaning != nil {
			err = errors.Join(err, fmt.Errorf("cannot clean up: %w", cleaning))
			return
		}
		s.Printf("\nRemoved: machine, control plane, links, address, folders (%s).", time.Since(began).Round(100*time.Millisecond))
	}()
	if err := st.set(ctx, s, p); err != nil {
		return err
	}
	return st.join(ctx, s)
}

// set makes the stage, as much side by side as its parts allow.
func (st *stage) set(ctx context.Context, s *screen.Screen, p *plan) error {
	if !p.ready.packages {
		err := s.Together(ctx, screen.Task{Name: "packages of this host", Do: func(ctx context.Context, say func(string)) error {
			return machine.Prepare(ctx, logTo(say))
		}})
		if err != nil {
			return err
		}
	}
	opened, built := make(chan struct{}), make(chan string, 1) // the lab has its address; the folder of the binaries
	return s.Together(ctx,
		screen.Task{Name: "control plane", Do: func(ctx context.Context, say func(string)) error {
			bin, err := cluster.Build(ctx, logTo(say))
			if err != nil {
				return err
			}
			built <- bin
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-opened:
			}
			say("etcd, kube-apiserver and kube-controller-manager start")
			c, err := cluster.Start(ctx, cluster.Options{Shape: cluster.Kubeadm, Address: st.lab.Address})
			st.cluster = c
			return err
		}},
		screen.Task{Name: "machine", Do: func(ctx context.Context, say func(string)) error {
			if _, err := machine.BuildRoot(ctx, logTo(say)); err != nil {
				return err
			}
			lab, err := machine.Open(ctx, logTo(say))
			if err != nil {
				return err
			}
			st.lab = lab
			close(opened)
			bin := ""
			select {
			case <-ctx.Done():
				return ctx.Err()
			case bin = <-built: // the kubelet comes from the same build as the control plane
			}
			st.machine, err = lab.New(ctx, machine.Options{Name: nodeName, Kubelet: filepath.Join(bin, "kubelet"), Containerd: true, CNI: true})
			if err != nil {
				return err
			}
			say("boots")
			return st.machine.Boot(ctx)
		}},
		screen.Task{Name: "make package", Do: func(ctx context.Context, _ func(string)) (err error) {
			st.deb, err = p.build(ctx)
			return err
		}},
	)
}

// strike removes all there is. The lab closes its machines.
func (st *stage) strike() error { return errors.Join(st.lab.Close(), st.cluster.Stop()) }

// join does what a person would do to make the machine a node.
func (st *stage) join(ctx context.Context, s *screen.Screen) error {
	m, c := st.machine, st.cluster
	s.Print("\n")
	s.Command(nodeName, "apt-get install -y ./"+filepath.Base(st.deb))
	out, err := m.InstallDeb(ctx, st.deb)
	if err != nil {
		return err
	}
	s.Indented(lastLines(out, 2))

	s.Command("control-plane", "kubeadm token create --print-join-command")
	line, err := c.PrintJoinLine(ctx)
	if err != nil {
		return err
	}
	s.Indented(redact(line))

	s.Command(nodeName, "bootstrap-agent configure -    (reads that line)")
	configured, err := m.RunInput(ctx, []byte(line+"\n"), "bootstrap-agent", "configure", "-")
	if err != nil {
		return err
	}
	if configured.Code != 0 {
		return fmt.Errorf("configure ended with %d: %s", configured.Code, configured.Stderr)
	}
	s.Indented(configured.Stdout + configured.Stderr)

	s.Command(nodeName, "systemctl enable --now bootstrap-agent")
	if _, err := m.Output(ctx, "systemctl", "enable", "--now", "--quiet", "bootstrap-agent.service"); err != nil {
		return err
	}
	if err := st.watchJoin(ctx, s); err != nil {
		return err
	}
	if _, err := c.AwaitNode(ctx, nodeName); err != nil {
		return err
	}
	s.Print("\n")
	err = s.Together(ctx, screen.Task{Name: "the node gets Ready (its pod network is set up)", Do: func(ctx context.Context, _ func(string)) error {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := c.AwaitReady(limited, nodeName)
		return err
	}})
	if err != nil {
		return err
	}
	return st.show(ctx, s)
}

// watchJoin draws the agent's own status until it has joined.
func (st *stage) watchJoin(ctx context.Context, s *screen.Screen) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not joined within a minute"))
	defer cancel()
	live, stop := s.Live()
	defer stop(false)
	return await.Until(ctx, "the join", 40*time.Millisecond, func(ctx context.Context) error {
		text, err := st.machine.ReadFile(ctx, agent.DefaultPaths().StatusFile())
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("the agent has no status yet")
		}
		if err != nil {
			return err
		}
		var status agent.Status
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return err
		}
		live.Update(status, time.Now())
		if status.Phase != agent.Joined {
			return fmt.Errorf("phase %s %s %s", status.Phase, status.Reason, status.Message)
		}
		return nil
	})
}

// show lets both sides tell what they have now.
func (st *stage) show(ctx context.Context, s *screen.Screen) error {
	s.Print("\n")
	s.Command(nodeName, "bootstrap-agent wait --for ready")
	ready, err := st.machine.Run(ctx, "bootstrap-agent", "wait", "--for", "ready", "--timeout", "30s")
	if err != nil {
		return err
	}
	s.Indented(ready.Stderr + ready.Stdout)
	s.Print("\n")
	s.Command(nodeName, "bootstrap-agent status")
	out, err := st.machine.Output(ctx, "bootstrap-agent", "status")
	if err != nil {
		return err
	}
	s.Indented(out)
	s.Print("\n")
	s.Command("control-plane", "kubectl get nodes -o wide")
	if out, err = st.cluster.Kubectl(ctx, "get", "nodes", "-o", "wide"); err != nil {
		return err
	}
	s.Indented(out)
	return nil
}

// logTo makes a log of the lab's out of a step's.
func logTo(say func(string)) cluster.Log {
	return func(format string, args ...any) { say(fmt.Sprintf(format, args...)) }
}

// redact hides the secret of the token in a join line: it would only be in the
// way of habits, this cluster lives for a minute.
func redact(line string) string {
	words := strings.Fields(line)
	for i, word := range words {
		if token, err := discovery.ParseToken(word); err == nil {
			words[i] = token.String()
		}
	}
	return strings.Join(words, " ")
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

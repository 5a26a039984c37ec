package crash

import (
	"context"
	"errors"
	"net"
	"net/rpc"
	"path/filepath"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Call is one question of an agent to the Machine's systemd, Reply its answer.
// They are exported for net/rpc alone.
type (
	Call struct {
		Op, Name, Dir string
		Existing      systemd.Existing
		Rendered      systemd.Rendered
		Enable        bool
	}
	Reply struct {
		Unit     systemd.Unit
		Existing systemd.Existing
		Yes      bool
	}
)

// remote is the Machine's systemd as an agent in another process sees it: it
// lives on when that process dies, and what was begun is done to its end, as by
// the real one. The unit's files are written by the agent's process, as in life.
type remote struct {
	calls, ticks *rpc.Client
}

func dialUnits(socket string) (*remote, error) {
	calls, err := rpc.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	ticks, err := rpc.Dial("unix", socket)
	if err != nil {
		return nil, errors.Join(err, calls.Close())
	}
	return &remote{calls, ticks}, nil
}

func (r *remote) do(ctx context.Context, c Call) (Reply, error) {
	var reply Reply
	done := r.calls.Go("Systemd.Do", c, &reply, make(chan *rpc.Call, 1)).Done
	select {
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	case call := <-done:
		if call.Error != nil {
			return Reply{}, call.Error
		}
		return reply, nil
	}
}

func (r *remote) unit(ctx context.Context, op, name string) (systemd.Unit, error) {
	reply, err := r.do(ctx, Call{Op: op, Name: name})
	return reply.Unit, err
}

func (r *remote) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	return r.unit(ctx, "op:unit", name)
}

func (r *remote) Existing(ctx context.Context, dir string) (systemd.Existing, error) {
	reply, err := r.do(ctx, Call{Op: "op:existing", Dir: dir})
	return reply.Existing, err
}

func (r *remote) Install(ctx context.Context, dir string, e systemd.Existing, rendered systemd.Rendered, enable bool) (changed bool, err error) {
	for _, f := range rendered.Files(dir) {
		if err := atomicfile.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return changed, err
		}
		written, err := atomicfile.Write(f.Path, f.Data, 0o644)
		if err != nil {
			return changed, err
		}
		changed = changed || written
	}
	reply, err := r.do(ctx, Call{Op: "op:install", Dir: dir, Existing: e, Rendered: rendered, Enable: enable})
	return changed || reply.Yes, err
}

func (r *remote) Reload(ctx context.Context) error {
	_, err := r.do(ctx, Call{Op: "op:reload"})
	return err
}

func (r *remote) Start(ctx context.Context, name string) (systemd.Unit, error) {
	return r.unit(ctx, "op:start", name)
}

func (r *remote) Restart(ctx context.Context, name string) (systemd.Unit, error) {
	return r.unit(ctx, "op:restart", name)
}

func (r *remote) Stop(ctx context.Context, name string) (systemd.Unit, error) {
	return r.unit(ctx, "op:stop", name)
}

// Watch ticks until ctx ends; the goroutine goes with the process.
func (r *remote) Watch(ctx context.Context, _ ...string) <-chan struct{} {
	ticks := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := r.ticks.Call("Systemd.Tick", true, new(bool)); err != nil {
				return
			}
			select {
			case ticks <- struct{}{}:
			default:
			}
		}
	}()
	return ticks
}

func (r *remote) LastLines(context.Context, string, int) ([]string, error) { return nil, nil }
func (r *remote) Said(context.Context, string, string, time.Duration) (bool, error) {
	return false, nil
}

func (r *remote) Reach(ctx context.Context, target string) (bool, error) {
	reply, err := r.do(ctx, Call{Op: "op:reach", Name: target})
	return reply.Yes, err
}

// health is the kubelet's own answer at /healthz.
func (r *remote) health(ctx context.Context, _ string) error {
	reply, err := r.do(ctx, Call{Op: "op:healthz"})
	if err == nil && !reply.Yes {
		err = fault.New(fault.KubeletUnhealthy, "it does not answer")
	}
	return err
}

// serve answers the agents of this machine until the listener is closed.
func (m *Machine) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed
		}
		server := rpc.NewServer()
		if err := server.RegisterName("Systemd", &session{m, m.Units.Watch(context.Background())}); err != nil {
			panic(err) // a method of ours has the wrong form
		}
		go server.ServeConn(conn)
	}
}

// session is one connection of an agent.
type session struct {
	machine *Machine
	ticks   <-chan struct{}
}

// Tick returns when something has changed since the last one.
func (s *session) Tick(bool, *bool) error {
	select {
	case <-s.ticks:
	case <-s.machine.closed:
	}
	return nil
}

// Do is one call. Nobody interrupts it: whoever asked may be dead.
func (s *session) Do(c Call, reply *Reply) (err error) {
	ctx, units := context.Background(), s.machine.Units
	switch c.Op {
	case "op:unit":
		reply.Unit, err = units.Unit(ctx, c.Name)
	case "op:existing":
		reply.Existing, err = units.Existing(ctx, c.Dir)
	case "op:install":
		reply.Yes, err = units.Install(ctx, c.Dir, c.Existing, c.Rendered, c.Enable)
	case "op:reload":
		err = units.Reload(ctx)
	case "op:start":
		reply.Unit, err = units.Start(ctx, c.Name)
	case "op:restart":
		reply.Unit, err = units.Restart(ctx, c.Name)
	case "op:stop":
		reply.Unit, err = units.Stop(ctx, c.Name)
	case "op:reach":
		reply.Yes, err = units.Reach(ctx, c.Name)
	case "op:healthz":
		unit, uerr := units.Unit(ctx, systemd.KubeletUnit)
		reply.Yes, err = unit.Running(), uerr
	default:
		err = errors.New("no such operation: " + c.Op)
	}
	return err
}

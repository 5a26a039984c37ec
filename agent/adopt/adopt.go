// Package adopt takes over the kubelet of a machine that `kubeadm join`, or a
// person, has joined: the same identity, the same configuration, the same pods, and
// from then on the agent that sees to both. No token and no certificate request.
//
// It never decides without having seen: the pair must be usable, the server must
// verify under the CA of the kubeconfig, and must show the Node of that pair. It
// never changes somebody else's file in place (kubelet.conf, config.yaml,
// kubeadm-flags.env, units stay), keeps a copy of what it replaces, and restarts the
// kubelet once. What it cannot take over it refuses by name, with nothing changed.
//
// A crash at any instant is ended by running it again: the copies come first, then
// the manifest, then the files, and the kubelet reads them only once the drop-in is
// there.
//
//	unit, kubeconfig, pair, Node --Look--> Found --Do--> drop-in, records, one restart
package adopt

import (
	"context"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// Units is systemd as an adoption needs it.
type Units interface {
	Unit(ctx context.Context, name string) (systemd.Unit, error)
	Existing(ctx context.Context, dir string) (systemd.Existing, error)
	Install(ctx context.Context, dir string, e systemd.Existing, r systemd.Rendered, enable bool) (changed bool, err error)
	Start(ctx context.Context, name string) (systemd.Unit, error)
	Restart(ctx context.Context, name string) (systemd.Unit, error)
	Stop(ctx context.Context, name string) (systemd.Unit, error)
	Enable(ctx context.Context, name string) (changed bool, err error)
}

// Node is what the API server says of the Node of that name.
type Node struct {
	UID, BootID string
}

// Ask asks a server, known by its CA, for a Node with a pair (one PEM text).
type Ask func(ctx context.Context, server string, ca, pair []byte, name string) (Node, error)

// Adopt is one run. Make it as a literal.
type Adopt struct {
	Paths     record.Paths
	Units     Units
	Ask       Ask
	Read      systemd.Reader // of files that a unit names
	Machine   record.Machine
	Now       func() time.Time
	Monotonic func() time.Duration
	// Say is told each step that was done; nil: nobody listens.
	Say func(format string, args ...any)
}

// Values are keys of the agent's configuration that say what flags of the unit said.
type Values struct {
	NodeIP, ConfigDir, RuntimeEndpoint string
	Labels, Taints, ExtraArgs          []string
}

// Found is a kubelet that can be taken over.
type Found struct {
	NodeName   string
	Server     string // https://host:port
	CA         []byte // PEM
	Pins       []string
	Pair       []byte // PEM, the key included
	InPlace    bool   // it lies where the agent's kubelet reads it
	Serial     string
	NotAfter   time.Time
	NodeUID    string
	Kubeconfig string
	Binary     string
	Values     Values
	Adopted    record.Adopted
	Existing   systemd.Existing
	ExecStart  []string // of the kubelet's command, variables as they are written
	Argv       []string // its words as they were before
	Done       bool     // the machine is taken over already
}

func (a *Adopt) files() kubelet.Files {
	return kubelet.Files{Layout: kubelet.Layout{Dir: a.Paths.Kubelet}, Now: a.Now}
}

func (a *Adopt) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(format, args...)
	}
}

func refused(format string, args ...any) *fault.Error {
	return fault.New(fault.NotAdoptable, format, args...)
}

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// The runtimes that are known by name.
const (
	containerd = "containerd"
	crio       = "CRI-O"
	criDockerd = "cri-dockerd"
)

// Runtime is a container runtime as the kubelet will talk to it.
type Runtime struct {
	Name     string // "" for one that is not known here
	Endpoint string // unix:///run/...
	Unit     string // of systemd, to be started after; "" if not known
}

// Socket is the path of its endpoint.
func (r Runtime) Socket() string { return strings.TrimPrefix(r.Endpoint, "unix://") }

// Runtimes are looked for in this order, which is kubeadm's.
func Runtimes() []Runtime {
	return []Runtime{
		{containerd, "unix:///run/containerd/containerd.sock", "containerd.service"},
		{crio, "unix:///run/crio/crio.sock", "crio.service"},
		{criDockerd, "unix:///run/cri-dockerd.sock", "cri-docker.service"},
	}
}

// ParseRuntimeEndpoint reads kubelet.containerRuntimeEndpoint: a Unix socket,
// as unix:///path or just as its path.
func ParseRuntimeEndpoint(s string) (Runtime, error) {
	socket := strings.TrimPrefix(s, "unix://")
	if !filepath.IsAbs(socket) || control(socket) || strings.ContainsAny(socket, "?#") {
		return Runtime{}, fault.New(fault.ConfigInvalid, "kubelet.containerRuntimeEndpoint %s: must be a Unix socket, as in unix:///run/containerd/containerd.sock", fault.Quote(s))
	}
	if len(socket) > maxSocket {
		return Runtime{}, fault.New(fault.ConfigInvalid, "kubelet.containerRuntimeEndpoint %s: the path of a Unix socket has at most %d bytes", fault.Quote(s), maxSocket)
	}
	socket = filepath.Clean(socket)
	for _, r := range Runtimes() {
		// /var/run is /run on every system with systemd.
		if socket == r.Socket() || socket == "/var"+r.Socket() {
			r.Endpoint = "unix://" + socket
			return r, nil
		}
	}
	return Runtime{Endpoint: "unix://" + socket}, nil
}

// maxSocket is what fits into a sockaddr_un.
const maxSocket = 107

// Dial connects to a Unix socket and hangs up at once. It is a seam for tests.
type Dial func(ctx context.Context, socket string) error

// dialTimeout bounds the connection to a socket that nobody accepts on.
const dialTimeout = 2 * time.Second

// DialSocket is the real Dial.
func DialSocket(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// FindRuntime returns the configured runtime if it answers, else the first of
// candidates (Runtimes) that does; others that exist are noted. A nil dial
// means DialSocket. The error is a RuntimeNotReady fault: it may come up yet.
func FindRuntime(ctx context.Context, configured string, candidates []Runtime, dial Dial) (Runtime, []Note, error) {
	if dial == nil {
		dial = DialSocket
	}
	if configured != "" {
		r, err := ParseRuntimeEndpoint(configured)
		if err != nil {
			return Runtime{}, nil, err
		}
		if err := dial(ctx, r.Socket()); err != nil {
			return r, nil, notReady(ctx, "the container runtime does not answer on "+r.Socket(), err)
		}
		return r, nil, nil
	}
	const field = "containerRuntimeEndpoint"
	var found *Runtime
	var notes []Note
	var silent []string
	for i, r := range candidates {
		if _, err := os.Lstat(r.Socket()); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				silent = append(silent, fmt.Sprintf("%s: %s", r.Socket(), detail(err)))
			}
			continue
		}
		if found != nil {
			notes = append(notes, Note{field, fmt.Sprintf("%s has a socket too (%s); %s is used. Set kubelet.containerRuntimeEndpoint to choose.", r.Name, r.Socket(), found.Name)})
			continue
		}
		if err := dial(ctx, r.Socket()); err != nil {
			if ctx.Err() != nil {
				return Runtime{}, nil, notReady(ctx, "", ctx.Err())
			}
			silent = append(silent, fmt.Sprintf("%s: %v", r.Socket(), err))
			continue
		}
		found = &candidates[i]
	}
	if found == nil {
		if len(silent) == 0 {
			return Runtime{}, nil, fault.New(fault.RuntimeNotReady, "no container runtime has a socket on this machine")
		}
		return Runtime{}, nil, fault.New(fault.RuntimeNotReady, "no container runtime answers: %s", strings.Join(silent, "; "))
	}
	for _, s := range silent {
		notes = append(notes, Note{field, s + "; " + found.Name + " is used"})
	}
	return *found, notes, nil
}

func notReady(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot ask for the container runtime: %w", ctx.Err())
	}
	return fault.New(fault.RuntimeNotReady, "%s: %w", what, err)
}

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

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
	Answer          // zero until it was asked
}

// String names it for a message.
func (r Runtime) String() string {
	if r.Name == "" {
		return "the container runtime"
	}
	return r.Name
}

// Socket is the path of its endpoint.
func (r Runtime) Socket() string { return strings.TrimPrefix(r.Endpoint, "unix://") }

// Runtimes are looked for in this order, which is kubeadm's.
func Runtimes() []Runtime {
	return []Runtime{
		{Name: containerd, Endpoint: "unix:///run/containerd/containerd.sock", Unit: "containerd.service"},
		{Name: crio, Endpoint: "unix:///run/crio/crio.sock", Unit: "crio.service"},
		{Name: criDockerd, Endpoint: "unix:///run/cri-dockerd.sock", Unit: "cri-docker.service"},
	}
}

// ParseRuntimeEndpoint reads kubelet.containerRuntimeEndpoint: a Unix socket,
// as unix:///path or just as its path.
func ParseRuntimeEndpoint(s string) (Runtime, error) {
	return Named{s, endpointKey}.parse()
}

// endpointKey is where the operator names an endpoint.
const endpointKey = "kubelet.containerRuntimeEndpoint"

func (n Named) parse() (Runtime, error) {
	socket := strings.TrimPrefix(n.Endpoint, "unix://")
	if !filepath.IsAbs(socket) || control(socket) || strings.ContainsAny(socket, "?#") {
		return Runtime{}, fault.New(fault.ConfigInvalid, "%s %s: must be a Unix socket, as in unix:///run/containerd/containerd.sock", n.By, fault.Quote(n.Endpoint))
	}
	if len(socket) > maxSocket {
		return Runtime{}, fault.New(fault.ConfigInvalid, "%s %s: the path of a Unix socket has at most %d bytes", n.By, fault.Quote(n.Endpoint), maxSocket)
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

// Named is an endpoint that somebody decided on, and where: nothing else is
// looked for then. The zero value names none.
type Named struct {
	Endpoint string
	By       string // as in kubelet.containerRuntimeEndpoint; also opens messages
}

// NamedRuntime returns the endpoint that the kubelet will use whatever is found
// on this machine: the one of its drop-ins, else of the document, else the
// configured one (kubelet.containerRuntimeEndpoint). As in [RenderConfig], a
// socket of the cluster's document that does not exist here counts as none, and
// so does what cannot be read: RenderConfig says what is wrong there.
func (in RenderInput) NamedRuntime(configured string, dropIns [][]byte) Named {
	for _, data := range slices.Backward(dropIns) {
		if endpoint := endpointIn(data); endpoint != "" {
			return Named{endpoint, "kubelet.configDir: containerRuntimeEndpoint"}
		}
	}
	if in.Source != BuiltIn {
		endpoint := endpointIn(in.Base)
		socket, isPath := strings.CutPrefix(endpoint, "unix://")
		if endpoint != "" && (in.Source != Cluster || !isPath || in.FileExists == nil || in.FileExists(socket)) {
			return Named{endpoint, string(in.Source) + ": containerRuntimeEndpoint"}
		}
	}
	if configured == "" {
		return Named{}
	}
	return Named{configured, endpointKey}
}

func endpointIn(data []byte) string {
	doc, err := parseDocument(data)
	if err != nil {
		return ""
	}
	endpoint, _ := doc["containerRuntimeEndpoint"].(string)
	return endpoint
}

// FindRuntime asks the named endpoint; without one it asks all candidates
// ([Runtimes]) at once and takes the first of the list that is a runtime for a
// kubelet; what else was found is noted. A nil ask means [AskRuntime].
//
// The error is a RuntimeNotReady fault with what is the case on each socket and
// what to do about the nearest: it may come up yet. That one is returned with it,
// as the one to reckon with. Asking takes 2 seconds at most, and nothing of it is
// left afterwards.
func (h Host) FindRuntime(ctx context.Context, named Named, candidates []Runtime, ask Ask) (Runtime, []Note, error) {
	if ask == nil {
		ask = AskRuntime
	}
	if named.Endpoint != "" {
		r, err := named.parse()
		if err != nil {
			return Runtime{}, nil, err
		}
		candidates = []Runtime{r}
	}
	replies := make([]reply, len(candidates))
	var asking sync.WaitGroup
	for i, r := range candidates {
		asking.Go(func() {
			answer, err := ask(ctx, r.Socket())
			r.Answer = answer
			replies[i] = reply{r, err}
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return Runtime{}, nil, fmt.Errorf("cannot ask for the container runtime: %w", ctx.Err())
	}
	for i, found := range replies {
		if found.err == nil {
			return found.Runtime, besides(replies, i), nil
		}
	}
	nearest, err := h.notReady(named, replies)
	return nearest, nil, err
}

// reply is what came of asking one candidate.
type reply struct {
	Runtime
	err error
}

// state is where it stands; an error of a stranger's Ask counts as the runtime's.
func (r reply) state() unready {
	var u *unreadyError
	if errors.As(r.err, &u) {
		return u.is
	}
	return failing
}

// besides notes what was found beside the runtime that is taken.
func besides(replies []reply, taken int) []Note {
	const field = "containerRuntimeEndpoint"
	var notes []Note
	for i, r := range replies {
		switch {
		case i == taken:
		case r.err == nil:
			notes = append(notes, Note{field, fmt.Sprintf("%s answers too, on %s; %s is used. Set kubelet.containerRuntimeEndpoint to choose.", r.Runtime, r.Socket(), replies[taken].Runtime)})
		case r.state() != absent:
			notes = append(notes, Note{field, fmt.Sprintf("%s: %v; %s is used", r.Socket(), r.err, replies[taken].Runtime)})
		}
	}
	return notes
}

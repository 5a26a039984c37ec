package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Answer is what a container runtime says of itself.
type Answer struct {
	Version      string // its name and version, as in "containerd 1.7.24"
	CgroupDriver string // DriverSystemd or DriverCgroupfs; "" where it does not tell
}

// Ask asks the runtime behind a Unix socket. It is a seam for tests; the real
// one is [AskRuntime].
type Ask func(ctx context.Context, socket string) (Answer, error)

// askTimeout bounds the whole conversation with one runtime. One that runs
// answers in a millisecond; the kubelet gives it two minutes, but we ask again.
const askTimeout = 2 * time.Second

// The services of CRI. Kubelets from 1.26 on speak v1 only.
const (
	criV1       = "/runtime.v1.RuntimeService/"
	criV1alpha2 = "/runtime.v1alpha2.RuntimeService/"
)

// maxAnswer bounds a message of the runtime; a real one has less than 100 bytes.
const maxAnswer = 16 << 10

// unready is why a socket is no runtime for a kubelet, from the farthest to the
// nearest: of several, the nearest is what a person should look at first.
type unready int

const (
	absent     unready = iota // there is no socket
	forbidden                 // it cannot be opened, by this user at least
	refused                   // a socket, but nobody listens
	foreign                   // what listens does not speak CRI
	incomplete                // its Version answer lacks what a kubelet wants to know
	outdated                  // it knows v1alpha2 only
	withoutCRI                // gRPC, but no service of CRI: the plugin is off or failed
	silent                    // it listens, and does not answer in time
	failing                   // it answers with an error of its own: starting, most often
)

// unreadyError is the answer of a socket that is no runtime (yet). Detail is
// safe to show: what the other side sent is quoted in it.
type unreadyError struct {
	is     unready
	detail string
}

func (e *unreadyError) Error() string { return e.detail }

func unreadyf(is unready, format string, args ...any) error {
	return &unreadyError{is, fmt.Sprintf(format, args...)}
}

// AskRuntime is the real [Ask]: CRI's Version, and RuntimeConfig where the
// runtime knows it, over one connection that is closed afterwards.
func AskRuntime(ctx context.Context, socket string) (Answer, error) {
	return askWithin(ctx, socket, askTimeout)
}

func askWithin(ctx context.Context, socket string, limit time.Duration) (Answer, error) {
	asked := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var heard first
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: &protocols, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		// A stranger may send at most this much before it has to wait for us.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 10, MaxReceiveBufferPerStream: 2 * maxAnswer},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			return listening{conn, &heard}, nil
		},
	}
	// The name is what gRPC clients send for a Unix socket; nobody looks it up.
	conn, err := transport.NewClientConn(ctx, "http", "localhost:80")
	if err == nil {
		defer func() { _ = conn.Close() }()
		var answer Answer
		if answer, err = (exchange{conn}).ask(ctx); err == nil {
			return answer, nil
		}
	}
	if asked.Err() != nil {
		return Answer{}, fmt.Errorf("cannot ask the container runtime: %w", asked.Err())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Answer{}, unreadyf(silent, "no answer within %s", limit)
	}
	return Answer{}, judge(err, heard.words())
}

// first keeps the first bytes that a peer sent: net/http's errors about one that
// does not speak HTTP/2 depend on who was faster.
type first struct {
	mu    sync.Mutex
	bytes []byte
}

func (f *first) words() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.bytes)
}

// listening is a connection whose first bytes are kept.
type listening struct {
	net.Conn
	to *first
}

// Read reads from the connection.
func (l listening) Read(p []byte) (int, error) {
	const enough = 32
	n, err := l.Conn.Read(p)
	l.to.mu.Lock()
	defer l.to.mu.Unlock()
	l.to.bytes = append(l.to.bytes, p[:min(n, enough-len(l.to.bytes))]...)
	return n, err
}

// judge says what an error of the connection means. The errors of the kernel are
// precise; what is left comes from a peer that breaks HTTP/2, and that is known
// by its first words.
func judge(err error, words string) error {
	const settings = 4 // the type of the frame that HTTP/2 begins with, in its fourth byte
	var known *unreadyError
	var op *net.OpError
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, syscall.EAGAIN):
		return unreadyf(silent, "its queue of connections is full")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return unreadyf(absent, "there is no such socket")
	case errors.Is(err, fs.ErrPermission):
		return unreadyf(forbidden, "permission denied")
	case errors.Is(err, syscall.ECONNREFUSED):
		return unreadyf(refused, "nobody listens")
	case errors.As(err, &op) && op.Op == "dial":
		return unreadyf(forbidden, "%v", op.Err)
	case strings.HasPrefix(words, "HTTP/1."):
		return unreadyf(foreign, "it speaks HTTP/1, not gRPC")
	case len(words) > 3 && words[3] != settings:
		return unreadyf(foreign, "it does not speak HTTP/2, it says %s", fault.Quote(words))
	case words == "", errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return unreadyf(foreign, "it closed the connection without an answer")
	}
	return unreadyf(foreign, "%s", fault.Quote(err.Error()))
}

// exchange is one conversation over one connection.
type exchange struct{ conn http.RoundTripper }

func (x exchange) ask(ctx context.Context) (Answer, error) {
	message, err := x.call(ctx, criV1+"Version")
	if isStatus(err, unimplemented) {
		return Answer{}, x.older(ctx)
	}
	if err != nil {
		return Answer{}, asUnready(err)
	}
	version, err := parseVersion(message)
	if err != nil {
		return Answer{}, unreadyf(foreign, "%s", err)
	}
	if missing := version.missing(); len(missing) > 0 {
		return Answer{}, unreadyf(incomplete, "%s", strings.Join(missing, ", "))
	}
	answer := Answer{Version: version.String()}
	// Older runtimes do not know this question. Whatever else goes wrong with it,
	// the runtime has shown that it serves; the files tell the driver then.
	if message, err = x.call(ctx, criV1+"RuntimeConfig"); err == nil {
		answer.CgroupDriver, _ = parseRuntimeConfig(message)
	}
	return answer, nil
}

// older tells a runtime of old from one that does not serve CRI at all.
func (x exchange) older(ctx context.Context) error {
	message, err := x.call(ctx, criV1alpha2+"Version")
	switch {
	case isStatus(err, unimplemented):
		return unreadyf(withoutCRI, "it serves no CRI")
	case err != nil:
		return asUnready(err)
	}
	version, err := parseVersion(message)
	if err != nil {
		return unreadyf(foreign, "%s", err)
	}
	return unreadyf(outdated, "%s", version)
}

// The codes of gRPC that are told apart here.
const (
	statusOK      = 0
	unimplemented = 12
	lastStatus    = 16 // UNAUTHENTICATED
)

// statusError is an answer with a grpc-status other than 0.
type statusError struct {
	code    int
	message string
}

func (e *statusError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("gRPC status %d", e.code)
	}
	return fault.Quote(e.message)
}

func isStatus(err error, code int) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == code
}

// asUnready lets a runtime's own error keep its words.
func asUnready(err error) error {
	var status *statusError
	if errors.As(err, &status) {
		return unreadyf(failing, "%s", status)
	}
	return err
}

// call makes one unary call with an empty request: no question that is asked
// here has anything to say.
func (x exchange) call(ctx context.Context, method string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(emptyFrame))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := x.conn.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "application/grpc") {
		return nil, unreadyf(foreign, "it speaks HTTP (status %d), not gRPC", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, frameHead+maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > frameHead+maxAnswer {
		return nil, unreadyf(foreign, "its answer is larger than %d bytes", maxAnswer)
	}
	// The status follows the body; an answer without a body has it in its head.
	status := resp.Trailer
	if status.Get("Grpc-Status") == "" && len(body) == 0 {
		status = resp.Header
	}
	code, err := strconv.Atoi(status.Get("Grpc-Status"))
	if err != nil || code < statusOK || code > lastStatus {
		return nil, unreadyf(foreign, "its answer has no gRPC status")
	}
	if code != statusOK {
		text := status.Get("Grpc-Message")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
		return nil, &statusError{code, text}
	}
	message, err := unframe(body)
	if err != nil {
		return nil, unreadyf(foreign, "%s", err)
	}
	return message, nil
}

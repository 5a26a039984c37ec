package kubelet

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// fakeCRI is a container runtime behind a Unix socket: gRPC over unencrypted
// HTTP/2 as the standard library serves it. A method without a handler is
// answered as grpc-go answers one that it does not know.
type fakeCRI struct {
	socket  string
	methods map[string]http.HandlerFunc // by path

	mu          sync.Mutex
	connections int
	closed      chan struct{} // one for each connection that ended
	asked       []string
	heads       []http.Header
}

func newFakeCRI(t *testing.T, methods map[string]http.HandlerFunc) *fakeCRI {
	t.Helper()
	f := &fakeCRI{socket: filepath.Join(t.TempDir(), "cri.sock"), methods: methods, closed: make(chan struct{}, 10)}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols: &protocols, Handler: f, ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				f.mu.Lock()
				f.connections++
				f.mu.Unlock()
			case http.StateClosed:
				f.closed <- struct{}{}
			}
		},
	}
	listener := listen(t, f.socket)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return f
}

func (f *fakeCRI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.Path)
	f.heads = append(f.heads, r.Header)
	f.mu.Unlock()
	if len(body) != frameHead || r.Method != http.MethodPost || r.ProtoMajor != 2 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if handle := f.methods[r.URL.Path]; handle != nil {
		handle(w, r)
		return
	}
	fails(unimplemented, "unknown service or method")(w, r)
}

// awaitClosed waits for the end of a connection: the client hangs up by itself.
func (f *fakeCRI) awaitClosed(t *testing.T) {
	t.Helper()
	select {
	case <-f.closed:
	case <-time.After(5 * time.Second):
		t.Error("the connection is still open")
	}
}

// listen opens a Unix socket that is closed with the test.
func listen(t *testing.T, socket string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// plainServer gives each connection to handle and closes it afterwards: what
// does not even speak HTTP/2.
func plainServer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l := listen(t, filepath.Join(t.TempDir(), "plain.sock"))
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); running.Wait() })
	return l.Addr().String()
}

// says answers with one message and status 0 in the trailer.
func says(message []byte) http.HandlerFunc { return body(frame(message)) }

func body(raw []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(raw)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}
}

// fails answers with a status and no body: "trailers only".
func fails(code int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", strconv.Itoa(code))
		w.Header().Set("Grpc-Message", message)
	}
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// field encodes one string or embedded message of protobuf.
func field(number byte, value string) []byte {
	return append(binary.AppendUvarint([]byte{number<<3 | wireBytes}, uint64(len(value))), value...)
}

func versionMessage(fields ...string) []byte {
	var out []byte
	for i, value := range fields {
		if value != "" {
			out = append(out, field(byte(i+1), value)...)
		}
	}
	return out
}

// containerd16 is what Debian's containerd 1.6 answers to Version.
var containerd16 = versionMessage("0.1.0", "containerd", "1.6.20~ds1", "v1")

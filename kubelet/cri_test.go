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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const version, runtimeConfig, oldVersion = criV1 + "Version", criV1 + "RuntimeConfig", criV1alpha2 + "Version"

func TestARuntimeSaysItsVersionAndItsCgroupDriver(t *testing.T) {
	for name, c := range map[string]struct {
		config http.HandlerFunc
		driver string
	}{
		"systemd, the first of the list":    {says(field(1, "")), DriverSystemd},
		"systemd, written out":              {says(field(1, "\x08\x00")), DriverSystemd},
		"cgroupfs":                          {says(field(1, "\x08\x01")), DriverCgroupfs},
		"merged from two parts":             {says(slices.Concat(field(1, "\x08\x01"), field(1, ""))), DriverCgroupfs},
		"a driver of the future":            {says(field(1, "\x08\x02")), ""},
		"nothing about Linux":               {says(nil), ""},
		"fields of a later version":         {says(slices.Concat([]byte{0x10, 1, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8}, field(5, "x"), field(1, ""))), DriverSystemd},
		"a runtime that does not know":      {nil, ""},
		"a runtime that fails at it":        {fails(13, "oops"), ""},
		"an answer that makes no sense":     {says([]byte{0xff}), ""},
		"a connection that breaks there":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ""},
		"no gRPC at just this one question": {http.NotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCRI(t, map[string]http.HandlerFunc{version: says(containerd16), runtimeConfig: c.config})
			got, err := AskRuntime(t.Context(), f.socket)
			if err != nil || got != (Answer{"containerd 1.6.20~ds1", c.driver}) {
				t.Errorf("%+v, %v", got, err)
			}
			if f.connections != 1 || !slices.Equal(f.asked, []string{version, runtimeConfig}) {
				t.Errorf("%d connections for %v", f.connections, f.asked)
			}
		})
	}
}

func TestTheQuestionIsWhatGRPCAsksFor(t *testing.T) {
	f := newFakeCRI(t, map[string]http.HandlerFunc{version: says(containerd16)})
	if _, err := AskRuntime(t.Context(), f.socket); err != nil {
		t.Fatal(err)
	}
	head := f.heads[0]
	if head.Get("Content-Type") != "application/grpc" || head.Get("Te") != "trailers" || head.Get("Accept-Encoding") != "" {
		t.Errorf("%v", head)
	}
}

// Every way in which a socket is no runtime for a kubelet, hostile ones too.
func TestWhatIsNoRuntimeIsToldApart(t *testing.T) {
	flood := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(frame(containerd16)[:8])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(frame(containerd16)[:8])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	noStatus := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = w.Write(frame(containerd16))
	}
	statusInHead := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "0")
		_, _ = w.Write(frame(containerd16))
	}
	failsAfterBody := func(w http.ResponseWriter, _ *http.Request) {
		noStatus(w, nil)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "14")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "server is not initialized yet")
	}
	bigHead := func(w http.ResponseWriter, _ *http.Request) {
		for i := range 40 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
		}
		fails(0, "")(w, nil)
	}
	compressed := frame(containerd16)
	compressed[0] = 1
	for name, c := range map[string]struct {
		methods map[string]http.HandlerFunc
		want    unready
		says    string
	}{
		"the CRI plugin is disabled":             {nil, withoutCRI, "no CRI"},
		"only v1alpha2":                          {map[string]http.HandlerFunc{oldVersion: says(versionMessage("0.1.0", "containerd", "1.5.9", "v1alpha2"))}, outdated, "containerd 1.5.9"},
		"only v1alpha2, and that makes no sense": {map[string]http.HandlerFunc{oldVersion: says([]byte{1})}, foreign, "no protobuf"},
		"not initialized":                        {map[string]http.HandlerFunc{version: fails(2, "server%20is not initialized yet")}, failing, `"server is not initialized yet"`},
		"unavailable, no words":                  {map[string]http.HandlerFunc{version: fails(14, "")}, failing, "gRPC status 14"},
		"words that want to look like others":    {map[string]http.HandlerFunc{version: fails(2, "a%0Ab")}, failing, `"a\nb"`},
		"a status after the body":                {map[string]http.HandlerFunc{version: failsAfterBody}, failing, "not initialized"},
		"v1 not known, v1alpha2 fails":           {map[string]http.HandlerFunc{oldVersion: fails(14, "later")}, failing, "later"},
		"empty version":                          {map[string]http.HandlerFunc{version: says(nil)}, incomplete, "version, runtime_name, runtime_version, runtime_api_version"},
		"no name":                                {map[string]http.HandlerFunc{version: says(versionMessage("0.1.0", "", "1.6", "v1"))}, incomplete, "runtime_name"},
		"a name that is none":                    {map[string]http.HandlerFunc{version: says(versionMessage("0.1.0", "a\x1b[2J", "1.6", "v1"))}, foreign, "field 2"},
		"a name without end":                     {map[string]http.HandlerFunc{version: says(versionMessage("0.1.0", strings.Repeat("a", maxName+1), "1.6", "v1"))}, foreign, "field 2"},
		"no protobuf":                            {map[string]http.HandlerFunc{version: says([]byte("hello"))}, foreign, "no protobuf"},
		"a page":                                 {map[string]http.HandlerFunc{version: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }}, foreign, "status 200"},
		"another status of HTTP":                 {map[string]http.HandlerFunc{version: http.NotFound}, foreign, "status 404"},
		"a redirect": {map[string]http.HandlerFunc{version: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost"+oldVersion, http.StatusTemporaryRedirect)
		}}, foreign, "status 307"},
		"no status of gRPC":              {map[string]http.HandlerFunc{version: noStatus}, foreign, "no gRPC status"},
		"the status before the body":     {map[string]http.HandlerFunc{version: statusInHead}, foreign, "no gRPC status"},
		"no body, but status 0":          {map[string]http.HandlerFunc{version: fails(0, "")}, foreign, "breaks off"},
		"a status beyond the list":       {map[string]http.HandlerFunc{version: fails(17, "")}, foreign, "no gRPC status"},
		"a negative status":              {map[string]http.HandlerFunc{version: fails(-1, "")}, foreign, "no gRPC status"},
		"compressed":                     {map[string]http.HandlerFunc{version: body(compressed)}, foreign, "compressed"},
		"cut in the head of the message": {map[string]http.HandlerFunc{version: body(compressed[:3])}, foreign, "breaks off in the head"},
		"cut in the message":             {map[string]http.HandlerFunc{version: body(frame(containerd16)[:20])}, foreign, "breaks off in the middle"},
		"two messages":                   {map[string]http.HandlerFunc{version: body(slices.Concat(frame(containerd16), frame(nil)))}, foreign, "goes on"},
		"a length of 4 GB":               {map[string]http.HandlerFunc{version: body([]byte{0, 0xff, 0xff, 0xff, 0xff})}, foreign, "breaks off"},
		"too large by a byte":            {map[string]http.HandlerFunc{version: says(make([]byte, maxAnswer+1))}, foreign, "larger than"},
		"a flood":                        {map[string]http.HandlerFunc{version: flood}, foreign, "larger than"},
		"a large head":                   {map[string]http.HandlerFunc{version: bigHead}, foreign, ""},
		"reset":                          {map[string]http.HandlerFunc{version: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}, foreign, ""},
		"reset in the message":           {map[string]http.HandlerFunc{version: cut}, foreign, ""},
		"never answers":                  {map[string]http.HandlerFunc{version: hang}, silent, "no answer within 100ms"},
		"never ends":                     {map[string]http.HandlerFunc{version: half}, silent, "no answer within 100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCRI(t, c.methods)
			wantUnready(t, f.socket, c.want, c.says)
			if f.connections != 1 {
				t.Errorf("%d connections", f.connections)
			}
			f.awaitClosed(t)
		})
	}
}

func TestWhatDoesNotSpeakHTTP2IsToldApart(t *testing.T) {
	hold := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, c := range map[string]struct {
		handle func(net.Conn)
		want   unready
		says   string
	}{
		"never accepts a word": {hold, silent, "no answer"},
		"hangs up":             {func(net.Conn) {}, foreign, "closed the connection"},
		"HTTP/1 as Docker speaks": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request")
			hold(conn)
		}, foreign, "HTTP/1"},
		"garbage":                 {func(conn net.Conn) { _, _ = conn.Write(bytes.Repeat([]byte{0xde, 0xad}, 500)); hold(conn) }, foreign, "does not speak HTTP/2, it says"},
		"a greeting":              {func(conn net.Conn) { _, _ = io.WriteString(conn, "220 mail.example.org ESMTP\r\n"); hold(conn) }, foreign, `it says "220 mail.example.org`},
		"a frame of 16 MB":        {func(conn net.Conn) { _, _ = conn.Write([]byte{0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0}); hold(conn) }, foreign, ""},
		"half a frame":            {func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0, 6, 4, 0}); hold(conn) }, silent, "no answer"},
		"half a frame, then gone": {func(conn net.Conn) { _, _ = conn.Write([]byte{0, 0, 6, 4, 0}) }, foreign, ""},
		"refuses all streams": {func(conn net.Conn) {
			_, _ = conn.Write([]byte{0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0})
			hold(conn)
		}, silent, "no answer"},
	} {
		t.Run(name, func(t *testing.T) { wantUnready(t, plainServer(t, c.handle), c.want, c.says) })
	}
}

func TestASocketThatCannotBeOpenedIsToldApart(t *testing.T) {
	dir := t.TempDir()
	wantUnready(t, dir+"/none", absent, "no such socket")
	write(t, dir+"/file", nil, 0o600)
	wantUnready(t, dir+"/file/none", absent, "no such socket")
	wantUnready(t, dir+"/file", refused, "nobody listens")
	symlink(t, dir+"/none", dir+"/dangling")
	wantUnready(t, dir+"/dangling", absent, "")
	l := listen(t, dir+"/left")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	wantUnready(t, dir+"/left", refused, "nobody listens")
	for err, want := range map[error]unready{
		fs.ErrPermission: forbidden, syscall.EACCES: forbidden, syscall.EAGAIN: silent, syscall.ECONNRESET: forbidden, syscall.EMFILE: forbidden,
	} {
		var u *unreadyError
		if got := judge(&net.OpError{Op: "dial", Net: "unix", Err: err}, ""); !errors.As(got, &u) || u.is != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestAskingEndsWithItsContextAndLeavesNothing(t *testing.T) {
	t.Run("asking", func(t *testing.T) {
		f := newFakeCRI(t, map[string]http.HandlerFunc{version: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := AskRuntime(ctx, f.socket)
		var u *unreadyError
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &u) {
			t.Errorf("%v", err)
		}
		f.awaitClosed(t)
		cancelled, stop := context.WithCancel(t.Context())
		stop()
		if _, err := AskRuntime(cancelled, f.socket); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	goleak.VerifyNone(t) // the server is gone, so what is left would be ours
}

func wantUnready(t *testing.T, socket string, want unready, says string) {
	t.Helper()
	limit := 5 * time.Second
	if want == silent {
		limit = 100 * time.Millisecond
	}
	got, err := askWithin(t.Context(), socket, limit)
	var u *unreadyError
	if !errors.As(err, &u) || u.is != want || !strings.Contains(u.Error(), says) || got != (Answer{}) {
		t.Errorf("%+v, %d %v; want %d %q", got, u.is, err, want, says)
	}
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("not fit for one line: %q", err)
	}
}

func FuzzRuntimeAnswer(f *testing.F) {
	for _, seed := range [][]byte{
		frame(containerd16), frame(field(1, "\x08\x01")), frame(nil), {0, 0, 0, 0, 9, 0x0a}, {1, 0, 0, 0, 0},
		frame([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}), frame([]byte{0x0b}), frame([]byte{0x09, 1}),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		message, err := unframe(data)
		if err != nil {
			return
		}
		if v, err := parseVersion(message); err == nil {
			for _, s := range []string{v.version, v.name, v.runtimeVersion, v.apiVersion} {
				if len(s) > maxName || control(s) {
					t.Errorf("shows %q", s)
				}
			}
			again := versionMessage(v.version, v.name, v.runtimeVersion, v.apiVersion)
			if w, err := parseVersion(again); err != nil || w != v {
				t.Errorf("%+v written again is %+v, %v", v, w, err)
			}
		}
		if driver, err := parseRuntimeConfig(message); err != nil && driver != "" {
			t.Errorf("%q with %v", driver, err)
		}
	})
}

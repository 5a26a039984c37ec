package metrics

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The limits of the server. Prometheus sends some 300 bytes and waits 10 s.
const (
	maxHead        = 8 << 10         // of a request
	maxConnections = 8               // at once; more wait in the kernel's queue
	requestTime    = 5 * time.Second // from the connection to the last byte of the answer
	lingerTime     = time.Second     // for what a client still sends after its answer
	maxLinger      = 64 << 10
	acceptPause    = 100 * time.Millisecond // after a failed accept (no file descriptors, say)
)

// Server answers GET /metrics.
type Server struct {
	listener net.Listener
	page     func() []byte
	closed   chan struct{}
	running  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]struct{} // nil: no more of them
}

// Serve begins to answer with what page returns at that moment: nil means that
// there is nothing to tell yet. Close ends it; page is called from several
// goroutines.
func Serve(listener net.Listener, page func() []byte) *Server {
	s := &Server{listener: listener, page: page, closed: make(chan struct{}), open: map[net.Conn]struct{}{}}
	s.running.Go(s.accept)
	return s
}

// Close ends the server: nobody is answered any more, nothing runs on.
func (s *Server) Close() {
	close(s.closed)
	_ = s.listener.Close() // nothing was promised to anybody
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	places := make(chan struct{}, maxConnections)
	for {
		select {
		case <-s.closed:
			return
		case places <- struct{}{}:
		}
		conn, err := s.listener.Accept()
		if err != nil {
			<-places
			if errors.Is(err, net.ErrClosed) {
				return
			}
			pause := time.NewTimer(acceptPause)
			select {
			case <-s.closed:
				pause.Stop()
				return
			case <-pause.C:
			}
			continue
		}
		if !s.hold(conn) {
			_ = conn.Close()
			return
		}
		s.running.Go(func() {
			defer func() { <-places }()
			defer s.release(conn)
			s.answer(conn)
		})
	}
}

// hold takes a connection unless the server ends.
func (s *Server) hold(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		s.open[conn] = struct{}{}
	}
	return s.open != nil
}

func (s *Server) release(conn net.Conn) {
	_ = conn.Close() // the answer is sent, or nobody wants it
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, conn)
}

// answer reads one request, answers it and lets the client finish.
func (s *Server) answer(conn net.Conn) {
	if conn.SetDeadline(time.Now().Add(requestTime)) != nil {
		return
	}
	status, withBody, ok := receive(conn)
	if !ok {
		return
	}
	var body []byte
	if status == statusOK {
		if body = s.page(); body == nil {
			status = statusNotYet
		}
	}
	if body == nil {
		body = []byte(http.StatusText(status) + "\n")
	}
	head := "HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\nContent-Type: " + ContentType +
		"\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
	if status == statusMethod {
		head += "Allow: GET, HEAD\r\n"
	}
	out := []byte(head + "\r\n")
	if withBody {
		out = append(out, body...)
	}
	if _, err := conn.Write(out); err != nil {
		return
	}
	linger(conn)
}

// linger takes what a client still sends, within bounds: closing with something
// unread would reset the connection and may destroy the answer on its way.
func linger(conn net.Conn) {
	half, ok := conn.(*net.TCPConn)
	if !ok || half.CloseWrite() != nil || conn.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	rest := make([]byte, 512)
	for total := 0; total < maxLinger; {
		n, err := conn.Read(rest)
		if err != nil {
			return
		}
		total += n
	}
}

// The answers there are.
const (
	statusOK       = http.StatusOK
	statusBad      = http.StatusBadRequest
	statusNotFound = http.StatusNotFound
	statusMethod   = http.StatusMethodNotAllowed
	statusTooLarge = http.StatusRequestHeaderFieldsTooLarge
	statusNotYet   = http.StatusServiceUnavailable
	statusVersion  = http.StatusHTTPVersionNotSupported
)

// receive reads the head of one request; not ok: the client went away, or is too
// slow. What comes behind the head is nobody's.
func receive(conn net.Conn) (status int, withBody, ok bool) {
	head := make([]byte, 0, 1024)
	for {
		if len(head) == cap(head) {
			head = append(head, 0)[:len(head)] // more room
		}
		room := head[len(head):min(cap(head), maxHead)]
		n, err := conn.Read(room)
		from := max(0, len(head)-3) // the end may come in two pieces
		head = head[:len(head)+n]
		if i := bytes.Index(head[from:], []byte("\r\n\r\n")); i >= 0 {
			status, withBody = judge(string(head[:from+i+2]))
			return status, withBody, true
		}
		if len(head) >= maxHead {
			return statusTooLarge, true, true
		}
		if err != nil {
			return 0, false, false
		}
	}
}

// judge says how to answer a head: lines with their ends, without the empty one.
// It takes less than HTTP allows, and nothing that HTTP forbids.
func judge(head string) (status int, withBody bool) {
	line, fields, _ := strings.Cut(head, "\r\n")
	method, rest, ok1 := strings.Cut(line, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	major, minor, ok3 := strings.Cut(strings.TrimPrefix(version, "HTTP/"), ".")
	switch {
	case !ok1 || !ok2 || !ok3 || !token(method) || !visible(target) || !strings.HasPrefix(version, "HTTP/") || !digit(major) || !digit(minor):
		return statusBad, true
	case major != "1":
		return statusVersion, true
	}
	hosts := 0
	for field := range strings.SplitSeq(strings.TrimSuffix(fields, "\r\n"), "\r\n") {
		if fields == "" {
			break
		}
		name, value, ok := strings.Cut(field, ":")
		if !ok || !token(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return statusBad, true
		}
		switch strings.ToLower(name) {
		case "host":
			hosts++
		case "content-length":
			if strings.Trim(value, " \t") != "0" {
				return statusBad, true
			}
		case "transfer-encoding":
			return statusBad, true
		}
	}
	if hosts > 1 || hosts == 0 && minor != "0" {
		return statusBad, true
	}
	withBody = method != "HEAD"
	if path, _, _ := strings.Cut(target, "?"); path != "/metrics" {
		return statusNotFound, withBody
	}
	if method != "GET" && method != "HEAD" {
		return statusMethod, true
	}
	return statusOK, withBody
}

func digit(s string) bool { return len(s) == 1 && s[0] >= '0' && s[0] <= '9' }

// visible is text without blanks, controls and anything beyond ASCII.
func visible(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// token is a word as HTTP's names are.
func token(s string) bool {
	return visible(s) && !strings.ContainsAny(s, "()<>@,;:\\\"/[]?={}")
}

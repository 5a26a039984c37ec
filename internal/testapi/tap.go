package testapi

import (
	"bytes"
	"net"
	"sync"
)

// Tap is a listener that keeps every byte that its clients send, of all
// connections in one text. Around a TLS listener it is what the server hears; it
// must not be a secret.
type Tap struct {
	net.Listener

	mu          sync.Mutex
	heard       bytes.Buffer
	connections int
}

// NewTap listens through l.
func NewTap(l net.Listener) *Tap { return &Tap{Listener: l} }

// Heard returns what was sent so far.
func (t *Tap) Heard() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard.String()
}

// Connections returns how many were accepted so far.
func (t *Tap) Connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.connections
}

// Accept is net.Listener's.
func (t *Tap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.connections++
	t.mu.Unlock()
	return tapped{c, t}, nil
}

// tapped is one connection of it.
type tapped struct {
	net.Conn
	tap *Tap
}

// Read is net.Conn's.
func (c tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tap.mu.Lock()
	c.tap.heard.Write(p[:n])
	c.tap.mu.Unlock()
	return n, err
}

package testapi

import (
	"fmt"
	"net"
	"sync"
)

// Dead is an address where no API server lives.
type Dead struct {
	ln   net.Listener
	wg   sync.WaitGroup
	once sync.Once
}

// NewBlackHole listens and never accepts: the kernel completes the TCP
// handshake, and then nothing is ever said. It is what a stuck server or a
// dropping firewall behind a load balancer looks like.
func NewBlackHole() (*Dead, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return &Dead{ln: ln}, nil
}

// NewDropper accepts connections and closes them at once, as a load balancer
// does that has no server behind it.
func NewDropper() (*Dead, error) { return newAnswering(nil) }

// NewTalker answers every connection with text and closes it: plain HTTP, SSH,
// anything that is not TLS.
func NewTalker(text string) (*Dead, error) { return newAnswering([]byte(text)) }

func newAnswering(text []byte) (*Dead, error) {
	d, err := NewBlackHole()
	if err != nil {
		return nil, err
	}
	d.wg.Go(func() {
		for {
			conn, err := d.ln.Accept()
			if err != nil {
				return // closed
			}
			_, _ = conn.Write(text)
			_ = conn.Close() // that it closes is all it is for
		}
	})
	return d, nil
}

// Host is host:port.
func (d *Dead) Host() string { return d.ln.Addr().String() }

// Close ends it. It may be called twice.
func (d *Dead) Close() {
	d.once.Do(func() { _ = d.ln.Close() })
	d.wg.Wait()
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Refused returns an endpoint on the address where connections are refused: a
// port that is bound, so nobody else gets it, and that does not listen.
func Refused(address string) (endpoint string, free func() error, err error) {
	fd, endpoint, err := bind(address)
	if err != nil {
		return "", nil, err
	}
	return endpoint, func() error { return syscall.Close(fd) }, nil
}

// Dropped returns an endpoint on the address where connections neither succeed
// nor fail, as behind a firewall that drops packets: a listener whose queue is
// full and never emptied, so the kernel drops what else comes.
func Dropped(ctx context.Context, address string) (endpoint string, free func() error, err error) {
	fd, endpoint, err := bind(address)
	if err != nil {
		return "", nil, err
	}
	var queued []net.Conn
	free = func() error {
		faults := []error{syscall.Close(fd)}
		for _, conn := range queued {
			faults = append(faults, conn.Close())
		}
		return errors.Join(faults...)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return "", nil, errors.Join(err, free())
	}
	// The queue of length 0 holds one or two; full is when a dial gets no answer.
	for range 8 {
		conn, err := (&net.Dialer{Timeout: 250 * time.Millisecond}).DialContext(ctx, "tcp", endpoint)
		var network net.Error
		if errors.As(err, &network) && network.Timeout() && ctx.Err() == nil {
			return endpoint, free, nil
		}
		if err != nil {
			return "", nil, errors.Join(err, free())
		}
		queued = append(queued, conn)
	}
	return "", nil, errors.Join(errors.New("the queue of a listener does not fill"), free())
}

func bind(address string) (fd int, endpoint string, err error) {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return 0, "", fmt.Errorf("%q is no IPv4 address", address)
	}
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte(ip)}); err != nil {
		return 0, "", errors.Join(err, syscall.Close(fd))
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, "", errors.Join(err, syscall.Close(fd))
	}
	return fd, net.JoinHostPort(address, fmt.Sprint(bound.(*syscall.SockaddrInet4).Port)), nil
}

// Command fakekubelet stands in for the kubelet on a machine of the lab and tells
// what it was started with: its arguments, byte for byte, as JSON. Then it says
// that it is ready, is healthy, and waits for the end. A file can make it one of
// those that fail. It never talks to a cluster.
//
//	argv --> /run/fakekubelet.json, READY=1, /healthz on 10248, or on --healthz-port
//	/run/fakekubelet.do: exit | hang | slow | die
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// out is where the arguments go; argv_test.go reads it.
	out = "/run/fakekubelet.json"
	// do says how it fails: exit at once, hang before it is ready, be slow to be
	// ready (3 s), die 3 s after that. Without the file it does not.
	do = "/run/fakekubelet.do"
	// starts gets a byte for each start.
	starts = "/run/fakekubelet.starts"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if slices.Contains(os.Args[1:], "--version") {
		_, err := fmt.Println("Kubernetes v1.36.3")
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// Bytes, not strings: JSON would repair what is no UTF-8.
	words := make([][]byte, len(os.Args))
	for i, word := range os.Args {
		words[i] = []byte(word)
	}
	text, err := json.Marshal(words)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, text, 0o600); err != nil {
		return err
	}
	how, err := begin()
	if err != nil {
		return err
	}
	const while = 3 * time.Second
	switch how {
	case "exit":
		return errors.New("the fake kubelet was told to fail")
	case "hang":
		<-ctx.Done()
		return nil
	case "slow":
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(while):
		}
	case "die":
		time.AfterFunc(while, func() {
			fmt.Fprintln(os.Stderr, "the fake kubelet dies as it was told")
			os.Exit(1)
		})
	}
	port := "10248"
	for _, arg := range os.Args[1:] {
		if p, ok := strings.CutPrefix(arg, "--healthz-port="); ok {
			port = p
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // ends Serve below
	if err := ready(ctx); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// begin counts the start and tells how it is to go on.
func begin() (how string, err error) {
	f, err := os.OpenFile(starts, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString("x")
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	text, err := os.ReadFile(do)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// ready tells systemd that the start is over.
func ready(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}

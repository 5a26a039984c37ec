// Command fakekubelet stands in for the kubelet on a machine of the lab and tells
// what it was started with: its arguments, byte for byte, as JSON. Then it says
// that it is ready, is healthy, and waits for the end. It never talks to a
// cluster.
//
//	argv --> /run/fakekubelet.json, READY=1, /healthz on 10248
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
	"syscall"
	"time"
)

// out is where the arguments go; argv_test.go reads it.
const out = "/run/fakekubelet.json"

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
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:10248")
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

// ready tells systemd that the start is over.
func ready(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("READY=1"))
	return errors.Join(err, conn.Close())
}

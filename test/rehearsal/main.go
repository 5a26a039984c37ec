// The rehearsal shows the agent to somebody who has neither a cluster nor root:
// its real code joins an API server in this process, into a scratch folder.
//
// It never touches anything outside that folder, and removes it at the end.
//
//	go run ./test/rehearsal: play.Show -> stdout
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/test/demo/screen"
	"github.com/bootstrap-agent/bootstrap-agent/test/rehearsal/play"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := play.Show(ctx, screen.New(os.Stdout, os.Getenv)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Command pause is all that runs in the lab's containers: it waits to be told to
// stop, so that a pod needs no image from anywhere. It never does anything else.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

//go:build generate

package main

import (
	"context"
	"os"
)

// With the tag the package becomes the program that writes what is generated
// from its tables and commands, instead of the agent.
func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ(), configFile: defaultConfigFile}
	os.Exit(a.execute(context.Background(), a.generateCommand(), os.Args[1:]))
}

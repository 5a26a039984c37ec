// Pack puts together what `make package` ships besides the program: it reads the
// one table of contents (nfpm.yaml) and gives it to each of the three formats, and
// it writes down what the program is made of. So no file can be in one format and
// be forgotten in another.
//
// It never decides what is shipped, and never looks at clock, user or umask of the
// builder: two builds of one commit are equal byte by byte.
//
//	nfpm.yaml -> pack nfpm deb|rpm -> the same file for nfpm, every file named
//	nfpm.yaml -> pack tar FILE     -> the tar.gz for images without a package manager
//	program   -> pack sbom PROGRAM -> CycloneDX: every module with its license
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"
)

const usage = "usage: pack nfpm deb|rpm | pack tar FILE | pack sbom PROGRAM (VERSION and SOURCE_DATE_EPOCH are in the environment)"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%s", usage)
	}
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH is no number of seconds: %w", err)
	}
	epoch := time.Unix(seconds, 0).UTC()
	switch args[0] {
	case "nfpm":
		return forNFPM("nfpm.yaml", args[1], out)
	case "tar":
		return tarball("nfpm.yaml", args[1], epoch)
	case "sbom":
		return sbomOf(ctx, args[1], os.Getenv("VERSION"), epoch, out)
	}
	return fmt.Errorf("%s", usage)
}

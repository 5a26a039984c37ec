package kubelet

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// readaheadStep is what is asked for at once, so that a cancelled context is
// seen soon even when the disk is slow and the kernel makes us wait.
const readaheadStep = 4 << 20

// Readahead asks the kernel to bring a file (the kubelet's binary, on a machine
// that has just booted) into the page cache, while something else is awaited
// anyway. It copies nothing and returns how many bytes were asked for. Its
// error is for a debug line: nothing depends on it.
func Readahead(ctx context.Context, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("cannot read ahead: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("cannot read ahead: %w", err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("cannot read ahead: %s is no regular file", path)
	}
	var done int64
	for done < info.Size() {
		if ctx.Err() != nil {
			return done, fmt.Errorf("cannot read ahead: %w", ctx.Err())
		}
		step := min(readaheadStep, info.Size()-done)
		if err := unix.Fadvise(int(f.Fd()), done, step, unix.FADV_WILLNEED); err != nil {
			return done, fmt.Errorf("cannot read ahead in %s: %w", path, err)
		}
		done += step
	}
	return done, nil
}

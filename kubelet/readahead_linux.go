package kubelet

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// readaheadStep is what the disk is asked for at once. One step after the other,
// never all of it: whatever else reads or syncs meanwhile (this very program is being read
// from the same disk on a first boot, and the join syncs its files) waits behind
// one step at most.
const readaheadStep = 512 << 10

// Readahead brings a file (the kubelet's binary, on a machine that has just
// booted) into the page cache, while something else is awaited anyway. It copies
// nothing and returns how many bytes it asked for. Its error is for a debug
// line: nothing depends on it.
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
		// Wait for it: its last byte is there when the rest is.
		if _, err := f.ReadAt(make([]byte, 1), done-1); err != nil {
			return done, fmt.Errorf("cannot read ahead in %s: %w", path, err)
		}
	}
	return done, nil
}

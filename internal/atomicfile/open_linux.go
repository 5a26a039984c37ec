package atomicfile

import (
	"os"
	"syscall"
)

// openNoFollow opens for reading; O_NONBLOCK so that a FIFO without a writer
// does not hang the caller.
func openNoFollow(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

package agent

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// splay spreads what a change in the cluster makes all nodes do at once: always
// the same pause for one machine, evenly spread over many.
func splay(machine string, over time.Duration) time.Duration {
	if over <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(machine))
	return time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(over))
}

package discovery

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing may outlive a call: not a dial that lost the race, not a handshake
// with a server that went silent.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

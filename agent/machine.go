package agent

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what tells this machine and this boot from others.
type Machine struct {
	BootID    string `json:"bootID,omitempty"`    // new at every boot
	MachineID string `json:"machineID,omitempty"` // /etc/machine-id
	UUID      string `json:"uuid,omitempty"`      // DMI product UUID; empty where there is none
}

// ReadMachine reads the identifiers below root ("/" on a machine). What cannot
// be read stays empty: some containers have no DMI, some images no machine-id.
func ReadMachine(root string) Machine {
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.ToLower(strings.TrimSpace(string(data)))
	}
	return Machine{
		BootID:    read("proc/sys/kernel/random/boot_id"),
		MachineID: read("etc/machine-id"),
		UUID:      read("sys/class/dmi/id/product_uuid"),
	}
}

// Monotonic is CLOCK_MONOTONIC: the clock that systemd's *TimestampMonotonic
// properties are read from. It starts at boot and is no wall clock.
func Monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

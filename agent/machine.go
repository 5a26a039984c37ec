package agent

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
)

// Machine is what tells this machine and this boot from others.
type Machine = record.Machine

// ReadMachine reads the identifiers below root ("/" on a machine). What cannot
// be read stays empty: some containers have no DMI, some images no machine-id.
//
// bootID is systemd's own idea of the boot ID (specifier %b, 32 hexadecimal
// digits) where the unit passes it on; a process in a sandbox may see another
// /proc than the kubelet. Anything else is ignored and /proc is read.
func ReadMachine(root, bootID string) Machine {
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.ToLower(strings.TrimSpace(string(data)))
	}
	boot := dashed(bootID)
	if boot == "" {
		boot = read("proc/sys/kernel/random/boot_id")
	}
	return Machine{
		BootID:    boot,
		MachineID: read("etc/machine-id"),
		UUID:      read("sys/class/dmi/id/product_uuid"),
		// systemd lays a machine ID of its own over a file that has none, or that it
		// cannot write: at the first boot of an image until it writes it to the disk,
		// and on a disk that is read-only at each boot another one.
		Transient: strings.Contains(read("proc/self/mountinfo"), " /etc/machine-id "),
	}
}

// dashed writes 32 hexadecimal digits as the kernel and the kubelet write them;
// "" if they are no such thing.
func dashed(id string) string {
	id = strings.ToLower(strings.ReplaceAll(id, "-", ""))
	if _, err := hex.DecodeString(id); err != nil || len(id) != 32 {
		return ""
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
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

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
)

func encodeStatus(s Status) ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode the status: %w", err)
	}
	return append(data, '\n'), nil
}

// ReadStatus returns what the daemon published last, and whether a daemon is at
// work: the file is believed only while the process that wrote it holds the lock.
// No file, or only that of an earlier run, is fs.ErrNotExist in the chain.
func ReadStatus(paths record.Paths) (s Status, running bool, err error) {
	data, err := atomicfile.Read(paths.StatusFile(), record.MaxFile)
	if err != nil {
		running, _ := record.Holder(paths)
		return s, running, fmt.Errorf("cannot read the status: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		running, _ := record.Holder(paths)
		return Status{}, running, fmt.Errorf("cannot read the status: %s is damaged: %w", paths.StatusFile(), err)
	}
	running, holder := record.Holder(paths)
	if running && holder == 0 && alive(s.PID) {
		holder = s.PID // a full disk does not take the number of the one that holds the lock
	}
	if running && holder != s.PID {
		// An earlier run's: the one that has just taken the lock will remove it.
		return Status{}, true, fmt.Errorf("cannot read the status: %w: that of process %d is not there yet", fs.ErrNotExist, holder)
	}
	return s, running, nil
}

func alive(pid int) bool {
	return pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// IsJoined says from the files alone whether this machine has joined under the
// given name: a usable pair, a trust record, and a kubelet that was started. nodeName empty: the name of the
// trust record counts. It serves the start with a config that has become bad.
func IsJoined(paths record.Paths, nodeName string, usable func(nodeName string) (bool, error)) (name string, joined bool, err error) {
	trust, err := record.ReadTrust(paths)
	if err != nil || trust == nil {
		return "", false, ignoreMissing(err)
	}
	if m, err := record.ReadManifest(paths); err != nil || m.Started.IsZero() {
		return "", false, ignoreMissing(err) // on its way, but its kubelet was never started
	}
	if nodeName == "" {
		nodeName = trust.NodeName
	}
	if nodeName != trust.NodeName {
		return "", false, nil
	}
	ok, err := usable(nodeName)
	return nodeName, ok, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// MaxFile bounds what is read of one file.
const MaxFile = 4 << 20

// ReadJSON returns false for a file that is missing or no JSON of this kind.
func ReadJSON(path string, into any) (bool, error) {
	data, err := atomicfile.Read(path, MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.New(fault.WriteFailed, "cannot read %s: %w", path, err)
	}
	return json.Unmarshal(data, into) == nil, nil
}

// WriteJSON writes a value as JSON, whole and durable, for root alone.
func WriteJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	_, err = atomicfile.Write(path, append(data, '\n'), 0o600)
	return err
}

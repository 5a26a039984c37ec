package kubelet

import (
	"bytes"
	"fmt"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Layers is what a kubelet puts its configuration together from, in the order in
// which it takes effect: the file, the drop-ins of its --config-dir, its
// arguments. What the last of them says that says something is the case.
type Layers struct {
	Config  []byte
	DropIns [][]byte
	Args    []string
}

// documents hands over the file and the drop-ins, parsed, one after the other;
// empty ones say nothing and are left out. what names them in errors.
func (l Layers) documents(take func(what string, doc document) error) error {
	for i, data := range append([][]byte{l.Config}, l.DropIns...) {
		if len(bytes.TrimSpace(data)) == 0 {
			continue
		}
		what := "kubelet configuration"
		if i > 0 {
			what = fmt.Sprintf("drop-in %d of the kubelet configuration", i)
		}
		doc, err := parseDocument(data)
		if err != nil {
			return fault.New(fault.ConfigInvalid, "%s: %w", what, err)
		}
		if err := take(what, doc); err != nil {
			return err
		}
	}
	return nil
}

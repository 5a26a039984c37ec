package kubelet

import (
	"fmt"
	"path/filepath"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Effective is what of the kubelet's configuration decides whether the API
// server can reach it.
type Effective struct {
	// ClientCAFile: whose clients the kubelet lets in.
	ClientCAFile string
	// ServerTLSBootstrap: its serving certificate comes from the cluster, and
	// until then it has none.
	ServerTLSBootstrap bool
}

// EffectiveOf reads a configuration as the kubelet puts it together: the file,
// the drop-ins, the arguments, the last one that says something wins. dir is
// the file's folder, from where relative paths begin.
func EffectiveOf(in HealthInput, dir string) (Effective, error) {
	var e Effective
	for i, data := range append([][]byte{in.Config}, in.DropIns...) {
		if len(data) == 0 {
			continue
		}
		parsed, err := parseDocument(data)
		if err != nil {
			return e, fault.New(fault.ConfigInvalid, "kubelet configuration (drop-in %d): %w", i, err)
		}
		doc := document(parsed)
		path, err := doc.get("authentication.x509.clientCAFile")
		if err != nil {
			return e, fmt.Errorf("kubelet configuration (drop-in %d): %w", i, err)
		}
		if path, ok := path.(string); ok && path != "" {
			e.ClientCAFile = path
		}
		if on, ok := doc["serverTLSBootstrap"].(bool); ok {
			e.ServerTLSBootstrap = on
		}
	}
	for _, arg := range in.Args {
		value, given := cutFlag(arg)
		switch flagName(arg) {
		case "client-ca-file":
			e.ClientCAFile = value
		case "rotate-server-certificates":
			e.ServerTLSBootstrap = !given || value == "true"
		}
	}
	if e.ClientCAFile != "" && !filepath.IsAbs(e.ClientCAFile) {
		e.ClientCAFile = filepath.Join(dir, e.ClientCAFile)
	}
	return e, nil
}

package kubelet

import (
	"fmt"
	"path/filepath"
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

// Effective reads what these layers amount to. dir is the file's folder, from
// where relative paths begin.
func (l Layers) Effective(dir string) (Effective, error) {
	var e Effective
	err := l.documents(func(what string, doc document) error {
		path, err := doc.get("authentication.x509.clientCAFile")
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if path, ok := path.(string); ok && path != "" {
			e.ClientCAFile = path
		}
		if on, ok := doc["serverTLSBootstrap"].(bool); ok {
			e.ServerTLSBootstrap = on
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	for _, arg := range l.Args {
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

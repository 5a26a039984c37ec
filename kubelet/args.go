package kubelet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// Spec is what decides the kubelet's command line.
type Spec struct {
	Layout    Layout
	NodeName  string
	ConfigDir string // the kubelet's --config-dir; only when the folder exists, or the kubelet exits
	Labels    []Label
	NodeIP    string
	Extra     []string // checked by CheckExtraArgs
}

// Arguments returns the kubelet's words without the binary, in a stable order,
// the operator's own last so that they can override what the file says.
func Arguments(s Spec) []string {
	args := []string{
		"--config=" + s.Layout.ConfigFile(),
		"--kubeconfig=" + s.Layout.Kubeconfig(),
		"--cert-dir=" + s.Layout.PKI(),
		"--rotate-certificates=true",
		"--hostname-override=" + s.NodeName,
	}
	if s.ConfigDir != "" {
		args = append(args, "--config-dir="+s.ConfigDir)
	}
	if len(s.Labels) > 0 {
		labels := slices.SortedFunc(slices.Values(s.Labels), func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
		args = append(args, "--node-labels="+formatLabels(labels))
	}
	if s.NodeIP != "" {
		args = append(args, "--node-ip="+s.NodeIP)
	}
	return append(args, s.Extra...)
}

// managed are the flags that must not come by kubelet.extraArgs, each with the
// way to say the same.
var managed = map[string]string{
	"bootstrap-kubeconfig":       "the agent itself gets the certificate",
	"cert-dir":                   "managed by the agent",
	"config":                     "use kubelet.configFile",
	"config-dir":                 "use kubelet.configDir",
	"container-runtime-endpoint": "use kubelet.containerRuntimeEndpoint",
	"help":                       "the kubelet would only print its help",
	"hostname-override":          "use nodeName",
	"kubeconfig":                 "managed by the agent",
	"node-ip":                    "use nodeIP",
	"node-labels":                "use nodeLabels",
	"register-with-taints":       "use nodeTaints",
	"rotate-certificates":        "managed by the agent",
	"version":                    "the kubelet would only print its version",
}

// CheckExtraArgs checks kubelet.extraArgs: one flag an entry, its value after
// an equals sign, none that the agent manages. Flags that are unknown here
// pass: they differ from version to version, and the kubelet names the ones it
// does not know. All faults come at once.
func CheckExtraArgs(entries []string) error {
	var found []error
	for i, entry := range entries {
		bad := func(format string, args ...any) {
			found = append(found, fmt.Errorf("kubelet.extraArgs[%d] %s: %s", i, fault.Quote(flagOnly(entry)), fmt.Sprintf(format, args...)))
		}
		name := flagName(entry)
		switch {
		case entry == "":
			bad("is empty")
		case control(entry):
			bad("contains a control character or is no UTF-8")
		case len(entry) > maxArgument:
			bad("has %d bytes; one argument of a program holds %d", len(entry), maxArgument)
		case !strings.HasPrefix(entry, "-"):
			bad("is no flag; write --flag=value as one entry")
		case name == "":
			bad("names no flag")
		case entry == "-h" || entry == "-V":
			bad("the kubelet would only print and exit")
		case managed[name] != "":
			bad("is not for extraArgs: %s", managed[name])
		}
	}
	return joined(found)
}

// flagName is the name as the kubelet understands it: it takes underscores for
// dashes.
func flagName(entry string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(entry, "-"), "=")
	return strings.ReplaceAll(strings.TrimSpace(name), "_", "-")
}

// flagOnly is an entry without its value: messages go into logs, and a value
// is none of their business.
func flagOnly(entry string) string {
	if name, _, ok := strings.Cut(entry, "="); ok && strings.HasPrefix(entry, "-") {
		return name + "=..."
	}
	return entry
}

// cutFlag returns the value of --flag=value; ok is false without one.
func cutFlag(entry string) (value string, ok bool) {
	if !strings.HasPrefix(entry, "-") {
		return "", false
	}
	_, value, ok = strings.Cut(entry, "=")
	return value, ok
}

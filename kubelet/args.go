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

// keyOf are the flags that have a key of the agent's configuration of their own.
var keyOf = map[string]string{
	"config":                     "kubelet.configFile",
	"config-dir":                 "kubelet.configDir",
	"container-runtime-endpoint": "kubelet.containerRuntimeEndpoint",
	"hostname-override":          "nodeName",
	"node-ip":                    "nodeIP",
	"node-labels":                "nodeLabels",
	"register-with-taints":       "nodeTaints",
}

// KeyFor names the key of the agent's configuration that says what a flag says.
func KeyFor(flag string) string {
	if key := keyOf[flagName(flag)]; key != "" {
		return key
	}
	return "kubelet.extraArgs"
}

// managed are the other flags that must not come by kubelet.extraArgs, each with
// the reason.
var managed = map[string]string{
	"bootstrap-kubeconfig": "the agent itself gets the certificate",
	"cert-dir":             "managed by the agent",
	"help":                 "the kubelet would only print its help",
	"kubeconfig":           "managed by the agent",
	"rotate-certificates":  "managed by the agent",
	"version":              "the kubelet would only print its version",
}

// Overridden returns those of words that would take from the agent what it
// decides, since the kubelet believes the last of two equal flags: which node it
// is, with which identity and configuration. words are what an administrator
// adds behind ours (the words of $KUBELET_EXTRA_ARGS), ours those of Arguments.
// A flag that says the same as ours is none of them.
func Overridden(words, ours []string) []string {
	decided := map[string]string{}
	for _, word := range ours {
		if value, ok := cutFlag(word); ok {
			decided[flagName(word)] = value
		}
	}
	var found []string
	for i, word := range words {
		name := flagName(word)
		if word == "-h" || word == "-V" {
			found = append(found, word)
		}
		if !strings.HasPrefix(word, "-") || managed[name] == "" && name != "config" && name != "hostname-override" {
			continue
		}
		value, given := cutFlag(word)
		if !given && name == "rotate-certificates" {
			value = "true" // a switch takes no second word
		} else if !given && i+1 < len(words) {
			value = words[i+1]
		}
		if want, ok := decided[name]; !ok || want != value {
			found = append(found, "--"+name+"="+value)
		}
	}
	return found
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
		case keyOf[name] != "":
			bad("is not for extraArgs: use %s", keyOf[name])
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

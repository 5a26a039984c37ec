package kubelet

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxArgument is Linux's limit for one word of a command line (MAX_ARG_STRLEN
// with its final NUL); all labels together are one word.
const maxArgument = 128<<10 - 1

// Label is one entry of nodeLabels.
type Label struct{ Key, Value string }

// String is the form of the flag --node-labels.
func (l Label) String() string { return l.Key + "=" + l.Value }

// Taint is one entry of nodeTaints.
type Taint struct{ Key, Value, Effect string }

// String is the form of the configuration: key[=value]:Effect.
func (t Taint) String() string {
	if t.Value == "" {
		return t.Key + ":" + t.Effect
	}
	return t.Key + "=" + t.Value + ":" + t.Effect
}

// kubeletLabels are the keys in the namespaces of Kubernetes that a kubelet may
// give its own Node; kubeletNamespaces are the namespaces (with everything
// below them) in which it is free. The kubelet exits on any other.
var (
	kubeletLabels = []string{
		"beta.kubernetes.io/arch",
		"beta.kubernetes.io/instance-type",
		"beta.kubernetes.io/os",
		"failure-domain.beta.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone",
		"kubernetes.io/arch",
		"kubernetes.io/hostname",
		"kubernetes.io/os",
		"node.kubernetes.io/instance-type",
		"topology.kubernetes.io/region",
		"topology.kubernetes.io/zone",
	}
	kubeletNamespaces = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
)

// ParseLabels reads nodeLabels: one "key=value" an entry, by the rules of the
// kubelet, which would exit on what is refused here. All faults come at once,
// each with entry and rule. The result is sorted by key.
func ParseLabels(entries []string) ([]Label, error) {
	var labels []Label
	var found []error
	first := map[string]int{}
	for i, entry := range entries {
		bad := func(format string, args ...any) {
			found = append(found, fmt.Errorf("nodeLabels[%d] %s: %s", i, fault.Quote(entry), fmt.Sprintf(format, args...)))
		}
		key, value, _ := strings.Cut(entry, "=")
		switch {
		case strings.TrimSpace(entry) != entry || entry == "":
			bad("must be key=value without spaces around it")
			continue
		case strings.Contains(entry, ","):
			bad("one label an entry: no commas")
			continue
		}
		if problems := validation.IsQualifiedName(key); len(problems) > 0 {
			bad("key: %s", problems[0])
			continue
		}
		if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
			bad("value: %s", problems[0])
			continue
		}
		if ns := namespace(key); kubernetesNamespace(ns) && !kubeletMayLabel(key) {
			hint := "set it from outside: kubectl label node NAME " + key + "=" + value
			bad("a kubelet must not give itself this label (allowed under kubernetes.io and k8s.io: below %s, and %s); %s",
				strings.Join(kubeletNamespaces, ", "), strings.Join(kubeletLabels, ", "), hint)
			continue
		}
		if at, dup := first[key]; dup {
			bad("key stands in nodeLabels[%d] already", at)
			continue
		}
		first[key] = i
		labels = append(labels, Label{key, value})
	}
	slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
	if n := len(formatLabels(labels)); n > maxArgument-len("--node-labels=") {
		found = append(found, fmt.Errorf("nodeLabels: all together have %d bytes; one argument of a program holds %d", n, maxArgument))
	}
	if err := joined(found); err != nil {
		return nil, err
	}
	return labels, nil
}

func formatLabels(labels []Label) string {
	words := make([]string, len(labels))
	for i, l := range labels {
		words[i] = l.String()
	}
	return strings.Join(words, ",")
}

func namespace(key string) string {
	ns, _, ok := strings.Cut(key, "/")
	if !ok {
		return ""
	}
	return ns
}

func kubernetesNamespace(ns string) bool {
	return within(ns, "kubernetes.io") || within(ns, "k8s.io")
}

func kubeletMayLabel(key string) bool {
	ns := namespace(key)
	return slices.Contains(kubeletLabels, key) || slices.ContainsFunc(kubeletNamespaces, func(a string) bool { return within(ns, a) })
}

func within(ns, parent string) bool { return ns == parent || strings.HasSuffix(ns, "."+parent) }

// effects of a taint.
var effects = []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}

// ParseTaints reads nodeTaints: one "key[=value]:Effect" an entry. All faults
// come at once, each with entry and rule. The order is kept.
func ParseTaints(entries []string) ([]Taint, error) {
	var taints []Taint
	var found []error
	first := map[string]int{}
	for i, entry := range entries {
		bad := func(format string, args ...any) {
			found = append(found, fmt.Errorf("nodeTaints[%d] %s: %s", i, fault.Quote(entry), fmt.Sprintf(format, args...)))
		}
		body, effect, ok := strings.Cut(entry, ":")
		key, value, _ := strings.Cut(body, "=")
		switch {
		case strings.HasSuffix(entry, "-"):
			bad("takes a taint away; a node that registers can only be given some")
			continue
		case !ok:
			bad("must be key=value:Effect or key:Effect")
			continue
		case !slices.Contains(effects, effect):
			bad("effect must be one of %s", strings.Join(effects, ", "))
			continue
		}
		if problems := validation.IsQualifiedName(key); len(problems) > 0 {
			bad("key: %s", problems[0])
			continue
		}
		if problems := validation.IsValidLabelValue(value); len(problems) > 0 {
			bad("value: %s", problems[0])
			continue
		}
		if at, dup := first[key+":"+effect]; dup {
			bad("key and effect stand in nodeTaints[%d] already", at)
			continue
		}
		first[key+":"+effect] = i
		taints = append(taints, Taint{key, value, effect})
	}
	if err := joined(found); err != nil {
		return nil, err
	}
	return taints, nil
}

package main

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// kubeletFlag is one of kubeletExtraArgs that has a key of ours.
type kubeletFlag struct {
	key, value, field string
	at                *yaml.Node
}

// nodeName is made lower case, as kubeadm makes it.
func (j *joinJudge) nodeName(field string, n *yaml.Node) {
	if text, ok := j.word(field, n); ok && strings.TrimSpace(text) != "" {
		j.set("nodeName", nodeNameOf(text), field, n)
	}
}

func nodeNameOf(text string) string { return strings.ToLower(strings.TrimSpace(text)) }

// criSocket gets the scheme that kubeadm puts before a bare path, too.
func (j *joinJudge) criSocket(field string, n *yaml.Node) {
	if text, ok := j.word(field, n); ok && text != "" {
		j.set("kubelet.containerRuntimeEndpoint", socketOf(text), field, n)
	}
}

func socketOf(text string) string {
	if strings.HasPrefix(text, "/") {
		return "unix://" + text
	}
	return text
}

// extraArgs are name and value; what has a key of ours goes there, since the agent
// has to know it, the rest to kubelet.extraArgs in the same order.
func (j *joinJudge) extraArgs(field string, n *yaml.Node) {
	switch n.Kind {
	case yaml.SequenceNode:
	case yaml.MappingNode:
		if len(n.Content) > 0 {
			j.fault(n.Line, field, "must be a list of name and value in %s (as a map it is v1beta3)", kubeadmVersion)
		}
		return
	default:
		j.fault(n.Line, field, "must be a list of name and value")
		return
	}
	for i, item := range n.Content {
		at := element(field, i)
		parts := map[string]string{}
		take := func(j *joinJudge, field string, n *yaml.Node) {
			if text, ok := j.word(field, n); ok {
				parts[field[strings.LastIndexByte(field, '.')+1:]] = text
			}
		}
		before := len(j.problems)
		j.walk(item, at, []joinField{{name: "name", judge: take}, {name: "value", judge: take}})
		if len(j.problems) > before {
			continue
		}
		name := parts["name"]
		value, valued := parts["value"]
		key := kubelet.KeyFor("--" + name)
		switch {
		case name == "":
			j.fault(item.Line, at+".name", "is missing")
		case strings.HasPrefix(name, "-") || strings.ContainsAny(name, "= "):
			j.fault(item.Line, at+".name", "must be the bare name of a flag, without dashes before it and without its value")
		case !valued:
			j.fault(item.Line, at+".value", "is missing")
		case key == "kubelet.extraArgs":
			j.add(key, "--"+name+"="+value, at, item)
		default:
			j.flags = append(j.flags, kubeletFlag{key, value, at, item})
		}
	}
}

// keyed takes a flag over into its key. For kubeadm such a flag wins over the field
// that says the same; here two different answers are one too many.
func (j *joinJudge) keyed(f kubeletFlag) {
	value := any(f.value)
	switch f.key {
	case "nodeName":
		value = nodeNameOf(f.value)
	case "kubelet.containerRuntimeEndpoint":
		value = socketOf(f.value)
	case "kubelet.configFile":
		if f.value == (kubelet.Layout{Dir: kubelet.DefaultDir}).ConfigFile() {
			j.note(f.field, "means nothing here: the agent writes that file")
			return
		}
	}
	if value == "" {
		return
	}
	if first, twice := j.file.stands[f.key]; twice {
		if j.file.values[f.key] != value {
			j.fault(f.at.Line, f.field, "says again what %s says (line %d): say it once", first.field, first.line)
		}
		return
	}
	if f.key != "nodeLabels" && f.key != "nodeTaints" {
		j.set(f.key, value, f.field, f.at)
		return
	}
	for word := range strings.SplitSeq(f.value, ",") {
		if word = strings.TrimSpace(word); word != "" {
			j.add(f.key, word, f.field, f.at)
		}
	}
}

// together judges what depends on more than one field.
func (j *joinJudge) together(root *yaml.Node) {
	const (
		bootstrap, file = "discovery.bootstrapToken", "discovery.file.kubeConfigPath"
		tls             = "discovery.tlsBootstrapToken"
	)
	own, ownGiven := j.given[bootstrap]
	_, fileGiven := j.given[file]
	switch {
	case ownGiven && fileGiven:
		j.fault(j.given[file].Line, "discovery.file", "excludes discovery.bootstrapToken: say one of them")
	case !ownGiven && !fileGiven:
		j.fault(root.Line, "discovery", "must say bootstrapToken or file")
	}
	if ownGiven {
		for _, name := range []string{"token", "apiServerEndpoint"} {
			if j.given[bootstrap+"."+name] == nil {
				j.fault(own.Line, bootstrap+"."+name, "is missing")
			}
		}
		pins, unsafe := j.given[bootstrap+".caCertHashes"], j.given[bootstrap+".unsafeSkipCAVerification"]
		switch {
		case pins == nil && unsafe == nil:
			j.fault(own.Line, bootstrap+".caCertHashes", "is missing (bootstrap-agent check --cluster shows the pins); kubeadm refuses such a file, too, without unsafeSkipCAVerification: true")
		case pins != nil && unsafe != nil:
			j.note(bootstrap+".unsafeSkipCAVerification", "means nothing beside caCertHashes, which count")
		case unsafe != nil:
			j.set("unsafeSkipCAVerification", true, bootstrap+".unsafeSkipCAVerification", unsafe)
		}
	}
	for _, f := range j.flags {
		j.keyed(f)
	}
	token := j.parseToken(bootstrap + ".token")
	other := j.parseToken(tls)
	switch {
	case token.IsZero():
		j.file.token = other
	case !other.IsZero() && !token.Equal(other):
		j.fault(j.given[tls].Line, tls, "is another token than discovery.bootstrapToken.token; here one does both: kubeadm token create makes it, with the usages signing and authentication")
	default:
		j.file.token = token
	}
}

func (j *joinJudge) parseToken(field string) discovery.Token {
	n := j.given[field]
	if n == nil || n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return discovery.Token{}
	}
	token, err := discovery.ParseToken(n.Value)
	if err != nil {
		j.fault(n.Line, field, "%s", strings.TrimPrefix(ruleOf(err, n.Value), "the bootstrap token "))
	}
	return token
}

package main

import (
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

// joinField is one field of a JoinConfiguration: what becomes of it here.
type joinField struct {
	name  string
	judge func(j *joinJudge, field string, n *yaml.Node)
	gone  string // set: not of this version; it is never suggested
}

const (
	kubeadmCAPath = "/etc/kubernetes/pki/ca.crt" // kubeadm's default for caCertPath
	workersOnly   = "this is a file for a control-plane node; this agent joins workers. Take controlPlane out to join this machine as a worker, or join it with kubeadm"
	noPatience    = "means nothing here: the agent keeps trying. For a limit: bootstrap-agent join --timeout, bootstrap-agent wait --timeout"
)

// joinFields is v1beta4, whole: a field that is not here does not exist.
func joinFields() []joinField {
	return []joinField{
		{name: "apiVersion", judge: said},
		{name: "kind", judge: said},
		{name: "dryRun", judge: whenTrue("nothing is dry here: bootstrap-agent check --config, --machine and --cluster look and change nothing. Take it out")},
		{name: "nodeRegistration", judge: section(
			joinField{name: "name", judge: (*joinJudge).nodeName},
			joinField{name: "criSocket", judge: (*joinJudge).criSocket},
			joinField{name: "taints", judge: (*joinJudge).taints},
			joinField{name: "kubeletExtraArgs", judge: (*joinJudge).extraArgs},
			joinField{name: "ignorePreflightErrors", judge: ignoredTexts("means nothing here: the agent's checks stop no join (bootstrap-agent check --machine)")},
			joinField{name: "imagePullPolicy", judge: ignoredText("", "Always", "IfNotPresent", "Never")},
			joinField{name: "imagePullSerial", judge: whenTrue("")},
		)},
		{name: "caCertPath", judge: (*joinJudge).caCertPath},
		{name: "discovery", judge: section(
			joinField{name: "bootstrapToken", judge: (*joinJudge).bootstrapToken},
			joinField{name: "file", judge: section(joinField{name: "kubeConfigPath", judge: (*joinJudge).kubeConfigPath})},
			joinField{name: "tlsBootstrapToken", judge: (*joinJudge).keep},
			joinField{name: "timeout", gone: "v1beta3", judge: refused("is of v1beta3 (timeouts.discovery today), and neither is needed: the agent keeps trying. Take it out")},
		)},
		{name: "controlPlane", judge: refused(workersOnly)},
		{name: "skipPhases", judge: refusedList("the agent has no phases to skip. Take it out")},
		{name: "patches", judge: section(joinField{name: "directory", judge: refusedText("no patch engine is here: what patches the kubelet's configuration belongs into a drop-in, in a folder that --kubelet-config-dir names. Take it out")})},
		{name: "timeouts", judge: timeouts},
	}
}

// said is for what was read before.
func said(*joinJudge, string, *yaml.Node) {}

func section(fields ...joinField) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) { j.walk(n, field, fields) }
}

// refused is for what cannot be had here, whatever it says.
func refused(why string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) { j.fault(n.Line, field, "%s", why) }
}

func refusedText(why string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) {
		if text, ok := j.word(field, n); ok && text != "" {
			j.fault(n.Line, field, "%s", why)
		}
	}
}

func refusedList(why string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) {
		if n.Kind != yaml.SequenceNode || len(n.Content) > 0 {
			j.fault(n.Line, field, "%s", why)
		}
	}
}

// whenTrue refuses true where there is a reason; false says what is the case.
func whenTrue(why string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) {
		if value, ok := j.flag(field, n); ok && value && why != "" {
			j.fault(n.Line, field, "%s", why)
		}
	}
}

// ignoredTexts is a list that means nothing here; one that says nothing is not
// worth a word.
func ignoredTexts(why string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) {
		if len(j.texts(field, n)) > 0 {
			j.note(field, why)
		}
	}
}

// ignoredText is about images that kubeadm pulls for a control plane.
func ignoredText(allowed ...string) func(*joinJudge, string, *yaml.Node) {
	return func(j *joinJudge, field string, n *yaml.Node) {
		if text, ok := j.word(field, n); ok && !contains(allowed, text) {
			j.fault(n.Line, field, "must be one of: %s", words(allowed))
		}
	}
}

// timeouts are kubeadm's patience. Its defaults, which kubeadm writes into every
// file it makes, are not worth a word.
func timeouts(j *joinJudge, field string, n *yaml.Node) {
	defaults := map[string]time.Duration{
		"controlPlaneComponentHealthCheck": 4 * time.Minute, "kubeletHealthCheck": 4 * time.Minute, "kubernetesAPICall": time.Minute,
		"etcdAPICall": 2 * time.Minute, "tlsBootstrap": 5 * time.Minute, "discovery": 5 * time.Minute, "upgradeManifests": 5 * time.Minute,
	}
	fields := make([]joinField, 0, len(defaults))
	other := false
	for name, usual := range defaults {
		fields = append(fields, joinField{name: name, judge: func(j *joinJudge, field string, n *yaml.Node) {
			text, ok := j.word(field, n)
			if !ok {
				return
			}
			d, err := time.ParseDuration(text)
			if err != nil {
				j.fault(n.Line, field, "must be a duration, such as 5m0s")
			}
			other = other || d != usual
		}})
	}
	j.walk(n, field, fields)
	if other {
		j.note(field, noPatience)
	}
}

func (j *joinJudge) flag(field string, n *yaml.Node) (value, ok bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		j.fault(n.Line, field, "must be true or false, without quotes")
		return false, false
	}
	return strings.EqualFold(n.Value, "true"), true
}

// texts reads a list of texts; none where one of them is no text.
func (j *joinJudge) texts(field string, n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		j.fault(n.Line, field, "must be a list")
		return nil
	}
	before := len(j.problems)
	for i, item := range n.Content {
		j.word(element(field, i), item)
	}
	if len(j.problems) > before {
		return nil
	}
	return n.Content
}

// keep remembers a text that is judged together with others.
func (j *joinJudge) keep(field string, n *yaml.Node) {
	if text, ok := j.word(field, n); ok && text == "" {
		return
	}
	j.given[field] = n // also a broken one: that it is missing would be a second complaint
}

// taints of a worker: none where there are none. (Only a control-plane node gets
// one by default.)
func (j *joinJudge) taints(field string, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		j.fault(n.Line, field, "must be a list of taints")
		return
	}
	for i, item := range n.Content {
		parts := map[string]string{}
		take := func(j *joinJudge, field string, n *yaml.Node) {
			if text, ok := j.word(field, n); ok {
				parts[field[strings.LastIndexByte(field, '.')+1:]] = text
			}
		}
		before := len(j.problems)
		j.walk(item, element(field, i), []joinField{
			{name: "key", judge: take}, {name: "value", judge: take}, {name: "effect", judge: take},
			{name: "timeAdded", judge: refused("is the control plane's to set. Take it out")},
		})
		if len(j.problems) == before {
			j.add("nodeTaints", kubelet.Taint{Key: parts["key"], Value: parts["value"], Effect: parts["effect"]}.String(), element(field, i), item)
		}
	}
}

func (j *joinJudge) caCertPath(field string, n *yaml.Node) {
	if text, ok := j.word(field, n); ok && text != "" && text != kubeadmCAPath {
		j.fault(n.Line, field, "the agent writes the cluster's CA to /var/lib/kubelet/pki/ca.crt alone. Take it out, and point there whoever else reads that CA")
	}
}

func (j *joinJudge) bootstrapToken(field string, n *yaml.Node) {
	j.given[field] = n
	j.walk(n, field, []joinField{
		{name: "token", judge: (*joinJudge).keep},
		{name: "apiServerEndpoint", judge: func(j *joinJudge, field string, n *yaml.Node) {
			if j.keep(field, n); j.given[field] != nil {
				j.add("endpoints", n.Value, field, n)
			}
		}},
		{name: "caCertHashes", judge: func(j *joinJudge, field string, n *yaml.Node) {
			if n.Kind != yaml.SequenceNode || len(n.Content) > 0 {
				j.given[field] = n // also a broken one
			}
			for i, item := range j.texts(field, n) {
				j.add("caCertHashes", item.Value, element(field, i), item)
			}
		}},
		{name: "unsafeSkipCAVerification", judge: func(j *joinJudge, field string, n *yaml.Node) {
			if value, ok := j.flag(field, n); !ok || value {
				j.given[field] = n
			}
		}},
	})
}

// kubeConfigPath may be a URL for kubeadm: of a file, or one to download.
func (j *joinJudge) kubeConfigPath(field string, n *yaml.Node) {
	text, ok := j.word(field, n)
	j.given[field] = n
	scheme, rest, isURL := strings.Cut(text, "://")
	switch {
	case !ok:
	case strings.EqualFold(scheme, "file") && isURL:
		j.set("discoveryFile", rest, field, n)
	case isURL:
		j.fault(n.Line, field, "nothing is downloaded: put the kubeconfig on this machine (0600, say /etc/bootstrap-agent/cluster.kubeconfig) and name it here")
	case !filepath.IsAbs(text):
		j.fault(n.Line, field, "must be an absolute path")
	default:
		j.set("discoveryFile", text, field, n)
	}
}

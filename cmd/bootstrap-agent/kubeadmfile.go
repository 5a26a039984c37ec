package main

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
)

// The one form of a JoinConfiguration that is read.
const (
	kubeadmGroup   = "kubeadm.k8s.io"
	kubeadmVersion = "v1beta4"
	joinKind       = "JoinConfiguration"
)

// joinFile is what a file for `kubeadm join --config` says, in terms of our keys.
type joinFile struct {
	path   string
	values map[string]any   // string, bool or []string by the name of our key
	stands map[string]stand // where in the file each was said
	token  discovery.Token  // zero: the file has none
	notes  []string         // what means nothing here
}

// stand is where a value stands in the file, under kubeadm's own name.
type stand struct {
	field string
	line  int
}

// element is the place of one element of a list of ours in joinFile.stands.
func element(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// parseJoinFile reads a file for `kubeadm join --config`. Everything that is wrong
// comes back together, with line and field, never with a value: one of them is
// the token.
func parseJoinFile(path string, data []byte) (joinFile, []problem) {
	j := &joinJudge{
		yamlJudge: yamlJudge{path: path},
		file:      joinFile{path: path, values: map[string]any{}, stands: map[string]stand{}},
		given:     map[string]*yaml.Node{},
	}
	if root := j.joinDocument(j.documents(data)); root != nil {
		j.walk(root, "", joinFields())
		j.together(root)
	}
	return j.file, j.problems
}

// joinJudge walks a JoinConfiguration against the table of its fields.
type joinJudge struct {
	yamlJudge
	file  joinFile
	given map[string]*yaml.Node // what is decided together with other fields, by field
	flags []kubeletFlag         // of kubeletExtraArgs that have a key of ours
}

// joinDocument finds the one JoinConfiguration and says about every other
// document why it does not count, or must not be there.
func (j *joinJudge) joinDocument(all []*yaml.Node) (root *yaml.Node) {
	before := len(j.problems)
	for _, document := range all {
		if len(document.Content) != 1 || document.Content[0].ShortTag() == "!!null" {
			continue
		}
		top := document.Content[0]
		if top.Kind != yaml.MappingNode {
			j.fault(top.Line, "", "a document must be a list of `key: value` lines")
			continue
		}
		group, version, kind := header(top)
		known := group + "/" + kind
		switch {
		case kind == "" || version == "":
			j.fault(top.Line, "", "this document does not say what it is: apiVersion and kind are wanted")
		case known == kubeadmGroup+"/"+joinKind:
			if root != nil {
				j.fault(top.Line, "", "a second JoinConfiguration begins here; one is wanted")
				continue
			}
			root = top
			j.version(top.Line, version)
			j.plain(document)
		case known == "kubelet.config.k8s.io/KubeletConfiguration":
			j.fault(top.Line, "", "a KubeletConfiguration: `kubeadm join` ignores it, the cluster's kubelet-config counts. "+
				"Take it out; where it shall count, put it into a file of its own and name that with --kubelet-config-file")
		case group == kubeadmGroup && slices.Contains([]string{"InitConfiguration", "ClusterConfiguration", "ResetConfiguration", "UpgradeConfiguration"}, kind),
			known == "kubeproxy.config.k8s.io/KubeProxyConfiguration":
			j.note(kind, "is not for a worker that joins; `kubeadm join` ignores it, too")
		case showable(kind):
			j.fault(top.Line, "", "a document of kind %s: it is not for `kubeadm join`", kind)
		default:
			j.fault(top.Line, "", "a document of an unknown kind: it is not for `kubeadm join`")
		}
	}
	switch {
	case len(j.problems) > before:
		return nil
	case root == nil:
		j.fault(0, "", "there is no JoinConfiguration in it")
	}
	return root
}

// header reads what a document says it is; what is no plain text counts as not
// said.
func header(top *yaml.Node) (group, version, kind string) {
	for i := 0; i+1 < len(top.Content); i += 2 {
		name, value := top.Content[i], top.Content[i+1]
		if name.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str" {
			continue
		}
		switch name.Value {
		case "kind":
			kind = value.Value
		case "apiVersion":
			var grouped bool
			if group, version, grouped = strings.Cut(value.Value, "/"); !grouped {
				group, version = "", value.Value
			}
		}
	}
	return group, version, kind
}

// version refuses other forms than the one that is read.
func (j *joinJudge) version(line int, version string) {
	older := map[string]string{ // the last kubeadm that reads each
		"v1alpha1": "1.11", "v1alpha2": "1.12", "v1alpha3": "1.14", "v1beta1": "1.21", "v1beta2": "1.26", "v1beta3": "",
	}
	last, old := older[version]
	if version == kubeadmVersion {
		return
	}
	if !old {
		j.fault(line, "apiVersion", "must be %s/%s", kubeadmGroup, kubeadmVersion)
		return
	}
	from := j.path
	if strings.ContainsFunc(from, func(r rune) bool { return !strings.ContainsRune("/._-", r) && !alphanumeric(r) }) || from == stdinName {
		from = "join.yaml"
	}
	text := "is " + version + "; " + kubeadmVersion + " is read: kubeadm config migrate --old-config " + from + " --new-config join-" + kubeadmVersion + ".yaml"
	if last != "" {
		text += " (first with kubeadm " + last + ", the last that reads " + version + ")"
	}
	// migrate fills in what it sees where it runs.
	j.fault(line, "apiVersion", "%s", text+". Run elsewhere than on this machine, it writes the name and criSocket of where it runs: take those two out")
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// walk judges the fields of one mapping.
func (j *joinJudge) walk(n *yaml.Node, path string, fields []joinField) {
	if n.Kind != yaml.MappingNode {
		j.fault(n.Line, path, "must be a section with indented fields below it")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.ShortTag() != "!!str" {
			j.fault(name.Line, path, "a field's name must be a plain word")
			continue
		}
		if line, twice := seen[name.Value]; twice {
			j.fault(name.Line, shown(join(path, name.Value)), "is given twice (first at line %d)", line)
			continue
		}
		seen[name.Value] = name.Line
		at := slices.IndexFunc(fields, func(f joinField) bool { return f.name == name.Value })
		switch {
		case at < 0:
			j.unknownField(name, path, fields)
		case value.Kind == yaml.ScalarNode && value.ShortTag() == "!!null":
			// As if it were not there, as kubeadm itself writes `taints: null`.
		default:
			fields[at].judge(j, join(path, name.Value), value)
		}
	}
}

func (j *joinJudge) unknownField(name *yaml.Node, path string, fields []joinField) {
	var names []string
	for _, f := range fields {
		if f.gone == "" {
			names = append(names, f.name)
		}
	}
	near := nearest(name.Value, names)
	switch full := join(path, name.Value); {
	case !showable(name.Value):
		j.fault(name.Line, path, "unknown field (not shown: it does not look like one)")
	case near != "":
		j.fault(name.Line, full, "unknown field; did you mean %s?", join(path, near))
	default:
		j.fault(name.Line, full, "unknown field of %s %s", joinKind, kubeadmVersion)
	}
}

// word reads a text. What a YAML 1.1 parser, such as kubeadm's, takes for true or
// false is none without quotes.
func (j *joinJudge) word(field string, n *yaml.Node) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(n.Value)) {
		j.fault(n.Line, field, "must be a string: put it in quotes")
		return "", false
	}
	return j.text(field, n)
}

// set notes what the file says for a key of ours.
func (j *joinJudge) set(key string, value any, field string, n *yaml.Node) {
	j.file.values[key] = value
	j.file.stands[key] = stand{field, n.Line}
}

// add appends to a list of ours.
func (j *joinJudge) add(key, value, field string, n *yaml.Node) {
	list, _ := j.file.values[key].([]string)
	if len(list) == 0 {
		j.file.stands[key] = stand{field, n.Line}
	}
	j.file.stands[element(key, len(list))] = stand{field, n.Line}
	j.file.values[key] = append(list, value)
}

func (j *joinJudge) note(field, why string) {
	j.file.notes = append(j.file.notes, field+" "+why)
}

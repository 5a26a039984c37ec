package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// configMap is what is read of the API server's answer.
type configMap struct {
	Kind string `json:"kind"`
	Data data   `json:"data"`
}

// data is the part of a ConfigMap's data that is of interest. A stranger may fill
// it with as many keys as fit: kept whole, they would take twenty times the room
// of their text.
type data map[string]string

// maxTokenID is far more than a token's id has (6); longer ones are no ids.
const maxTokenID = 64

// UnmarshalJSON keeps the kubeconfig and its signatures, and drops the rest
// while it reads.
func (d *data) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, err := dec.Token(); err != nil || start == nil {
		return err // null is no data
	} else if start != json.Delim('{') {
		return errors.New("data is no object")
	}
	kept := data{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := key.(string) // an object's key is nothing else
		value, err := dec.Token()
		if err != nil {
			return err
		}
		if value == nil { // as a map of strings reads it
			value = ""
		}
		content, isText := value.(string)
		if !isText {
			return fmt.Errorf("data.%s is no text", printable(name))
		}
		if id, signature := strings.CutPrefix(name, signaturePrefix); signature && len(id) <= maxTokenID || name == kubeconfigKey {
			kept[name] = content
		}
	}
	*d = kept
	return nil
}

// parseConfigMap reads the answer. It checks no more than that it is a
// ConfigMap: what it holds is believed after its signature was checked.
func parseConfigMap(body []byte) (map[string]string, error) {
	var cm configMap
	if err := json.Unmarshal(body, &cm); err != nil {
		return nil, fault.New(fault.ServerError, "the answer is no JSON that fits a ConfigMap: %w", shown{err})
	}
	if cm.Kind != "ConfigMap" {
		return nil, fault.New(fault.ServerError, "the answer is no ConfigMap but of kind %s", fault.Quote(cm.Kind))
	}
	if cm.Data[kubeconfigKey] == "" {
		return nil, fault.New(fault.ClusterInfoInvalid, "data.kubeconfig is missing or empty in cluster-info")
	}
	return cm.Data, nil
}

// clusterEntry is the one cluster of the embedded kubeconfig.
type clusterEntry struct {
	server Endpoint
	ca     []byte // PEM as it came
}

// parseKubeconfig reads data.kubeconfig: one cluster with server and CA, and
// nothing else. A kubeconfig can name programs to run, files to read and
// proxies to use; whoever holds the token could sign one. So every field that
// is not expected is refused by its name, and so are the features of YAML that
// let a reader and a checker see two different documents.
func parseKubeconfig(text string) (clusterEntry, error) {
	c, err := decodeKubeconfig([]byte(text))
	if err != nil {
		return clusterEntry{}, fault.New(fault.ClusterInfoInvalid, "data.kubeconfig in cluster-info: %w", err)
	}
	return c, nil
}

// maxMarks bounds what begins a new thing in YAML: a list's entry, a field, a
// comment. A kubeconfig with one cluster has some dozens, and the base64 of its
// CAs none. The parser makes a hundred bytes and more of each, so a megabyte of
// "1,1,1" would be hundreds of them.
const maxMarks = 1000

func decodeKubeconfig(text []byte) (clusterEntry, error) {
	var none clusterEntry
	marks := 0
	for _, c := range text {
		if strings.IndexByte(",:?-#[{", c) >= 0 {
			marks++
		}
	}
	if marks > maxMarks {
		return none, fmt.Errorf("has %d marks like , : - [ in it; one cluster needs no more than %d", marks, maxMarks)
	}
	root, err := oneDocument(text)
	if err != nil {
		return none, err
	}
	top, err := fields(root, "", "apiVersion", "kind", "clusters", "contexts", "users", "preferences", "current-context")
	if err != nil {
		return none, err
	}
	for name, want := range map[string]string{"apiVersion": "v1", "kind": "Config"} {
		if n := top[name]; n != nil && (!isString(n) || n.Value != want) {
			return none, fmt.Errorf("%s is not %s", name, want)
		}
	}
	for _, name := range []string{"contexts", "users", "preferences", "current-context"} {
		if n := top[name]; n != nil && !isEmpty(n) {
			return none, fmt.Errorf("%s is not empty (line %d)", name, n.Line)
		}
	}
	list := top["clusters"]
	switch {
	case list == nil || isEmpty(list):
		return none, errors.New("clusters is missing or empty")
	case list.Kind != yaml.SequenceNode:
		return none, errors.New("clusters is no list")
	case len(list.Content) != 1:
		return none, fmt.Errorf("clusters has %d entries, not one", len(list.Content))
	}
	entry, err := fields(list.Content[0], "clusters[0]", "name", "cluster")
	if err != nil {
		return none, err
	}
	if n := entry["name"]; n != nil && !isString(n) && !isEmpty(n) {
		return none, errors.New("clusters[0].name is no text")
	}
	if entry["cluster"] == nil {
		return none, errors.New("clusters[0].cluster is missing")
	}
	return readCluster(entry["cluster"])
}

func readCluster(n *yaml.Node) (clusterEntry, error) {
	const at = "clusters[0].cluster"
	var none clusterEntry
	cluster, err := fields(n, at, "server", "certificate-authority-data")
	if err != nil {
		return none, err
	}
	server, err := textOf(cluster["server"], at+".server")
	if err != nil {
		return none, err
	}
	e, err := parseServer(server)
	if err != nil {
		return none, fmt.Errorf("%s.server %s %w", at, showAddress(server), err)
	}
	data, err := textOf(cluster["certificate-authority-data"], at+".certificate-authority-data")
	if err != nil {
		return none, err
	}
	ca, err := decodeCA(data)
	if err != nil {
		return none, fmt.Errorf("%s.certificate-authority-data %w", at, err)
	}
	return clusterEntry{server: e, ca: ca}, nil
}

// oneDocument parses text into nodes, which keeps what a decoder into a struct
// would hide: doubled keys, aliases, the second document.
func oneDocument(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("holds no document")
	} else if err != nil {
		return nil, fmt.Errorf("is no YAML: %w", shown{err})
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("holds no document")
	}
	return doc.Content[0], nil
}

// fields returns the entries of a mapping. Only the allowed names may occur,
// spelled exactly so, each once.
func fields(n *yaml.Node, path string, allowed ...string) (map[string]*yaml.Node, error) {
	here := path
	if here == "" {
		here = "the document"
	} else {
		path += "."
	}
	if n.Kind != yaml.MappingNode || n.Anchor != "" {
		return nil, fmt.Errorf("%s is no plain mapping", here)
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case !isString(key) || !slices.Contains(allowed, key.Value):
			return nil, fmt.Errorf("%s is not allowed here (line %d)", printable(path+key.Value), key.Line)
		case out[key.Value] != nil:
			return nil, fmt.Errorf("%s stands twice (line %d)", path+key.Value, key.Line)
		case value.Kind == yaml.AliasNode || value.Anchor != "":
			return nil, fmt.Errorf("%s is an alias or an anchor (line %d)", path+key.Value, value.Line)
		}
		out[key.Value] = value
	}
	return out, nil
}

// textOf returns the value of a field that must be there and hold something.
func textOf(n *yaml.Node, path string) (string, error) {
	switch {
	case n == nil || isEmpty(n):
		return "", fmt.Errorf("%s is missing or empty", path)
	case !isString(n):
		return "", fmt.Errorf("%s is no text (line %d)", path, n.Line)
	}
	return n.Value, nil
}

func isString(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Anchor == "" && n.ShortTag() == "!!str"
}

// isEmpty reports null, "", {} and [].
func isEmpty(n *yaml.Node) bool {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.ShortTag() == "!!null" || n.ShortTag() == "!!str" && n.Value == ""
	case yaml.MappingNode, yaml.SequenceNode:
		return len(n.Content) == 0
	}
	return false
}

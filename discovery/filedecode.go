package discovery

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// ParseFile reads a discovery file, YAML or JSON: a kubeconfig with a server and
// its CA, and perhaps a user with a token. Which cluster and user count is
// decided as kubectl does, by current-context; a file without one may have one
// cluster, and one user. What would run a program, ask a proxy, show another
// identity or skip a verification is refused by the name of its field.
//
// A CA that is named by a path is read with read; a relative one lies beside the
// file, in dir. Errors never hold a value: it may be a secret.
func ParseFile(text []byte, dir string, read func(path string) ([]byte, error)) (*File, error) {
	f, err := decodeFile(text, dir, read)
	if _, known := fault.As(err); err != nil && !known {
		err = fault.New(fault.ConfigInvalid, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// HoldsToken reports whether a kubeconfig has a user with a token, whatever else
// is right or wrong with it.
func HoldsToken(text []byte) bool {
	var doc yaml.Node
	if len(text) > MaxFile || yaml.Unmarshal(text, &doc) != nil || len(doc.Content) != 1 {
		return false
	}
	users := child(doc.Content[0], "users")
	if users == nil || users.Kind != yaml.SequenceNode {
		return false
	}
	return slices.ContainsFunc(users.Content, func(entry *yaml.Node) bool {
		token := child(child(entry, "user"), "token")
		return token != nil && !isEmpty(token)
	})
}

// child returns the value of a key, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func decodeFile(text []byte, dir string, read func(path string) ([]byte, error)) (*File, error) {
	if len(text) > MaxFile {
		return nil, fmt.Errorf("is larger than %d bytes", MaxFile)
	}
	root, err := oneDocument(text)
	if err != nil {
		return nil, withoutValues(err)
	}
	if err := plainOnly(root); err != nil {
		return nil, err
	}
	top, err := record(root, "", "apiVersion", "kind", "clusters", "contexts", "users", "preferences", "current-context", "extensions")
	if err != nil {
		return nil, err
	}
	for name, want := range map[string]string{"apiVersion": "v1", "kind": "Config"} {
		if n := top[name]; n != nil && !isEmpty(n) && (!isString(n) || n.Value != want) {
			return nil, fmt.Errorf("%s is not %s", name, want)
		}
	}
	if n := top["preferences"]; n != nil && !isEmpty(n) {
		return nil, fmt.Errorf("preferences is not empty (line %d)", n.Line)
	}
	var lists [3]entries
	for i, name := range []string{"clusters", "contexts", "users"} {
		if lists[i], err = readEntries(top[name], name); err != nil {
			return nil, err
		}
	}
	clusters, contexts, users := lists[0], lists[1], lists[2]
	cluster, user, err := chosen(top["current-context"], clusters, contexts, users)
	if err != nil {
		return nil, err
	}
	f := &File{}
	for i := range users {
		f.secret = f.secret || !isEmpty(users[i].value)
	}
	if f.server, f.bundle, f.caFile, err = readFileCluster(cluster, dir, read); err != nil {
		return nil, err
	}
	f.token, err = readFileUser(user)
	return f, err
}

// entry is one named element of clusters, contexts or users.
type entry struct {
	name  string
	at    string // where it stands: "clusters[0].cluster"
	value *yaml.Node
}

// nothing stands for an entry that is not there; reading it gives nothing.
var nothing = entry{value: &yaml.Node{Kind: yaml.MappingNode}}

type entries []entry

func (list entries) find(name string) (entry, bool) {
	i := slices.IndexFunc(list, func(e entry) bool { return e.name == name })
	if i < 0 {
		return nothing, false
	}
	return list[i], true
}

// readEntries reads a list of named elements. Two of one name would let two
// readers choose differently.
func readEntries(n *yaml.Node, list string) (entries, error) {
	if n == nil || isEmpty(n) {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("%s is no list (line %d)", list, n.Line)
	}
	var out entries
	inner := strings.TrimSuffix(list, "s")
	for i, one := range n.Content {
		at := fmt.Sprintf("%s[%d]", list, i)
		parts, err := record(one, at, "name", inner)
		if err != nil {
			return nil, err
		}
		name, err := plainText(parts["name"], at+".name")
		if err != nil {
			return nil, err
		}
		if _, twice := out.find(name); twice {
			return nil, fmt.Errorf("%s.name stands twice in %s", at, list)
		}
		value := parts[inner]
		if value == nil || isEmpty(value) {
			value = nothing.value
		}
		out = append(out, entry{name, at + "." + inner, value})
	}
	return out, nil
}

// chosen decides which cluster and which user count.
func chosen(current *yaml.Node, clusters, contexts, users entries) (cluster, user entry, err error) {
	name, err := plainText(current, "current-context")
	switch {
	case err != nil:
		return nothing, nothing, err
	case len(clusters) == 0:
		return nothing, nothing, errors.New("clusters is missing or empty")
	case name == "" && len(clusters) > 1:
		return nothing, nothing, fmt.Errorf("current-context is missing, and clusters has %d entries: it must say which one counts", len(clusters))
	case name == "" && len(users) > 1:
		return nothing, nothing, fmt.Errorf("current-context is missing, and users has %d entries: it must say which one counts", len(users))
	case name == "" && len(users) == 1:
		return clusters[0], users[0], nil
	case name == "":
		return clusters[0], nothing, nil
	}
	context, ok := contexts.find(name)
	if !ok {
		return nothing, nothing, errors.New("current-context names no context of the file")
	}
	parts, err := record(context.value, context.at, "cluster", "user", "namespace", "extensions")
	if err != nil {
		return nothing, nothing, err
	}
	pick := func(field string, list entries) (entry, error) {
		name, err := plainText(parts[field], context.at+"."+field)
		if err != nil || name == "" && field == "user" {
			return nothing, err // no user: no token
		}
		e, ok := list.find(name)
		if !ok {
			return nothing, fmt.Errorf("%s.%s names no %s of the file", context.at, field, field)
		}
		return e, nil
	}
	if cluster, err = pick("cluster", clusters); err != nil {
		return nothing, nothing, err
	}
	user, err = pick("user", users)
	return cluster, user, err
}

// record returns the fields of a mapping. Only the allowed names may occur.
func record(n *yaml.Node, path string, allowed ...string) (map[string]*yaml.Node, error) {
	here := path
	if here == "" {
		here = "the document"
	} else {
		path += "."
	}
	if n.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s is no mapping (line %d)", here, n.Line)
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case !isString(key) || !fieldName.MatchString(key.Value):
			return nil, fmt.Errorf("%s has an unknown field (line %d; not shown: it does not look like a field)", here, key.Line)
		case !slices.Contains(allowed, key.Value):
			return nil, fmt.Errorf("%s is not allowed here (line %d)", path+key.Value, key.Line)
		case out[key.Value] != nil:
			return nil, fmt.Errorf("%s stands twice (line %d)", path+key.Value, key.Line)
		}
		out[key.Value] = value
	}
	return out, nil
}

// fieldName is what may be shown of a field that is not known: no field of a
// kubeconfig has a digit in it, and tokens do.
var fieldName = regexp.MustCompile(`^[A-Za-z-]{1,40}$`)

// plainText returns the text of a field; "" where it is missing or empty.
func plainText(n *yaml.Node, path string) (string, error) {
	switch {
	case n == nil || isEmpty(n):
		return "", nil
	case !isString(n) || n.Style == 0 && oldBool.MatchString(n.Value):
		return "", fmt.Errorf("%s is no text; put it in quotes (line %d)", path, n.Line)
	}
	return n.Value, nil
}

// oldBool are the words that kubectl's YAML takes for true or false.
var oldBool = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$`)

// plainOnly refuses everywhere what lets two readers see two documents, and what
// makes a small file large: anchors, aliases, tags.
func plainOnly(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return fmt.Errorf("has an anchor, an alias or a tag at line %d; none is allowed", n.Line)
	}
	for _, c := range n.Content {
		if err := plainOnly(c); err != nil {
			return err
		}
	}
	return nil
}

// withoutValues keeps of a parser's error what cannot repeat the file.
func withoutValues(err error) error {
	var quoting shown
	if !errors.As(err, &quoting) {
		return err
	}
	if line := errorLine.FindString(quoting.err.Error()); line != "" {
		return fmt.Errorf("is no valid YAML (%s)", line)
	}
	return errors.New("is no valid YAML")
}

var errorLine = regexp.MustCompile(`line \d{1,9}`)

// besideFile resolves a path as clientcmd does: a relative one lies beside the
// file that names it.
func besideFile(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

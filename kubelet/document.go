package kubelet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxNodes bounds a document after its aliases are followed: a file of a few
// lines can otherwise stand for millions of values.
const maxNodes = 100_000

// maxMarks bounds what begins a new thing in YAML (an entry, a field, a line), before
// the parser sees any of it: its tree of a megabyte can take a hundred. A real
// document has some hundreds.
const maxMarks = 20_000

// maxDepth bounds nesting; a real document has less than ten levels.
const maxDepth = 64

// parseDocument reads one YAML (or JSON) document as the kubelet will: with the
// same parser, numbers kept to the digit. It is stricter in four things that a
// person would not want to be passed over in silence: doubled keys, a second
// document, keys that are no strings, and size. Errors name lines and keys,
// never values.
func parseDocument(data []byte) (map[string]any, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("is empty")
	}
	marks := 0
	for _, c := range data {
		switch c {
		case ',', ':', '-', '[', '{', '?', '#', '!', '&', '*', '\n', '\r':
			marks++
		}
	}
	if marks > maxMarks {
		return nil, fmt.Errorf("has %d marks like , : - [ and ends of lines in it; no configuration needs more than %d", marks, maxMarks)
	}
	if err := checkShape(data); err != nil {
		return nil, err
	}
	var doc map[string]any
	exact := func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d }
	if err := yaml.UnmarshalStrict(data, &doc, exact); err != nil {
		return nil, fmt.Errorf("does not parse: %s", fault.Quote(err.Error()))
	}
	if doc == nil {
		return nil, errors.New("is empty")
	}
	return doc, nil
}

// checkShape looks at the document's tree before any of it becomes a value.
func checkShape(data []byte) error {
	decoder := yamlv3.NewDecoder(bytes.NewReader(data))
	var first, second yamlv3.Node
	if err := decoder.Decode(&first); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("is empty")
		}
		return fmt.Errorf("does not parse: %s", fault.Quote(err.Error()))
	}
	if len(first.Content) != 1 || first.Content[0].Kind != yamlv3.MappingNode {
		return errors.New("is no mapping of keys to values")
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return fmt.Errorf("does not parse: %s", fault.Quote(err.Error()))
	case len(second.Content) != 1 || second.Content[0].Tag != "!!null":
		return fmt.Errorf("line %d: a second document; only one is read", second.Line)
	}
	w := walker{sizes: map[*yamlv3.Node]int{}}
	_, err := w.size(first.Content[0], 0)
	return err
}

type walker struct {
	sizes map[*yamlv3.Node]int // of anchored nodes; 0 while being counted
}

// size counts the nodes that n stands for, aliases followed.
func (w *walker) size(n *yamlv3.Node, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("line %d: nested deeper than %d levels", n.Line, maxDepth)
	}
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	if n.Style&yamlv3.TaggedStyle != 0 {
		// None of these documents needs one, and a tag that does not fit its
		// value would bring the value into the parser's error.
		return 0, fmt.Errorf("line %d: an explicit tag", n.Line)
	}
	if n.Anchor != "" {
		known, seen := w.sizes[n]
		if seen && known == 0 {
			return 0, fmt.Errorf("line %d: an anchor that contains itself", n.Line)
		}
		if seen {
			return known, nil
		}
		w.sizes[n] = 0
	}
	total := 1
	for i, child := range n.Content {
		if n.Kind == yamlv3.MappingNode && i%2 == 0 && !stringKey(child) {
			return 0, fmt.Errorf("line %d: a key that is no string", child.Line)
		}
		size, err := w.size(child, depth+1)
		if err != nil {
			return 0, err
		}
		if total += size; total > maxNodes {
			return 0, fmt.Errorf("line %d: stands for more than %d values", n.Line, maxNodes)
		}
	}
	if n.Anchor != "" {
		w.sizes[n] = total
	}
	return total, nil
}

func stringKey(n *yamlv3.Node) bool {
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	return n.Kind == yamlv3.ScalarNode && (n.Tag == "!!str" || n.Tag == "!!merge")
}

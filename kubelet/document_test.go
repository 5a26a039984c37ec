package kubelet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestBombsAreRefusedBeforeTheyGoOff(t *testing.T) {
	laughs := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i, c := range "bcdefghij" {
		previous := string("abcdefghij"[i])
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+previous+",", 10), ","))
	}
	for name, c := range map[string]struct{ doc, text string }{
		"too large":     {"a: " + strings.Repeat("x", maxFile), "larger than"},
		"laughs":        {laughs, "stands for more than"},
		"anchored self": {"a: &a [*a]\n", ""},
		"self in map":   {"a: &a\n  b: *a\n", ""},
		"deep flow":     {"a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), ""},
		"deep blocks":   {deep(200), "nested deeper"},
		"many keys":     {"a: [" + strings.Repeat("1,", maxNodes) + "1]", "marks like"},
		"many lines":    {"a:\n" + strings.Repeat("- 1\n", maxMarks/2), "marks like"},
		"merge bomb":    {"a: &a {" + strings.TrimSuffix(strings.Repeat("x: 1, ", 50), ", ") + "}\nb:\n  <<: [" + strings.TrimSuffix(strings.Repeat("*a,", 5_000), ",") + "]\n", "stands for more than"},
		"binary":        {"\x7fELF\x02\x01\x01\x00", "does not parse"},
		"UTF-16":        {"\xff\xfea\x00:\x00 \x00b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseDocument([]byte(c.doc))
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("err = %v, want %q", err, c.text)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func deep(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func TestDocumentsThatAPersonWrites(t *testing.T) {
	for name, doc := range map[string]string{
		"byte order mark":  "\ufeffa: b\n",
		"CRLF":             "a: b\r\nc: d\r\n",
		"comment first":    "# hello\n---\na: b\n",
		"end of document":  "a: b\n...\n",
		"empty second":     "a: b\n---\n",
		"JSON":             `{"a": "b"}`,
		"anchor and merge": "x: &x {a: b}\ny:\n  <<: *x\n  c: d\n",
	} {
		if _, err := parseDocument([]byte(doc)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNumbersKeepEveryDigit(t *testing.T) {
	doc, err := parseDocument([]byte("podPidsLimit: 9007199254740993\nmemoryThrottlingFactor: 0.9\n"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := yaml.Marshal(doc)
	if err != nil || !strings.Contains(string(out), "podPidsLimit: 9007199254740993\n") || !strings.Contains(string(out), "memoryThrottlingFactor: 0.9\n") {
		t.Errorf("%s, %v", out, err)
	}
}

func FuzzParseDocument(f *testing.F) {
	for _, seed := range []string{"a: b", "a: &a [*a]", "? a\n: b", "a: !!int x", "<<: {a: b}", "a: 1e999", "a: .nan", "{}", "a: 0o17\nb: 0x1F\nc: 1_000\nd: yes\ne: 2020-01-01\nf: ~"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument(data)
		if err != nil {
			return
		}
		// What we read must be what the kubelet's parser reads.
		want, err := yaml.YAMLToJSON(data)
		if err != nil {
			t.Fatalf("the kubelet could not read it: %v", err)
		}
		got, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("read %s, the kubelet %s", got, want)
		}
	})
}

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func TestLabelsThatTheKubeletTakes(t *testing.T) {
	for entry, want := range map[string]Label{
		"a=b":                                  {"a", "b"},
		"a=":                                   {"a", ""},
		"a":                                    {"a", ""},
		"example.org/pool=blue":                {"example.org/pool", "blue"},
		"node.kubernetes.io/pool=blue":         {"node.kubernetes.io/pool", "blue"},
		"x.kubelet.kubernetes.io/a=1":          {"x.kubelet.kubernetes.io/a", "1"},
		"topology.kubernetes.io/zone=eu-1":     {"topology.kubernetes.io/zone", "eu-1"},
		"kubernetes.io.example.org/x=y":        {"kubernetes.io.example.org/x", "y"},
		"mykubernetes.io/x=y":                  {"mykubernetes.io/x", "y"},
		"a=" + strings.Repeat("x", 63):         {"a", strings.Repeat("x", 63)},
		strings.Repeat("x", 63) + "=1":         {strings.Repeat("x", 63), "1"},
		"beta.kubernetes.io/instance-type=m5x": {"beta.kubernetes.io/instance-type", "m5x"},
	} {
		got, err := ParseLabels([]string{entry})
		if err != nil || !slices.Equal(got, []Label{want}) {
			t.Errorf("%s: %v, %v", entry, got, err)
		}
	}
}

func TestLabelsThatTheKubeletWouldExitOn(t *testing.T) {
	for entry, rule := range map[string]string{
		"":                                 "key=value",
		"=b":                               "key",
		" a=b":                             "spaces",
		"a=b ":                             "spaces",
		"a=b,c=d":                          "no commas",
		"a=b=c":                            "value",
		"a=b c":                            "value",
		"a=%n":                             "value",
		"a=$HOME":                          "value",
		`a="b"`:                            "value",
		"a=b\nExecStart=/bin/sh":           "value",
		"a=-b":                             "value",
		"a=" + strings.Repeat("x", 64):     "value",
		strings.Repeat("x", 64) + "=1":     "key",
		"/x=1":                             "key",
		"a/b/c=1":                          "key",
		"UPPER.org/x=1":                    "key",
		"node-role.kubernetes.io/worker=":  "must not give itself",
		"node-restriction.kubernetes.io/x": "must not give itself",
		"kubernetes.io/x=1":                "must not give itself",
		"app.kubernetes.io/name=x":         "must not give itself",
		"k8s.io/x=1":                       "must not give itself",
		"x.k8s.io/y=1":                     "must not give itself",
	} {
		_, err := ParseLabels([]string{"good=1", entry})
		wantFault(t, err, fault.ConfigInvalid, "nodeLabels[1]", rule)
		if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", entry, err)
		}
	}
}

func TestAllFaultsOfLabelsComeAtOnce(t *testing.T) {
	_, err := ParseLabels([]string{"a=1", "a=2", "b=,", "k8s.io/x=1"})
	wantFault(t, err, fault.ConfigInvalid, "nodeLabels[1]", "nodeLabels[0] already", "nodeLabels[2]", "nodeLabels[3]", "kubectl label node NAME k8s.io/x=1")
}

func TestLabelsAreSortedAndBounded(t *testing.T) {
	got, err := ParseLabels([]string{"c=3", "a=1", "b=2"})
	if err != nil || formatLabels(got) != "a=1,b=2,c=3" {
		t.Errorf("%v, %v", got, err)
	}
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("key-%d=%s", i, strings.Repeat("v", 60)))
	}
	if got, err := ParseLabels(many); err != nil || len(got) != 500 {
		t.Errorf("500 labels: %d, %v", len(got), err)
	}
	for i := range 2000 {
		many = append(many, fmt.Sprintf("more-%d=%s", i, strings.Repeat("v", 60)))
	}
	_, err = ParseLabels(many)
	wantFault(t, err, fault.ConfigInvalid, "nodeLabels", "bytes")
}

func TestTaints(t *testing.T) {
	got, err := ParseTaints([]string{"b=1:NoSchedule", "a:NoExecute", "b=1:NoExecute", "x.org/c=:PreferNoSchedule"})
	want := []Taint{{"b", "1", "NoSchedule"}, {"a", "", "NoExecute"}, {"b", "1", "NoExecute"}, {"x.org/c", "", "PreferNoSchedule"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for entry, rule := range map[string]string{
		"":                    "key:Effect",
		"a":                   "key:Effect",
		"a=b":                 "key:Effect",
		"a=b:":                "effect",
		"a=b:noschedule":      "effect",
		"a=b:NoSchedule:x":    "effect",
		"a=b:NoSchedule-":     "takes a taint away",
		"a-":                  "takes a taint away",
		":NoSchedule":         "key",
		"=b:NoSchedule":       "key",
		"a=b=c:NoSchedule":    "value",
		"a=b c:NoSchedule":    "value",
		"a b:NoSchedule":      "key",
		"a=b\n:NoSchedule":    "value",
		"good=1:NoSchedule":   "nodeTaints[0] already",
		"good=2:NoSchedule":   "nodeTaints[0] already",
		"a=%n:NoSchedule":     "value",
		"a=b,c=d:NoSchedule":  "value",
		"a=b: NoSchedule":     "effect",
		"a=b:NoSchedule,NoEx": "effect",
	} {
		_, err := ParseTaints([]string{"good=1:NoSchedule", entry})
		wantFault(t, err, fault.ConfigInvalid, "nodeTaints[1]", rule)
	}
	_, err = ParseTaints([]string{"x", "y"})
	wantFault(t, err, fault.ConfigInvalid, "nodeTaints[0]", "nodeTaints[1]")
}

func FuzzParseLabels(f *testing.F) {
	for _, seed := range []string{"a=b", "node.kubernetes.io/a=b", "k8s.io/a=", "a=b,c", "a\n=b", "%n=$x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		labels, err := ParseLabels([]string{entry})
		if err != nil {
			return
		}
		word := formatLabels(labels)
		if control(word) || strings.ContainsAny(word, " ,\"'\\$%;") || len(labels) != 1 {
			t.Errorf("passed: %q", word)
		}
		if again, err := ParseLabels([]string{word}); err != nil || !slices.Equal(again, labels) {
			t.Errorf("%v, then %v, %v", labels, again, err)
		}
	})
}

func FuzzParseTaints(f *testing.F) {
	for _, seed := range []string{"a=b:NoSchedule", "a:NoExecute", "a=b:NoSchedule-", ":", "=:"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		taints, err := ParseTaints([]string{entry})
		if err != nil {
			return
		}
		word := taints[0].String()
		if control(word) || strings.ContainsAny(word, " ,\"'\\$%;") {
			t.Errorf("passed: %q", word)
		}
		if again, err := ParseTaints([]string{word}); err != nil || !slices.Equal(again, taints) {
			t.Errorf("%v, then %v, %v", taints, again, err)
		}
	})
}

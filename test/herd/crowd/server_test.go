package crowd

import (
	"testing"
	"time"
)

func TestALineOfTheServersCountersIsRead(t *testing.T) {
	name, labels, value, ok := sample(`apiserver_request_total{code="429",dry_run="",resource="configmaps",verb="GET"} 1.3e+02` + "\n")
	if !ok || name != "apiserver_request_total" || labels["code"] != "429" || labels["verb"] != "GET" || labels["dry_run"] != "" || value != 130 {
		t.Errorf("%q %v %v %v", name, labels, value, ok)
	}
	for _, line := range []string{"", "# HELP x y", "go_goroutines 12", `cut{code="4`, `cut{code="4"`, `none{code="4"} x`} {
		if _, _, _, ok := sample(line); ok {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestWhatHappenedSinceIsADifferenceInEveryBound(t *testing.T) {
	before := Server{Answers: map[string]float64{"200": 5}, Waits: map[string]Wait{"global-default": {10, 1, map[float64]float64{.005: 8, .02: 10}}}}
	after := Server{Answers: map[string]float64{"200": 5, "429": 7}, Waits: map[string]Wait{"global-default": {110, 4, map[float64]float64{.005: 8, .02: 60, 1: 109}}, "probes": {}}}
	s := after.Since(before)
	if len(s.Answers) != 1 || s.Answers["429"] != 7 || len(s.Waits) != 1 {
		t.Errorf("%+v", s)
	}
	w := s.Waits["global-default"]
	if w.Requests != 100 || w.Seconds != 3 {
		t.Errorf("%+v", w)
	}
	if d, ok := w.AtMost(.5); !ok || d != 20*time.Millisecond {
		t.Errorf("half within %s, %v", d, ok)
	}
	if d, ok := w.AtMost(.99); !ok || d != time.Second {
		t.Errorf("99 %% within %s, %v", d, ok)
	}
	if _, ok := w.AtMost(1.2); ok {
		t.Error("more than there are were found within a bound")
	}
}

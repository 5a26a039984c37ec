package main

import (
	"strings"
	"testing"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/test/herd/crowd"
)

func TestSharesAreByNearestRank(t *testing.T) {
	var s samples
	for i := range 500 {
		s = append(s, time.Duration(500-i)*time.Second)
	}
	for q, want := range map[float64]time.Duration{.5: 250 * time.Second, .99: 495 * time.Second, 1: 500 * time.Second} {
		if got := s.share(q); got != want {
			t.Errorf("%v: %s, want %s", q, got, want)
		}
	}
	if got := (samples{time.Second}).share(.99); got != time.Second {
		t.Errorf("of one: %s", got)
	}
}

func TestTheReportHasARowForEachCrowd(t *testing.T) {
	join := crowd.Join{Requests: 8, Reads: 1, Handshakes: 3}
	r := report{
		crowds:   []result{{row: row{name: "one token", joins: 2}, joins: []crowd.Join{join, join}, server: crowd.Server{Answers: map[string]float64{"429": 3, "504": 1, "200": 9}}}},
		bareOnes: []result{{row: row{name: "one token", joins: 2}, failed: 1}},
		signers:  []crowd.Signing{{Requests: 10, Issued: time.Second}},
		upkeep:   crowd.Upkeep{Looks: 10, Requests: 20},
	}
	text := r.markdown()
	for _, want := range []string{"| 2 | one token | 8 (2) | 2 | 0 | 3 (2) | 3 | 1 |", "| 10 | default flags (20 requests a second) | 0.0 s | 1.0 s | 10.0 |", "| 10 | 2.00 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

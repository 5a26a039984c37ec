package main

import (
	"fmt"
	"slices"
	"time"
)

// samples are the results of one contestant.
type samples []time.Duration

func (s samples) sorted() samples {
	out := slices.Clone(s)
	slices.Sort(out)
	return out
}

// median is the middle one, or the mean of the two in the middle.
func (s samples) median() time.Duration {
	sorted, n := s.sorted(), len(s)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

func (s samples) least() time.Duration { return slices.Min(s) }
func (s samples) most() time.Duration  { return slices.Max(s) }

// ratio of two medians.
func ratio(s, base samples) float64 { return float64(s.median()) / float64(base.median()) }

func inSeconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
func inMillis(d time.Duration) string  { return fmt.Sprintf("%.0f ms", d.Seconds()*1000) }
func inMiB(n int64) string             { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }

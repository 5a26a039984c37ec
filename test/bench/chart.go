package main

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// Sizes of the chart.
const (
	chartWidth = 760
	labelWidth = 230
	barHeight  = 22
	barGap     = 10
	valueSpace = 150
)

// chart draws the medians as bars, the single starts as dots on them. Its
// colours can be read on white and on black; where the viewer tells which of
// them it is, the text follows.
func chart(r report) string {
	longest := time.Duration(1)
	for _, group := range []map[string]samples{r.warm, r.cold} {
		for _, s := range group {
			longest = max(longest, s.most())
		}
	}
	scale := float64(chartWidth-labelWidth-valueSpace) / longest.Seconds()
	var body strings.Builder
	y := 34
	for _, group := range []struct {
		title string
		of    map[string]samples
	}{{"warm page cache", r.warm}, {"cold page cache", r.cold}} {
		y += 30
		fmt.Fprintf(&body, `<text class="strong" x="0" y="%d">%s</text>`+"\n", y, group.title)
		y += 12
		for _, c := range r.contestants {
			y = bar(&body, y, c, group.of[c.key], group.of[certifiedKey], scale)
		}
	}
	y += 8
	var marks strings.Builder // below the bars
	axis(&marks, y, longest, scale)
	height := y + 28
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="Seconds from the start to the Node in the API">
<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #768390 }
.strong { font-weight: 600 }
.small { font-size: 11px }
.ours { fill: #2f81f7 } .other { fill: #8b949e }
.dot { fill: none; stroke: #768390; stroke-width: 1.2 }
.line { stroke: #8b949e; stroke-width: 1; opacity: .5 }
@media (prefers-color-scheme: light) { text { fill: #1f2328 } .dot { stroke: #1f2328 } }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .dot { stroke: #e6edf3 } }
</style>
<text class="strong" x="0" y="16">Start to Node seen in the API</text>
<text class="small" x="0" y="34">seconds, less is better; bar: median of %d, rings: the single starts, ×: to a kubelet that has its certificate</text>
%s%s</svg>
`, chartWidth, height, chartWidth, height, r.rounds, marks.String(), body.String())
}

func bar(out *strings.Builder, y int, c contestant, s, base samples, scale float64) int {
	class := "other"
	if c.key == agentKey {
		class = "ours"
	}
	middle := y + barHeight/2
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-10, middle+5, html.EscapeString(c.title))
	fmt.Fprintf(out, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="3"/>`+"\n", class, labelWidth, y, s.median().Seconds()*scale, barHeight)
	for _, one := range s {
		fmt.Fprintf(out, `<circle class="dot" cx="%.1f" cy="%d" r="3"/>`+"\n", labelWidth+one.Seconds()*scale, middle)
	}
	fmt.Fprintf(out, `<text x="%.1f" y="%d">%.2f s, × %.2f</text>`+"\n", labelWidth+s.most().Seconds()*scale+10, middle+5, s.median().Seconds(), ratio(s, base))
	return y + barHeight + barGap
}

// axis draws a mark for each round number of seconds.
func axis(out *strings.Builder, y int, longest time.Duration, scale float64) {
	step := math.Pow(10, math.Floor(math.Log10(longest.Seconds())))
	if longest.Seconds()/step < 3 {
		step /= 2
	}
	for at := 0.0; at <= longest.Seconds(); at += step {
		x := labelWidth + at*scale
		fmt.Fprintf(out, `<line class="line" x1="%.1f" y1="48" x2="%.1f" y2="%d"/>`+"\n", x, x, y)
		fmt.Fprintf(out, `<text class="small" x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n", x, y+16, at)
	}
}

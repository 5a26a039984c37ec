// Package metrics writes numbers in Prometheus' text format and answers the one
// request that reads them: GET /metrics.
//
// It has no registry, keeps no numbers and knows none of the agent's: whoever has
// something to tell writes a [Page]. The [Server] is not a web server: it takes
// one short request a connection, answers and hangs up; net/http's would make the
// program 0.36 MiB larger. It never reads a body, never redirects, never keeps a
// connection, and holds no more than a few of them for a few seconds each.
//
//	facts -> Page -> bytes -> file, or Server -> Prometheus
package metrics

import (
	"math"
	"strconv"
	"strings"
)

// ContentType is that of a Page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind is the type of a family.
type Kind string

// The kinds that are used here.
const (
	Gauge   Kind = "gauge"
	Counter Kind = "counter"
)

// Page is a text in the exposition format. The zero value is an empty one.
type Page struct {
	text []byte
	name string
}

// Family begins the samples of one name. Names are constants of the program: they
// are not looked at.
//
//go:noinline
func (p *Page) Family(name string, kind Kind, help string) {
	p.name = name
	p.put("# HELP ", name, " ", helpText.Replace(help), "\n# TYPE ", name, " ", string(kind), "\n")
}

// Sample writes one sample of the family that was begun last. labels are names
// and values in turn; a value may be any text.
func (p *Page) Sample(value float64, labels ...string) {
	p.put(p.name)
	separator := "{"
	for i := 0; i+1 < len(labels); i += 2 {
		p.put(separator, labels[i], `="`, labelText.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")), `"`)
		separator = ","
	}
	if separator == "," {
		p.put("}")
	}
	p.put(" ", number(value), "\n")
}

func (p *Page) put(parts ...string) {
	for _, part := range parts {
		p.text = append(p.text, part...)
	}
}

// Flag is Sample for what is the case or not: 1 or 0.
func (p *Page) Flag(is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	p.Sample(value, labels...)
}

// Bytes is the text so far.
func (p *Page) Bytes() []byte { return p.text }

var (
	helpText  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelText = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

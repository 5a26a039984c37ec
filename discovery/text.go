package discovery

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// shown makes an error of net/http, crypto or yaml safe to print: such errors
// quote what a server sent, not always with quotes. The chain stays whole for
// errors.As.
type shown struct{ err error }

func (s shown) Error() string { return printable(s.err.Error()) }
func (s shown) Unwrap() error { return s.err }

// printable is fault.Quote without the quotes around it, for text that is only
// partly somebody else's and for values that are shown in a column.
func printable(s string) string {
	q := fault.Quote(s)
	end := strings.LastIndexByte(q, '"')
	return strings.ReplaceAll(q[1:end], `\"`, `"`) + q[end+1:]
}

// maxListed bounds lists of things that a server named.
const maxListed = 5

// listQuoted shows the first few of a list that came from the network.
func listQuoted(list []string) string {
	var b strings.Builder
	for i, s := range list {
		if i == maxListed {
			fmt.Fprintf(&b, " and %d more", len(list)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(fault.Quote(s))
	}
	return b.String()
}

// describe names a CA for a person: subject, window, pin.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("%s %s (valid %s to %s)", SPKIPin(c), fault.Quote(c.Subject.String()), day(c.NotBefore), day(c.NotAfter))
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sortedKeys makes what is told of a map the same each time.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

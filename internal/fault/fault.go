// Package fault is the one table of reasons why a machine is not (or not quite)
// a node: each [Reason] has a class, an exit code, what it means and what to do
// about it. Errors that a person can act on carry a Reason ([Error]); explain,
// docs/operations.md, the status file and the exit code all come from here.
//
// It never decides what happens next: the loop in package agent reads the
// [Class] and does that. It never prints and never exits. Its texts never hold
// a secret, because they are written by hand, below, in table.go.
//
//	cause (error) --New--> *Error{Reason, Hint} --wrapped with %w--> agent.Status, exit code
package fault

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Reason is the stable name of a fault, written in CamelCase as it appears in
// status, journal and docs. Reasons are only ever added, never renamed.
type Reason string

// Class tells the loop how to go on after a fault.
type Class string

// The classes. Their timing lives in package agent (backoff.go).
const (
	// Retry: exponential backoff with full jitter, 1 s doubling to 60 s, for ever.
	Retry Class = "retry"
	// Slow: somebody has to act, but asking again is cheap: every 60 s.
	Slow Class = "slow"
	// Blocked: asking again the same way cannot help: every 5 min, or at once
	// when config or token change or SIGHUP arrives.
	Blocked Class = "blocked"
	// Note: worth knowing on a joined node; never changes the phase.
	Note Class = "note"
)

// Exit codes of every command, from sysexits.h where one fits. 2 is never used:
// a Go panic exits 2, and systemd must restart that.
const (
	ExitDone      = 0
	ExitFailed    = 1
	ExitUsage     = 64
	ExitTrust     = 65 // signature, pin, server certificate
	ExitMachine   = 69 // kubelet or machine cannot serve
	ExitLocked    = 73
	ExitTemporary = 75 // temporary, or timed out
	ExitRefused   = 77 // refused by the cluster
	ExitConfig    = 78
)

// Entry is one row of the table.
type Entry struct {
	Reason  Reason
	Class   Class
	Exit    int
	Meaning string // one sentence: what is the case
	Remedy  string // one or two sentences: what a person does about it
}

// Lookup returns the row of a reason, and false for a reason that is not in the
// table. Upper and lower case are told apart.
func Lookup(r Reason) (Entry, bool) {
	for _, e := range table {
		if e.Reason == r {
			return e, true
		}
	}
	return Entry{}, false
}

// All returns a copy of the table in its documented order.
func All() []Entry { return append([]Entry(nil), table...) }

// Error is a fault: a cause with its reason. It is made once, by the package
// that knows, and wrapped with fmt.Errorf("cannot X: %w") by the layers above.
type Error struct {
	Reason Reason
	// Err is the cause, in words that may go into a log: no secret, and text
	// from the network passed through Quote.
	Err error
	// Hint is the next step for a person. Empty: the table's remedy.
	Hint string
	// RetryAfter is what a server asked for; zero if it did not.
	RetryAfter time.Duration
}

// New makes a fault. The format takes %w like fmt.Errorf.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// WithHint sets the next step, for cases where it can be said more exactly than
// in the table (a literal command, the pins seen), and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error returns the cause's text without the reason: the reason travels in a
// field of its own.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// As finds the outermost fault in err's chain.
func As(err error) (*Error, bool) {
	var e *Error
	if errors.As(err, &e) {
		return e, true
	}
	return nil, false
}

// ReasonOf returns the reason of the outermost fault in err's chain, or "".
func ReasonOf(err error) Reason {
	if e, ok := As(err); ok {
		return e.Reason
	}
	return ""
}

// HintOf returns the next step for err: its own hint, else the remedy of its
// reason, else "".
func HintOf(err error) string {
	e, ok := As(err)
	if !ok {
		return ""
	}
	if e.Hint != "" {
		return e.Hint
	}
	row, _ := Lookup(e.Reason)
	return row.Remedy
}

// ExitCode returns the exit code for err: 0 for nil, that of its reason if it
// has one, else 1.
func ExitCode(err error) int {
	if err == nil {
		return ExitDone
	}
	if row, ok := Lookup(ReasonOf(err)); ok {
		return row.Exit
	}
	return ExitFailed
}

// maxQuoted bounds text that came from the network (bytes before quoting).
const maxQuoted = 256

// Quote makes text that came from the network safe to show: Go quoting rules,
// at most 256 bytes of it, on one line.
func Quote(s string) string {
	cut := len(s) > maxQuoted
	if cut {
		s = s[:maxQuoted]
		for len(s) > 0 && !utf8.ValidString(s[len(s)-1:]) && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1] // do not leave half a rune
		}
	}
	q := strconv.QuoteToGraphic(s)
	if cut {
		q += "..."
	}
	return q
}

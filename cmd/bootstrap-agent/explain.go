package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func (a *app) explainCommand() *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "explain REASON | --list",
		Short: "Tell what a reason means and what to do about it",
		Long: `Tell what a reason in status or journal means and what to do about it.

  bootstrap-agent explain CSRPending
  bootstrap-agent explain --list`,
		Args: func(_ *cobra.Command, args []string) error {
			if list == (len(args) == 1) || len(args) > 1 {
				return usage("name one reason, or give --list")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return reasonNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if list {
				return a.print(reasonList())
			}
			text, err := explanation(args[0])
			if err != nil {
				return err
			}
			return a.print(text)
		},
	}
	cmd.Flags().BoolVar(&list, "list", false, "list every reason with its class and exit code")
	return cmd
}

func reasonNames() []string {
	var names []string
	for _, e := range fault.All() {
		names = append(names, string(e.Reason))
	}
	return names
}

func reasonList() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-26s %-8s %4s  %s\n", "REASON", "CLASS", "EXIT", "MEANING")
	for _, e := range fault.All() {
		fmt.Fprintf(&b, "%-26s %-8s %4d  %s\n", e.Reason, e.Class, e.Exit, e.Meaning)
	}
	return b.String()
}

// explanation is one row of the table for a person. Upper and lower case of the
// question do not matter.
func explanation(name string) (string, error) {
	for _, e := range fault.All() {
		if strings.EqualFold(string(e.Reason), name) {
			return fmt.Sprintf("%s\n\n%s\n\nWhat to do:\n  %s\n\nWhat the agent does:\n  %s\n\nExit code of a command that ends with it: %d\n",
				e.Reason, e.Meaning, e.Remedy, classMeaning(e.Class), e.Exit), nil
		}
	}
	if !showable(name) {
		return "", usage("there is no such reason; see: bootstrap-agent explain --list")
	}
	if near := nearest(name, reasonNames()); near != "" {
		return "", usage("there is no reason %q; did you mean %s?", name, near)
	}
	return "", usage("there is no reason %q; see: bootstrap-agent explain --list", name)
}

func classMeaning(c fault.Class) string {
	switch c {
	case fault.Retry:
		return "It tries again with growing pauses (1 s, doubling to 60 s, with jitter), for ever."
	case fault.Slow:
		return "Somebody has to act, but asking again is cheap: it asks every 60 s (in the first two minutes after 1, 2, 5, 10, 20 s)."
	case fault.Blocked:
		return "Asking again the same way cannot help: it looks again every 5 min, and at once when config or token change or on SIGHUP."
	}
	return "It reports it. The machine stays a node."
}

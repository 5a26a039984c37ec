package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/redact"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// partAtMost bounds each part of a report: one that hangs must not cost the rest.
const partAtMost = 20 * time.Second

// reportFlags are the flags of `report`.
type reportFlags struct {
	output  string
	cluster bool
	lines   int
}

func (a *app) reportCommand() *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Write down what a colleague needs to help, without secrets",
		Long: `Write one file for a colleague or a ticket: status, checks of config and machine,
the config, units with their drop-ins and properties, both journals, versions,
certificates, files with modes and owners, the clock. It changes nothing, asks no
network (but for --cluster), and works when the agent is down; what cannot be
seen says so in its place. Root sees all of it.

It is one page of text (Markdown), bootstrap-agent-report-NODE.md in the current
folder, mode 0600, and never written over another. Tokens, keys, passwords,
comments and values of environment variables are left out; host names, addresses
and node names are in it. Read it before you pass it on.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.lines < 0 || f.lines > 100000 {
				return usage("--lines: must be from 0 to 100000")
			}
			return a.report(cmd.Context(), a.loader(cmd.Flags()), f)
		},
	}
	cmd.Flags().StringVarP(&f.output, "output", "o", "", "write to this file, or - for stdout")
	cmd.Flags().BoolVar(&f.cluster, "cluster", false, "check the cluster, too (this asks the network)")
	cmd.Flags().IntVar(&f.lines, "lines", 500, "how many lines of each journal")
	return cmd
}

// part is one part of a report. What it returns is shown also beside an error.
type part struct {
	title string
	write func(ctx context.Context) (string, error)
}

func (a *app) report(ctx context.Context, l *loader, f reportFlags) error {
	path := f.output
	if path == "" {
		path = "bootstrap-agent-report-" + a.reportName() + ".md"
	}
	if path != "-" {
		// Asked again when it is written; this is before the work is done.
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s is there already and is not written over; another name: -o FILE", path)
		}
	}
	text, missing := a.reportText(ctx, l, f)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("no report: %w", err)
	}
	if path == "-" {
		return a.print(text)
	}
	if err := writeNew(path, text); err != nil {
		return err
	}
	for _, m := range missing {
		a.say("not all of it: %s", m)
	}
	a.say("Secrets were left out as far as they can be told. Read it before you pass it on: it names hosts, addresses and nodes.")
	return a.print(path + "\n")
}

// reportName is what tells this machine's report from another's.
func (a *app) reportName() string {
	name, joined := a.joinedName()
	if !joined {
		name, _ = a.hostName()
	}
	name = strings.Map(func(r rune) rune {
		if alphanumeric(r) || r == '-' || r == '.' {
			return r
		}
		return -1
	}, strings.ToLower(name))
	if name = strings.Trim(name, "-."); name == "" {
		return "unnamed"
	}
	return name
}

// reportText puts the report together; missing are the parts that are not whole.
func (a *app) reportText(ctx context.Context, l *loader, f reportFlags) (text string, missing []string) {
	r := a.newReporter(l, f)
	defer r.close()
	var summary, body strings.Builder
	for _, p := range r.parts() {
		limited, cancel := context.WithTimeout(ctx, partAtMost)
		content, err := p.write(limited)
		cancel()
		state := "whole"
		if err != nil {
			state = "not whole: " + r.hide.Text(firstLine(err.Error()))
			missing = append(missing, p.title+": "+state[len("not whole: "):])
		}
		fmt.Fprintf(&summary, "- %s: %s\n", p.title, state)
		fmt.Fprintf(&body, "\n## %s\n\n", p.title)
		if err != nil {
			fmt.Fprintf(&body, "**Not whole**: %s\n\n", r.hide.Text(firstLine(err.Error())))
		}
		if content = strings.TrimRight(r.hide.Text(content), "\n \t"); content == "" {
			content = "(nothing)"
		}
		fence := fenceFor(content)
		body.WriteString(fence + "text\n" + content + "\n" + fence + "\n")
	}
	head := "# Report of bootstrap-agent on " + a.reportName() + "\n\nMade " + time.Now().UTC().Format(time.RFC3339) + " by bootstrap-agent " + buildInfo().Version
	if a.uid != 0 {
		head += " without root: **what only root sees is missing** (the parts say so)"
	}
	head += ".\n" + redact.Mark + " stands where a secret was. Comments and values of environment variables are left out.\n\n"
	return head + summary.String() + body.String(), missing
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return first
}

// fenceFor is longer than any row of backticks in the text, so that nothing in it
// ends the block.
func fenceFor(text string) string {
	longest, row := 0, 0
	for _, c := range text {
		if row++; c != '`' {
			row = 0
		}
		longest = max(longest, row)
	}
	return strings.Repeat("`", max(3, longest+1))
}

// writeNew makes a file of mode 0600 that was not there before.
func writeNew(path, text string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already and is not written over; another name: -o FILE", path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(path) // half a report is none
			err = fmt.Errorf("cannot write the report: %w", err)
		}
	}()
	if err := file.Chmod(0o600); err != nil {
		return err
	}
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}

// capture runs another command of ours and returns all that it printed. How it
// judged is in there; only what kept it from judging is an error.
func (a *app) capture(run func(sub *app) error) (string, error) {
	var out strings.Builder
	sub := *a
	sub.stdin, sub.stdout, sub.stderr = strings.NewReader(""), &out, &out
	err := run(&sub)
	var said *exitError
	if err == nil || errors.As(err, &said) {
		return out.String(), nil
	}
	sub.printError(err)
	if fault.ReasonOf(err) != "" && !errors.Is(err, fs.ErrPermission) {
		err = nil // a verdict, with its reason
	}
	return out.String(), err
}

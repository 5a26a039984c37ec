// Command bootstrap-agent makes a machine a Kubernetes node: this is the door
// of the house. It turns flags, environment and config file into an
// [agent.Config], wires the rooms together, prints what was asked for and
// exits with a documented code.
//
// It is the only place that knows cobra and viper, that prints and that exits.
// It never decides what happens to a node (package agent does), and it never
// prints a secret: the judge of the config file (yamlfile.go, config.go) tells
// key, line and rule, not the value.
//
//	flags + environment + file -> settings -> agent.Config -> agent.Agent -> agent.Status -> text, JSON, exit code
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet/preflight"
	"github.com/bootstrap-agent/bootstrap-agent/systemd"
)

// run is the whole program without its process: tests call it. The environment
// comes as a list, because a mistyped BOOTSTRAP_AGENT_* is only found by
// looking at all of it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	a := &app{
		stdin: stdin, stdout: stdout, stderr: stderr, environ: environ,
		paths:      agent.DefaultPaths(),
		configFile: defaultConfigFile,
		hidden:     hiddenFolders(),
		uid:        os.Geteuid(),
		hostname:   os.Hostname,
	}
	return a.run(ctx, args)
}

// app is what every command needs from outside. Tests make one with scratch
// folders.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	paths          agent.Paths
	configFile     string   // where the config is unless --config-file says otherwise
	hidden         []string // folders that no configured path may lie in
	uid            int      // who runs this
	hostname       func() (string, error)
	adapt          func(*agent.Deps)                    // nil: the rooms as wire puts them together
	resolve        preflight.Lookup                     // nil: the machine's resolver
	pause          func(context.Context, time.Duration) // nil: as the clock goes
	programs       systemd.Options                      // for report; the zero value is right on a machine
	root           string                               // where reset looks for proc and sys; empty: /
}

func (a *app) run(ctx context.Context, args []string) int {
	return a.execute(ctx, a.rootCommand(), args)
}

func (a *app) execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return fault.ExitDone
	}
	a.printError(err)
	return exitCode(err)
}

// getenv returns the value of a variable, or "".
func (a *app) getenv(name string) string {
	value := ""
	for _, kv := range a.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// usageError is a wrong command line: exit code 64.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError ends a command with a code of its own after it has said everything
// itself.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func exitCode(err error) int {
	var (
		wrong *usageError
		said  *exitError
	)
	switch {
	case errors.As(err, &said):
		return said.code
	case errors.As(err, &wrong):
		return fault.ExitUsage
	}
	return fault.ExitCode(err)
}

// printError writes an error with its reason and the next step to stderr.
func (a *app) printError(err error) {
	var said *exitError
	if errors.As(err, &said) {
		return
	}
	text := err.Error()
	if reason := fault.ReasonOf(err); reason != "" {
		text = string(reason) + ": " + text
	}
	_, _ = fmt.Fprintf(a.stderr, "bootstrap-agent: %s\n", text)
	if hint := fault.HintOf(err); hint != "" {
		_, _ = fmt.Fprintf(a.stderr, "  -> %s\n", hint)
	}
	var wrong *usageError
	if errors.As(err, &wrong) {
		_, _ = fmt.Fprintln(a.stderr, "  -> bootstrap-agent help")
	}
}

// print writes what was asked for to stdout, and says so when that fails (a
// full disk behind a redirection is no success).
func (a *app) print(text string) error {
	if _, err := io.WriteString(a.stdout, text); err != nil {
		return fmt.Errorf("cannot write to stdout: %w", err)
	}
	return nil
}

// say writes everything else to stderr.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...)
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "bootstrap-agent",
		Short: "Make this machine a Kubernetes node, and keep it one",
		Long: `bootstrap-agent makes this machine a Kubernetes node, and keeps it one.

First thing to try, without root, against a cluster you have:
  bootstrap-agent check --cluster --endpoint HOST:6443 --token-file -

Then, as root, with the line that the control plane prints:
  kubeadm token create --print-join-command        (on the control plane)
  bootstrap-agent configure -                      (here; paste the line, Ctrl-D)
  systemctl enable --now bootstrap-agent

Exit codes: 0 done, 1 failed, 64 usage, 65 trust, 69 kubelet or machine,
73 locked, 75 temporary or timed out, 77 refused by the cluster, 78 config.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usage("there is no such command; did you mean %s?", strings.Join(near, " or "))
			}
			return usage("there is no such command")
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.stderr)
			_ = cmd.Help()
			return &exitError{fault.ExitUsage}
		},
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%s: %s", cmd.CommandPath(), flagFault(err))
	})
	root.PersistentFlags().String("config-file", a.configFile, "config file")
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Prepare:", []*cobra.Command{a.checkCommand(), a.configureCommand(), a.tokenCommand()}},
		{"Join:", []*cobra.Command{a.runCommand(), a.joinCommand()}},
		{"Keep, leave:", []*cobra.Command{a.applyCommand(), a.adoptCommand(), a.resetCommand()}},
		{"Look:", []*cobra.Command{a.statusCommand(), a.waitCommand(), a.explainCommand(), a.reportCommand()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.title
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCommand(), a.completionCommand())
	return root
}

// noArgs is cobra.NoArgs with our exit code and without repeating the word: it
// may be a token that somebody typed on the command line.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("this command takes no arguments (a token is never given on the command line)")
	}
	return nil
}

// oneArg wants exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("one argument is wanted: %s", what)
		}
		return nil
	}
}

// oneOf says whether an output format or other word is among those allowed.
func oneOf(flag, value string, allowed ...string) error {
	for _, ok := range allowed {
		if value == ok {
			return nil
		}
	}
	return usage("--%s: must be one of: %s", flag, strings.Join(allowed, ", "))
}

// flagFault is what is wrong with a flag, without its value.
func flagFault(err error) string {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		switch {
		case name == "token":
			return "there is no flag --token: other users see the command line; use --token-file, or bootstrap-agent token set"
		case name != "" && showable(name):
			return "there is no flag --" + name
		}
		return "there is no such flag"
	case errors.As(err, &missing):
		return "--" + missing.GetSpecifiedName() + " needs a value"
	case errors.As(err, &invalid):
		return "--" + invalid.GetFlag().Name + ": the value is no " + invalid.GetFlag().Value.Type()
	}
	return "the flags cannot be read"
}

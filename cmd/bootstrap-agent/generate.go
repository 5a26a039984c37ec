package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
	"github.com/bootstrap-agent/bootstrap-agent/kubelet"
)

//go:generate go run -tags generate . config-example --to ../../packaging/config.example.yaml
//go:generate go run -tags generate . splice --to ../../docs/operations.md

// artefacts are what comes from the two tables (keys and reasons) and from the
// commands.
func artefacts() map[string]func(root *cobra.Command) string {
	return map[string]func(root *cobra.Command) string{
		"config-example": func(*cobra.Command) string { return exampleConfig() },
		"keys-md":        func(*cobra.Command) string { return keysMarkdown() },
		"kubelet-md":     func(*cobra.Command) string { return kubeletMarkdown() },
		"reasons-md":     func(*cobra.Command) string { return reasonsMarkdown() },
		"commands-md":    commandsMarkdown,
		"catalog":        func(*cobra.Command) string { return catalog() },
	}
}

// generateCommand is the program that writes what is generated: for `make
// generate` and `make package`, built by the tag "generate" (entry_generate.go).
// The program that is shipped does not have it: nothing else calls this code, so
// the linker leaves it out. It is a root command of its own; what it describes
// are the commands of the shipped one.
func (a *app) generateCommand() *cobra.Command {
	var to, release string
	cmd := &cobra.Command{
		Use:           "generate config-example|reasons-md|keys-md|kubelet-md|commands-md|catalog|splice [--to FILE] | man|completions --to FOLDER",
		Short:         "Write a generated artefact",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          oneArg("config-example, reasons-md, keys-md, kubelet-md, commands-md, catalog, splice, man or completions"),
		RunE: func(_ *cobra.Command, args []string) error {
			root := a.rootCommand()
			switch args[0] {
			case "splice":
				return a.splice(root, to)
			case "man":
				return writeFolder(to, manPages(root, release, a.getenv("SOURCE_DATE_EPOCH")))
			case "completions":
				scripts := map[string]string{}
				for _, shell := range shells() {
					script, err := completion(root, shell)
					if err != nil {
						return err
					}
					scripts[shell] = script
				}
				return writeFolder(to, scripts)
			}
			render, ok := artefacts()[args[0]]
			if !ok {
				return usage("there is no such artefact")
			}
			if to == "" {
				return a.print(render(root))
			}
			_, err := atomicfile.Write(to, []byte(render(root)), 0o644)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "write to this file or folder instead of stdout")
	cmd.Flags().StringVar(&release, "release", version, "the version that man pages name")
	return cmd
}

// writeFolder writes files into a folder that is there.
func writeFolder(folder string, files map[string]string) error {
	if folder == "" {
		return usage("--to names the folder for these files")
	}
	for name, text := range files {
		if _, err := atomicfile.Write(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// splice renews the generated parts of a page: what stands between the lines
// <!-- generated: NAME --> and <!-- end of NAME -->.
func (a *app) splice(root *cobra.Command, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot renew: %w", err)
	}
	text, err := spliced(root, path, string(data))
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(path, []byte(text), 0o644)
	return err
}

func spliced(root *cobra.Command, path, text string) (string, error) {
	for name, render := range artefacts() {
		begin, end := "<!-- generated: "+name+" -->\n", "<!-- end of "+name+" -->"
		head, rest, found := strings.Cut(text, begin)
		if !found {
			continue
		}
		_, tail, found := strings.Cut(rest, end)
		if !found {
			return "", fmt.Errorf("cannot renew %s: %q has no end", path, begin)
		}
		text = head + begin + "\n" + render(root) + "\n" + end + tail
	}
	return text, nil
}

// exampleConfig is a config file with every key commented out, its default (or
// an example where the default is empty) and its doc.
func exampleConfig() string {
	var b strings.Builder
	b.WriteString(`# The configuration of bootstrap-agent: /etc/bootstrap-agent/config.yaml
#
# Every key, with its default. Most machines need only endpoints and
# caCertHashes, and a token file beside this one; "bootstrap-agent configure"
# writes both from the line that "kubeadm token create --print-join-command"
# prints. Check a change with "bootstrap-agent check --config".
#
# Flags go before variables (BOOTSTRAP_AGENT_NODE_NAME for nodeName), variables
# before this file. Unknown keys are errors.
`)
	section := ""
	for _, k := range keys() {
		in, leaf := k.split()
		indent := ""
		if in != "" {
			indent = "  "
			if in != section {
				b.WriteString("\n#" + in + ":\n")
			}
		}
		section = in
		b.WriteByte('\n')
		for _, line := range fold(k.doc, 76-len(indent)) {
			b.WriteString(indent + "# " + line + "\n")
		}
		if k.kind == kindEnum && len(k.enum) > 1 {
			b.WriteString(indent + "# One of: " + words(k.enum) + ".\n")
		}
		if k.example != "" {
			b.WriteString(indent + "# For example: " + leaf + ": " + k.example + "\n")
		}
		if k.name == "apiVersion" {
			b.WriteString("apiVersion: " + apiVersion + "\n")
			continue
		}
		b.WriteString(indent + "#" + leaf + ": " + yamlDefault(k) + "\n")
	}
	return b.String()
}

// yamlDefault is a key's default as it stands in a file.
func yamlDefault(k key) string {
	switch v := k.def.(type) {
	case bool:
		return fmt.Sprint(v)
	case string:
		if v == "" {
			return `""`
		}
		return v
	}
	return "[]"
}

func fold(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func keysMarkdown() string {
	var b strings.Builder
	b.WriteString("| key | kind | default | flag | variable | meaning |\n|---|---|---|---|---|---|\n")
	for _, k := range keys() {
		kind := string(k.kind)
		if k.kind == kindEnum {
			kind = "one of: `" + strings.ReplaceAll(words(k.enum), ", ", "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s | %s | %s |\n", k.name, kind, yamlDefault(k), code("--", k.flag), code("", k.env()), cell(k.doc))
	}
	return b.String()
}

func reasonsMarkdown() string {
	var b strings.Builder
	b.WriteString("| reason | class | exit code | meaning | what to do |\n|---|---|---|---|---|\n")
	for _, e := range fault.All() {
		fmt.Fprintf(&b, "| `%s` | %s | %d | %s | %s |\n", e.Reason, e.Class, e.Exit, cell(e.Meaning), cell(e.Remedy))
	}
	return b.String()
}

// kubeletMarkdown lists the kubelet's settings where nobody else decides them.
func kubeletMarkdown() string {
	var b strings.Builder
	b.WriteString("| key | value | why |\n|---|---|---|\n")
	for _, d := range kubelet.BuiltInDefaults() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", d.Key, cell(d.Value), cell(d.Reason))
	}
	return b.String()
}

func commandsMarkdown(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("| command | does |\n|---|---|\n")
	for _, c := range leaves(root) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", strings.TrimPrefix(cell(c.UseLine()), "bootstrap-agent "), cell(c.Short))
	}
	return b.String()
}

// leaves are the commands that a person calls, in the order of the help.
func leaves(c *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, sub := range c.Commands() {
		switch {
		case sub.Hidden || sub.Name() == "help":
		case sub.HasSubCommands():
			out = append(out, leaves(sub)...)
		default:
			out = append(out, sub)
		}
	}
	return out
}

func code(prefix, text string) string {
	if text == "" {
		return ""
	}
	return "`" + prefix + text + "`"
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// catalog is the message catalog for `journalctl -x`: one entry a reason and one
// an event. What stands between two @ is a field of the entry that is explained.
func catalog() string {
	var b strings.Builder
	b.WriteString("# Message catalog of bootstrap-agent: what `journalctl -x` shows below an entry.\n")
	entry := func(id, subject string, paragraphs ...string) {
		fmt.Fprintf(&b, "\n-- %s\nSubject: %s\nDefined-By: bootstrap-agent\nSupport: https://github.com/bootstrap-agent/bootstrap-agent/issues\n"+
			"Documentation: man:bootstrap-agent(8)\n", id, subject)
		for _, p := range paragraphs {
			b.WriteString("\n" + strings.Join(fold(p, 76), "\n") + "\n")
		}
	}
	for _, e := range fault.All() {
		entry(e.Reason.MessageID(), string(e.Reason), e.Meaning, "What was seen: @BOOTSTRAP_AGENT_CAUSE@", "What to do: @BOOTSTRAP_AGENT_HINT@", "More: bootstrap-agent explain "+string(e.Reason))
	}
	for _, e := range fault.Events() {
		entry(e.Event.MessageID(), e.Subject, e.Text)
	}
	return b.String()
}

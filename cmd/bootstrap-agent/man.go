package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

const configPage = "bootstrap-agent-config"

// manPages are the man pages by file name: one in section 8 for the program and
// one for each command, and one in section 5 for the config file. They say what
// --help says, from the same commands and the same table of keys. epoch is the
// date they carry, in seconds, so that two builds are equal.
func manPages(root *cobra.Command, release, epoch string) map[string]string {
	m := manual{release: release, date: day(epoch)}
	pages := map[string]string{
		"bootstrap-agent.8": m.program(root),
		configPage + ".5":   m.config(root),
	}
	for _, c := range leaves(root) {
		pages[pageName(c)+".8"] = m.command(c)
	}
	return pages
}

// manual is what all pages of one build share.
type manual struct{ release, date string }

func day(epoch string) string {
	seconds, _ := strconv.ParseInt(epoch, 10, 64) // none given: 1970
	return time.Unix(seconds, 0).UTC().Format(time.DateOnly)
}

// pageName is a command's page: bootstrap-agent-token-set.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func (m manual) program(root *cobra.Command) string {
	p := m.page("bootstrap-agent", 8, root.Short)
	p.section("SYNOPSIS")
	p.line(`.B bootstrap\-agent`)
	p.line(`.I command`)
	p.line("[flags]")
	p.section("DESCRIPTION")
	p.text(root.Long)
	p.section("COMMANDS")
	for _, c := range leaves(root) {
		p.item(strings.TrimPrefix(c.CommandPath(), "bootstrap-agent "), c.Short+". See "+pageName(c)+"(8).")
	}
	p.section("FILES")
	for _, f := range [][2]string{
		{defaultConfigFile, "The configuration (0600)."},
		{defaultTokenFile, "The bootstrap token (0600)."},
		{"/var/lib/bootstrap-agent/", "Private state: lock, pending key, trust record, manifest."},
		{"/run/bootstrap-agent/status.json", "What status shows."},
		{"/var/lib/kubelet/", "The kubelet's certificate, kubeconfig and configuration."},
	} {
		p.item(f[0], f[1])
	}
	p.section("REASONS")
	p.text("Every fault and every note of the agent has one of these names, in status, journal and error messages.")
	for _, e := range fault.All() {
		p.item(string(e.Reason), fmt.Sprintf("%s\n\nWhat to do: %s\n\nClass %s, exit code %d.", e.Meaning, e.Remedy, e.Class, e.Exit))
	}
	p.exitStatus()
	var others []string
	for _, c := range leaves(root) {
		others = append(others, pageName(c)+"(8)")
	}
	p.seeAlso(append(others, configPage+"(5)", "journalctl(1)", "systemctl(1)")...)
	return p.String()
}

func (m manual) command(c *cobra.Command) string {
	p := m.page(pageName(c), 8, c.Short)
	p.section("SYNOPSIS")
	p.synopsis(c.UseLine())
	p.section("DESCRIPTION")
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	p.text(text)
	var own, ofKeys []*pflag.Flag
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		switch {
		case f.Hidden || f.Name == "help" || f.Name == "config-file":
		case isKeyFlag(f.Name):
			ofKeys = append(ofKeys, f)
		default:
			own = append(own, f)
		}
	})
	p.section("OPTIONS")
	for _, f := range own {
		p.item(flagHead(f), flagText(f))
	}
	p.item("--config-file FILE", "The config file (default "+defaultConfigFile+").")
	if len(ofKeys) > 0 {
		p.section("OPTIONS IN PLACE OF KEYS")
		p.text("These go before the keys of the config file that they stand for; see " + configPage + "(5).")
		for _, f := range ofKeys {
			p.item(flagHead(f), flagText(f))
		}
	}
	p.exitStatus()
	p.seeAlso("bootstrap-agent(8)", configPage+"(5)")
	return p.String()
}

func (m manual) config(root *cobra.Command) string {
	p := m.page(configPage, 5, "the configuration of bootstrap-agent")
	p.section("SYNOPSIS")
	p.line(".I %s", roff(defaultConfigFile))
	p.section("DESCRIPTION")
	p.text(`The file is YAML, and belongs to root with mode 0600. Most machines need only endpoints and caCertHashes, and a token file beside it; "bootstrap-agent configure" writes both from the line that "kubeadm token create --print-join-command" prints. Unknown keys are errors. A change is taken in at once; check it beforehand:

  bootstrap-agent check --config

Command line flags go before environment variables, variables before the file. Lists are given as flags by repeating the flag, as variables with commas (kubelet.extraArgs: blanks) between the elements.`)
	p.section("KEYS")
	for _, k := range keys() {
		text := k.doc
		if k.kind == kindEnum && len(k.enum) > 1 {
			text += " One of: " + words(k.enum) + "."
		}
		text += "\n\nDefault: " + yamlDefault(k)
		if k.flag != "" {
			text += "; flag: --" + k.flag
		}
		if k.env() != "" {
			text += "; variable: " + k.env()
		}
		text += "."
		if k.example != "" {
			text += "\n\n  " + k.example
		}
		p.item(k.name, text)
	}
	p.section("EXAMPLES")
	p.text("Nothing but what a join needs; the token is in " + defaultTokenFile + `:

  apiVersion: ` + apiVersion + `
  endpoints: ["10.0.0.1:6443"]
  caCertHashes: ["sha256:..."]

A file with every key is in /usr/share/doc/bootstrap-agent/examples/config.yaml.`)
	var readers []string
	for _, c := range leaves(root) {
		if name := c.Name(); name == "check" || name == "configure" {
			readers = append(readers, pageName(c)+"(8)")
		}
	}
	p.seeAlso(append([]string{"bootstrap-agent(8)"}, readers...)...)
	return p.String()
}

func isKeyFlag(name string) bool {
	for _, k := range keys() {
		if k.flag == name {
			return true
		}
	}
	return false
}

func flagHead(f *pflag.Flag) string {
	head := "--" + f.Name
	if f.Shorthand != "" {
		head = "-" + f.Shorthand + ", " + head
	}
	kind, _ := pflag.UnquoteUsage(f)
	if kind == "stringArray" || kind == "strings" {
		kind = "string"
	}
	return strings.TrimSpace(head + " " + strings.ToUpper(kind))
}

func flagText(f *pflag.Flag) string {
	text := strings.TrimSuffix(f.Usage, ".")
	switch f.DefValue {
	case "", "false", "[]", "0", "0s":
	default:
		text += " (default " + f.DefValue + ")"
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// page is a man page that is being written.
type page struct{ strings.Builder }

func (m manual) page(name string, section int, purpose string) *page {
	p := &page{}
	p.line(`.\" Generated from the program: what --help says, and the tables of keys and reasons.`)
	p.line(`.TH %s %d %s "bootstrap\-agent %s"`, roff(strings.ToUpper(name)), section, m.date, roff(m.release))
	p.line(".nh\n.ad l") // words that are typed are neither broken nor spread
	p.section("NAME")
	p.line(`%s \- %s`, roff(name), roff(strings.ToLower(purpose[:1])+purpose[1:]))
	return p
}

func (p *page) line(format string, args ...any) { _, _ = fmt.Fprintf(p, format+"\n", args...) }

func (p *page) section(name string) { p.line(".SH %s", name) }

// synopsis is a usage line: the program bold, the rest as it stands.
func (p *page) synopsis(use string) {
	var bold []string
	rest := strings.Fields(use)
	for len(rest) > 0 && strings.ToLower(rest[0]) == rest[0] && rest[0][0] >= 'a' && !strings.ContainsAny(rest[0], "|") {
		bold, rest = append(bold, rest[0]), rest[1:]
	}
	p.line(".B %s", roff(strings.Join(bold, " ")))
	if len(rest) > 0 {
		p.line("%s", roff(strings.Join(rest, " ")))
	}
}

// text writes paragraphs. Lines that are indented stand as they are.
func (p *page) text(text string) {
	first := true
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		var flow []string
		verbatim := false
		flush := func() {
			if len(flow) > 0 {
				p.flow(strings.Join(flow, " "))
			}
			flow = nil
		}
		if !first {
			p.line(".PP")
		}
		first = false
		for _, line := range strings.Split(paragraph, "\n") {
			code := strings.HasPrefix(line, "  ")
			if code && !verbatim {
				flush()
				p.line(".nf\n.RS 4")
			}
			if !code && verbatim {
				p.line(".RE\n.fi")
			}
			if verbatim = code; code {
				p.line("%s", roff(strings.TrimPrefix(line, "  ")))
			} else {
				flow = append(flow, line)
			}
		}
		flush()
		if verbatim {
			p.line(".RE\n.fi")
		}
	}
}

// item is a term and what it means; more paragraphs stay below the term.
func (p *page) item(term, text string) {
	p.line(".TP\n.B %s", roff(term))
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			p.line(".IP")
		}
		if example, ok := strings.CutPrefix(paragraph, "  "); ok {
			p.line(".nf\n%s\n.fi", roff(example))
			continue
		}
		p.flow(paragraph)
	}
}

// flow writes a paragraph in lines of moderate length. A word that fills a line
// by itself may be broken behind a colon.
func (p *page) flow(text string) {
	for _, line := range fold(text, 68) {
		escaped := roff(line)
		if len(line) > 60 && !strings.Contains(line, " ") {
			escaped = strings.ReplaceAll(escaped, ":", `:\:`)
		}
		p.line("%s", escaped)
	}
}

func (p *page) exitStatus() {
	p.section("EXIT STATUS")
	for _, e := range [][2]string{
		{"0", "Done."}, {"1", "Failed."}, {"64", "Usage: the command line is wrong."},
		{"65", "Trust: a signature, a pin or a certificate is not what it must be."},
		{"69", "The kubelet or this machine cannot serve."}, {"73", "Locked: another agent runs."},
		{"75", "Temporary, or the time is up."}, {"77", "Refused by the cluster."}, {"78", "The configuration is wrong."},
	} {
		p.item(e[0], e[1])
	}
}

func (p *page) seeAlso(pages ...string) {
	p.section("SEE ALSO")
	for i, ref := range pages {
		name, section, _ := strings.Cut(ref, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		p.line(".BR %s (%s%s", roff(name), section, comma)
	}
}

// roff escapes text for a man page: backslashes, characters that would be made
// typographic, and lines that would be commands.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

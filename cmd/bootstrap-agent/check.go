package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/cmd/bootstrap-agent/view"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// checkFlags are the flags of `check` beside those of the table.
type checkFlags struct {
	cluster, machine, config bool
	offline                  bool // for a report: the network is not asked

	output    string
	tokenFile string
	timeout   time.Duration
}

func (a *app) checkCommand() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check --cluster | --machine | --config",
		Short: "Look at a cluster, this machine or the config, and change nothing",
		Long: `Look at a cluster, this machine or the config, and change nothing.

--cluster reads cluster-info as a join would, with a bootstrap token and without
any credential on the wire, and shows every step, the CAs with their pins, and
what would go wrong. It needs neither root nor a config:

  bootstrap-agent check --cluster --endpoint HOST:6443 --token-file -

With a discovery file (--discovery-file FILE, or the config's) no token is
needed: it shows the file's server, CAs and pins, and whether the server's
certificate verifies.

--machine looks whether a kubelet can run here: its binary and version, the
container runtime, cgroups, swap, ports, kernel settings, disks, host name,
clock, another kubelet's identity. Rows that need root say so. Exit code 0 with
warnings, else that of the first row that failed. The API servers of the config,
or of --endpoint, are asked for version and time, without any credential.

--config judges the config file and shows each value with where it comes from.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneOf("output", f.output, "text", "json"); err != nil {
				return err
			}
			one := map[bool]int{true: 1}
			switch {
			case one[f.cluster]+one[f.machine]+one[f.config] != 1:
				return usage("say what to check: --cluster, --machine or --config")
			case f.config:
				return a.checkConfig(a.loader(cmd.Flags()), f.output)
			case f.machine:
				return a.checkMachine(cmd.Context(), a.loader(cmd.Flags()), f)
			}
			return a.checkCluster(cmd.Context(), a.loader(cmd.Flags()), f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.cluster, "cluster", false, "the cluster: discovery, signature, CAs and pins")
	flags.BoolVar(&f.machine, "machine", false, "this machine: what a kubelet needs here")
	flags.BoolVar(&f.config, "config", false, "the config file: rules, effective values, where each comes from")
	flags.StringVarP(&f.output, "output", "o", "text", "text or json")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with a bootstrap token, or - for stdin (for --cluster)")
	flags.DurationVar(&f.timeout, "timeout", 30*time.Second, "give up after this time (for --cluster and --machine)")
	addKeyFlags(flags, "endpoints", "discoveryFile", "caCertHashes", "unsafeSkipCAVerification", "server", "nodeName", "kubelet.binary", "kubelet.containerRuntimeEndpoint")
	return cmd
}

// checkCluster looks at a cluster: the one of the config, or with --endpoint
// any other, without reading the config.
func (a *app) checkCluster(ctx context.Context, l *loader, f checkFlags) error {
	cfg, exploring, err := a.clusterToCheck(l)
	if err != nil {
		return err
	}
	var token discovery.Token
	var file *discovery.File
	if cfg.Discovery != nil {
		file, err = cfg.Discovery.Read() // it needs no token, and none is asked for
	} else {
		token, err = a.tokenToCheck(ctx, cfg, f, exploring)
	}
	if err != nil {
		return err
	}
	// Whoever looks at a cluster for the first time has no pin yet. Nothing is
	// sent and nothing kept, so all steps may be shown.
	unpinned := exploring && cfg.Pins.Len() == 0 && !cfg.UnsafeSkipCAVerification
	request := discovery.Request{
		Endpoints: cfg.Endpoints, Token: token, File: file, Pins: cfg.Pins, Server: cfg.Server, Proxy: cfg.Proxy,
		UnsafeSkipCAVerification: cfg.UnsafeSkipCAVerification || unpinned,
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	d := &discovery.Discoverer{Log: silence(), UserAgent: userAgent()}
	started := time.Now()
	report, err := d.Inspect(ctx, request)
	seen := view.Check{
		Report: report, Err: err, TokenID: token.ID(), Started: started,
		Pinned: cfg.Pins.Len() > 0, Unsafe: cfg.UnsafeSkipCAVerification,
	}
	if f.output == "json" {
		if printErr := a.printJSON(clusterDocument(seen)); printErr != nil {
			return printErr
		}
	} else if printErr := a.print(view.Cluster(seen, a.style(a.stdout))); printErr != nil {
		return printErr
	}
	if err != nil {
		return &exitError{fault.ExitCode(err)} // the report has said it all
	}
	return nil
}

// clusterToCheck takes the cluster from the config file, or, with --endpoint or
// --discovery-file, from the flags alone.
func (a *app) clusterToCheck(l *loader) (cfg agent.Config, exploring bool, err error) {
	named := func(flag string) bool { f := l.flags.Lookup(flag); return f != nil && f.Changed }
	if l.named || !named("endpoint") && !named("discovery-file") {
		good, err := l.load()
		if errors.Is(err, fs.ErrPermission) {
			return cfg, false, fault.New(fault.ConfigInvalid, "%w", err).
				WithHint("Only root may read the config. Without root, name the cluster: --endpoint HOST:PORT --token-file FILE|-")
		}
		if err != nil {
			return cfg, false, err
		}
		return good.agent, false, nil
	}
	merged, problems, _ := l.merge(configFile{})
	j := &judge{app: a, settings: merged, broken: map[string]bool{}}
	for _, s := range merged {
		switch s.key.name {
		case "endpoints", "discoveryFile", "caCertHashes", "unsafeSkipCAVerification", "server", "proxyURL", "noProxy":
			if s.key.rule != nil {
				s.key.rule(j, s)
			}
		}
	}
	j.cfg.UnsafeSkipCAVerification = merged.flag("unsafeSkipCAVerification")
	if problems = append(problems, j.problems...); len(problems) > 0 {
		return cfg, true, configFault(problems, false, l.file)
	}
	return j.cfg, true, nil
}

// tokenToCheck reads the token from --token-file, else from the config's
// sources.
func (a *app) tokenToCheck(ctx context.Context, cfg agent.Config, f checkFlags, exploring bool) (discovery.Token, error) {
	switch {
	case f.tokenFile == "-":
		text, err := a.readSecret(ctx, "Bootstrap token (not shown): ", maxToken)
		if err != nil {
			return discovery.Token{}, err
		}
		return discovery.ParseToken(text)
	case f.tokenFile != "":
		return agent.TokenFile(f.tokenFile).Read()
	case exploring:
		return discovery.Token{}, usage("a bootstrap token is needed to verify cluster-info (kubeadm token create): --token-file FILE, or --token-file - for stdin")
	}
	var problems []error
	for _, source := range cfg.Tokens {
		token, err := source.Read()
		if err == nil {
			return token, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return discovery.Token{}, errors.Join(problems...)
	}
	return discovery.Token{}, fault.New(fault.TokenMissing, "there is no bootstrap token in any source")
}

// userAgent is how we name ourselves to a server.
func userAgent() string { return "bootstrap-agent/" + buildInfo().Version }

// clusterDocument is the report for `-o json`. Fields are only ever added.
func clusterDocument(c view.Check) any {
	type endpoint struct {
		discovery.EndpointReport
		Reason string `json:"reason,omitempty"`
		Error  string `json:"error,omitempty"`
		Hint   string `json:"hint,omitempty"`
	}
	type document struct {
		OK      bool     `json:"ok"`
		Reason  string   `json:"reason,omitempty"`
		Error   string   `json:"error,omitempty"`
		Hint    string   `json:"hint,omitempty"`
		TokenID string   `json:"tokenID"`
		Pinned  bool     `json:"pinned"`
		Server  string   `json:"server,omitempty"`
		Pins    []string `json:"pins,omitempty"`
		// OtherClientCAs are told where a kubelet needs kubelet.clientCAFile.
		OtherClientCAs []string   `json:"otherClientCAs,omitempty"`
		Endpoints      []endpoint `json:"endpoints"`
	}
	out := document{OK: c.Err == nil, TokenID: c.TokenID, Pinned: c.Pinned, Endpoints: []endpoint{}}
	if c.Err != nil {
		out.Reason, out.Error, out.Hint = string(fault.ReasonOf(c.Err)), view.Cause(c.Err), fault.HintOf(c.Err)
	}
	if c.Report.Cluster != nil {
		out.Server, out.Pins, out.OtherClientCAs = c.Report.Cluster.Server, c.Report.Cluster.Pins, c.Report.Cluster.OtherClientCAs
	}
	for _, e := range c.Report.Endpoints {
		one := endpoint{EndpointReport: e}
		if e.Err != nil {
			one.Reason, one.Error, one.Hint = string(fault.ReasonOf(e.Err)), view.Cause(e.Err), fault.HintOf(e.Err)
		}
		out.Endpoints = append(out.Endpoints, one)
	}
	return out
}

// checkConfig judges the config and shows each value with its origin.
func (a *app) checkConfig(l *loader, output string) error {
	good, err := l.load()
	if err != nil {
		return err
	}
	if len(good.absent) > 0 {
		return configFault(good.absent, false, l.file)
	}
	good.warnings = append(good.warnings, a.leftovers(good.agent)...)
	type line struct {
		Key    string `json:"key"`
		Value  any    `json:"value"`
		Origin string `json:"origin"`
	}
	var lines []line
	for _, s := range good.settings {
		lines = append(lines, line{s.key.name, shownValue(s, good.agent), s.at.String()})
	}
	if output == "json" {
		return a.printJSON(struct {
			OK       bool     `json:"ok"`
			Warnings []string `json:"warnings,omitempty"`
			Settings []line   `json:"settings"`
		}{true, good.warnings, lines})
	}
	var b strings.Builder
	keyWidth, valueWidth := 0, 0
	texts := make([]string, len(lines))
	for i, one := range lines {
		texts[i] = plainValue(one.Value)
		keyWidth = max(keyWidth, len(one.Key))
		valueWidth = min(max(valueWidth, len(texts[i])), 48)
	}
	for i, one := range lines {
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", keyWidth, one.Key, valueWidth, texts[i], one.Origin)
	}
	for _, w := range good.warnings {
		b.WriteString("warning: " + w + "\n")
	}
	return a.print(b.String())
}

// shownValue is a setting's value as it may be shown: normalised where that
// says more, never a secret.
func shownValue(s setting, cfg agent.Config) any {
	switch {
	case s.key.secret && s.value != "":
		return "<redacted>"
	case s.key.name == "endpoints":
		list := []string{}
		for _, e := range cfg.Endpoints {
			list = append(list, e.String())
		}
		return list
	case s.key.name == "nodeName":
		return cfg.NodeName
	}
	return s.value
}

func plainValue(v any) string {
	switch v := v.(type) {
	case string:
		if v == "" {
			return `""`
		}
		return v
	case []string:
		return "[" + strings.Join(v, ", ") + "]"
	}
	return fmt.Sprint(v)
}

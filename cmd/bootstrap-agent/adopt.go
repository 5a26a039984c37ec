package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/agent/adopt"
	"github.com/bootstrap-agent/bootstrap-agent/agent/record"
	"github.com/bootstrap-agent/bootstrap-agent/agent/reset"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

func (a *app) adoptCommand() *cobra.Command {
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Take over a node that kubeadm join, or a person, has joined",
		Long: `Take over the kubelet of a machine that is a node already: with its certificate,
its configuration and its pods, without a token and without a request. From then on
the agent sees to the identity and the unit; the kubelet is restarted once.

  bootstrap-agent adopt --dry-run      (what would change, flag by flag)
  bootstrap-agent adopt

Server, CA and certificate are those of the kubeconfig that the running kubelet's
unit names; before anything is written, the API server must show the Node for them.
What kubeadm writes stays where it is and in use: config.yaml, kubeadm-flags.env,
kubelet.conf, so "kubeadm upgrade node" works as before. Flags of a unit of one's
own become keys of the config file, which this command writes.

Refused by name, with nothing changed: a control-plane node, another credential
than a client certificate, one that has ended, a kubeconfig with several clusters,
a unit that runs something else than a kubelet.

It may be run again after a crash. ` + "`bootstrap-agent reset --restore`" + ` undoes it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.adopt(cmd.Context(), a.loader(cmd.Flags()), dryRun, yes)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done and change nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (a *app) adopt(ctx context.Context, l *loader, dryRun, yes bool) error {
	if err := a.mustChangeMachine("adopt"); err != nil {
		return err
	}
	w := a.wire(agent.Config{Paths: a.paths}, silence())
	defer w.close()
	units, ok := w.deps.Units.(adopt.Units)
	if !ok {
		return errors.New("cannot adopt without systemd")
	}
	read := func(path string) ([]byte, error) { return atomicfile.Read(a.below(path), record.MaxFile) }
	one := &adopt.Adopt{
		Paths: a.paths, Units: units, Read: read, Machine: w.deps.Machine, Now: w.now, Monotonic: w.deps.Clock.Monotonic, Say: a.say,
		Ask: func(ctx context.Context, server string, ca, pair []byte, name string) (adopt.Node, error) {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			api, err := w.deps.Connect(agent.Identity{Server: server, CA: ca, Pair: pair})
			if err != nil {
				return adopt.Node{}, err
			}
			defer api.Close()
			node, err := api.GetNode(ctx, name)
			if err != nil {
				return adopt.Node{}, err
			}
			return adopt.Node{UID: string(node.UID), BootID: node.Status.NodeInfo.BootID}, nil
		},
	}
	found, err := one.Look(ctx)
	if err != nil {
		return err
	}
	if found.Done {
		if !dryRun {
			if err := one.Wake(ctx); err != nil {
				return fmt.Errorf("node %s is taken over already, and the agent does not start: %w", found.NodeName, err)
			}
		}
		return a.print("Node " + found.NodeName + " is taken over already. `bootstrap-agent status` shows it.\n")
	}
	plan, err := a.adoptPlan(l, w, found)
	if err != nil {
		return err
	}
	changes, err := plan.Changes(found, read)
	if err != nil {
		return err
	}
	if err := a.print(adoptText(found, plan, changes, a.paths)); err != nil || dryRun {
		return err
	}
	if err := a.mustConfirm(ctx, yes); err != nil {
		return err
	}
	if err := one.Do(ctx, found, plan); err != nil {
		return fmt.Errorf("cannot take over this node: %w", err)
	}
	return a.print("\nNode " + found.NodeName + " is taken over: bootstrap-agent status\nAs before: bootstrap-agent reset --restore\n")
}

// below puts paths of /etc into the /etc of a test.
func (a *app) below(path string) string {
	if rest, ok := strings.CutPrefix(path, "/etc/"); ok {
		return a.paths.Etc + "/" + rest
	}
	return path
}

// adoptPlan makes the config file of what was found, has it judged like any, and
// renders the unit as the agent will from then on.
func (a *app) adoptPlan(l *loader, w *wiring, f *adopt.Found) (adopt.Plan, error) {
	data, good, err := l.adoptedConfig(f)
	if err != nil {
		return adopt.Plan{}, err
	}
	same, exists, err := l.compare(good)
	if err != nil {
		return adopt.Plan{}, err
	}
	if exists && !same {
		return adopt.Plan{}, fault.New(fault.NotAdoptable, "%s exists and says something else than this node is", l.file).
			WithHint("Move it away; adopt writes one: `mv %s %s.old`.", l.file, l.file)
	}
	if exists {
		if content, err := readConfigFile(l.file); err == nil {
			data = content.data
		}
	}
	service, err := agent.AdoptedService(good.agent, w.deps, f.Adopted, f.Existing.Unit)
	if err != nil {
		return adopt.Plan{}, err
	}
	return adopt.Plan{
		Service: service, ConfigFile: l.file, Config: data,
		Trust: agent.AdoptedTrust(good.agent, f.Server, string(f.CA), f.Pins, w.deps.Machine),
	}, nil
}

func (l *loader) adoptedConfig(f *adopt.Found) ([]byte, *loaded, error) {
	server, err := url.Parse(f.Server)
	if err != nil {
		return nil, nil, fault.New(fault.NotAdoptable, "server %s is no URL", fault.Quote(f.Server))
	}
	port := server.Port()
	if port == "" {
		port = "443"
	}
	values := map[string]any{
		"endpoints":    []string{net.JoinHostPort(server.Hostname(), port)},
		"caCertHashes": f.Pins, "nodeName": f.NodeName,
	}
	for name, value := range map[string]string{
		"nodeIP": f.Values.NodeIP, "kubelet.configDir": f.Values.ConfigDir, "kubelet.containerRuntimeEndpoint": f.Values.RuntimeEndpoint,
	} {
		if value != "" {
			values[name] = value
		}
	}
	for name, value := range map[string][]string{"nodeLabels": f.Values.Labels, "nodeTaints": f.Values.Taints, "kubelet.extraArgs": f.Values.ExtraArgs} {
		if len(value) > 0 {
			values[name] = value
		}
	}
	data := renderConfig(keys(), values)
	data = []byte(strings.Replace(string(data), "bootstrap-agent configure", "bootstrap-agent adopt", 1))
	quiet := *l.app
	quiet.environ = nil // the file has to be good by itself
	plain := &loader{app: &quiet, file: l.file}
	good, err := plain.judge(configFile{path: l.file, data: data, mode: 0o600, owner: uint32(max(l.app.uid, 0))})
	if err != nil {
		return nil, nil, fault.New(fault.NotAdoptable, "the kubelet's flags do not fit the agent's configuration: %w", err)
	}
	return data, good, nil
}

func adoptText(f *adopt.Found, p adopt.Plan, changes []string, paths agent.Paths) string {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	line("Node %s of %s, certificate %s until %s.", f.NodeName, f.Server, f.Serial, f.NotAfter.UTC().Format(time.RFC3339))
	line("Stays, and stays somebody else's: %s", strings.Join(append([]string{f.Existing.Path, f.Adopted.Config}, f.Adopted.Theirs...), ", "))
	line("Writes %s/kubeconfig, the CA beside the pair, the drop-in for %s, records, and %s:", paths.Kubelet, f.Existing.Path, p.ConfigFile)
	for text := range strings.Lines(string(p.Config)) {
		if !strings.HasPrefix(text, "#") {
			line("    %s", strings.TrimRight(text, "\n"))
		}
	}
	line("Restarts the kubelet once, with these flags changed:")
	for _, change := range changes {
		line("  %s", change)
	}
	if len(changes) == 0 {
		line("  (none)")
	}
	return b.String()
}

// restoreAdopted is reset --restore.
func (a *app) restoreAdopted(ctx context.Context, r *reset.Reset, now time.Time, f resetFlags) error {
	back, err := r.LookBack(now)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("The kubelet goes back to what it was before adopt, with one restart.\n")
	for _, path := range back.Restore {
		_, _ = fmt.Fprintf(&b, "Restores %s\n", path)
	}
	for _, path := range back.Remove {
		_, _ = fmt.Fprintf(&b, "Removes %s\n", path)
	}
	for _, left := range back.Left {
		_, _ = fmt.Fprintf(&b, "Leaves %s: %s\n", left.Path, left.Why)
	}
	if err := a.print(b.String()); err != nil || f.dryRun {
		return err
	}
	if err := a.mustConfirm(ctx, f.yes); err != nil {
		return err
	}
	if _, err := r.Restore(ctx, now); err != nil {
		return fmt.Errorf("cannot undo the takeover: %w", err)
	}
	return a.print("The kubelet runs as it did before adopt.\n")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/agent/reset"
)

type resetFlags struct{ dryRun, force, yes, image, restore bool }

func (a *app) resetCommand() *cobra.Command {
	var f resetFlags
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Take this machine out of the cluster: remove exactly what the agent made",
		Long: `Take this machine out of the cluster. Agent and kubelet are stopped and disabled,
and what the agent has put on this machine is removed: the node's certificates and
keys, kubeconfig, CA, kubelet config, unit or drop-in, all records. What somebody
else wrote, or has changed since, stays and is named. Config file and token stay.

  kubectl drain NODE --ignore-daemonsets --delete-emptydir-data
  kubectl delete node NODE
  bootstrap-agent reset                    (here)

The cluster's objects are not touched: a node may not delete its own Node, unless
the cluster allows it (node-deletes-itself.yaml among the examples).

While pods run here, or volumes are mounted, it refuses; with --force the pods run
on without a kubelet, and every mount stays. It may be run again after a crash, and
when there is nothing left to do. On a machine whose kubelet is not the agent's
that kubelet is left alone.

--image makes a template for images of this machine: what must not be in two
machines goes, too, and the agent stays enabled, so that each copy joins at its
first boot. --restore undoes ` + "`adopt`" + `.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.image && f.restore {
				return usage("either --image or --restore")
			}
			return a.reset(cmd.Context(), a.loader(cmd.Flags()), f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "show what would be done and change nothing")
	flags.BoolVar(&f.force, "force", false, "go on while pods run or volumes are mounted")
	flags.BoolVar(&f.yes, "yes", false, "do not ask")
	flags.BoolVar(&f.image, "image", false, "make a template for images of this machine")
	flags.BoolVar(&f.restore, "restore", false, "undo adopt: the kubelet runs as it did before")
	return cmd
}

func (a *app) reset(ctx context.Context, l *loader, f resetFlags) error {
	if err := a.mustChangeMachine("reset"); err != nil {
		return err
	}
	content, err := readConfigFile(l.file)
	if err != nil {
		content = configFile{} // a bad or missing one keeps nobody from leaving
	}
	merged, _, _ := l.merge(content)
	w := a.wire(agent.Config{Paths: a.paths}, silence())
	defer w.close()
	units, ok := w.deps.Units.(reset.Units)
	if !ok {
		return errors.New("cannot reset without systemd")
	}
	r := &reset.Reset{
		Paths: a.paths, Units: units, Image: f.image, Force: f.force, Root: a.root,
		Config: l.file, Token: merged.text("tokenFile"), Say: a.say,
	}
	if f.restore {
		return a.restoreAdopted(ctx, r, w.now(), f)
	}
	plan, err := r.Look(ctx)
	if err != nil {
		return err
	}
	if err := a.print(resetPlan(plan, r)); err != nil || f.dryRun {
		return err
	}
	if err := a.mustConfirm(ctx, f.yes); err != nil {
		return err
	}
	if plan, err = r.Do(ctx); err != nil {
		return fmt.Errorf("cannot reset this machine: %w", err)
	}
	return a.print(resetEnd(plan, r))
}

// mustChangeMachine refuses what only root on the machine itself can do.
func (a *app) mustChangeMachine(command string) error {
	if a.uid != 0 && a.paths == agent.DefaultPaths() {
		return errors.New("only root can do that: run `bootstrap-agent " + command + "` in a root shell")
	}
	return reset.Writable(a.paths)
}

// mustConfirm ends what a person does not want; without one at a terminal --yes is
// the answer.
func (a *app) mustConfirm(ctx context.Context, yes bool) error {
	if yes {
		return nil
	}
	if _, ok := terminal(a.stdin); !ok {
		return usage("nobody is here to be asked: --yes goes on without, --dry-run only shows")
	}
	yes, err := a.confirm(ctx, "Go on? [y/N] ")
	if err == nil && !yes {
		err = errors.New("nothing was changed")
	}
	return err
}

// resetPlan tells what would be done.
func resetPlan(p *reset.Plan, r *reset.Reset) string {
	var b strings.Builder
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(&b, format+"\n", args...) }
	switch {
	case p.Ours && p.Node != "":
		line("This machine is, or was to be, node %s.", p.Node)
	case p.Ours:
		line("This machine's kubelet runs by the agent's unit.")
	case p.Empty():
		line("Nothing of a join is on this machine.")
	default:
		line("This machine's kubelet is not the agent's: it is left alone.")
	}
	switch {
	case r.Image:
		line("Stops the agent, which stays enabled%s.", alsoKubelet(p, " and the kubelet"))
	case p.Ours && p.KubeletStays:
		line("Stops and disables the agent; stops the kubelet, whose unit is somebody else's and starts at boot as before.")
	default:
		line("Stops and disables the agent%s.", alsoKubelet(p, " and the kubelet"))
	}
	if !p.Empty() {
		line("Removes:")
		for _, path := range append(append([]string(nil), p.Remove...), p.Clear...) {
			line("  %s", path)
		}
	}
	line("Forgets all in %s.", r.Paths.State)
	line("Keeps %s, and the token in %s.", r.Config, r.Token)
	for _, left := range p.Left {
		line("Leaves %s: %s.", left.Path, left.Why)
	}
	for _, what := range p.Unsure {
		line("Not known: %s.", what)
	}
	if !p.Busy.Empty() {
		line("Still here: %s.", p.Busy)
	}
	return b.String()
}

func alsoKubelet(p *reset.Plan, text string) string {
	if p.Ours {
		return text
	}
	return ""
}

// resetEnd tells what is left to do elsewhere.
func resetEnd(p *reset.Plan, r *reset.Reset) string {
	node := p.Node
	if node == "" {
		node = "NODE"
	}
	if r.Image {
		return fmt.Sprintf(`
This machine is a template now: packages, %s and the token stay, each copy joins
at its first boot with a key and a certificate of its own. Before it is copied:
  the token in %s: whoever has the image has it; best remove it and give each copy its own
  empty /etc/machine-id (truncate --size 0 /etc/machine-id), or all copies have one
  remove what else is of one machine: host name, SSH host keys, pods of the runtime (crictl rmp -fa)
If the template itself was a node: kubectl delete node %s
`, r.Config, r.Token, node)
	}
	return fmt.Sprintf(`
This machine has left. In the cluster, in this order, what was not done before:
  kubectl drain %[1]s --ignore-daemonsets --delete-emptydir-data
  kubectl delete node %[1]s
To join again: systemctl enable --now bootstrap-agent (with a valid token: bootstrap-agent token set)
`, node)
}

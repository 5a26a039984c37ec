package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/agent"
	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxJoinLine bounds what configure reads.
const maxJoinLine = 64 << 10

func (a *app) configureCommand() *cobra.Command {
	var force bool
	var kubeadmFile string
	cmd := &cobra.Command{
		Use:   "configure FILE|- | --from-kubeadm FILE|-",
		Short: "Write config and token file from kubeadm's join line, or its file",
		Long: `Write config and token file from the line that the control plane prints. The
line is read from a file or from stdin (-), never from the command line, where
other users would see the token.

  kubeadm token create --print-join-command      (on the control plane)
  bootstrap-agent configure -                    (here: paste the line, then Ctrl-D)

With --from-kubeadm they are written from a file for "kubeadm join --config": its
JoinConfiguration (v1beta4) for a worker. What has no counterpart here is refused
by its name; everything that is wrong is told at once, with its line.

An existing config that says something else stays, unless --force is given; then
the old one is kept beside it as config.yaml.old.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("from-kubeadm") {
				if len(args) > 0 {
					return usage("either a file with the join line, or --from-kubeadm with a JoinConfiguration")
				}
				return nil
			}
			return oneArg("a file with the join line, or - for stdin")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("from-kubeadm") {
				return a.configureFromKubeadm(cmd.Context(), a.loader(cmd.Flags()), kubeadmFile, force)
			}
			return a.configure(cmd.Context(), a.loader(cmd.Flags()), args[0], force)
		},
	}
	cmd.Flags().StringVar(&kubeadmFile, "from-kubeadm", "", "a file for kubeadm join --config (kind JoinConfiguration), or - for stdin")
	cmd.Flags().BoolVar(&force, "force", false, "replace a config that says something else")
	addKeyFlags(cmd.Flags(), configurable()...)
	return cmd
}

// configurable are the keys that configure takes as flags: all but those that
// the join line itself decides.
func configurable() []string {
	var names []string
	for _, k := range keys() {
		switch k.name {
		case "endpoints", "caCertHashes", "unsafeSkipCAVerification":
		default:
			names = append(names, k.name)
		}
	}
	return names
}

func (a *app) configure(ctx context.Context, l *loader, from string, force bool) error {
	text, err := a.joinText(ctx, from)
	if err != nil {
		return err
	}
	line, err := parseJoinLine(text)
	if err != nil {
		return fault.New(fault.ConfigInvalid, "cannot read the join line: %w", err).
			WithHint("%s Nothing was written.", hintFor(text))
	}
	token, err := discovery.ParseToken(line.token)
	if err != nil {
		return fault.New(fault.ConfigInvalid, "cannot read the join line: --token: %w", err)
	}
	data, good, err := l.fromJoinLine(line)
	if err != nil {
		return err
	}
	if weak := token.Weak(); weak != "" {
		a.say("warning: token: %s", weak)
	}
	for _, flag := range line.ignored {
		a.say("note: %s of the join line means nothing here and was left out", flag)
	}
	return l.writeConfig(ctx, data, good, token, force)
}

// hintFor is the next step for somebody who gave something else than a join line.
func hintFor(text string) string {
	if strings.Contains(text, joinKind) && strings.Contains(text, kubeadmGroup) {
		return "This looks like a file for kubeadm join --config: bootstrap-agent configure --from-kubeadm FILE."
	}
	return "On the control plane: kubeadm token create --print-join-command."
}

func (a *app) joinText(ctx context.Context, from string) (string, error) {
	if from == "-" {
		if _, ok := terminal(a.stdin); ok {
			a.say("Paste the line that `kubeadm token create --print-join-command` printed, then press Enter and Ctrl-D:")
		}
		return readAll(ctx, a.stdin, maxJoinLine)
	}
	if strings.ContainsAny(from, " =") {
		return "", usage("the join line is not taken from the command line, where others see the token; give a file, or - and paste it")
	}
	data, err := atomicfile.Read(from, maxJoinLine)
	if err != nil {
		return "", fmt.Errorf("cannot read the join line: %w", err)
	}
	return string(data), nil
}

// fromJoinLine makes the config file's bytes from line and flags and has them
// judged like any config file: what is written is known to be good.
func (l *loader) fromJoinLine(line joinLine) ([]byte, *loaded, error) {
	table := keys()
	values := map[string]any{"endpoints": []string{line.endpoint}}
	if len(line.pins) > 0 {
		values["caCertHashes"] = line.pins
	}
	if line.unsafe && len(line.pins) == 0 {
		values["unsafeSkipCAVerification"] = true
	}
	if line.nodeName != "" {
		values["nodeName"] = line.nodeName
	}
	if line.criSocket != "" {
		values["kubelet.containerRuntimeEndpoint"] = line.criSocket
	}
	merged, problems, _ := l.merge(configFile{})
	if len(problems) > 0 {
		return nil, nil, configFault(problems, false, l.file)
	}
	for _, s := range merged {
		if s.at.from == fromFlag {
			values[s.key.name] = s.value
		}
	}
	data := renderConfig(table, values)
	plain := &loader{app: l.app, file: l.file}
	quiet := *l.app
	quiet.environ = nil // the file has to be good by itself
	plain.app = &quiet
	good, err := plain.judge(configFile{path: l.file, data: data, mode: 0o600, owner: uint32(max(l.app.uid, 0))})
	if err != nil {
		return nil, nil, fmt.Errorf("nothing was written: %w", err)
	}
	return data, good, nil
}

// writeConfig writes the token first and the config last: its appearance may
// start the agent.
func (l *loader) writeConfig(ctx context.Context, data []byte, good *loaded, token discovery.Token, force bool) error {
	a := l.app
	same, exists, err := l.compare(good)
	if err != nil && !force {
		return err
	}
	if exists && !same && !force {
		return fault.New(fault.ConfigInvalid, "%s exists and says something else; nothing was written", l.file).
			WithHint("Compare with: bootstrap-agent check --config. To replace it (the old one is kept as %s.old): --force", l.file)
	}
	tokenFile := good.settings.text("tokenFile")
	if err := mkConfigDir(filepath.Dir(l.file)); err != nil {
		return err
	}
	if exists && !same {
		if err := l.keepOld(); err != nil {
			return err
		}
	}
	if !token.IsZero() {
		changedToken, err := writeToken(tokenFile, token)
		if err != nil {
			return err
		}
		a.say("%s %s (0600): token with id %s", wrote(changedToken), tokenFile, token.ID())
	}
	if same {
		a.say("kept  %s: it says the same already", l.file)
		return nil
	}
	a.learnKubelet(ctx, good.agent) // before the config appears, which may start the agent
	changed, err := atomicfile.Write(l.file, data, 0o600)
	if err != nil {
		return err
	}
	if good.agent.Discovery != nil {
		a.say("%s %s (0600): discovery file %s", wrote(changed), l.file, good.agent.Discovery.Path)
	} else {
		a.say("%s %s (0600): %d endpoint, %d pin", wrote(changed), l.file, len(good.agent.Endpoints), good.agent.Pins.Len())
	}
	if good.agent.UnsafeSkipCAVerification {
		a.say("warning: without a pin everybody who knows a token of this cluster can pretend to be it")
	} else if good.agent.Pins.Len() == 0 && good.agent.Discovery == nil {
		a.say("warning: the line has no pin; the join will stop and show the pins seen")
	}
	a.say("\nNext: systemctl enable --now bootstrap-agent && bootstrap-agent wait")
	return nil
}

// learnKubelet asks a kubelet that is there already for its version, which saves
// the join the time. Without one, or where the
// state folder is not ours to write, the join asks by itself.
func (a *app) learnKubelet(ctx context.Context, cfg agent.Config) {
	w := a.wire(cfg, silence())
	defer w.close()
	_ = agent.LearnKubelet(ctx, cfg, w.deps)
}

func wrote(changed bool) string {
	if changed {
		return "wrote"
	}
	return "kept "
}

// mkConfigDir makes the folder of the config: 0755, what is secret in it has a
// mode of its own.
func mkConfigDir(dir string) error { return atomicfile.MkdirAll(dir, 0o755) }

// compare says whether the existing config means the same as the new one.
func (l *loader) compare(good *loaded) (same, exists bool, err error) {
	content, err := readConfigFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, true, fault.New(fault.ConfigInvalid, "cannot read the existing config: %w", err).WithHint("Nothing was written.")
	}
	bare := *l.app
	bare.environ = nil
	old := &loader{app: &bare, file: l.file}
	merged, problems, _ := old.merge(content)
	problems = append(problems, old.permissions(content, merged)...)
	if len(problems) > 0 {
		return false, true, nil
	}
	for i, s := range merged {
		if !reflect.DeepEqual(s.value, good.settings[i].value) {
			return false, true, nil
		}
	}
	return true, true, nil
}

// keepOld puts a copy of the existing config beside it. It may hold a token,
// so it gets the tightest mode.
func (l *loader) keepOld() error {
	content, err := readConfigFile(l.file)
	if err != nil {
		return fmt.Errorf("cannot keep the old config: %w", err)
	}
	if _, err := atomicfile.Write(l.file+".old", content.data, 0o600); err != nil {
		return err
	}
	l.app.say("kept  the old config as %s.old", l.file)
	return nil
}

// renderConfig writes a config file with just these keys, in the table's order.
func renderConfig(table []key, values map[string]any) []byte {
	var b strings.Builder
	b.WriteString("# Written by `bootstrap-agent configure`. Every key, with its default:\n# /usr/share/doc/bootstrap-agent/examples/config.yaml\n")
	b.WriteString("apiVersion: " + apiVersion + "\n")
	section := ""
	for _, k := range table {
		value, ok := values[k.name]
		if !ok || k.name == "apiVersion" {
			continue
		}
		in, leaf := k.split()
		indent := ""
		if in != "" {
			indent = "  "
			if in != section {
				b.WriteString(in + ":\n")
			}
		}
		section = in
		switch v := value.(type) {
		case []string:
			quoted := make([]string, len(v))
			for i, one := range v {
				quoted[i] = yamlString(one)
			}
			b.WriteString(indent + leaf + ": [" + strings.Join(quoted, ", ") + "]\n")
		case bool:
			b.WriteString(indent + leaf + ": " + strconv.FormatBool(v) + "\n")
		case string:
			b.WriteString(indent + leaf + ": " + yamlString(v) + "\n")
		}
	}
	return []byte(b.String())
}

// yamlString quotes a string for YAML: Go's escapes are a part of YAML's.
func yamlString(s string) string { return strconv.QuoteToGraphic(s) }

// readAll reads a stream to its end, at most limit bytes, and gives up when ctx
// ends.
func readAll(ctx context.Context, r io.Reader, limit int) (string, error) {
	type answer struct {
		data []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		var data []byte
		buffer := make([]byte, 4096)
		for len(data) <= limit {
			n, err := r.Read(buffer)
			data = append(data, buffer[:n]...)
			if err != nil {
				answers <- answer{data, err}
				return
			}
		}
		answers <- answer{data, errors.New("there is too much of it")}
	}()
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("cannot read stdin: %w", ctx.Err())
	case got := <-answers:
		if !errors.Is(got.err, io.EOF) {
			return "", fmt.Errorf("cannot read stdin: %w", got.err)
		}
		return string(got.data), nil
	}
}

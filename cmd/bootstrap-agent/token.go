package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bootstrap-agent/bootstrap-agent/discovery"
	"github.com/bootstrap-agent/bootstrap-agent/internal/atomicfile"
	"github.com/bootstrap-agent/bootstrap-agent/internal/fault"
)

// maxToken bounds what is read where a token is wanted.
const maxToken = 4096

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Give this machine a bootstrap token",
		RunE: func(cmd *cobra.Command, args []string) error {
			return usage("say what to do with the token: bootstrap-agent token set")
		},
	}
	encrypt := false
	set := &cobra.Command{
		Use:   "set",
		Short: "Read a bootstrap token from stdin and write its file",
		Long: `Read a bootstrap token from stdin and write it into its file (0600), whole or
not at all. On a terminal it is asked for without echo. The running agent uses
it at once.

  kubeadm token create                    (on the control plane)
  bootstrap-agent token set               (here; paste it)

With --encrypt it becomes an encrypted systemd credential instead of a file: only
this machine can read it, and the disk alone does not tell it. systemd decrypts it
for the agent when that starts, from systemd 250 on. A token file is asked before
it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if encrypt {
				return a.tokenEncrypt(cmd.Context(), a.loader(cmd.Flags()))
			}
			return a.tokenSet(cmd.Context(), a.loader(cmd.Flags()))
		},
	}
	set.Flags().BoolVar(&encrypt, "encrypt", false, "make an encrypted systemd credential of it")
	addKeyFlags(set.Flags(), "tokenFile")
	cmd.AddCommand(set)
	return cmd
}

func (a *app) tokenSet(ctx context.Context, l *loader) error {
	path, parse, err := l.tokenPath()
	if err != nil {
		return err
	}
	token, err := a.readToken(ctx, parse)
	if err != nil {
		return err
	}
	changed, err := writeToken(path, token)
	if err != nil {
		return err
	}
	what := "token with id " + token.ID()
	if token.Static() {
		what = "static token"
	}
	if !changed {
		a.say("%s holds this token already (%s)", path, what)
		return nil
	}
	a.say("wrote %s (0600): %s", path, what)
	return nil
}

// readToken reads a token from stdin and warns of one that can be guessed.
func (a *app) readToken(ctx context.Context, parse func(string) (discovery.Token, error)) (discovery.Token, error) {
	text, err := a.readSecret(ctx, "Bootstrap token (not shown): ", maxToken)
	if err != nil {
		return discovery.Token{}, err
	}
	token, err := parse(text)
	if err != nil {
		return discovery.Token{}, err
	}
	if weak := token.Weak(); weak != "" {
		a.say("warning: token: %s", weak)
	}
	return token, nil
}

// tokenPath finds out where the token belongs, and what form it may have: only
// the config file's keys about tokens have to be right for that.
func (l *loader) tokenPath() (path string, parse func(string) (discovery.Token, error), err error) {
	content, err := readConfigFile(l.file)
	if err != nil && (l.named || !errors.Is(err, fs.ErrNotExist)) {
		return "", nil, fault.New(fault.ConfigInvalid, "cannot read the config file: %w", err)
	}
	merged, problems, _ := l.merge(content)
	if len(problems) > 0 {
		return "", nil, configFault(problems, false, l.file)
	}
	if s := merged.get("token"); s.value != "" {
		return "", nil, configFault([]problem{{s.at, "token", "the token stands in the config file itself; remove it there to use a token file"}}, false, l.file)
	}
	s := merged.get("tokenFile")
	path, _ = s.value.(string)
	if s.at.from != fromDefault {
		if what := l.app.pathFault(path); what != "" {
			return "", nil, configFault([]problem{{s.at, "tokenFile", what}}, false, l.file)
		}
	}
	return path, l.app.parserFor(merged), nil
}

// writeToken makes the token file, durable and 0600, in a folder that exists or
// is made (0755: it is also the config's).
func writeToken(path string, token discovery.Token) (changed bool, err error) {
	if err := atomicfile.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	return atomicfile.Write(path, []byte(token.Bearer()+"\n"), 0o600)
}

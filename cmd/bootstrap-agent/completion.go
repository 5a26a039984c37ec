package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
)

func shells() []string { return []string{"bash", "zsh", "fish"} }

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print a completion script for a shell",
		Long: `Print a completion script for a shell. The packages bring them for all three, in
the folders where the shells look by themselves.

  source <(bootstrap-agent completion bash)`,
		ValidArgs: shells(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !contains(shells(), args[0]) {
				return usage("one argument is wanted: bash, zsh or fish")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := completion(cmd.Root(), args[0])
			if err != nil {
				return err
			}
			return a.print(script)
		},
	}
}

// completion is the script that makes a shell ask the program itself.
func completion(root *cobra.Command, shell string) (string, error) {
	var out bytes.Buffer
	var err error
	switch shell {
	case "bash":
		err = root.GenBashCompletionV2(&out, true)
	case "zsh":
		err = root.GenZshCompletion(&out)
	case "fish":
		err = root.GenFishCompletion(&out, true)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make the completion script: %w", err)
	}
	return out.String(), nil
}

package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "Print a completion script for a shell",
		Long:      "Print a completion script for a shell.\n\n  source <(bootstrap-agent completion bash)",
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !contains(shells, args[0]) {
				return usage("one argument is wanted: bash, zsh or fish")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var out bytes.Buffer
			var err error
			switch args[0] {
			case "bash":
				err = cmd.Root().GenBashCompletionV2(&out, true)
			case "zsh":
				err = cmd.Root().GenZshCompletion(&out)
			case "fish":
				err = cmd.Root().GenFishCompletion(&out, true)
			}
			if err != nil {
				return fmt.Errorf("cannot make the completion script: %w", err)
			}
			return a.print(out.String())
		},
	}
}

package commands

import (
	"fmt"

	"github.com/spf13/cobra"
)

func versionCommand(f *frame, version string) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this plugin",
		Long:  "Prints the version of this plugin. Which versions the agents have, kubectl podfence status says.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(f.Out, "kubectl podfence version %s\n", version) // as --version does
			return err
		},
	}
}

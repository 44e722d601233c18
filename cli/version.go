package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/api/build"
)

func versionCommand(version string) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, and what it was built of",
		Long: `Prints the version, the commit that it was built of and when that was made, the
version of Go, and those of the modules by which podfence talks to Kubernetes,
container runtimes and the kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := versionText(build.Of(version), format)
			if err == nil {
				_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "", "how it is written: json|yaml; without it, as text")
	return cmd
}

// versionText is what the command prints, in one of its formats. Its first line as text is what --version prints.
func versionText(info build.Info, format string) (string, error) {
	value := build.Version{APIVersion: build.APIVersion, Kind: "Version", Info: info}
	switch format {
	case "":
		return info.Text("podfence", "  "), nil
	case "json":
		text, err := json.MarshalIndent(value, "", "  ")
		return string(text) + "\n", err
	case "yaml":
		text, err := yaml.Marshal(value)
		return string(text), err
	}
	return "", fmt.Errorf("--output is %q: it must be one of json, yaml", format)
}

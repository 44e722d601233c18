package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// exitFailed is the exit code of a command that has failed. An uninstall that was refused
// ends with exitRefused.
const exitFailed = 1

// Main runs podfence with the arguments of the process until ctx is done, says on stderr
// what has failed, and returns the exit code.
func Main(ctx context.Context, version string) int {
	err := Command(version).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "podfence:", err)
	if refused := (*refusedError)(nil); errors.As(err, &refused) {
		return exitRefused
	}
	return exitFailed
}

// Command is podfence with all its subcommands. The version is the one that it prints and logs.
func Command(version string) *cobra.Command {
	root := &cobra.Command{
		Use:   "podfence",
		Short: "Enforce Kubernetes NetworkPolicy on a node, with nftables",
		Long: `podfence enforces Kubernetes NetworkPolicy on a node, with nftables.

The agent runs on every node. It watches NetworkPolicies, Namespaces, Pods and
Nodes, and keeps the table "inet podfence" in the kernel equal to what they say
of the node's pods. Look at it with "nft list table inet podfence".

Every flag can be given in the environment: --node-name as PODFENCE_NODE_NAME,
and so on. A flag on the command line wins, and of a flag that is given twice the
last. So what the DaemonSet of config/ or the chart passes as an argument (--cni,
--routing, --proc-sys) is changed by another argument behind it, by a kustomize
patch or the chart's extraArgs (README.md, Flags), and not by the environment.`,
		// Cobra's own template for it, and the usage, are functions. With another, text/template
		// is linked, which calls methods by name: the linker keeps all there are, 18 MB of them,
		// of which 11 MB are resident.
		Version:      version,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd.Flags()) },
	}
	root.AddCommand(agentCommand(version), renderCommand(), statusWriterCommand(version), connectivityCommand(), uninstallCommand(), versionCommand(version))
	return root
}

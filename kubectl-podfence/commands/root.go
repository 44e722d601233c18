package commands

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
)

// The exit codes of every command.
const (
	// exitYes: what was asked is allowed, is as it should be, or is the same.
	exitYes = 0
	// exitNo: it is denied, not as it should be, or differs. The output says what.
	exitNo = 1
	// exitFailed: the call was wrong, or the question could not be answered.
	exitFailed = 2
)

// errNo is what a command returns to end with exitNo. It has said why in its output.
var errNo = errors.New("the answer is no")

// Main runs the plugin with arguments, without the program's name, until ctx is done, says on streams.ErrOut
// what has failed, and returns the exit code. The version is the one that it prints.
func Main(ctx context.Context, version string, streams genericiooptions.IOStreams, args []string) int {
	root := Command(version, streams)
	root.SetArgs(args)
	switch err := root.ExecuteContext(ctx); {
	case err == nil:
		return exitYes
	case errors.Is(err, errNo):
		return exitNo
	default:
		fmt.Fprintln(streams.ErrOut, "kubectl podfence:", err)
		return exitFailed
	}
}

// Command is the plugin with all its commands.
func Command(version string, streams genericiooptions.IOStreams) *cobra.Command {
	f := &frame{IOStreams: streams, config: genericclioptions.NewConfigFlags(true), version: version}
	root := &cobra.Command{
		Use:         "kubectl-podfence",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl podfence"},
		Short:       "Ask podfence, and what policies mean",
		Long: `Answers about NetworkPolicies and ClusterNetworkPolicies: why pods reach each
other or not, who reaches whom, what a change opens and closes, and how
podfence's agents are. It changes nothing but whether policies are staged, by
stage and enforce.

A command ends with exit code 0 if the answer is yes (allowed, ready, the same),
1 if it is no, and 2 if the call was wrong or the question could not be answered.`,
		Version:      version,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	f.config.AddFlags(root.PersistentFlags())
	// What a command is called with is its own affair: each is one file, and one line here.
	root.AddCommand(
		explainCommand(f),
		reachCommand(f),
		diffCommand(f),
		testCommand(f),
		lintCommand(f),
		statusCommand(f),
		namesCommand(f),
		observeCommand(f),
		uiCommand(f),
		generateCommand(f),
		stageCommand(f),
		enforceCommand(f),
		versionCommand(f, version),
	)
	f.completeFlags(root)
	return root
}

// frame is what all commands have in common: where they read and write, and which cluster is asked.
type frame struct {
	genericiooptions.IOStreams
	config  *genericclioptions.ConfigFlags
	version string
}

// rest is how the API server is reached, by the flags and the kubeconfig.
func (f *frame) rest() (*rest.Config, error) {
	config, err := f.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster to ask (--kubeconfig, --context): %w", err)
	}
	// As kubectl has it: the lists of one answer must not wait for each other.
	config.QPS, config.Burst = 50, 300
	config.UserAgent = "kubectl-podfence/" + f.version
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// clusterName is the cluster as its user knows it.
func (f *frame) clusterName() (string, error) {
	raw, err := f.config.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return "", fmt.Errorf("finding the cluster to ask (--kubeconfig, --context): %w", err)
	}
	name := raw.CurrentContext
	if *f.config.Context != "" {
		name = *f.config.Context
	}
	if name != "" {
		return "context " + name, nil
	}
	config, err := f.rest()
	if err != nil {
		return "", err
	}
	return config.Host, nil
}

// ownVersion is the plugin's.
func (f *frame) ownVersion() string { return f.version }

// namespace is the one that names without a namespace are in, and whether a flag has set it.
func (f *frame) namespace() (name string, set bool, err error) {
	name, set, err = f.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", false, fmt.Errorf("finding the namespace (--namespace, --kubeconfig): %w", err)
	}
	return name, set, nil
}

// allNamespacesFlag adds --all-namespaces, for commands that are about all namespaces or one.
func (f *frame) allNamespacesFlag(cmd *cobra.Command, all *bool) {
	cmd.Flags().BoolVarP(all, "all-namespaces", "A", false, "all namespaces, which is what is shown without --namespace as well")
}

// scope is the namespace that --namespace names for commands that are about all namespaces or one; empty: all.
func (f *frame) scope(all bool) string {
	if all {
		return ""
	}
	return *f.config.Namespace
}

// colour reports whether output may have colours: it goes to a terminal, and nobody has asked for none.
func (f *frame) colour() bool {
	return isTerminal(f.Out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/nft"
)

func renderCommand() *cobra.Command {
	var (
		e     enforcement
		n     network
		paths []string
		o     manifests.ReadOptions
		// staged asks for the staged table.
		staged bool
	)
	cmd := &cobra.Command{
		Use:   "render -f FILE|DIR|- --node NAME",
		Short: "Print the nftables ruleset that manifests make on a node",
		Long: `Print the nftables ruleset that manifests make on a node: offline, and without
privilege. "nft -f" takes what is printed. With the agent's --cni and --routing it
is the agent's table; the one of family bridge, which says what each pod's link may
send, is not shown.

  kubectl get nodes,namespaces,pods,networkpolicies -A -o yaml > cluster.yaml
  podfence render -f cluster.yaml --node node-1

Where the cluster has them, get clusternetworkpolicies as well.

Before anything runs, Deployments, StatefulSets and other workloads stand for the
pods that they would have, on the node, with placeholders as their addresses:

  podfence render -f config/samples --node node-1
  kustomize build overlays/prod | podfence render -f - --node node-1

Staged policies are not in force, and not in the table. With --staged it is the other
table, which says what they would deny, and denies nothing.

Kinds that podfence does not read are passed over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := e.options()
			if err != nil {
				return err
			}
			if err := n.options(&options); err != nil {
				return err
			}
			if len(paths) == 0 || o.Node == "" {
				return errors.New("render needs --filename and --node")
			}
			o.Recursive, o.Stdin = true, cmd.InOrStdin()
			objects, err := manifests.Read(paths, o)
			if err != nil {
				return err
			}
			if text := objects.SkippedText(); text != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "podfence: passed over", text)
			}
			if len(objects.StandIns) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "podfence: placeholders are the addresses of the pods of %s\n", strings.Join(objects.StandIns, ", "))
			}
			snapshot, node := objects.Snapshot, o.Node
			ignore, err := n.ignorePodCIDRs()
			if err != nil {
				return err
			}
			for _, object := range snapshot.Nodes {
				if ignore && object.Name == node {
					object.Spec.PodCIDR, object.Spec.PodCIDRs = "", nil
				}
			}
			compile, name := policy.Compile, nft.TableName
			if staged {
				compile, options, name = policy.CompileStaged, options.ForStaged(), nft.StagedTableName
			}
			intent, _ := compile(snapshot, node)
			if len(intent.Subjects) == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "podfence: no live pod with an address has spec.nodeName %q\n", node)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), ruleset.Build(intent, options).TextAs(name))
			return err
		},
	}
	cmd.Flags().StringSliceVarP(&paths, "filename", "f", nil, "file or folder of YAML, with the folders in it, or - for standard input: Pods, workloads, Namespaces, NetworkPolicies, ClusterNetworkPolicies, Nodes; it may be given several times")
	cmd.Flags().StringVar(&o.Node, "node", "", "name of the node")
	cmd.Flags().BoolVar(&o.Strict, "strict", false, "refuse kinds that podfence does not read")
	cmd.Flags().BoolVar(&staged, "staged", false, "print the table of what staged policies would do")
	e.flags(cmd.Flags())
	n.flags(cmd.Flags())
	return cmd
}

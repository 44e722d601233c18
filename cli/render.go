package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
)

func renderCommand() *cobra.Command {
	var (
		e          enforcement
		n          network
		path, node string
	)
	cmd := &cobra.Command{
		Use:   "render -f DIR --node NAME",
		Short: "Print the nftables ruleset that manifests make on a node",
		Long: `Print the nftables ruleset that manifests make on a node: offline, and without
privilege. "nft -f" takes what is printed. With the agent's --cni and --routing it
is the agent's table; the one of family bridge, which says what each pod's link may
send, is not shown.

  kubectl get nodes,namespaces,pods,networkpolicies -A -o yaml > cluster.yaml
  podfence render -f cluster.yaml --node node-1

Where the cluster has them, get clusternetworkpolicies as well.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := e.options()
			if err != nil {
				return err
			}
			if err := n.options(&options); err != nil {
				return err
			}
			if path == "" || node == "" {
				return errors.New("render needs --filename and --node")
			}
			snapshot, err := manifests.Load(path)
			if err != nil {
				return err
			}
			if manifests.Empty(snapshot) {
				return fmt.Errorf("there are no manifests in %s: what would be printed fences no pod", path)
			}
			ignore, err := n.ignorePodCIDRs()
			if err != nil {
				return err
			}
			for _, object := range snapshot.Nodes {
				if ignore && object.Name == node {
					object.Spec.PodCIDR, object.Spec.PodCIDRs = "", nil
				}
			}
			intent, _ := policy.Compile(snapshot, node)
			if len(intent.Subjects) == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "podfence: no live pod with an address has spec.nodeName %q\n", node)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), ruleset.Build(intent, options).Text())
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "filename", "f", "", "folder of YAML, or one file: Pods with status.podIPs, Namespaces, NetworkPolicies, ClusterNetworkPolicies, Nodes")
	cmd.Flags().StringVar(&node, "node", "", "name of the node")
	e.flags(cmd.Flags())
	n.flags(cmd.Flags())
	return cmd
}

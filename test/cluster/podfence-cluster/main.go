// podfence-cluster runs a real Kubernetes cluster on this machine, in network
// namespaces; `make cluster-up` does. It needs root.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "podfence-cluster:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "podfence-cluster",
		Short: "A real Kubernetes cluster on this machine, in network namespaces",
		Long: `A real Kubernetes cluster on this machine, in network namespaces.

With several clusters on one machine, the environment variable CLUSTER names
the one that is meant; it is "fence" if unset.`,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if os.Geteuid() != 0 {
				return errors.New("it makes namespaces and mounts: run it as root")
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	// kubectl takes all flags for its own, so the name comes by the environment.
	name := cmp.Or(os.Getenv("CLUSTER"), "fence")

	var o cluster.Options
	up := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster; its nodes are not Ready until a network plugin is installed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Name, o.Bin = name, filepath.Dir(self)
			for i, image := range o.Images {
				if o.Images[i], err = filepath.Abs(image); err != nil {
					return err
				}
			}
			_, err = cluster.Up(cmd.Context(), o, os.Stdout)
			return err
		},
	}
	up.Flags().IntVar(&o.Nodes, "nodes", 2, "how many nodes")
	up.Flags().StringVar((*string)(&o.IPFamily), "ip-family", string(cluster.IPv4), "ipv4 or dual")
	up.Flags().StringVar(&o.KubeProxy, "kube-proxy", "nftables", "its mode: nftables or iptables")
	up.Flags().StringArrayVar(&o.Images, "image", nil, "an image archive that each node has from its start; repeatable")

	down := &cobra.Command{
		Use:   "down",
		Short: "Remove the cluster, whatever state it is in",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cluster.Down(cmd.Context(), name) },
	}
	kubectl := &cobra.Command{
		Use:                "kubectl ...",
		Short:              "kubectl as cluster admin",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(name)
			if err != nil {
				return err
			}
			run, err := c.KubectlCommand(cmd.Context(), args...)
			return attached(run, err)
		},
	}
	execute := &cobra.Command{
		Use:   "exec HOST -- COMMAND...",
		Short: "Run a command on a host: cp, node1, node2 ...",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(name)
			if err != nil {
				return err
			}
			run, err := c.Exec(cmd.Context(), args[0], args[1:]...)
			return attached(run, err)
		},
	}
	load := &cobra.Command{
		Use:   "load ARCHIVE",
		Short: "Import an image archive into every node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(name)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), args[0])
		},
	}
	initialise := &cobra.Command{
		Use:    "init SPEC",
		Short:  "The first process of a host",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return cluster.Init(args[0]) },
	}
	root.AddCommand(up, down, kubectl, execute, load, initialise)
	return root
}

// attached runs a command on this process's standard streams.
func attached(cmd *exec.Cmd, err error) error {
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

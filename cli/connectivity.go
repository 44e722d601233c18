package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/cli/connectivity"
)

func connectivityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connectivity",
		Short: "Find out by real connections whether a NetworkPolicy is enforced: what helm test runs",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(connectivityServeCommand(), connectivityCheckCommand())
	return cmd
}

func connectivityServeCommand() *cobra.Command {
	var (
		addresses []string
		name      string
	)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer TCP connections with a name, until told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return connectivity.Serve(cmd.Context(), addresses, name, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "listen", []string{":8080", ":8081"}, "the TCP addresses to listen on")
	cmd.Flags().StringVar(&name, "name", "a server", "what to answer, such as the names of pod and node")
	return cmd
}

func connectivityCheckCommand() *cobra.Command {
	var (
		check = connectivity.Check{Lookup: net.DefaultResolver.LookupNetIP, Dial: (&net.Dialer{}).DialContext}
		own   []string
	)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Connect to one port that a NetworkPolicy allows and to one that it does not",
		Long: `Connect to each address of a server that runs "podfence connectivity serve": to a
port that the NetworkPolicies allow this pod, and to one that they do not.

It ends with 0 if the first connection passes, before and after, and the second does
not: it gets no answer, or an ICMP error. It ends with 1 if not, and says what was
otherwise. It asks nobody but DNS and the server, and needs no privilege.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, text := range own {
				address, err := netip.ParseAddr(strings.TrimSpace(text))
				if err != nil {
					return fmt.Errorf("--own-addresses: %w", err)
				}
				check.Own = append(check.Own, address)
			}
			if check.Server == "" {
				return fmt.Errorf("--server is needed: the DNS name of who runs podfence connectivity serve")
			}
			check.Out = cmd.OutOrStdout()
			if err := check.Run(cmd.Context()); err != nil {
				return err
			}
			_, err := fmt.Fprintln(check.Out, "passed: the NetworkPolicy is enforced")
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&check.Server, "server", "", "DNS name of the server, all of whose addresses are tried (required)")
	f.StringSliceVar(&own, "own-addresses", nil, "this pod's addresses: of each of their IP families the server must have one")
	f.Uint16Var(&check.Allowed, "allowed-port", 8080, "the port that must be reached")
	f.Uint16Var(&check.Denied, "denied-port", 8081, "the port that must not be reached, on which the server listens as well")
	f.DurationVar(&check.Timeout, "timeout", 2*time.Minute, "how long the server may take to be there and reached")
	f.DurationVar(&check.Patience, "patience", 3*time.Second, "how long each connection is waited for; no answer by then counts as none")
	return cmd
}

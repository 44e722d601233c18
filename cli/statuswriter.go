package cli

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/controllers/clusterstatus"
)

func statusWriterCommand(version string) *cobra.Command {
	var (
		o                               clusterstatus.Options
		kubeconfig, logLevel, logFormat string
	)
	cmd := &cobra.Command{
		Use:   "status-writer",
		Short: "Write the status of ClusterNetworkPolicies: what the Deployment runs",
		Long: `Write the status of ClusterNetworkPolicies, until told to stop.

Each policy gets the condition Accepted: True if podfence can enforce all of it,
or else False, with the fields that it cannot enforce. No other condition is
touched, and nothing is written that is there already.

One of all that run in the cluster writes, the one that has the Lease
` + clusterstatus.LeaseName + ` in the namespace of --leader-elect-namespace. The
others wait to take over. One that loses the Lease ends, and is to be started again.

The agents enforce policies without it, and never read a status. It waits while the
API server has no ClusterNetworkPolicies. It needs no privilege on its node, and at the
API server what config/status grants.`,
		Example: `  podfence status-writer --kubeconfig ~/.kube/config --leader-elect-namespace podfence-system
  kubectl get clusternetworkpolicies -o custom-columns='NAME:.metadata.name,ACCEPTED:.status.conditions[?(@.type=="Accepted")].status'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Log, err = logger(logLevel, logFormat); err != nil {
				return err
			}
			if names := unheeded(cmd.Flags()); len(names) > 0 {
				o.Log.Info("The environment says otherwise than the command line, which wins", "variables", names)
			}
			if o.Namespace == "" {
				return errors.New("--leader-elect-namespace is needed: where the Lease is by which one of several writes")
			}
			o.API, err = clusterOf(kubeconfig)
			if errors.Is(err, rest.ErrNotInCluster) {
				return errors.New("no API server: this is no pod of a cluster, so give --kubeconfig")
			} else if err != nil {
				return err
			}
			limitMemory(o.Log, os.DirFS("/sys/fs/cgroup"))
			o.Log.Info("Starting", "version", version, "source", o.API.Host, "lease", o.Namespace+"/"+clusterstatus.LeaseName)
			w, err := clusterstatus.New(o)
			if err != nil {
				return err
			}
			return w.Start(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the API server; empty: that of the cluster it runs in")
	f.StringVar(&o.Namespace, "leader-elect-namespace", "", "namespace of the Lease by which one of several writes (required)")
	f.StringVar(&o.MetricsAddress, "metrics-bind-address", "127.0.0.1:9478", "where to serve Prometheus metrics on /metrics; 0: nowhere")
	f.StringVar(&o.HealthAddress, "health-probe-bind-address", ":9479", "where to serve /healthz and /readyz; 0: nowhere")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

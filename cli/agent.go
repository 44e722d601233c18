package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

func agentCommand(version string) *cobra.Command {
	var (
		o                   agent.Options
		e                   enforcement
		c                   cniFlags
		d                   dnsFlags
		kubeconfig          string
		logLevel, logFormat string
		allowEmpty          bool
	)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Fence this node's pods: what the DaemonSet runs",
		Long: `Fence this node's pods, until told to stop.

The source is the API server: the cluster's own when run in a pod, or that of
--kubeconfig. With --manifests it is a folder of YAML instead (Pods with
status.podIPs, Namespaces, NetworkPolicies, ClusterNetworkPolicies and Nodes),
read again whenever it changes; no cluster is needed then. A folder that is not
valid is reported with file and line, and changes nothing until it is.

Nothing is written before the source has been read whole. The rules stay in the
kernel when the agent stops, however it stops; "podfence uninstall" removes
them. Needs CAP_NET_ADMIN in the node's network namespace, and nf_tables.

It collects garbage more often than Go does by itself, for less memory: set GOGC
in the environment (100 is Go's own) to have it otherwise. Where its cgroup has a
limit of memory, it keeps to five eighths of that, as the kernel's table counts too;
GOMEMLIMIT sets another.`,
		Example: `  kubectl get nodes -o name     # the node's name need not be its hostname
  podfence agent --node-name node-1 --kubeconfig ~/.kube/config
  podfence agent --node-name node-1 --manifests ./manifests --deny reject`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Log, err = logger(logLevel, logFormat); err != nil {
				return err
			}
			if names := unheeded(cmd.Flags()); len(names) > 0 {
				o.Log.Info("The environment says otherwise than the command line, which wins", "variables", names)
			}
			if o.Ruleset, err = e.options(); err != nil {
				return err
			}
			if err := errors.Join(loopback("--pprof-address", o.PprofAddress), loopback("--query-address", o.QueryAddress), c.network.options(&o.Ruleset), c.check(), checkObserver(&o), checkHubble(&o)); err != nil {
				return err
			}
			if o.DNS, err = d.options(); err != nil {
				return err
			}
			if o.IgnorePodCIDRs, err = c.network.ignorePodCIDRs(); err != nil {
				return err
			}
			// What the agent holds changes little; less room for garbage costs it
			// little time, and spares every node a third of its memory.
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(40)
			}
			raiseThreads()
			limitMemory(o.Log, os.DirFS("/sys/fs/cgroup"))
			if o.NamespaceBudget < 1000 {
				return fmt.Errorf("--namespace-budget is %d: it must be 1000 or more, which is four sets and rules", o.NamespaceBudget)
			}
			if o.Node == "" {
				return errors.New("--node-name is needed: the Node whose pods to fence")
			}
			if o.API, err = apiServer(kubeconfig, o.Manifests); err != nil {
				return err
			}
			o.KeepIfEmpty, o.PeersFirst = !allowEmpty, agent.PeersFirst(c.peersFirst)
			running, err := announceRunning()
			if err != nil {
				return err
			}
			defer running.Close()
			left, err := c.leave(o.Node, &o.Ruleset)
			if err != nil {
				return err
			}
			defer left.Close()
			o.Ruleset.Fragments = fragmentMemory(os.DirFS(c.procSys))
			host, err := c.host()
			if err != nil {
				return err
			}
			host.Own, host.Refuse = true, left.refuses()
			opened, err := host.Open(&o)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, opened.Close()) }()
			o.Checks = c.checks()
			if left != nil {
				o.Checks[report.ModeChanged] = left.check
			}
			o.Registry, o.Version = ctrlmetrics.Registry, version
			o.Log.Info("Starting", starting(&o, &e, &c, opened.Owns)...)
			a, err := agent.New(opened.Kernel, o)
			if err != nil {
				return err
			}
			if left != nil {
				left.follow(a.Enforcer.Sync)
				if err := a.Add(left); err != nil {
					return err
				}
			}
			return a.Start(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node-name", "", "name of this node's Node object, which need not be its hostname: the pods with this spec.nodeName are fenced (required)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the API server; empty: that of the cluster the agent runs in")
	f.StringVar(&o.Manifests, "manifests", "", "folder of YAML to enforce, instead of an API server; kinds that podfence does not read are passed over")
	f.BoolVar(&allowEmpty, "allow-empty", false, "with --manifests, a folder without objects is a cluster without pods; else what is enforced stays, and the agent is not ready, until there is a file")
	f.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9478", "where to serve Prometheus metrics on /metrics; 0: nowhere")
	f.StringVar(&o.HealthAddress, "health-address", "127.0.0.1:9479", "where to serve /healthz and /readyz; 0: nowhere")
	f.StringVar(&o.QueryAddress, "query-address", "127.0.0.1:9477", "where to answer kubectl podfence: how the agent is, what the kernel does to a packet, and what was denied; of loopback addresses only; 0: nowhere")
	f.StringVar(&o.PprofAddress, "pprof-address", "0", "where to serve Go's profiles on /debug/pprof, such as 127.0.0.1:9480; of loopback addresses only; 0: nowhere")
	f.IntVar(&o.NamespaceBudget, "namespace-budget", policy.DefaultBudget, "what the policies of one namespace may take of the node: members of their selectors and port names, and 250 for each set, rule and jump to one; over it, the largest of them allow nothing")
	observerFlags(f, &o)
	hubbleFlags(f, &o)
	e.flags(f)
	c.flags(f)
	d.flags(f)
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

// apiServer finds the API server; nil if manifests are the source.
func apiServer(kubeconfig, manifests string) (*rest.Config, error) {
	switch {
	case manifests != "" && kubeconfig != "":
		return nil, errors.New("--manifests and --kubeconfig are two sources: give one")
	case manifests != "":
		return nil, nil
	}
	config, err := clusterOf(kubeconfig)
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("no source: this is no pod of a cluster, so give --kubeconfig or --manifests")
	}
	return config, err
}

// clusterOf finds the API server of a kubeconfig, or without one that of the cluster around. If there
// is none around, it fails with rest.ErrNotInCluster.
func clusterOf(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	return config, nil
}

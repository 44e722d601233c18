// podfence enforces Kubernetes NetworkPolicy on a node with nftables.
//
// This file is the command line: flags and their environment become Options,
// and Options an agent. See docs/ARCHITECTURE.md for the way from an object in
// the API to a packet dropped.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
)

// version is set by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "podfence:", err)
		if refused := (*refusedError)(nil); errors.As(err, &refused) {
			os.Exit(exitRefused)
		}
		os.Exit(1)
	}
}

func command() *cobra.Command {
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
	root.AddCommand(agentCommand(), renderCommand(), uninstallCommand(), versionCommand())
	return root
}

// environment is the variable for a flag; none for those that are no settings.
func environment(f *pflag.Flag) (name, value string, set bool) {
	if f.Name == "help" || f.Name == "version" {
		return "", "", false
	}
	name = "PODFENCE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
	value, set = os.LookupEnv(name)
	return name, value, set
}

// fromEnvironment sets every flag that the command line has not set.
func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if name, value, set := environment(f); set && !f.Changed {
			if err := flags.Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
				return
			}
			f.Changed = false // by the command line
		}
	})
	return errors.Join(errs...)
}

// unheeded are the variables of the environment that the command line has overruled.
func unheeded(flags *pflag.FlagSet) (names []string) {
	flags.Visit(func(f *pflag.Flag) {
		if name, value, set := environment(f); set && f.Changed && value != f.Value.String() {
			names = append(names, name)
		}
	})
	return names
}

// enforcement are the flags that change what is enforced.
type enforcement struct {
	deny, podToNode, revokedMark string
	maxConnections               uint32
}

func (e *enforcement) flags(f *pflag.FlagSet) {
	f.StringVar(&e.deny, "deny", "drop", "what happens to denied packets: drop (silently) or reject (with an ICMP error, admin-prohibited)")
	f.StringVar(&e.podToNode, "pod-to-node", "police", "traffic of pods to their own node: police (by their egress policies) or allow")
	f.Uint32Var(&e.maxConnections, "max-connections-per-pod", 0, "how many connections that a pod has begun connection tracking may know, of each IP family; the next ones are dropped; 0: as many as the node takes")
	f.StringVar(&e.revokedMark, "revoked-mark", "0x20000000", "bit of the conntrack mark that cuts established flows when a policy no longer allows them; 0: leave them alone")
}

func (e *enforcement) options() (o ruleset.Options, err error) {
	o.Reject, err = either("--deny", e.deny, "drop", "reject")
	if err != nil {
		return o, err
	}
	o.AllowToNode, err = either("--pod-to-node", e.podToNode, "police", "allow")
	if err != nil {
		return o, err
	}
	o.MaxConnections = e.maxConnections
	o.RevokedMark, err = markBit(e.revokedMark)
	return o, err
}

// either reports whether a flag has the second of its two values.
func either(flag, value, no, yes string) (bool, error) {
	if value != no && value != yes {
		return false, fmt.Errorf("%s is %q: it must be %s or %s", flag, value, no, yes)
	}
	return value == yes, nil
}

func agentCommand() *cobra.Command {
	var (
		o                   controllers.Options
		e                   enforcement
		c                   cniFlags
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
status.podIPs, Namespaces, NetworkPolicies and Nodes), read again whenever it
changes; no cluster is needed then. A folder that is not valid is reported with
file and line, and changes nothing until it is.

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
			if err := errors.Join(loopback("--pprof-address", o.PprofAddress), c.network.options(&o.Ruleset), c.check()); err != nil {
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
			o.KeepIfEmpty = !allowEmpty
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
			tables := kernel.Options{Guard: o.Ruleset.Guard || o.Ruleset.Links, Masquerade: o.Ruleset.Masquerade, SourceCheck: o.Ruleset.SourceCheck, MaxConnections: o.Ruleset.MaxConnections != 0, Own: true}
			conn, err := kernel.Open(tables)
			if err != nil {
				return err
			}
			defer conn.Close()
			if o.LastPodCIDRs, err = conn.Ranges(ruleset.PodRangeSets[:]...); err != nil {
				return err
			}
			watch, err := conn.Watch(tables)
			if err != nil {
				return err
			}
			defer watch.Close()
			o.Watch = watch
			if bit := o.Ruleset.RevokedMark; bit != 0 {
				flows, err := kernel.OpenFlows(kernel.Options{}, bit)
				if err != nil {
					return fmt.Errorf("%w (--revoked-mark 0 does without)", err)
				}
				defer flows.Close()
				o.Flows = flows
			}
			cni, stop, err := c.connect(o.Node, conn)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, stop()) }()
			o.CNI, o.Checks = cni, c.checks()
			if cni != nil {
				cni.Refuse = left.refuses()
			}
			if left != nil {
				o.Checks[controllers.ModeChanged] = left.check
			}
			if o.Ruleset.Links {
				podLinks, err := node.OpenPodLinks()
				if err != nil {
					return err
				}
				defer podLinks.Close()
				o.PodLinks = podLinks
			}
			o.Registry, o.Version = ctrlmetrics.Registry, version
			o.Drops = func() (map[string]uint64, error) { return conn.Drops(ruleset.DropChains[:]...) }
			o.Log.Info("Starting", starting(&o, &e, &c, conn.Owns())...)
			agent, err := controllers.NewAgent(conn, o)
			if err != nil {
				return err
			}
			if left != nil {
				left.committed = agent.Enforcer.Sync
				if err := agent.Add(left); err != nil {
					return err
				}
			}
			return agent.Start(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node-name", "", "name of this node's Node object, which need not be its hostname: the pods with this spec.nodeName are fenced (required)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the API server; empty: that of the cluster the agent runs in")
	f.StringVar(&o.Manifests, "manifests", "", "folder of YAML to enforce, instead of an API server")
	f.BoolVar(&allowEmpty, "allow-empty", false, "with --manifests, a folder without objects is a cluster without pods; else what is enforced stays, and the agent is not ready, until there is a file")
	f.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9478", "where to serve Prometheus metrics on /metrics; 0: nowhere")
	f.StringVar(&o.HealthAddress, "health-address", "127.0.0.1:9479", "where to serve /healthz and /readyz; 0: nowhere")
	f.StringVar(&o.PprofAddress, "pprof-address", "0", "where to serve Go's profiles on /debug/pprof, such as 127.0.0.1:9480; of loopback addresses only; 0: nowhere")
	f.IntVar(&o.NamespaceBudget, "namespace-budget", policy.DefaultBudget, "what the policies of one namespace may take of the node: members of their selectors and port names, and 250 for each set, rule and jump to one; over it, the largest of them allow nothing")
	e.flags(f)
	c.flags(f)
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return cmd
}

// loopback refuses an address that others than this machine can reach: profiles
// tell much, and taking one costs much.
func loopback(flag, address string) error {
	if address == "0" || address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("%s is %q: it must be a loopback address with a port, such as 127.0.0.1:9480, or 0", flag, address)
	}
	return nil
}

// markBit reads a mark of one bit, or of none.
func markBit(text string) (uint32, error) {
	bit, err := strconv.ParseUint(text, 0, 32)
	if err != nil || bits.OnesCount64(bit) > 1 {
		return 0, fmt.Errorf("--revoked-mark is %q: it must be one bit of 32, such as 0x20000000, or 0", text)
	}
	return uint32(bit), nil
}

// apiServer finds the API server; nil if manifests are the source.
func apiServer(kubeconfig, manifests string) (*rest.Config, error) {
	switch {
	case manifests != "" && kubeconfig != "":
		return nil, errors.New("--manifests and --kubeconfig are two sources: give one")
	case manifests != "":
		return nil, nil
	case kubeconfig != "":
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("no source: this is no pod of a cluster, so give --kubeconfig or --manifests")
	}
	return config, err
}

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
  podfence render -f cluster.yaml --node node-1`,
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
	cmd.Flags().StringVarP(&path, "filename", "f", "", "folder of YAML, or one file: Pods with status.podIPs, Namespaces, NetworkPolicies, Nodes")
	cmd.Flags().StringVar(&node, "node", "", "name of the node")
	e.flags(cmd.Flags())
	n.flags(cmd.Flags())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "podfence version %s\n", version) // as --version does
			return err
		},
	}
}

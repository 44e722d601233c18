package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
)

func observeCommand(f *frame) *cobra.Command {
	c := &observing{frame: f}
	cmd := &cobra.Command{
		Use:   "observe [POD | KIND/NAME ...]",
		Short: "Show which packets are denied, and why; with --verdict, which connections pass",
		Long: `Asks the agents for the last packets that they have seen denied, by port-forward, and
shows a line for each, in the order of time; with --follow, those to come as well.
With --verdict allowed or all, --follow also shows connections that pass: agents tell
of these only while somebody asks for them.

A POD is NAME or NAMESPACE/NAME, a workload deploy/NAME or deploy/NAMESPACE/NAME
(sts, ds, job, cronjob, …); also node/NAME, svc/NAMESPACE/NAME, ns/NAME, an address or a
network (10.0.0.0/8). What is named is meant at either end, and any of several; --from
and --to mean one end.

What staged policies would deny, and would allow, is shown as WOULD-DENY and
WOULD-ALLOW: it has passed, and was denied.

Below a denial that policies decide is the rule that nearly allows it, if there is
one, and, once for each kind of packet, the command that explains it.

Which agents do not answer is said on standard error. A stream that ends, as its agent
restarts, is taken up again.

Exit codes: 0, every node's agent has answered; 1, some have not; 2, the call was
wrong, or the agents could not be found.`,
		Example: `  kubectl podfence observe -n shop -f
  kubectl podfence observe shop/web-0 --since 5m
  kubectl podfence observe --to svc/shop/db --port 5432
  kubectl podfence observe deploy/shop/web -f --verdict all
  kubectl podfence observe -o json --reason default-deny | jq .source.pod`,
		ValidArgsFunction: f.completeObserved,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.flags(cmd)
	return cmd
}

// observing is one call of observe.
type observing struct {
	*frame
	asking asking
	output output
	all    bool
	follow bool
	// last is how many flows are shown at first; below 0: as many as lastOf says.
	last       int
	since      string
	verdicts   []string
	from, to   []string
	nodes      []string
	plain      bool
	parameters observeParameters
}

// observeParameters are flags that agents are given as they are.
type observeParameters struct{ ports, protocols, directions, reasons, policies []string }

func (c *observing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&c.follow, "follow", "f", false, "go on with what is denied from now on")
	f.IntVar(&c.last, "last", -1, "how many of the last are shown at first; with --follow, of each node (default 100; 10 with --follow; 10000 with --since)")
	f.StringVar(&c.since, "since", "", "only what is no older than this, such as 5m, or was at this time (RFC 3339) or later")
	f.StringSliceVar(&c.verdicts, "verdict", []string{string(flows.Denied), string(flows.WouldDeny), string(flows.WouldAllow)}, "denied|allowed|would-deny|would-allow|all (repeatable); would-deny and would-allow are what staged policies would change")
	f.StringSliceVar(&c.from, "from", nil, "only what comes from this: a POD as above, an address or a network (repeatable)")
	f.StringSliceVar(&c.to, "to", nil, "only what goes to this, or asked for it: as --from, or a Service (repeatable)")
	f.StringSliceVar(&c.parameters.ports, "port", nil, "only this destination port, before or after its translation (repeatable)")
	f.StringSliceVar(&c.parameters.protocols, "protocol", nil, "only this protocol, such as TCP (repeatable)")
	f.StringSliceVar(&c.parameters.directions, "direction", nil, "only what rules of this direction have decided: ingress|egress")
	f.StringSliceVar(&c.parameters.reasons, "reason", nil, "only what was denied for this reason, such as default-deny (repeatable)")
	f.StringSliceVar(&c.parameters.policies, "policy", nil, "only what this policy has decided: NAME or NAMESPACE/NAME (repeatable)")
	f.StringSliceVar(&c.nodes, "node", nil, "ask the agent of this node alone (repeatable)")
	f.BoolVar(&c.plain, "no-explain", false, "one line for each, without those below it")
	c.asking.flags(cmd)
	c.allNamespacesFlag(cmd, &c.all)
	c.output.outputFlag(cmd, "json", "wide")
	reasons := make([]string, len(flows.Reasons))
	for i, r := range flows.Reasons {
		reasons[i] = string(r)
	}
	for name, values := range map[string][]string{
		"verdict": {"denied", "allowed", "would-deny", "would-allow", "all"}, "direction": {"ingress", "egress"}, "reason": reasons, "protocol": {"TCP", "UDP", "SCTP", "ICMP", "ICMPv6"},
	} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	for _, name := range []string{"from", "to"} {
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, c.completeObserved))
	}
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return c.complete(cmd, begun, func(c *completion) { c.offer("", completable["node"], "", "") }), cobra.ShellCompDirectiveNoFileComp
	}))
}

// completeObserved completes ends of flows, of which there may be any number.
func (f *frame) completeObserved(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return f.completeEnds(cmd, nil, begun)
}

func (c *observing) run(ctx context.Context, args []string) error {
	query, err := c.query(args, time.Now())
	if err = errors.Join(c.output.check(), c.asking.check(), err); err != nil {
		return err
	}
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	if asked, err = c.concerned(ctx, asked, &query); err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintf(c.ErrOut, "note: %s\n", note.Message)
	}
	style := c.style()
	style.Wide = c.output.is("wide")
	out := newFlowWriter(c.Out, style, c.output.is("json"), c.plain)
	return newObservation(c.frame, &c.asking, query, out).run(ctx, asked)
}

// lastOf is how many flows are shown at first.
func (c *observing) lastOf() int {
	switch {
	case c.last >= 0:
		return c.last
	case c.since != "":
		return 10_000
	case c.follow:
		return 10
	}
	return 100
}

// query is what agents are asked for.
func (c *observing) query(args []string, now time.Time) (flows.Query, error) {
	values := url.Values{}
	values.Set("last", strconv.Itoa(c.lastOf()))
	for name, texts := range map[string][]string{
		"port": c.parameters.ports, "protocol": c.parameters.protocols, "direction": c.parameters.directions, "reason": c.parameters.reasons, "policy": c.parameters.policies,
	} {
		if len(texts) > 0 {
			values[name] = texts
		}
	}
	if !slices.Contains(c.verdicts, "all") {
		values["verdict"] = c.verdicts
	}
	if c.since != "" {
		values.Set("since", c.since)
	}
	query, err := flows.ParseQuery(values, now)
	if err != nil {
		return query, fmt.Errorf("--%w", err)
	}
	query.Follow = c.follow
	if namespace := c.scope(c.all); namespace != "" && len(args) == 0 {
		query.Namespaces = []string{namespace}
	}
	for _, ends := range []struct {
		texts []string
		to    *[]flows.End
		what  string
	}{{args, &query.Ends, "observe"}, {c.from, &query.From, "--from"}, {c.to, &query.To, "--to"}} {
		for _, text := range ends.texts {
			end, err := c.end(text)
			if err != nil {
				return query, fmt.Errorf("%s: %w", ends.what, err)
			}
			*ends.to = append(*ends.to, end)
		}
	}
	return query, nil
}

// end is what people write for an end of flows.
func (c *observing) end(text string) (flows.End, error) {
	if network, err := netip.ParsePrefix(text); err == nil {
		return flows.ParseEnd(network.String())
	}
	namespace, _, err := c.namespace()
	if err != nil {
		return flows.End{}, err
	}
	target, err := explain.ParseTarget(text, namespace)
	if err != nil {
		return flows.End{}, err
	}
	switch target.Kind {
	case explain.KindAddress:
		return flows.ParseEnd(target.Address.String())
	case explain.KindPod:
		return flows.End{Namespace: target.Namespace, Name: target.Name}, nil
	case explain.KindNamespace:
		return flows.End{Namespace: target.Name}, nil
	}
	return flows.End{Kind: string(target.Kind), Namespace: target.Namespace, Name: target.Name}, nil
}

// concerned are the agents that may have seen what is meant: those of --node, or those of the nodes of the pods
// at both ends, or all. A packet between two pods is denied on the node of one of them; of one end that is
// named, the other may be on any node.
func (c *observing) concerned(ctx context.Context, asked []*askedAgent, q *flows.Query) ([]*askedAgent, error) {
	nodes := c.nodes
	if len(nodes) == 0 && !c.asking.byAddress() && len(q.From) > 0 && len(q.To) > 0 {
		nodes = c.nodesOf(ctx, slices.Concat(q.From, q.To))
	}
	if len(nodes) == 0 {
		return asked, nil
	}
	for _, node := range c.nodes {
		if !slices.ContainsFunc(asked, func(of *askedAgent) bool { return of.Node == node }) {
			return nil, fmt.Errorf("--node is %q: there is neither a node nor an agent of that name, or the agents are named by --agent", node)
		}
	}
	return slices.DeleteFunc(asked, func(of *askedAgent) bool { return !slices.Contains(nodes, of.Node) }), nil
}

// nodesOf are the nodes of pods; none if an end is no pod, or its node is not known.
func (c *observing) nodesOf(ctx context.Context, ends []flows.End) (nodes []string) {
	config, err := c.rest()
	if err != nil {
		return nil
	}
	kinds, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil
	}
	for _, e := range ends {
		if e.Network.IsValid() || e.Kind != "" || e.Name == "" {
			return nil
		}
		pod, err := kinds.CoreV1().Pods(e.Namespace).Get(ctx, e.Name, metav1.GetOptions{})
		if err != nil || pod.Spec.NodeName == "" {
			return nil
		}
		nodes = append(nodes, pod.Spec.NodeName)
	}
	return nodes
}

// nameOf is how an agent is named to people.
func nameOf(of *askedAgent) string { return strings.TrimSpace(cmp.Or(of.Node, of.Agent)) }

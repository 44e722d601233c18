package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// NamesAPIVersion is the version of the JSON of a NameList. Within it, fields are added, and none is removed or changes its
// meaning.
const NamesAPIVersion = "names.podfence.io/v1"

// NameList is what the domain names in policies are resolved to.
type NameList struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"` // NameList
	// Nodes are the nodes whose agents were asked.
	Nodes []NodeNames `json:"nodes"`
	// Notes are what is not known, such as nodes that the user may not list.
	Notes []explain.Note `json:"notes,omitempty"`
}

// NodeNames is what domain names are resolved to on a node.
type NodeNames struct {
	// Node is empty if the agent was asked by its address and does not answer. Agent is its pod or address.
	Node  string `json:"node,omitempty"`
	Agent string `json:"agent,omitempty"`
	// Message says why the agent has not answered; empty: it has.
	Message string `json:"message,omitempty"`
	// Names are those that count, and Lapsed the last ones that count no more, with --lapsed.
	Names  []answers.Name `json:"names"`
	Lapsed []answers.Name `json:"lapsed,omitempty"`
}

func namesCommand(f *frame) *cobra.Command {
	c := &naming{frame: f}
	cmd := &cobra.Command{
		Use:   "names [POD]",
		Short: "Say which addresses the domain names in policies have",
		Long: `Asks the agents, by port-forward, which addresses the domain names in policies
have, as pods were told by the cluster's DNS, and as the agents resolve them
themselves, which counts for all pods of their node. What nobody was told, policies
do not let pass.

POD (NAMESPACE/NAME) is one of the pods that were told. With --namespace, it is those of a
namespace. With --lapsed, what has expired and nobody was told again is shown as well.

Exit codes: 0, there is some name; 1, there is none; 2, the call was wrong, or an
agent could not be asked.`,
		Example: `  kubectl podfence names
  kubectl podfence names shop/web-0
  kubectl podfence names -n shop --lapsed`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: f.completeSubject,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.asking.flags(cmd)
	c.allNamespacesFlag(cmd, &c.all)
	cmd.Flags().BoolVar(&c.lapsed, "lapsed", false, "show what has expired as well")
	c.output.outputFlag(cmd, "wide", "json", "yaml")
	c.output.noHeadersFlag(cmd, "leave out the line that names the columns")
	return cmd
}

// naming is one call of names.
type naming struct {
	*frame
	asking      asking
	all, lapsed bool
	output      output
}

func (c *naming) run(ctx context.Context, args []string) error {
	pod, err := c.pod(args)
	if err = errors.Join(err, c.output.check(), c.asking.check()); err != nil {
		return err
	}
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	if pod.Name != "" && !c.asking.byAddress() {
		node, err := c.nodeOf(ctx, pod)
		if err != nil {
			return err
		}
		asked = slices.DeleteFunc(asked, func(of *askedAgent) bool { return of.Node != node })
	}
	list := &NameList{APIVersion: NamesAPIVersion, Kind: "NameList", Nodes: []NodeNames{}, Notes: notes}
	found := false
	var failed error
	for i, n := range askNames(ctx, &c.asking, asked) {
		node := NodeNames{Node: cmp.Or(n.Node, asked[i].Node), Agent: asked[i].Agent, Names: c.of(pod, n.Names.Names)}
		if c.lapsed {
			node.Lapsed = c.of(pod, n.Lapsed)
		}
		if err := n.failed(); err != nil {
			node.Message = err.Error()
			failed = cmp.Or(failed, fmt.Errorf("not all is known: %s", node.Message))
		}
		found = found || len(node.Names) > 0
		list.Nodes = append(list.Nodes, node)
	}
	written, err := c.output.write(c.Out, list)
	if !written {
		err = list.writeText(c.Out, &c.output, time.Now())
	}
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case !found:
		return errNo
	}
	return nil
}

// pod is the pod that is asked about, or a namespace without a pod's name, or nothing.
func (c *naming) pod(args []string) (explain.Target, error) {
	if len(args) == 0 {
		return explain.Target{Namespace: c.scope(c.all)}, nil
	}
	namespace, _, err := c.namespace()
	if err != nil {
		return explain.Target{}, err
	}
	target, err := explain.ParseTarget(args[0], namespace)
	if err == nil && target.Kind != explain.KindPod {
		err = fmt.Errorf("%s is no pod: give NAMESPACE/NAME, or --namespace", target)
	}
	return target, err
}

// nodeOf is the node of a pod.
func (c *naming) nodeOf(ctx context.Context, pod explain.Target) (string, error) {
	config, err := c.rest()
	if err != nil {
		return "", err
	}
	client, err := agents.New(config)
	if err != nil {
		return "", err
	}
	node, err := client.NodeOf(ctx, pod.Namespace, pod.Name)
	if err == nil && node == "" {
		err = fmt.Errorf("pod %s is on no node yet", pod)
	}
	return node, err
}

// of are those names that were told to whom is asked about, and those that were told to the agent.
func (c *naming) of(pod explain.Target, names []answers.Name) []answers.Name {
	return slices.DeleteFunc(append([]answers.Name{}, names...), func(n answers.Name) bool {
		return n.PodAddress.IsValid() && (pod.Namespace != "" && n.Namespace != pod.Namespace || pod.Name != "" && n.Pod != pod.Name)
	})
}

// writeText writes a table, with a row for each address of a name. Times are left from now.
func (l *NameList) writeText(w io.Writer, o *output, now time.Time) error {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string"}, {Name: "Address", Type: "string"}, {Name: "Told", Type: "string"}, {Name: "Expires", Type: "string"},
		{Name: "Node", Type: "string", Priority: 1}, {Name: "Pod-Address", Type: "string", Priority: 1},
	}}
	var b strings.Builder
	row := func(node string, n answers.Name, expires string) {
		told, address := "agent of "+node, unknown
		if n.PodAddress.IsValid() {
			address = n.PodAddress.String()
			told = address
		}
		if n.Pod != "" {
			told = n.Namespace + "/" + n.Pod
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{printers.EscapeTerminal(n.Name), n.Address.String(), told, expires, node, address}})
	}
	for _, node := range l.Nodes {
		for _, n := range node.Names {
			row(node.Node, n, "in "+duration.HumanDuration(n.Expires.Sub(now)))
		}
		for _, n := range node.Lapsed {
			row(node.Node, n, duration.HumanDuration(now.Sub(n.Expires))+" ago")
		}
		if node.Message != "" {
			fmt.Fprintf(&b, "note: node %s: %s\n", cmp.Or(node.Node, node.Agent), printers.EscapeTerminal(node.Message))
		}
	}
	for _, note := range l.Notes {
		fmt.Fprintf(&b, "note: %s\n", note.Message)
	}
	if len(table.Rows) > 0 {
		if err := o.table(w, table); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

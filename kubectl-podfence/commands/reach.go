package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/graph"
)

func reachCommand(f *frame) *cobra.Command {
	c := &reaching{frame: f}
	cmd := &cobra.Command{
		Use:   "reach [POD|WORKLOAD|NAMESPACE]",
		Short: "Say who reaches a pod, a workload or a namespace, and whom it reaches",
		Long: `Says between whom new connections pass, grouped by workload, with the ports that
are open. Of networks outside the cluster, those are told apart that policies name.
If policies have domain names, the agents are asked, by port-forward, what these
are resolved to; --resolve supposes it instead.

What is asked about is a pod (NAMESPACE/NAME), a workload (deploy/NAMESPACE/NAME;
sts, ds, rs, job, cronjob), a namespace (ns/NAME), a node (node/NAME) or an address.
A name without a namespace is in that of --namespace.

With --matrix, it is all workloads of a namespace with each other, or of all
namespaces with --all-namespaces.

Exit codes: 0, there is an answer, even that nobody is reached; 2, the call was
wrong, or there is no answer.`,
		Example: `  kubectl podfence reach deploy/shop/web
  kubectl podfence reach ns/shop -o wide
  kubectl podfence reach --matrix -n shop
  kubectl podfence reach --matrix -A -f chart/ -o svg > reach.svg`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: f.completeSubject,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.source = f.sourceFlags(cmd)
	c.judge.flags(cmd)
	c.resolving.flags(cmd)
	c.asking.flags(cmd)
	c.output.outputFlag(cmd, "wide", "name", "json", "yaml", "dot", "svg")
	cmd.Flags().BoolVar(&c.matrix, "matrix", false, "all workloads of the namespace with each other, as a table")
	cmd.Flags().BoolVarP(&c.allNamespaces, "all-namespaces", "A", false, "with --matrix: the workloads of all namespaces")
	c.output.noHeadersFlag(cmd, "print rows only: no headers, and notes on standard error")
	return cmd
}

// reaching is one call of reach.
type reaching struct {
	*frame
	source        *source
	judge         judging
	resolving     resolving
	asking        asking
	output        output
	matrix        bool
	allNamespaces bool
}

// reachAnswer is what reach prints: an explain.Reach or an explain.ReachMatrix.
type reachAnswer interface {
	WriteText(w io.Writer, style explain.Style, o explain.Table) error
	Names() []string
	Graph() *graph.Graph
}

func (c *reaching) run(ctx context.Context, args []string) error {
	if err := errors.Join(c.output.check(), c.judge.check(), c.resolving.check(), c.asking.check()); err != nil {
		return err
	}
	target, err := c.target(args)
	if err != nil {
		return err
	}
	var namespaces []string
	if name := namespaceOf(target); name != "" {
		namespaces = append(namespaces, name)
	}
	objects, err := c.source.read(ctx, namespaces...)
	if err != nil {
		return err
	}
	options := c.judge.options(objects)
	c.resolving.ask(ctx, c.frame, &c.asking, objects, nil)
	x := c.resolving.explainer(objects.Cluster, options)
	if c.matrix {
		m, err := x.Matrix(target.Name)
		if err != nil {
			return err
		}
		m.Notes = append(m.Notes, objects.notes...)
		return c.write(m, m.Notes)
	}
	r, err := x.Reach(target)
	if err != nil {
		return hinted(err, target, objects)
	}
	r.Notes = append(r.Notes, objects.notes...)
	return c.write(r, r.Notes)
}

// target is what is asked about; of a matrix the namespace, whose Name is empty for all.
func (c *reaching) target(args []string) (explain.Target, error) {
	namespace, _, err := c.namespace()
	switch {
	case err != nil:
		return explain.Target{}, err
	case c.allNamespaces && !c.matrix:
		return explain.Target{}, errors.New("--all-namespaces is about --matrix")
	case c.allNamespaces && len(args) > 0:
		return explain.Target{}, fmt.Errorf("%s is one namespace, and --all-namespaces asks for all: give one of them", args[0])
	case c.allNamespaces:
		return explain.Target{Kind: explain.KindNamespace}, nil
	case c.matrix && len(args) == 0:
		return explain.Target{Kind: explain.KindNamespace, Name: namespace}, nil
	case len(args) == 0:
		return explain.Target{}, errors.New("say whom it is about, such as deploy/shop/web or ns/shop; or give --matrix")
	}
	target, err := explain.ParseTarget(args[0], namespace)
	if err == nil && c.matrix && target.Kind != explain.KindNamespace {
		err = fmt.Errorf("--matrix is about the workloads of a namespace, and %s is none: give ns/NAME, --namespace or --all-namespaces", target)
	}
	return target, err
}

// hinted is an error about a target that is not there, with what was perhaps meant.
func hinted(err error, target explain.Target, o *objects) error {
	for _, ns := range o.Namespaces {
		if target.Kind == explain.KindPod && ns.Name == target.Name {
			return fmt.Errorf("%w; namespace %s is ns/%s", err, ns.Name, ns.Name)
		}
	}
	return err
}

func (c *reaching) write(answer reachAnswer, notes []explain.Note) error {
	if written, err := c.output.write(c.Out, answer); written {
		return err
	}
	switch {
	case c.output.is("name"):
		if names := answer.Names(); len(names) > 0 {
			_, err := fmt.Fprintln(c.Out, strings.Join(names, "\n"))
			return err
		}
		return nil
	case c.output.is("dot"):
		return answer.Graph().WriteDOT(c.Out)
	case c.output.is("svg"):
		return answer.Graph().WriteSVG(c.Out)
	}
	if c.output.rowsOnly() {
		for _, note := range notes {
			fmt.Fprintln(c.ErrOut, "kubectl podfence:", note.Message)
		}
	}
	return answer.WriteText(c.Out, c.style(), explain.Table{NoHeaders: c.output.rowsOnly(), Wide: c.output.is("wide")})
}

package commands

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/explain"
)

func explainCommand(f *frame) *cobra.Command {
	c := &explaining{frame: f}
	cmd := &cobra.Command{
		Use:   "explain FROM TO[:PORT[/PROTOCOL]]",
		Short: "Say why FROM reaches TO, or why not",
		Long: `Says whether new connections pass from one end to another, which policies and
rules decide it, and, where they are denied, which rules nearly allow them.

FROM and TO are a pod (NAMESPACE/NAME), a workload (deploy/NAMESPACE/NAME; sts,
ds, rs, job, cronjob), a namespace (ns/NAME), a node (node/NAME) or an address.
TO may be a Service (svc/NAMESPACE/NAME) or a domain name (domain/NAME), which is
the addresses that pods were told it has. A name without a namespace is in that of --namespace.
Without a port, the answer is which ports are open, and whether ICMP and other
protocols pass.

--output wide adds addresses and all policies that are asked, in their order;
--output name prints the policies that decide, and nothing else.

If policies have domain names, the agents of FROM's nodes are asked, by
port-forward, what these are resolved to; --resolve supposes it instead.

With --verify, the agents of the nodes concerned are asked as well, by
port-forward: what the rules that their kernels have do with such a packet, and
whether connection tracking knows such flows. Of a workload, a pod on each of
its nodes is asked about. If a kernel does another thing than policies say, or
could not be asked, the exit code is 2.

Exit codes: 0, all that was asked is allowed, or, without a port, something is
open; 1, it is not; 2, the call was wrong, or there is no answer (UNKNOWN), or
none for some of the pods, and nothing is denied that was asked.`,
		Example: `  kubectl podfence explain shop/web-0 shop/db-0:5432
  kubectl podfence explain deploy/shop/web svc/shop/db:postgres
  kubectl podfence explain --verify shop/web-0 svc/shop/db:5432
  kubectl podfence explain -n shop web-0 10.0.0.1:53/UDP -o yaml
  kubectl podfence explain node/node-1 shop/web-0`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: f.completeEnds,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], args[1]) },
	}
	c.source = f.sourceFlags(cmd)
	c.judge.flags(cmd)
	c.resolving.flags(cmd)
	cmd.Flags().BoolVar(&c.verifies, "verify", false, "ask the agents of the nodes concerned what their kernels do with such a packet, and whether connection tracking knows such flows; takes a port")
	c.asking.flags(cmd)
	c.output.outputFlag(cmd, "json", "yaml", "wide", "name")
	return cmd
}

// explaining is one call of explain.
type explaining struct {
	*frame
	source    *source
	judge     judging
	resolving resolving
	// verifies: agents are asked as well.
	verifies bool
	asking   asking
	output   output
}

func (c *explaining) run(ctx context.Context, from, to string) error {
	namespace, _, err := c.namespace()
	if err != nil {
		return err
	}
	question, err := explain.ParseQuestion(from, to, namespace)
	if err = errors.Join(err, c.output.check(), c.judge.check(), c.resolving.check(), c.checkVerify(question)); err != nil {
		return err
	}
	explanation, err := c.explain(ctx, question)
	if err != nil {
		return err
	}
	if err = c.write(explanation); err == nil && c.verifies {
		err = verified(explanation)
	}
	if err != nil {
		return err
	}
	return c.outcome(question, explanation)
}

// write writes an explanation as --output has it.
func (c *explaining) write(e *explain.Explanation) error {
	if c.output.is("name") {
		for _, p := range e.Deciding() {
			if err := writeName(c.Out, p.Kind, p.Name); err != nil {
				return err
			}
		}
		return nil
	}
	written, err := c.output.write(c.Out, e)
	if written {
		return err
	}
	style := c.style()
	style.Wide = c.output.is("wide")
	return e.WriteText(c.Out, style)
}

// settle is how long what differs has time to settle: a change may have reached the objects that were read,
// and not yet a node, or the other way round.
const settle = 2 * time.Second

// explain reads the objects and answers the question and, if that was asked for, has kernels asked as well: a
// second time, with objects read again, if they differ.
func (c *explaining) explain(ctx context.Context, q explain.Question) (*explain.Explanation, error) {
	e, err := c.explainOnce(ctx, q)
	if err != nil {
		return nil, err
	}
	if differ, _ := e.Differs(); len(differ) == 0 {
		return e, nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(settle):
	}
	if c.source.isFiles() { // they are as they were, and standard input is read
		return e, c.verify(ctx, e)
	}
	return c.explainOnce(ctx, q)
}

func (c *explaining) explainOnce(ctx context.Context, q explain.Question) (*explain.Explanation, error) {
	objects, err := c.source.read(ctx, namespacesOf(q)...)
	if err != nil {
		return nil, err
	}
	options := c.judge.options(objects)
	c.resolving.ask(ctx, c.frame, &c.asking, objects, append([]string{}, explain.New(objects.Cluster, options).NodesOf(q.From)...))
	e, err := c.resolving.explainer(objects.Cluster, options).Explain(q)
	if err != nil {
		return nil, err
	}
	objects.complete(e)
	if c.verifies {
		err = c.verify(ctx, e)
	}
	return e, err
}

// checkVerify refuses what kernels cannot be asked about.
func (c *explaining) checkVerify(q explain.Question) error {
	switch {
	case !c.verifies && c.asking.given() && c.source.isFiles():
		return errors.New("--agent and --agents-in are about agents: with --filename they take --verify")
	case !c.verifies:
		return c.asking.check()
	case c.judge.asStaged():
		return errors.New("--verify asks what kernels do, and --staged what they do not: give one of them")
	case q.Port == explain.Port{}:
		return errors.New("--verify is about a packet: give a port, as in " + q.To.String() + ":80")
	case c.source.isFiles() && !c.asking.byAddress():
		return errors.New("--verify asks agents, and --filename says of none: name them by --agent HOST:PORT")
	}
	return c.asking.check()
}

// namespacesOf are the namespaces that a question is about, each once.
func namespacesOf(q explain.Question) (names []string) {
	for _, name := range []string{namespaceOf(q.From), namespaceOf(q.To)} {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// namespaceOf is the namespace that a target is in, or is; "": none.
func namespaceOf(t explain.Target) string {
	if t.Kind == explain.KindNamespace {
		return t.Name
	}
	return t.Namespace
}

// outcome is nil if all that was asked is allowed or, if no port was asked about, something is open; errNo if
// it is not; and another error if nobody knows, as there is no answer, or none for some of the ends.
func (c *explaining) outcome(q explain.Question, e *explain.Explanation) error {
	is := func(verdicts ...explain.Verdict) func(explain.Answer) bool {
		return func(a explain.Answer) bool { return slices.Contains(verdicts, a.Verdict) }
	}
	why := "the notes say why"
	if c.output.is("name") {
		why += ", which are shown without --output name"
	}
	switch {
	case e.Verdict == explain.Allowed:
		return nil
	case q.Port == explain.Port{} && slices.ContainsFunc(e.Answers, func(a explain.Answer) bool { return a.Verdict == explain.Allowed || len(a.Open) > 0 }):
		return nil
	case e.Verdict == explain.Denied, q.Port != explain.Port{} && slices.ContainsFunc(e.Answers, is(explain.Denied)):
		return errNo
	case slices.ContainsFunc(e.Answers, is(explain.Allowed, explain.Denied, explain.Mixed)):
		return errors.New("there is no answer for some of what was asked: " + why)
	}
	return errors.New("there is no answer: " + why)
}

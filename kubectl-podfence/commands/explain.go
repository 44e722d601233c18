package commands

import (
	"context"
	"errors"
	"slices"

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
ds, rs, job, cronjob), a node (node/NAME) or an address. TO may be a Service
(svc/NAMESPACE/NAME). A name without a namespace is in that of --namespace.
Without a port, the answer is which ports are open.

Exit codes: 0, all that was asked is allowed, or, without a port, something is
open; 1, it is not; 2, the call was wrong, or there is no answer.`,
		Example: `  kubectl podfence explain shop/web-0 shop/db-0:5432
  kubectl podfence explain deploy/shop/web svc/shop/db:postgres
  kubectl podfence explain -n shop web-0 10.0.0.1:53/UDP -o yaml
  kubectl podfence explain node/node-1 shop/web-0`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: f.completeEnds,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], args[1]) },
	}
	c.source = f.sourceFlags(cmd)
	c.judge.flags(cmd)
	c.output.outputFlag(cmd, "json", "yaml")
	return cmd
}

// explaining is one call of explain.
type explaining struct {
	*frame
	source *source
	judge  judging
	output output
}

func (c *explaining) run(ctx context.Context, from, to string) error {
	namespace, _, err := c.namespace()
	if err != nil {
		return err
	}
	question, err := explain.ParseQuestion(from, to, namespace)
	if err = errors.Join(err, c.output.check(), c.judge.check()); err != nil {
		return err
	}
	objects, err := c.source.read(ctx, namespacesOf(question)...)
	if err != nil {
		return err
	}
	explanation, err := explain.New(objects.Cluster, c.judge.options(objects)).Explain(question)
	if err != nil {
		return err
	}
	objects.complete(explanation)
	written, err := c.output.write(c.Out, explanation)
	if !written {
		err = explanation.WriteText(c.Out, c.style())
	}
	if err == nil && !isYes(question, explanation) {
		err = errNo
	}
	return err
}

// namespacesOf are the namespaces that a question is about, each once.
func namespacesOf(q explain.Question) (names []string) {
	for _, name := range []string{q.From.Namespace, q.To.Namespace} {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// isYes reports whether all that was asked is allowed or, if no port was asked about, something is open.
func isYes(q explain.Question, e *explain.Explanation) bool {
	if q.Port != (explain.Port{}) {
		return e.Verdict == explain.Allowed
	}
	return slices.ContainsFunc(e.Answers, func(a explain.Answer) bool { return a.Verdict == explain.Allowed || len(a.Open) > 0 })
}

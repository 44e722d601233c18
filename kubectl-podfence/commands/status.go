package commands

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/podfence/podfence/api/answers"
)

func statusCommand(f *frame) *cobra.Command {
	c := &statusCall{frame: f}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how podfence is on each node, and which policies have problems",
		Long: `Asks the agent of each node how it is, by port-forward, and shows a line for each
node: whether it is ready, its version, whether it owns its table, how long ago
it last changed the kernel, its pods and policies, and what is wrong. Below are
the problems of policies, with the field and the reason. Of more than 20 nodes
it shows a summary, and those that are not ready; --output wide shows all.

An agent of a folder of manifests has no pod. --agent asks it directly, on the
machine where it runs.

Exit codes: 0, every node has an agent that is ready; 1, some have not; 2, the
call was wrong, or the agents could not be found.`,
		Example: `  kubectl podfence status
  kubectl podfence status -o wide
  kubectl podfence status -n shop      # problems of this namespace's policies
  kubectl podfence status --agent 127.0.0.1:9477`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.asking.flags(cmd)
	c.allNamespacesFlag(cmd, &c.all)
	c.output.outputFlag(cmd, "wide", "json", "yaml")
	c.output.noHeadersFlag(cmd, "leave out the lines that name the columns")
	return cmd
}

// statusCall is one call of status.
type statusCall struct {
	*frame
	asking asking
	all    bool
	output output
}

func (c *statusCall) run(ctx context.Context) error {
	if err := errors.Join(c.output.check(), c.asking.check()); err != nil {
		return err
	}
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	c.ask(ctx, asked)
	if err := ctx.Err(); err != nil {
		return err
	}
	status := statusOf(asked, c.scope(c.all), notes)
	written, err := c.output.write(c.Out, status)
	if !written {
		err = status.writeText(c.Out, &c.output, c.style(), time.Now())
	}
	if err == nil && status.Summary.Ready < status.Summary.Nodes {
		err = errNo
	}
	return err
}

// path is what agents are asked for.
func (c *statusCall) path() string {
	if namespace := c.scope(c.all); namespace != "" {
		return answers.StatusPath + "?" + url.Values{answers.NamespaceParameter: {namespace}}.Encode()
	}
	return answers.StatusPath
}

// ask asks all agents, some at once, and notes what each answers.
func (c *statusCall) ask(ctx context.Context, asked []*askedAgent) {
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for _, of := range asked {
		if !of.runs() {
			continue
		}
		group.Go(func() error {
			answer := &answers.Status{}
			if err := c.asking.ask(ctx, of, http.MethodGet, c.path(), nil, answer); err != nil {
				of.State, of.Message = NoAnswer, err.Error()
				return nil // it is said in its row
			}
			of.answered(answer)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
}

package commands

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/api/build"
)

func versionCommand(f *frame, version string) *cobra.Command {
	c := &versionCall{frame: f, own: build.Of(version)}
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this plugin and of the agents",
		Long: `Prints the version of this plugin and what it was built of, then asks the agent of
each node for its own, by port-forward, and says so if they are too far apart:
agents of two nodes, and this plugin and an agent, go together if there is at most
one minor version between them. What is built from no release is not compared.

With --client it prints its own, and asks nobody.

Exit codes: 0, all that has answered goes together; 1, some does not; 2, the call
was wrong, or the agents could not be found.`,
		Example: `  kubectl podfence version
  kubectl podfence version --client -o json`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&c.client, "client", false, "print the version of this plugin, and ask no agent")
	c.asking.flags(cmd)
	c.output.outputFlag(cmd, "json", "yaml")
	c.output.noHeadersFlag(cmd, "leave out the line that names the columns")
	return cmd
}

// versionCall is one call of version.
type versionCall struct {
	*frame
	own    build.Info
	client bool
	asking asking
	output output
}

func (c *versionCall) run(ctx context.Context) error {
	if err := errors.Join(c.output.check(), c.asking.check()); err != nil {
		return err
	}
	if c.client && c.asking.given() {
		return errors.New("--client asks no agent, and --agent and --agents-in say which: leave out one of them")
	}
	versions := &Versions{APIVersion: build.APIVersion, Kind: "Versions", Client: c.own}
	var failed error
	if !c.client {
		failed = c.ask(ctx, versions)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	versions.compare()
	written, err := c.output.write(c.Out, versions)
	if !written {
		err = versions.writeText(c.Out, &c.output)
	}
	switch {
	case err != nil:
		return err
	case failed != nil: // after what is known: this plugin's own version takes no cluster
		return fmt.Errorf("the agents' versions: %w; --client asks for none", failed)
	case versions.apart():
		return errNo
	}
	return nil
}

// ask asks all agents for their versions, some at once.
func (c *versionCall) ask(ctx context.Context, versions *Versions) error {
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for _, of := range asked {
		if !of.runs() {
			continue
		}
		group.Go(func() error {
			answer := &answers.Status{}
			if err := c.asking.ask(ctx, of, http.MethodGet, answers.StatusPath, nil, answer); err != nil {
				of.State, of.Message = NoAnswer, err.Error()
				return nil // it is said in its row
			}
			of.answered(answer)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	versions.Notes = notes
	for _, of := range asked {
		versions.Agents = append(versions.Agents, versionOf(&of.NodeStatus))
	}
	return nil
}

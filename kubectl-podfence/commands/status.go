package commands

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// askedAtOnce is how many agents are asked at once: each question takes a connection to the API server.
const askedAtOnce = 16

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
	flags := cmd.Flags()
	flags.StringSliceVar(&c.addresses, "agent", nil, "ask the agent at this address (HOST:PORT) instead of those of a cluster (repeatable)")
	flags.StringVar(&c.agentsIn, "agents-in", "", "look for agents in this namespace only, for users who may not list the pods of all")
	flags.DurationVar(&c.timeout, "agent-timeout", 5*time.Second, "how long to wait for the answer of each agent")
	c.allNamespacesFlag(cmd, &c.all)
	c.output.outputFlag(cmd, "wide", "json", "yaml")
	c.output.noHeadersFlag(cmd)
	return cmd
}

// statusCall is one call of status.
type statusCall struct {
	*frame
	addresses []string
	agentsIn  string
	timeout   time.Duration
	all       bool
	output    output
}

func (c *statusCall) run(ctx context.Context) error {
	if err := c.output.check(); err != nil {
		return err
	}
	if c.timeout <= 0 {
		return fmt.Errorf("--agent-timeout is %s: it must be longer than nothing, such as 5s", c.timeout)
	}
	asked, notes, err := c.find(ctx)
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

// askedAgent is a node's agent, and what it has answered.
type askedAgent struct {
	agent *agents.Agent // nil: there is none that could be asked
	NodeStatus
}

// find finds the agents: those of --agent, or one for each of the cluster's nodes.
func (c *statusCall) find(ctx context.Context) (asked []*askedAgent, notes []explain.Note, err error) {
	if len(c.addresses) > 0 {
		for _, address := range c.addresses {
			agent, err := agents.At(address)
			if err != nil {
				return nil, nil, fmt.Errorf("--agent: %w", err)
			}
			asked = append(asked, &askedAgent{agent, NodeStatus{Agent: agent.Name}})
		}
		return asked, nil, nil
	}
	config, err := c.rest()
	if err != nil {
		return nil, nil, err
	}
	client, err := agents.New(config)
	if err != nil {
		return nil, nil, err
	}
	pods, err := client.Pods(ctx, c.agentsIn)
	if apierrors.IsForbidden(err) && c.agentsIn == "" {
		return nil, nil, fmt.Errorf("%w; if you may list pods in the agents' namespace, name it by --agents-in", err)
	} else if err != nil {
		return nil, nil, err
	}
	nodes, err := client.Nodes(ctx)
	if apierrors.IsForbidden(err) {
		notes = append(notes, explain.Note{Reason: "NotListed", Message: "You may not list nodes: those without an agent are not shown."})
	} else if err != nil {
		return nil, nil, err
	}
	for name := range pods {
		if !slices.Contains(nodes, name) {
			nodes = append(nodes, name)
		}
	}
	if len(nodes) == 0 {
		return nil, nil, fmt.Errorf("there are neither nodes nor agents (pods with %s): is this the right cluster?", agents.Selector)
	}
	slices.Sort(nodes)
	for _, name := range nodes {
		asked = append(asked, askedOf(client, name, pods[name]))
	}
	return asked, notes, nil
}

// askedOf is the agent of a node, which its pod may not be able to be.
func askedOf(client *agents.Client, node string, pod *corev1.Pod) *askedAgent {
	of := &askedAgent{NodeStatus: NodeStatus{Node: node, State: NoAgent}}
	switch {
	case pod == nil:
		of.Message = "there is no pod of an agent on it, so that nobody enforces policies there"
	case pod.Status.Phase != corev1.PodRunning:
		of.Agent = pod.Namespace + "/" + pod.Name
		of.Message = fmt.Sprintf("its agent's pod does not run (phase %s)", pod.Status.Phase)
	default:
		of.agent = client.Agent(pod)
		of.Agent = of.agent.Name
	}
	return of
}

// ask asks all agents, some at once, and notes what each answers.
func (c *statusCall) ask(ctx context.Context, asked []*askedAgent) {
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for _, of := range asked {
		if of.agent == nil {
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %s", c.timeout))
			defer cancel()
			answer := &answers.Status{}
			if err := of.agent.Ask(ctx, http.MethodGet, answers.StatusPath, nil, answer); err != nil {
				of.State, of.Message = NoAnswer, err.Error()
				return nil // it is said in its row
			}
			of.answered(answer)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
}

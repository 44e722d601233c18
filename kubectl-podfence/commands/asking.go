package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// askedAtOnce is how many agents are asked at once: each question takes a connection to the API server.
const askedAtOnce = 16

// asking is which agents are asked, and for how long.
type asking struct {
	addresses []string
	agentsIn  string
	timeout   time.Duration
}

// flags adds the flags of commands that ask agents.
func (a *asking) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&a.addresses, "agent", nil, "ask the agent at this address (HOST:PORT) instead of those of a cluster (repeatable)")
	flags.StringVar(&a.agentsIn, "agents-in", "", "look for agents in this namespace only, for users who may not list the pods of all")
	flags.DurationVar(&a.timeout, "agent-timeout", 5*time.Second, "how long to wait for the answer of each agent")
}

// patient has agents get longer than usual, unless the caller says how long.
func (a *asking) patient(cmd *cobra.Command, timeout time.Duration) {
	a.timeout, cmd.Flag("agent-timeout").DefValue = timeout, timeout.String()
}

// deadline is when an agent that is busy is asked no more.
func (a *asking) deadline() time.Time { return time.Now().Add(a.timeout) }

// check refuses values that cannot be meant.
func (a *asking) check() error {
	if a.timeout <= 0 {
		return fmt.Errorf("--agent-timeout is %s: it must be longer than nothing, such as 5s", a.timeout)
	}
	return nil
}

// byAddress reports whether agents are named by their addresses, so that no cluster is needed to find them.
func (a *asking) byAddress() bool { return len(a.addresses) > 0 }

// given reports whether a flag says which agents are asked.
func (a *asking) given() bool { return a.byAddress() || a.agentsIn != "" }

// ask asks an agent, and waits for as long as a call may.
func (a *asking) ask(ctx context.Context, of *askedAgent, method, path string, in any, out answer) error {
	if !of.runs() {
		return errors.New(of.Message)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("no answer within %s", a.timeout))
	defer cancel()
	if err := of.agent.Ask(ctx, method, path, in, out); err != nil {
		return err
	}
	if node := out.AnsweredBy(); of.Node != "" && node != of.Node {
		return fmt.Errorf("agent %s says that it is the agent of node %q, and was asked as that of node %s", of.Agent, node, of.Node)
	}
	return nil
}

// answer is what an agent answers.
type answer interface {
	// AnsweredBy is the name of the node whose agent has answered.
	AnsweredBy() string
}

// askedAgent is a node's agent, and what it has answered.
type askedAgent struct {
	agent *agents.Agent // nil: there is none that could be asked
	NodeStatus
}

// runs reports whether there is an agent that can be asked. If not, Message says why.
func (of *askedAgent) runs() bool { return of.agent != nil }

// find finds the agents: those of --agent, or one for each of the cluster's nodes.
func (a *asking) find(ctx context.Context, f *frame) (asked []*askedAgent, notes []explain.Note, err error) {
	if a.byAddress() {
		for _, address := range a.addresses {
			agent, err := agents.At(address)
			if err != nil {
				return nil, nil, fmt.Errorf("--agent: %w", err)
			}
			asked = append(asked, &askedAgent{agent, NodeStatus{Agent: agent.Name}})
		}
		return asked, nil, nil
	}
	config, err := f.rest()
	if err != nil {
		return nil, nil, err
	}
	client, err := agents.New(config)
	if err != nil {
		return nil, nil, err
	}
	pods, err := client.Pods(ctx, a.agentsIn)
	if apierrors.IsForbidden(err) && a.agentsIn == "" {
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
		return nil, nil, fmt.Errorf("there are neither nodes nor agents (pods with %s): is this the right cluster?", v1alpha1.AgentSelector)
	}
	slices.Sort(nodes)
	for _, name := range nodes {
		asked = append(asked, askedOf(client, name, pods[name]))
	}
	return asked, notes, nil
}

// stream reads a stream of an agent, which has as long as a call may take until it begins to answer.
func (a *asking) stream(ctx context.Context, of *askedAgent, path string, s agents.Stream) error {
	if !of.runs() {
		return errors.New(of.Message)
	}
	s.Opening = a.timeout
	return of.agent.Stream(ctx, path, s)
}

// findAgain finds the agent of a node again, which may be another pod by now. If it cannot, the agent stays as it
// was known.
func (a *asking) findAgain(ctx context.Context, f *frame, of *askedAgent) {
	if a.byAddress() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	config, err := f.rest()
	if err != nil {
		return
	}
	client, err := agents.New(config)
	if err != nil {
		return
	}
	if pods, err := client.Pods(ctx, a.agentsIn); err == nil {
		found := askedOf(client, of.Node, pods[of.Node])
		of.agent, of.Message = found.agent, found.Message
	}
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

package commands

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
)

// maxProbes is how many questions to agents one call makes. It is the product of no more than a few
// workloads and all nodes of a cluster of 500.
const maxProbes = 2000

// verify asks the agents of all nodes concerned what their kernels do, and adds that to the explanation.
func (c *explaining) verify(ctx context.Context, e *explain.Explanation) error {
	count := 0
	for _, a := range e.Answers {
		count += len(a.Probes)
	}
	if count > maxProbes {
		return fmt.Errorf("--verify would ask agents %d questions: ask about fewer pods (at most %d)", count, maxProbes)
	}
	byNode, err := c.agentsByNode(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i := range e.Answers {
		a := &e.Answers[i]
		a.Kernel = make([]explain.Verification, len(a.Probes))
		for at, probe := range a.Probes {
			group.Go(func() error {
				trace := &answers.Trace{}
				err := c.trace(ctx, byNode[probe.Node], probe, trace)
				a.Kernel[at] = probe.Verify(trace, err)
				return nil
			})
		}
	}
	_ = group.Wait() // no function returns an error
	return ctx.Err()
}

// trace asks the agent of a probe's node.
func (c *explaining) trace(ctx context.Context, of *askedAgent, probe explain.Probe, trace *answers.Trace) error {
	if of == nil {
		return fmt.Errorf("no agent is known of node %s", probe.Node)
	}
	return c.asking.ask(ctx, of, http.MethodPost, answers.TracePath, probe.Question, trace)
}

// agentsByNode finds the agents. One that is asked by its address says itself which node's it is.
func (c *explaining) agentsByNode(ctx context.Context) (map[string]*askedAgent, error) {
	asked, _, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return nil, err
	}
	byNode := map[string]*askedAgent{}
	for _, of := range asked {
		if of.Node == "" {
			status := &answers.Status{}
			if err := c.asking.ask(ctx, of, http.MethodGet, answers.StatusPath, nil, status); err != nil {
				return nil, err
			}
			of.Node = status.Node
		}
		byNode[of.Node] = of
	}
	return byNode, nil
}

// verified is the error of an explanation that kernels do not confirm; nil: they do. What differs is in the
// output; that some could not be asked is said here.
func verified(e *explain.Explanation) error {
	differ, unasked := e.Differs()
	switch {
	case len(differ) > 0:
		return fmt.Errorf("the kernel of node %s does not do what policies say (%d of the questions differ): see docs/TROUBLESHOOTING.md", differ[0].Node, len(differ))
	case len(unasked) > 0:
		return fmt.Errorf("not verified on node %s: %s", unasked[0].Node, unasked[0].Message)
	}
	for _, a := range e.Answers {
		if len(a.Probes) == 0 {
			return fmt.Errorf("not verified from %s to %s: no packet of a pod that runs stands for it", a.From, a.To)
		}
	}
	return nil
}

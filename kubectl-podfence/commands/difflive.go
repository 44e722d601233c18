package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sync/errgroup"

	"github.com/podfence/podfence/api/answers"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/agents"
)

// liveTimeout is how long an agent may take to answer which connections would be cut. It goes through all of its
// node's, after others that ask.
const liveTimeout = 30 * time.Second

// checkLive refuses calls of --live that cannot be meant, or those without it that have its flags.
func (c *diffing) checkLive() error {
	switch most := answers.MaxLiveSeconds * time.Second; {
	case !c.live && c.long != 0:
		return errors.New("--for is about connections: give --live as well")
	case c.long < 0 || c.long > most || c.long%time.Second != 0:
		return fmt.Errorf("--for is %s: it must be whole seconds, up to %s", c.long, most)
	}
	return c.asking.check()
}

// runLive says which connections that pass now a change would cut.
func (c *diffing) runLive(ctx context.Context, changed *objects) error {
	before, after, err := c.states(ctx, changed)
	if err != nil {
		return err
	}
	// Of these, files have only what is in them, and agents know the labels.
	implied := slices.Concat(before.implied, changed.implied)
	known := *after
	known.Namespaces = slices.DeleteFunc(slices.Clone(after.Namespaces), func(ns *corev1.Namespace) bool { return slices.Contains(implied, ns.Name) })
	question, err := liveQuestion(before.Cluster, &known, c.long)
	if err != nil {
		return err
	}
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	all := c.askLive(ctx, asked, question)
	d := explain.Live(explain.New(after, c.judge.options(before)), all)
	d.Notes = slices.Concat(d.Notes, notes, before.notes)
	written, err := c.output.write(c.Out, d)
	if !written {
		err = writeLive(c.Out, d, &c.output, c.style(), time.Now())
	}
	switch {
	case err != nil:
		return err
	case !d.Answered() && ctx.Err() == nil:
		at := slices.IndexFunc(d.Nodes, func(n explain.LiveNode) bool { return !n.Answered })
		return fmt.Errorf("not all is known, as of node %s: %s", d.Nodes[at].Node, d.Nodes[at].Message)
	case len(d.Cuts) > 0:
		return errNo
	}
	return ctx.Err()
}

// liveQuestion is what agents are asked about a change.
func liveQuestion(before, after *explain.Cluster, long time.Duration) (q answers.LiveQuestion, err error) {
	changed, removed := explain.Changes(before, after)
	for _, o := range changed {
		text, err := json.Marshal(o)
		if err != nil {
			return q, fmt.Errorf("writing %s as JSON: %w", o.GetName(), err)
		}
		q.Changed = append(q.Changed, text)
	}
	for _, o := range removed {
		q.Removed = append(q.Removed, answers.LiveObject{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name})
	}
	q.Seconds = int(long / time.Second)
	return q, nil
}

// askLive asks all agents, those of a node that begins to answer at once, until all have told what was asked, or ctx is
// done. Of an agent that has not answered it returns why.
func (c *diffing) askLive(ctx context.Context, asked []*askedAgent, question answers.LiveQuestion) []*answers.LiveCuts {
	all := make([]*answers.LiveCuts, len(asked))
	var group errgroup.Group
	if c.long == 0 {
		group.SetLimit(askedAtOnce)
	}
	for i, of := range asked {
		group.Go(func() error {
			all[i] = c.askOne(ctx, of, question)
			return nil
		})
	}
	_ = group.Wait() // no function returns an error
	return all
}

// askOne asks one agent.
func (c *diffing) askOne(ctx context.Context, of *askedAgent, question answers.LiveQuestion) *answers.LiveCuts {
	last := &answers.LiveCuts{Node: of.Node}
	until := c.asking.deadline()
	for {
		err := c.asking.stream(ctx, of, answers.LivePath, agents.Stream{
			Question: question, Silence: silence, Opened: func(time.Time) {},
			Line: func(line []byte) error {
				if len(bytes.TrimSpace(line)) == 0 {
					return nil
				}
				said := &answers.LiveCuts{}
				if err := json.Unmarshal(line, said); err != nil {
					return fmt.Errorf("its answer is not what this version of the plugin understands: %w", err)
				}
				if of.Node != "" && said.Node != of.Node {
					return fmt.Errorf("agent %s says that it is the agent of node %q, and was asked as that of node %s", of.Agent, said.Node, of.Node)
				}
				last = said
				return nil
			},
		})
		switch {
		case err != nil && agents.IsBusy(err) && time.Now().Before(until) && ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(askLiveAgain):
			}
			continue
		case err != nil && last.Message == "":
			last.Done, last.Message = false, err.Error()
		case err == nil && !last.Done && last.Message == "":
			last.Message = "its agent has ended the answer too soon"
		}
		if last.Node == "" {
			last.Node = of.Agent
		}
		return last
	}
}

// askLiveAgain is after how long an agent is asked again that is busy.
const askLiveAgain = time.Second

package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

func diffCommand(f *frame) *cobra.Command {
	c := &diffing{frame: f}
	cmd := &cobra.Command{
		Use:   "diff -f NEW... [--against OLD...] [--live [--for DURATION]]",
		Short: "Say what a change of policies, labels or namespaces opens and closes",
		Long: `Says which connections pass after a change and did not before, and the other way
round: pairs of workloads, the ports, and the rules that do it. If only the text
of policies differs, it says nothing.

Without --against, it is what kubectl apply -f NEW would change in the cluster.
With --against, all of NEW is held against all of OLD: what only OLD has is gone.
Both then need the workloads too, as policies alone are about nobody; a file may
be given to both.

If policies have domain names, the agents are asked, by port-forward, what these
are resolved to; --resolve supposes it instead.

With --live, it says what would break: which of the connections that are open now
would be cut. The agents judge those of their nodes by the policies as they would
be; nothing in the kernel changes. For each pair of workloads and port it shows how
many connections there are, what they have carried, how long ago the last packet
passed, and which policies would cut them; below, the rules that would have to
be added. With --for 10m, connections that begin in that time are judged as well.
--against OLD is then what there is now; policies alone will do.

Exit codes: 0, nothing differs, or would be cut; 1, something does; 2, the call was
wrong, or something could not be read, or an agent could not be asked.`,
		Example: `  kubectl podfence diff -f policies/
  kubectl podfence diff -f new/ --against old/
  helm template shop ./shop | kubectl podfence diff -f - -o json
  kubectl podfence diff --live -f policies/
  kubectl podfence diff --live --for 10m -f policies/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.source = f.sourceFlags(cmd)
	cmd.Flag("filename").Usage = "what is new: this file or folder, or - for standard input (repeatable)"
	cmd.Flags().StringSliceVar(&c.against, "against", nil, "what was before: this file or folder, or - for standard input (repeatable); without it, the cluster")
	cmd.Flags().BoolVar(&c.live, "live", false, "ask the agents which connections that pass now would be cut")
	cmd.Flags().DurationVar(&c.long, "for", 0, "with --live: judge connections that begin as well, for so long, such as 10m")
	c.judge.flags(cmd)
	c.resolving.flags(cmd)
	c.asking.flags(cmd)
	c.asking.patient(cmd, liveTimeout)
	c.output.outputFlag(cmd, "json", "yaml")
	return cmd
}

// diffing is one call of diff.
type diffing struct {
	*frame
	source    *source // what is new
	against   []string
	live      bool
	long      time.Duration // --for
	judge     judging
	resolving resolving
	asking    asking
	output    output
}

func (c *diffing) run(ctx context.Context) error {
	if err := errors.Join(c.check(), c.checkLive(), c.output.check(), c.judge.check(), c.resolving.check()); err != nil {
		return err
	}
	changed, err := c.source.read(ctx)
	if err != nil {
		return err
	}
	if c.live {
		return c.runLive(ctx, changed)
	}
	before, after, err := c.states(ctx, changed)
	if err != nil {
		return err
	}
	options := c.judge.options(before)
	c.resolving.ask(ctx, c.frame, &c.asking, before, nil, after)
	after.Resolutions, after.Lapsed, after.NamesKnown = before.Resolutions, before.Lapsed, before.NamesKnown
	d := explain.Compare(c.resolving.explainer(before.Cluster, options), c.resolving.explainer(after, options))
	rulesBefore, rulesAfter := d.Rules()
	before.addPlaces(rulesBefore)
	changed.addPlaces(rulesAfter)
	if err = c.write(d, before.notes); err == nil && !d.Empty() {
		err = errNo
	}
	return err
}

// write writes a Diff, and what was not read of the cluster: beside the text, which is empty if nothing
// differs.
func (c *diffing) write(d *explain.Diff, missing []explain.Note) error {
	whole := *d
	whole.Notes = slices.Concat(d.Notes, missing)
	written, err := c.output.write(c.Out, &whole)
	if written {
		return err
	}
	for _, note := range missing {
		fmt.Fprintln(c.ErrOut, "kubectl podfence:", note.Message)
	}
	return d.WriteText(c.Out, c.style())
}

// check refuses calls that say nothing to compare.
func (c *diffing) check() error {
	switch {
	case !c.source.isFiles():
		return errors.New("say what is new by --filename")
	case c.source.has("-") && slices.Contains(c.against, "-"):
		return errors.New("--filename and --against cannot both be standard input")
	}
	return nil
}

// states are what was before the change, and what is after it.
func (c *diffing) states(ctx context.Context, changed *objects) (before *objects, after *explain.Cluster, err error) {
	if len(c.against) > 0 {
		old := c.source.of(c.against)
		if before, err = old.read(ctx); err != nil {
			return nil, nil, err
		}
		for _, of := range []struct {
			flag string
			pods []*corev1.Pod
		}{{"filename", changed.Pods}, {"against", before.Pods}} {
			if len(of.pods) == 0 && !c.live { // agents know the pods
				return nil, nil, fmt.Errorf("--%s has no workload or pod that policies could be about: give those files too", of.flag)
			}
		}
		return before, changed.Cluster, nil
	}
	if before, err = c.source.cluster().read(ctx, namespacesIn(changed.Snapshot)...); err != nil {
		return nil, nil, err
	}
	after, err = explain.Apply(before.Cluster, written(changed, before.Cluster))
	return before, after, err
}

// written are the objects of files without those Namespaces that a cluster knows better: the files have only
// what is in them, and not their labels.
func written(o *objects, cluster *explain.Cluster) *explain.Cluster {
	c := *o.Cluster
	c.Namespaces = slices.DeleteFunc(slices.Clone(c.Namespaces), func(ns *corev1.Namespace) bool {
		return slices.Contains(o.implied, ns.Name) &&
			slices.ContainsFunc(cluster.Namespaces, func(known *corev1.Namespace) bool { return known.Name == ns.Name })
	})
	return &c
}

// namespacesIn are the names of the namespaces that objects are in, or are.
func namespacesIn(s policy.Snapshot) (names []string) {
	for _, ns := range s.Namespaces {
		names = append(names, ns.Name)
	}
	return names
}

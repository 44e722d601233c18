package commands

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/generate"
	"github.com/podfence/podfence/kubectl-podfence/cluster"
	"github.com/podfence/podfence/policy"
)

// readAgain is how long the objects may take to be read once observing has ended.
const readAgain = time.Minute

func generateCommand(f *frame) *cobra.Command {
	c := &generating{frame: f}
	cmd := &cobra.Command{
		Use:   "generate [-f FLOWS...]",
		Short: "Write the NetworkPolicies that allow what is seen, and nothing else",
		Long: `Observes connections for a while, or reads flows, and writes NetworkPolicies that
let these connections pass and deny all others: one for each workload, in both
directions. It changes nothing in the cluster.

Flows are lines of JSON, as kubectl podfence observe --verdict all -o json and
hubble observe -o jsonpb print them. Without --filename, the agents tell of
connections for as long as --for says; Ctrl-C ends it earlier, and the policies
are written all the same.

Policies are written for the workloads of one namespace, that of --namespace or of
the kubeconfig's context, or with --all-namespaces of all. Each pod may ask the
cluster's DNS, whether or not it was seen to. What nodes send to their own pods, as
probes, needs no rule. What is denied is not taken for what is needed.

On standard error is a report: how many flows the policies cover, which of them
they would deny, what stays open, and what was not understood. For it, each flow
is held against the policies in force.

Exit codes: 0, all that was seen passes; 1, some of it would be denied, some agents
have not told, or there is nothing to write policies of; 2, the call was wrong, or
something could not be read.`,
		Example: `  kubectl podfence generate -n shop --for 10m > policies.yaml
  kubectl podfence generate -n shop --staged --output-dir policies/
  kubectl podfence generate -A -f flows.json --output-dir policies/
  hubble observe --since 1h -o jsonpb | kubectl podfence generate -n shop -f -`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), cmd.Flags().Changed("for")) },
	}
	c.flags(cmd)
	return cmd
}

// generating is one call of generate.
type generating struct {
	*frame
	asking    asking
	judge     judging
	files     []string
	objects   []string
	recursive bool
	all       bool
	duration  time.Duration
	folder    string
	shortest  []int
	rare      int
	isolate   bool
	staged    bool
}

func (c *generating) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&c.files, "filename", "f", nil, "read flows from this file, or - for standard input, instead of observing (repeatable)")
	f.DurationVar(&c.duration, "for", 10*time.Minute, "how long connections are observed")
	f.StringSliceVar(&c.objects, "objects", nil, "read objects from this file or folder instead of the cluster (repeatable)")
	f.BoolVarP(&c.recursive, "recursive", "R", false, "with --objects: read folders within folders as well")
	f.BoolVarP(&c.all, "all-namespaces", "A", false, "write policies for all namespaces, whatever --namespace says")
	f.StringVar(&c.folder, "output-dir", "", "write a file for each policy into this folder; without it, all go to standard output")
	f.IntSliceVar(&c.shortest, "cidr-min", []int{24, 64}, "the shortest prefixes to which addresses outside the cluster are grouped, of IPv4 and of IPv6; 32,128 groups none")
	f.IntVar(&c.rare, "rare", 3, "a comment marks peers of which fewer connections than this were seen")
	f.BoolVar(&c.isolate, "isolate-unseen", false, "write policies also for workloads of which nothing was seen: they allow DNS alone")
	f.BoolVar(&c.staged, "staged", false, "mark the policies as staged: podfence tells what they would deny, and denies nothing by them")
	c.judge.nodeFlag(cmd)
	c.asking.flags(cmd)
	cobra.CheckErr(cmd.MarkFlagDirname("output-dir"))
}

// check refuses calls that make no sense. It is called before anything is asked.
func (c *generating) check(timed bool) error {
	err := errors.Join(c.judge.check(), c.asking.check())
	switch {
	case len(c.files) > 0 && (timed || c.asking.given()):
		err = errors.Join(err, errors.New("with --filename nothing is observed, so that --for, --agent and --agents-in make no sense"))
	case c.duration <= 0:
		err = errors.Join(err, fmt.Errorf("--for is %s: it must be longer than nothing, such as 10m", c.duration))
	case c.rare < 0:
		err = errors.Join(err, fmt.Errorf("--rare is %d: it must be a number of connections, 0 or more", c.rare))
	case c.recursive && len(c.objects) == 0:
		err = errors.Join(err, errors.New("--recursive is about folders: give them by --objects"))
	case slices.Contains(c.files, "-") && slices.Contains(c.objects, "-"):
		err = errors.Join(err, errors.New("--filename and --objects cannot both be standard input"))
	}
	if len(c.shortest) == 1 {
		c.shortest = append(c.shortest, 64)
	}
	if len(c.shortest) != 2 || c.shortest[0] < 8 || c.shortest[0] > 32 || c.shortest[1] < 16 || c.shortest[1] > 128 {
		err = errors.Join(err, fmt.Errorf("--cidr-min is %s: it must be a length of IPv4 prefixes, 8 to 32, and one of IPv6 prefixes, 16 to 128, such as 24,64", strings.Trim(fmt.Sprint(c.shortest), "[]")))
	}
	return err
}

// scope are the namespaces that policies are written for; none: all.
func (c *generating) scope() ([]string, error) {
	namespace, set, err := c.namespace()
	if c.all || len(c.objects) > 0 && !set {
		return nil, nil
	}
	return []string{namespace}, err
}

func (c *generating) run(ctx context.Context, timed bool) error {
	scope, err := c.scope()
	if err = errors.Join(err, c.check(timed)); err != nil {
		return err
	}
	objects, err := c.read(ctx, scope) // before observing, so that what may not be read is known at once
	if err != nil {
		return err
	}
	if len(scope) > 0 && !objects.has(scope[0]) {
		return fmt.Errorf("there is no namespace %s, and nothing that would be in it: is --namespace right?", scope[0])
	}
	seen := newSeen(c.rare)
	if len(c.files) > 0 {
		err = seen.readAll(c.files, c.In)
	} else {
		err = c.observe(ctx, scope, seen)
		objects = c.reread(ctx, scope, objects)
	}
	if err != nil {
		return err
	}
	result := generate.Generate(objects.Cluster, seen.Seen, generate.Options{
		Namespaces: scope, ShortestIPv4: c.shortest[0], ShortestIPv6: c.shortest[1], Rare: c.rare,
		IsolateUnseen: c.isolate, Staged: c.staged, Judge: c.judgedBy(objects),
	})
	if err := c.write(result); err != nil {
		return err
	}
	for _, note := range objects.notes {
		fmt.Fprintln(c.ErrOut, "kubectl podfence:", note.Message)
	}
	if err := result.Report.WriteText(c.ErrOut); err != nil {
		return err
	}
	if !result.Report.Complete() || len(result.Policies) == 0 {
		return errNo
	}
	return nil
}

// judgedBy are the choices by which what was seen is held against the policies: if those are staged, as if they were in
// force.
func (c *generating) judgedBy(o *objects) policy.JudgeOptions {
	options := c.judge.options(o)
	options.StagedInForce = c.staged
	return options
}

// read reads the objects, and what workloads select their pods by.
func (c *generating) read(ctx context.Context, scope []string) (*objects, error) {
	s := newSource(c.frame, c.objects, c.recursive)
	o, err := s.read(ctx, scope...)
	if err != nil || s.isFiles() {
		return o, err
	}
	config, err := c.rest()
	if err != nil {
		return nil, err
	}
	selectors, missing, err := cluster.Selectors(ctx, config, scope)
	if err != nil {
		return nil, err
	}
	o.Selectors = selectors
	for _, message := range missing {
		o.notes = append(o.notes, explain.Note{Reason: "NotListed", Message: message})
	}
	return o, nil
}

// reread reads the objects as they are once observing has ended, also if Ctrl-C has ended it. If they cannot be
// read, those from before it will do: what was seen is not lost.
func (c *generating) reread(ctx context.Context, scope []string, before *objects) *objects {
	if len(c.objects) > 0 && slices.Contains(c.objects, "-") {
		return before
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readAgain)
	defer cancel()
	after, err := c.read(ctx, scope)
	if err != nil {
		fmt.Fprintf(c.ErrOut, "kubectl podfence: the objects are those from before observing, as they could not be read again: %v\n", err)
		return before
	}
	return after
}

// observe has the agents tell of connections for a while, or until ctx is done.
func (c *generating) observe(ctx context.Context, scope []string, seen *seenFlows) error {
	asked, notes, err := c.asking.find(ctx, c.frame)
	if err != nil {
		return err
	}
	for _, note := range notes {
		seen.Missing = append(seen.Missing, note.Message)
	}
	query := flows.Query{Follow: true}
	query.Namespaces = scope
	fmt.Fprintf(c.ErrOut, "kubectl podfence: observing connections for %s; Ctrl-C ends it, and writes the policies\n", c.duration)
	ctx, cancel := context.WithTimeout(ctx, c.duration)
	defer cancel()
	o := newObservation(c.frame, &c.asking, query, seen)
	if err := o.run(ctx, asked); err != nil && !errors.Is(err, errNo) {
		return err
	}
	seen.Missing = append(seen.Missing, o.missing(asked)...)
	return nil
}

// write writes the policies.
func (c *generating) write(r *generate.Result) error {
	if c.folder == "" {
		return writeStream(c.Out, r.Policies)
	}
	if err := os.MkdirAll(c.folder, 0o755); err != nil {
		return fmt.Errorf("making the folder for the policies: %w", err)
	}
	left, err := writeFolder(c.folder, r.Policies)
	for _, name := range left {
		fmt.Fprintf(c.ErrOut, "kubectl podfence: %s has a policy of an earlier call that is not among these\n", name)
	}
	return err
}

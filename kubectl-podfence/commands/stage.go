package commands

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/metadata"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// These two commands are the only ones that write to the cluster: one annotation of a policy or a Namespace.

func stageCommand(f *frame) *cobra.Command {
	c := &staging{frame: f, stages: true}
	cmd := &cobra.Command{
		Use:   "stage POLICY...",
		Short: "Take policies out of force, and have agents tell what they would do",
		Long: `Stages policies, by the annotation podfence.io/enforcement: staged. A staged policy
decides nothing. The agents work out what it would decide, and tell it:

  kubectl podfence observe --verdict would-deny -f

POLICY is NAME or NAMESPACE/NAME of a NetworkPolicy, cnp/NAME of a
ClusterNetworkPolicy, or ns/NAME of a Namespace, for all of its NetworkPolicies.

What a policy in force denies passes once it is staged, so that is asked first; with
--yes it is not. Podfence alone knows the annotation: others enforce the policy.

Exit codes: 0, they are staged, or were already; 1, the answer to the question was no;
2, the call was wrong, or something failed.`,
		Example: `  kubectl podfence stage shop/db
  kubectl podfence stage -n shop db web --dry-run=server
  kubectl podfence stage ns/shop --yes
  kubectl podfence stage cnp/no-metadata`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: f.completePolicies,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.flags(cmd)
	return cmd
}

func enforceCommand(f *frame) *cobra.Command {
	c := &staging{frame: f}
	cmd := &cobra.Command{
		Use:   "enforce POLICY...",
		Short: "Put staged policies in force, after a look at what they would have denied",
		Long: `Removes the annotation podfence.io/enforcement from policies, so that they are in
force. Before that it asks the agents, by port-forward, what the policies would have
denied and allowed lately, shows that, and asks; with --yes it does not ask.

POLICY is NAME or NAMESPACE/NAME of a NetworkPolicy, cnp/NAME of a
ClusterNetworkPolicy, or ns/NAME of a Namespace. A NetworkPolicy in a Namespace that
is staged stays so until the Namespace is enforced.

Where no agent can be asked it says so, and takes --yes.

Exit codes: 0, they are in force, or were already; 1, the answer to the question was
no; 2, the call was wrong, or something failed.`,
		Example: `  kubectl podfence enforce shop/db
  kubectl podfence enforce ns/shop --yes
  kubectl podfence enforce shop/db </dev/null    # shows what it would have denied, and changes nothing`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: f.completePolicies,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args) },
	}
	c.flags(cmd)
	c.asking.flags(cmd)
	return cmd
}

// staging is one call of stage or enforce.
type staging struct {
	*frame
	// stages: policies are to be staged; false: to be in force.
	stages bool
	yes    bool
	dryRun string
	asking asking
	output output
}

func (c *staging) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().StringVar(&c.dryRun, "dry-run", "none", "none|client|server: client sends nothing, server has the API server check it and change nothing; neither asks")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp)))
	c.output.outputFlag(cmd, "name")
}

var networkPolicies = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}

// clusterNetworkPolicies are in the versions that API servers have, the best one first.
var clusterNetworkPolicies = []schema.GroupVersionResource{
	{Group: "policy.networking.k8s.io", Version: "v1beta1", Resource: "clusternetworkpolicies"},
	{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"},
}

// stageable is a policy or a Namespace whose annotation is to be changed.
type stageable struct {
	kind, namespace, name string
	// resource is the one of resources that the API server has.
	resources []schema.GroupVersionResource
	resource  schema.GroupVersionResource
	// annotated: it has the annotation, with the value.
	annotated bool
	value     string
	// byNamespace: its Namespace is staged.
	byNamespace bool
}

// parseStageable reads what people write for a policy.
func parseStageable(text, namespace string) (*stageable, error) {
	first, second, two := strings.Cut(text, "/")
	switch {
	case first == "" || two && (second == "" || strings.Contains(second, "/")):
		return nil, fmt.Errorf("%q is no policy: it must be NAME, NAMESPACE/NAME, cnp/NAME or ns/NAME", text)
	case !two:
		return &stageable{kind: "NetworkPolicy", namespace: namespace, name: first, resources: []schema.GroupVersionResource{networkPolicies}}, nil
	case first == "cnp":
		return &stageable{kind: "ClusterNetworkPolicy", name: second, resources: clusterNetworkPolicies}, nil
	case first == "ns":
		return &stageable{kind: "Namespace", name: second, resources: []schema.GroupVersionResource{namespaceResource}}, nil
	}
	return &stageable{kind: "NetworkPolicy", namespace: first, name: second, resources: []schema.GroupVersionResource{networkPolicies}}, nil
}

// String names it for people.
func (s *stageable) String() string {
	if s.namespace != "" {
		return s.kind + " " + s.namespace + "/" + s.name
	}
	return s.kind + " " + s.name
}

// decides reports whether a policy is the one, or of the Namespace.
func (s *stageable) decides(p flows.Policy) bool {
	if s.kind == "Namespace" {
		return p.Kind == "NetworkPolicy" && p.Namespace == s.name
	}
	return p.Kind == s.kind && p.Namespace == s.namespace && p.Name == s.name
}

func (c *staging) run(ctx context.Context, args []string) error {
	namespace, _, err := c.namespace()
	if err = errors.Join(err, c.check()); err != nil {
		return err
	}
	var all []*stageable
	for _, text := range args {
		s, err := parseStageable(text, namespace)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(other *stageable) bool { return other.String() == s.String() }) {
			all = append(all, s)
		}
	}
	config, err := c.rest()
	if err != nil {
		return err
	}
	objects, err := metadata.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("setting up a client of %s for metadata: %w", config.Host, err)
	}
	for _, s := range all {
		if err := s.read(ctx, objects); err != nil {
			return err
		}
	}
	changing := slices.DeleteFunc(slices.Clone(all), c.isDone)
	if len(changing) > 0 && c.dryRun == "none" {
		if err := c.agreed(ctx, changing); err != nil {
			return err
		}
	}
	for _, s := range all {
		done := c.isDone(s)
		if !done {
			if err := c.patch(ctx, objects, s); err != nil {
				return err
			}
		}
		if err := c.say(s, done); err != nil {
			return err
		}
	}
	return nil
}

func (c *staging) check() error {
	if !slices.Contains([]string{"none", "client", "server"}, c.dryRun) {
		return fmt.Errorf("--dry-run is %q: it must be none, client or server", c.dryRun)
	}
	if !c.stages {
		return errors.Join(c.output.check(), c.asking.check())
	}
	return c.output.check()
}

// read reads an object's annotation, and that of the Namespace it is in, which the user may not be able to.
func (s *stageable) read(ctx context.Context, objects metadata.Interface) error {
	var object *metav1.PartialObjectMetadata
	var err error
	for _, s.resource = range s.resources {
		// Where the API server does not have a version, that is not found either.
		if object, err = objects.Resource(s.resource).Namespace(s.namespace).Get(ctx, s.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", s, err)
	}
	s.value, s.annotated = object.Annotations[policy.EnforcementAnnotation]
	if s.namespace == "" {
		return nil
	}
	ns, err := objects.Resource(namespaceResource).Get(ctx, s.namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsForbidden(err):
		return nil // what is said of the Namespace is left out
	case err != nil:
		return fmt.Errorf("reading Namespace %s: %w", s.namespace, err)
	}
	s.byNamespace, _ = policy.StagedBy(ns.Annotations)
	return nil
}

// isDone reports whether an object is as it is to be.
func (c *staging) isDone(s *stageable) bool {
	if c.stages {
		return s.value == policy.Staged
	}
	return !s.annotated
}

// agreed says what a change does, and asks whether it is meant. Nothing but an error stops it.
func (c *staging) agreed(ctx context.Context, changing []*stageable) error {
	question := "Put them in force?"
	unasked := false
	if c.stages {
		changing = slices.DeleteFunc(slices.Clone(changing), func(s *stageable) bool { return s.byNamespace }) // not in force as it is
		if len(changing) == 0 {
			return nil
		}
		question = "Stage them?"
		for _, s := range changing {
			of := s.String()
			if s.kind == "Namespace" {
				of = "each NetworkPolicy of " + of
			}
			fmt.Fprintf(c.ErrOut, "warning: %s is no longer in force once it is staged: what it alone denies will pass.\n", of)
		}
	} else if err := c.summarize(ctx, changing); err != nil {
		fmt.Fprintf(c.ErrOut, "Nobody knows what would have been denied: %s\n", printers.EscapeTerminal(err.Error()))
		unasked = true
	}
	switch {
	case c.yes:
		return nil
	case unasked:
		return errors.New("not all agents could be asked what would have been denied: nothing was changed; give --yes to go on without that")
	case !isInteractive(c.In):
		return errors.New("standard input is no terminal, so that nobody can be asked: nothing was changed; give --yes")
	}
	if !confirmed(c.In, c.ErrOut, question) {
		fmt.Fprintln(c.ErrOut, "nothing was changed")
		return errNo
	}
	return nil
}

// isInteractive reports whether somebody can answer at a terminal.
func isInteractive(in io.Reader) bool {
	file, is := in.(io.Writer) // as *os.File is, which a terminal must be
	return is && isTerminal(file)
}

// confirmed asks a question. Only y and yes are yes.
func confirmed(in io.Reader, out io.Writer, question string) bool {
	fmt.Fprintf(out, "%s (y/N) ", question)
	answer, _ := bufio.NewReader(in).ReadString('\n') // what ends before the line does is an answer too
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// patch sets or removes the annotation, and nothing else.
func (c *staging) patch(ctx context.Context, objects metadata.Interface, s *stageable) error {
	value := "null"
	if c.stages {
		value = `"` + policy.Staged + `"`
	}
	o := metav1.PatchOptions{FieldManager: "kubectl-podfence"}
	switch c.dryRun {
	case "client":
		return nil
	case "server":
		o.DryRun = []string{metav1.DryRunAll}
	}
	change := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, policy.EnforcementAnnotation, value)
	if _, err := objects.Resource(s.resource).Namespace(s.namespace).Patch(ctx, s.name, types.MergePatchType, []byte(change), o); err != nil {
		return fmt.Errorf("patching %s: %w", s, err)
	}
	return nil
}

// say says what has become of an object.
func (c *staging) say(s *stageable, done bool) error {
	state := "in force"
	if c.stages {
		state = "staged"
	}
	line := resourceName(s.kind, s.name)
	switch {
	case c.output.is("name"):
	case done:
		line += " is " + state + " already"
	default:
		line += " " + state + map[string]string{"client": " (dry run)", "server": " (server dry run)"}[c.dryRun]
	}
	if !c.stages && s.byNamespace {
		fmt.Fprintf(c.ErrOut, "note: %s stays staged, as its Namespace is: kubectl podfence enforce ns/%s\n", s, s.namespace)
		if !c.output.is("name") {
			line = resourceName(s.kind, s.name) + " has no annotation of its own"
		}
	}
	if _, err := fmt.Fprintln(c.Out, line); err != nil {
		return fmt.Errorf("writing what was done: %w", err)
	}
	return nil
}
